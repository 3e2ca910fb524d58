from __future__ import annotations

from pathlib import Path

import pytest

from xbench.errors import XbenchError
from xbench.metric import METRICS
from xbench.run.suite import load_suite, suite_names
from xbench.subset import DATASETS

GOOD = """
title = "t"
description = "d"
dataset = "mnist"
classifier = "mnist-cnn"
[[metrics]]
spec = "deletion"
images = 10
draws = { count = 2, size = 5 }
"""


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_valid(name: str) -> None:
    suite = load_suite(name)
    subset = DATASETS.make(suite.dataset).load("evaluation")
    for run in suite.metrics:
        assert METRICS.make(run.spec).columns
        assert run.images is None or run.images <= len(subset)


def test_the_robustness_suite_is_the_stated_one() -> None:
    runs = {run.spec: run for run in load_suite("robustness").metrics}
    assert runs["consistency"].images == 100
    assert (runs["consistency"].draws.count, runs["consistency"].draws.size) == (4, 50)  # type: ignore[union-attr]
    stability = METRICS.make("stability")
    assert (stability.random_calls, stability.calls) == (5, 10)  # type: ignore[attr-defined]
    assert runs["sensitivity"].images == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title", "tittle"), "unknown key 'tittle': did you mean 'title'? valid: classifier, dataset"),
        (("images = 10", "imagse = 10"), "unknown key 'metrics.0.imagse': did you mean 'images'? valid: draws, images, spec"),
        (("size = 5", "sizes = 5"), "unknown key 'metrics.0.draws.sizes': did you mean 'size'?"),
        (("images = 10", "images = 0"), "metrics.0.images: Input should be greater than 0"),
        (("title =", "title"), "cannot be read"),
        (("[[metrics]]", '[[metrics]]\nspec = "deletion"\n[[metrics]]'), "metrics: Value error, 'deletion' is listed twice"),
        (('dataset = "mnist"', "dataset = 3"), "dataset: Input should be a valid string"),
    ],
)
def test_a_wrong_suite_file_is_named_with_the_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_suite(str(path)).name == "mine"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(XbenchError) as error:
        load_suite(str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_unknown_suites_name_the_nearest() -> None:
    with pytest.raises(XbenchError, match="unknown suite 'robustnes': did you mean 'robustness'"):
        load_suite("robustnes")
    with pytest.raises(XbenchError, match="does not exist"):
        load_suite("absent.toml")
