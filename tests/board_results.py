"""Made-up results for the tests of boards."""

from __future__ import annotations

import math

import numpy as np

from xbench.board import Board, make_board
from xbench.metric import Column
from xbench.result import Result, Status

SSIM = Column("ssim", "SSIM", True)
LIPSCHITZ = Column("lipschitz", "local Lipschitz", False)
RAW = Column("raw", "raw maps", None)
HOSTILE = (
    'a|b`c\n# d <script>window.pwned=1</script> \\| __e__ </script> <img src=x onerror=window.pwned=2> "m" \' {{7*7}} \x1b[31m'
)


def result(
    method: str,
    *scores: list[float],
    columns: tuple[Column, ...] = (SSIM,),
    metric: str = "consistency",
    subset: str = "mnist",
    status: Status = "ok",
    control: bool = False,
    label: str = "",
    reason: str = "",
    draws: list[list[int]] | None = None,
    curve: str = "",
) -> Result:
    named = {column.name: values for column, values in zip(columns, scores, strict=bool(scores))}
    ids = [f"{i:04d}" for i in range(len(scores[0]))] if scores else []
    why = {
        name: {i: "constant map" for i, v in zip(ids, values, strict=False) if math.isnan(v)} for name, values in named.items()
    }
    place = {"subset": subset, "classifier": "mnist-cnn", "method": method, "metric": metric, "columns": columns}
    return Result(
        key=f"{subset}-{method}-{metric}",
        **place,
        status=status,
        control=control,
        label=label,
        reason=reason,
        ids=ids,
        scores=named,
        reasons={name: reasons for name, reasons in why.items() if reasons},
        draws=draws or [],
        curves={curve: [[0.9, 0.5, 0.1 * (i % 5)] for i in range(len(ids))]} if curve and ids else {},
        curve_axis=(f"share of {curve}", 0, 1) if curve else None,
        map_passes=10.0 * len(method),
    )


def robustness(methods: int = 9, curves: bool = False) -> list[Result]:
    """A board as a suite gives it: several metrics, N/A, a failure, a cell that was not run, NaN, and controls."""
    random = np.random.default_rng(3)
    metrics = {
        "consistency": (SSIM, Column("pc", "Pearson correlation", True), Column("psnr", "PSNR", True, "dB")),
        "stability": (LIPSCHITZ, RAW),
        "sensitivity": (SSIM, Column("hog", "HOG Pearson correlation", True), Column("spearman", "Spearman correlation", True)),
    }
    names = [*(f"method-{i}" for i in range(methods)), "random", "centre", "edges", "intensity"]
    made = []
    for metric, columns in metrics.items():
        for i, name in enumerate(names):
            curve = "lipschitz" if curves and metric == "stability" else ""
            about = {"columns": columns, "metric": metric, "control": i >= methods, "curve": curve}
            if (metric, i) == ("consistency", 1):
                made.append(result(name, status="n/a", reason="no mask grid", **about))
            elif (metric, i) == ("stability", 2):
                made.append(result(name, status="failed", reason="RuntimeError: a | b", **about))
            elif (metric, i) != ("sensitivity", 3):
                scores = random.normal(0.5, 0.1, (len(columns), 40)) + random.normal(0, 0.05)
                scores[0, : 1 if i == 4 else 0] = np.nan
                made.append(result(name, *scores.tolist(), draws=[[0, 1, 2], [3, 4, 5]], **about))
    return made


def board(results: list[Result], **about: str) -> Board:
    return make_board(results, **{"title": "Test", **about})
