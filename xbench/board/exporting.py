"""Every score as one tidy table, for other programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xbench.board.table import image_table
from xbench.errors import XbenchError
from xbench.files import atomic
from xbench.result import Result


def tidy(results: Sequence[Result], seed: int) -> pd.DataFrame:
    """One row per metric, column, method and image.

    Columns: subset, classifier, method, metric, column, image, value (NaN stays NaN), and of the cell label, control, unit,
    higher_is_better (true, false or empty), seed and key.
    """
    table = image_table(results)
    cells = pd.DataFrame(
        [
            {
                **{name: getattr(result, name) for name in ("subset", "classifier", "method", "metric", "label", "control")},
                "column": column.name,
                "unit": column.unit,
                "higher_is_better": column.higher_is_better,
                "seed": seed,
                "key": result.key,
            }
            for result in results
            for column in result.columns
        ]
    ).astype({"higher_is_better": "boolean"})
    joined = table.merge(cells, how="left", on=["subset", "classifier", "method", "metric", "column"], validate="many_to_one")
    return joined.astype({"value": "float64"})


def export(results: Sequence[Result], seed: int, path: Path) -> int:
    """Writes the tidy table as .csv or .parquet and returns its number of rows.

    Raises XbenchError for another ending, and for .parquet without pyarrow.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise XbenchError(f"{path}: the file's name must end in .csv or .parquet")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise XbenchError('Parquet needs pyarrow: pip install "xbench[parquet]", or name a .csv file')
    table = tidy(results, seed)
    with atomic(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False, float_format="%.7g", na_rep="nan", lineterminator="\n")
        else:
            table.to_parquet(temporary, engine="pyarrow", index=False)
    return len(table)
