"""The papers' protocols: their image counts, and from end to end with cheap parameters, to a table of the paper's shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome

from xbench import CLASSIFIERS, METHODS, METRICS, Classifier
from xbench.checkpoints import Checkpoints
from xbench.method import Method, TrainedMethod
from xbench.run.suite import load_suite

COLUMNS = {
    "paper-vp": {
        "consistency": ["ssim", "pc", "psnr"],
        "stability(calls=2, random_search=True)": [column.name for column in METRICS.get("stability").columns],
        "area": ["probability", "logit", "kl", "kl_over_K"],
        "randomisation": [column.name for column in METRICS.get("randomisation").columns],
    },
    "paper-varsal": {"low-k-kl": ["kl"]},
    "paper-g": {
        "localisation": ["error", "iou", "whole"],
        "deletion": ["auc"],
        "saliency-metric": ["score", "area"],
        "sensitivity": ["ssim", "hog", "spearman"],
    },
    "paper-sas": {"game": ["insertion", "deletion", "overall"]},
}
"""The columns of the papers' tables, and what is reported beside them."""
SHORTER = {"paper-vp": ["--set", "metrics.stability.spec=stability(calls=2, random_search=True)", "--limit", "1"]}
"""Options that save time where a protocol is long."""


def cheap(spec: str) -> str:
    """The method with its quick parameters where the suite sets none; itself if it is trained, as its network ships."""
    method = METHODS.make(spec)
    if isinstance(method, TrainedMethod):
        return spec
    plain = type(method)()
    return method.replace(**{k: v for k, v in method.quick.items() if getattr(method, k) == getattr(plain, k)}).spec


@pytest.fixture
def no_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped networks instead of trained ones on every randomised classifier, which takes minutes."""
    intact = CLASSIFIERS.make("mnist-cnn").load()

    def shipped(self: Checkpoints, method: TrainedMethod, classifier: Classifier, seed: int) -> object:
        return self.find(method, intact)

    for cls in METHODS:
        if issubclass(cls, TrainedMethod):
            monkeypatch.setattr(cls, "refit", {})
    monkeypatch.setattr(Checkpoints, "fit", shipped)
    # Five seeds and five sizes of a patch are swept by the metric's own test; two of each show that the suite runs.
    for name in ("lime", "sliding-patch", "mp2"):
        monkeypatch.setattr(METHODS.get(name), "sweeps", lambda self, shape: {"twice": [self, self.replace(fill="gray")]})


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.usefixtures("no_refits")
def test_a_paper_suite_runs_and_prints_its_table(xbench: Callable[..., Outcome], tmp_path: Path, name: str) -> None:
    suite = load_suite(name)
    assert isinstance(suite.methods, list)
    methods = ",".join(cheap(spec) for spec in suite.methods)
    done = xbench("run", "--suite", name, "--store", tmp_path, "--methods", methods, *SHORTER.get(name, ["--limit", "2"]))
    assert done.status == 0, done.out + done.err
    assert suite.title in done.out
    (file,) = [
        path for path in (tmp_path / "boards").glob("*.csv") if not path.stem.endswith(("-images", "-ranks", "-metrics"))
    ]
    table = pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])
    found = {metric: list(rows["column"].unique()) for metric, rows in table.groupby("metric", sort=False)}
    assert found == COLUMNS[name]
    assert table.groupby(["metric", "column"]).method.nunique().eq(len(suite.methods)).all()
    scored = table[table.status == "ok"]
    assert set(table.status) <= {"ok", "n/a"}
    for metric, column in ((m, columns[0]) for m, columns in COLUMNS[name].items()):
        rows = scored[(scored.metric == metric) & (scored["column"] == column)]
        assert rows["mean"].notna().any()
        assert len(rows) >= len(applying(metric, suite.methods))


def applying(metric: str, specs: list[str]) -> list[Method]:
    """The methods that the metric has a value for."""
    classifier, methods = CLASSIFIERS.make("mnist-cnn").load(), [METHODS.make(spec) for spec in specs]
    return [method for method in methods if METRICS.make(metric).not_applicable(method, classifier) is None]


def test_the_protocols_are_the_papers() -> None:
    vp = {run.spec.partition("(")[0]: run for run in load_suite("paper-vp").metrics}
    assert (vp["consistency"].draws.count, vp["consistency"].draws.size) == (4, 50)  # type: ignore[union-attr]
    stability = METRICS.make(vp["stability"].spec)
    assert (vp["stability"].images, stability.parameters["random_calls"], stability.parameters["calls"]) == (30, 5, 25)
    assert stability.parameters["random_search"]
    assert vp["area"].images == 200
    assert load_suite("paper-sas").metrics[0].images == 200
    varsal = load_suite("paper-varsal").metrics[0].draws
    assert varsal is not None
    assert (varsal.count, varsal.size) == (5, 100)
    fills = [METHODS.make(spec).fill for spec in load_suite("paper-g").methods]
    assert fills.count("inpaint") == 4, "SP-G, LIME-G, MP2-G and FIDO-CA"


def test_realism_has_one_row_for_every_fill_that_needs_no_file() -> None:
    from xbench.fill import FILLS

    suite = load_suite("realism")
    assert {METHODS.make(spec).fill for spec in suite.methods} == set(FILLS) - {"torchscript"}
