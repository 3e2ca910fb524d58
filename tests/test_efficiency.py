"""Efficiency, on methods that sleep, allocate and ask the classifier as often as they are told."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scratch import register, scratch_registries
from torch import Tensor, nn

from xbench import METRICS, Explainer, Method, TrainedMethod, XbenchError
from xbench.checkpoints import Checkpoints
from xbench.classifier import Passes
from xbench.metric import Metric, Scored
from xbench.metrics import _measuring
from xbench.metrics._measuring import peak_memory
from xbench.metrics.efficiency import Efficiency
from xbench.run import plan as planning
from xbench.run.plan import make_plan
from xbench.run.suite import load_suite
from xbench.store import Store
from xbench.subset import DATASETS
from xbench.testing import check_metric, tiny_batch, tiny_classifier

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(not _measuring.REFERENCES.exists(), reason="needs Linux")


@dataclasses.dataclass(frozen=True)
class Sleeper(Method):
    """Sleeps for a time per call and one per image, holds some MiB, makes passes that grow with the class."""

    call: float = 0.0
    image: float = 0.0
    mib: int = 0
    asked: list[int] = dataclasses.field(default_factory=list)
    name = "sleeper"

    def __call__(self, classifier: Any, x: Tensor, y: Tensor, rng: Any) -> Tensor:
        self.asked.append(len(x))
        held = torch.ones(self.mib * 2**18)
        time.sleep(self.call + self.image * len(x))
        for i, count in enumerate(y.tolist()):
            for _ in range(1 + count):
                classifier(x[i : i + 1])
        return x[:, 0] + 0 * held[:1].sum()

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        return Passes(forward=1)


def score(method: Method, images: int = 3, repeats: int = 3) -> dict[str, Tensor]:
    classifier = tiny_classifier()
    batch = tiny_batch(images, classifier)
    batch = dataclasses.replace(batch, target=torch.arange(images) % 4)
    return Efficiency(repeats)(Explainer(method, classifier), batch, None).scores


def test_times_are_those_of_one_image_and_of_a_share_of_the_batch() -> None:
    scores = score(Sleeper(call=0.06, image=0.02), images=4)
    assert (scores["seconds_one"] >= 0.08).all()
    assert (scores["seconds_batch"] >= 0.035).all()
    assert (scores["seconds_batch"] < 0.8 * scores["seconds_one"]).all()
    assert len(set(scores["seconds_batch"].tolist())) == 1


def test_the_median_does_not_see_one_slow_call() -> None:
    class Slow(Sleeper):
        def __call__(self, classifier: Any, x: Tensor, y: Tensor, rng: Any) -> Tensor:
            if len(self.asked) in (0, 2, 6):  # to warm up, the first repeat in a batch, the first alone
                time.sleep(0.5)
            return super().__call__(classifier, x, y, rng)

    method = Slow()
    scores = score(method, images=2)
    assert method.asked == [2] * 5 + [1] * 8
    assert max(float(scores[name].max()) for name in ("seconds_one", "seconds_batch")) < 0.2


def test_passes_are_those_of_each_image() -> None:
    scores = score(Sleeper(), images=5)
    assert scores["forward"].tolist() == [1, 2, 3, 4, 1]
    assert scores["backward"].tolist() == [0] * 5
    assert scores["training"].tolist() == [0] * 5


@LINUX
def test_memory_is_what_the_batch_holds_at_its_peak() -> None:
    assert float(score(Sleeper(mib=96), repeats=1)["memory"][0]) == pytest.approx(96, abs=8)
    assert float(score(Sleeper(mib=1), repeats=1)["memory"][0]) < 16, "what was freed before is not counted"


@LINUX
def test_freed_memory_is_counted_again() -> None:
    for _ in range(2):
        assert peak_memory(lambda: torch.ones(64 * 2**18), CPU) == pytest.approx(64, abs=8)
        assert peak_memory(lambda: [torch.ones(2**10) for _ in range(2**12)], CPU) == pytest.approx(16, abs=8)


def test_without_a_way_to_tell_memory_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measuring, "REFERENCES", Path("/no/such/file"))
    classifier = tiny_classifier()
    scored = Efficiency(1)(Explainer(Sleeper(), classifier), tiny_batch(2, classifier), None)
    assert scored.scores["memory"].isnan().all()
    assert scored.reasons == {"memory": dict.fromkeys((0, 1), "this system does not tell peak memory")}


def test_training_is_what_the_checkpoint_says() -> None:
    class Source:
        def find(self, method: Method, classifier: Any) -> tuple[nn.Module, str]:
            return nn.Identity(), "digest"

        def training_seconds(self, method: Method, classifier: Any) -> float:
            return 12.5

    @dataclasses.dataclass(frozen=True)
    class Trained(TrainedMethod):
        """Its network's output."""

        name = "trained"

        def explain(self, network: nn.Module, x: Tensor, y: Tensor, rng: Any) -> Tensor:
            return network(x)[:, 0]

    classifier = tiny_classifier()
    explainer = Explainer(Trained(), classifier, states=Source())  # type: ignore[arg-type]
    scores = Efficiency(1)(explainer, tiny_batch(2, classifier), None).scores
    assert scores["training"].tolist() == [12.5, 12.5]
    assert scores["forward"].tolist() == [0, 0]


def test_the_checkpoints_that_ship_tell_their_seconds() -> None:
    classifier = planning.load_classifier("mnist-cnn", "cpu")
    vp = planning.METHODS.make("vp")
    assert isinstance(vp, TrainedMethod)
    assert Checkpoints(DATASETS.make("mnist")).training_seconds(vp, classifier) > 1


def keys(folder: Path, metric: str) -> list[str]:
    head = 'title = "t"\ndescription = "d"\ndataset = "mnist"\nclassifier = "mnist-cnn"\nmethods = ["gradient", "random"]\n'
    (folder / "mine.toml").write_text(f"{head}[[metrics]]\nspec = '{metric}'\nimages = 2\n")
    return [cell.key for cell in make_plan(load_suite(str(folder / "mine.toml")), Store(folder / "store")).cells]


def test_another_machine_has_other_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {metric: keys(tmp_path, metric) for metric in ("efficiency", "deletion")}
    assert here == {metric: keys(tmp_path, metric) for metric in here}
    monkeypatch.setattr(planning, "hardware", lambda device: {"device": device, "name": "another", "threads": "1"})
    assert keys(tmp_path, "deletion") == here["deletion"]
    assert set(keys(tmp_path, "efficiency")).isdisjoint(here["efficiency"])


def test_the_conformance_check_exempts_what_is_declared_to_be_measured() -> None:
    clock = itertools.count()

    def timed(self: Metric, explainer: Explainer, batch: Any, maps: Tensor) -> Scored:
        return Scored({"time": torch.full((len(batch),), float(next(clock)))})

    def checked(measured: set[str]) -> None:
        with scratch_registries():
            register(
                METRICS,
                Metric,
                __doc__="The time of day (own decision).",
                __call__=timed,
                cost=lambda self, method, classifier: Passes(),
                columns=(METRICS.get("efficiency").columns[0].__class__("time", "Time", None),),
                measured=frozenset(measured),
            )
            check_metric("made")

    checked({"time"})
    with pytest.raises(AssertionError, match="two calls with the same seed give different time"):
        checked(set())
    with pytest.raises(AssertionError, match="measured names no column"):
        checked({"time", "other"})


def test_is_registered_and_refuses_no_repeats() -> None:
    assert METRICS.make("efficiency(repeats=5)") == Efficiency(5)
    assert Efficiency().cost(Sleeper(), tiny_classifier()) == Passes(forward=9)
    with pytest.raises(XbenchError, match="repeats must be at least 1"):
        METRICS.make("efficiency(repeats=0)")
