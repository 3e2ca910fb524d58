"""Every method against the controls, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xbench.board.statistics import describe
from xbench.board.table import Key, keyed
from xbench.result import Result


def advantages(results: Sequence[Result]) -> pd.DataFrame:
    """How much better each method scores than each control on the same images, one row per ranked column, method and control.

    Columns: those of ``Key``, method, control, n (images with both scores), mean (positive where the method is better,
    whatever the column's direction), low and high (95 % interval of the mean, percentile bootstrap over images, as in
    ``describe``). Pairs that are not scored on the same images in the same order are left out.
    """
    done = [result for result in results if result.status == "ok"]
    rows, differences = [], []
    for control in (result for result in done if result.control):
        columns = dict(keyed(control))
        for method in done:
            if method.control or method.ids != control.ids:
                continue
            for key, column in keyed(method):
                if column.higher_is_better is None or key not in columns:
                    continue
                sign = 1 if column.higher_is_better else -1
                scores = (np.array(result.scores[column.name], dtype=float) for result in (method, control))
                ours, theirs = scores
                rows.append({**key._asdict(), "method": method.method, "control": control.method})
                differences.append(sign * (ours - theirs))
    table = pd.DataFrame(rows, columns=[*Key._fields, "method", "control"])
    measures = pd.DataFrame(index=table.index, columns=["n", "mean", "low", "high"], dtype=float)
    for length in {len(values) for values in differences}:
        index = [i for i, values in enumerate(differences) if len(values) == length]
        stats = describe(np.stack([differences[i] for i in index]))
        counts = np.round((1 - stats.nan_share) * length)
        measures.loc[index] = np.stack([counts, stats.mean, stats.low, stats.high], 1)
    return pd.concat([table, measures], axis=1)
