"""Forms: the same function, chosen once; what does not agree is not used; precision is part of a key."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from small_runs import assert_close_scores, plan_in, silent
from torch import Tensor, nn

from xbench import Classifier, XbenchError
from xbench.batches import STREAMED
from xbench.classifier import Passes
from xbench.form import Form, make_form
from xbench.run import form as choosing
from xbench.run.machine import Speed
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.testing import tiny_classifier, tiny_images


def normalised() -> Classifier:
    """A network with batch norm, whose folding moves the last digits, and a shape that depends on the batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
        nn.init.uniform_(module[1].weight, 0.5, 2)
        module[1].running_mean.uniform_(-1, 1)
    return Classifier(
        module,
        name="bn",
        shape=(3, 8, 8),
        classes=4,
        label_space="four",
        mean=[0.4] * 3,
        std=[0.2] * 3,
        cam_layer=None,
        stages=[],
    )


def images(count: int) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["plain", "frozen"])
def test_a_form_is_the_same_function_for_any_number_of_images(name: str) -> None:
    classifier = normalised()
    form = make_form(classifier, name, 4)  # type: ignore[arg-type]
    for count in (1, 2, 3, 4, 7):  # as the network is, filled up, all, more
        torch.testing.assert_close(form(images(count)), classifier(images(count)), atol=1e-5, rtol=1e-5)


def test_prediction_uses_the_form_and_counts_while_gradients_and_hooks_see_the_network() -> None:
    classifier, x = normalised(), images(5)
    expected, called = classifier(x), []
    classifier.form = Form("plain", 2, lambda part: called.append(len(part)) or torch.zeros(len(part), 4))  # type: ignore[func-returns-value]
    classifier.passes = Passes()
    assert classifier.probabilities(x).equal(torch.full((5, 4), 0.25))
    assert called == [2, 2, 1]
    assert classifier.passes == Passes(5, 0)
    assert classifier(x).equal(expected)
    assert called == [2, 2, 1]
    with pytest.raises(XbenchError, match="takes images"):
        classifier.predict(x[:, :1])


def test_what_is_streamed_at_a_time_are_whole_passes_of_the_form() -> None:
    classifier = normalised()
    for size in (1, 3, 256, 10**6):
        classifier.form = Form("plain", size, classifier.module)
        assert classifier.stream_size >= max(size, STREAMED // 64)
        assert classifier.stream_size % size == 0


def test_copies_that_may_be_changed_have_no_form() -> None:
    classifier = tiny_classifier()
    classifier.form = make_form(classifier, "frozen", 2)
    x = tiny_images(3)
    assert copy.deepcopy(classifier).form is None
    other = classifier.randomised(["fc"], seed=1)
    assert (other.probabilities(x) - classifier.probabilities(x)).abs().max() > 1e-3
    assert classifier.double().form is None


def test_a_form_that_does_not_agree_or_cannot_be_made_is_refused() -> None:
    class Batchwise(nn.Module):
        """Gives other values for other numbers of images, and a trace that only knows the first."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.arange(4))[len(x) % 4].float() + x.flatten(1)[:, :4] * 0

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no trace") if torch.jit.is_tracing() else AssertionError

    about = {"name": "odd", "shape": (3, 8, 8), "classes": 4, "label_space": "four", "cam_layer": None, "stages": []}
    odd = Classifier(Batchwise(), mean=[0.5] * 3, std=[1.0] * 3, **about)  # type: ignore[arg-type]
    with pytest.raises(XbenchError, match=r"odd: the frozen form is not used: its probabilities are [0-9.e-]+ off"):
        make_form(odd, "frozen", 4)
    assert make_form(odd, "plain", 4).name == "plain"
    none = Classifier(Branching(), mean=[0.5] * 3, std=[1.0] * 3, **about)  # type: ignore[arg-type]
    with pytest.raises(XbenchError, match="odd: the frozen form cannot be used: ValueError: no trace"):
        make_form(none, "frozen", 4)


@pytest.mark.parametrize("name", [None, "plain", "frozen"])
def test_bf16_is_close_and_for_predictions_only(name: str | None) -> None:
    classifier, x = normalised(), images(6)
    exact = classifier(x)
    classifier.precision = "bf16"
    classifier.form = make_form(classifier, name, 4) if name else None  # type: ignore[arg-type]
    rounded = classifier.predict(x)
    assert rounded.dtype == torch.float32
    assert 1e-5 < (rounded - exact).abs().max() < 0.1
    assert classifier(x).equal(exact)


@pytest.fixture(scope="module")
def compiled() -> Iterator[Classifier]:
    """A network with batch norm in its compiled form."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler to compile a network with")
    classifier = normalised()
    classifier.form = make_form(classifier, "compiled", 4)
    yield classifier
    torch._dynamo.reset()


def test_the_compiled_form_agrees_for_any_number_of_images(compiled: Classifier) -> None:
    assert compiled.form is not None
    for count in (1, 2, 3, 4, 7):  # as the network is, filled up, all, more
        expected = compiled(images(count)).softmax(1)
        torch.testing.assert_close(compiled.form(images(count)).softmax(1), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(compiled.probabilities(images(count)), expected, atol=1e-4, rtol=0)


def test_no_layout_of_the_images_is_compiled_again(compiled: Classifier) -> None:
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for x in (images(4).to(memory_format=torch.channels_last), images(8)[::2], images(3).flip(3)):
        torch.testing.assert_close(compiled.predict(x).softmax(1), compiled(x).softmax(1), atol=1e-4, rtol=0)
    assert graphs["unique_graphs"] == before > 0


def test_any_number_of_networks_can_be_compiled(compiled: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)  # beyond which the compiler would give up silently
    other = make_form(compiled, "compiled", 3)
    hook = compiled.module.register_forward_hook(lambda *_: pytest.fail("not compiled"))
    with torch.no_grad():
        other(images(3))
        compiled.predict(images(4))
    hook.remove()


def test_gradients_ask_the_network_and_not_its_compiled_form(compiled: Classifier) -> None:
    x, seen, plain = images(5).requires_grad_(), [], normalised()
    hook = compiled.module.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    compiled.predict(images(7))  # in parts of 4 and 3
    assert seen == []
    gradient = torch.autograd.grad(compiled(x)[:, 0].sum(), x)[0]
    hook.remove()
    assert seen == [5]
    assert gradient.equal(torch.autograd.grad(plain(x)[:, 0].sum(), x)[0])


# -- the choice ----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """A machine on which passes are slow and times are these; forms that are made are plain ones."""
    times = {
        "plain": {"making": 0.0, "64": 4.0, "256": 3.0},
        "frozen": {"making": 0.1, "64": 2.0, "256": 2.5},
        "compiled": {"making": 100.0, "64": 1.0},
    }
    monkeypatch.setattr(choosing, "_seconds_now", lambda classifier: 3.0)
    monkeypatch.setattr(choosing, "_measure", lambda classifier, name, sizes: times[name])
    return times


def test_few_passes_are_not_worth_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_measure", lambda *_: pytest.fail("measured"))
    assert choosing.choose(plan_in(tmp_path)) is None


def test_the_fastest_form_is_chosen_once_and_kept(tmp_path: Path, measured: dict[str, dict[str, float]]) -> None:
    plan = plan_in(tmp_path)
    assert choosing.streamed(plan.total_passes) > 200
    assert choosing.choose(plan) == choosing.Choice("compiled", 64, 1.0)
    kept = plan.store.form(plan.classifier.weights_digest, "cpu")
    assert kept == {"batch_size": 256, "fp32": {"name": "compiled", "batch_size": 64, "share": 1.0}}
    measured["plain"]["64"] = 0.001
    assert choosing.choose(plan_in(tmp_path)) == choosing.Choice("compiled", 64, 1.0)


def test_the_compiled_form_is_recorded_and_used_again_on_resume(
    tmp_path: Path, measured: dict[str, dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def stand_in(classifier: Classifier, name: str, size: int) -> Form:
        made.append(name)
        return dataclasses.replace(make_form(classifier, "frozen", size), name="compiled")

    monkeypatch.setattr(choosing, "make_form", stand_in)
    plan = plan_in(tmp_path)
    results = run(plan, Progress(plan, Speed(), silent()))
    assert [result.record["form"] for result in results] == [{"name": "compiled", "batch_size": 64}] * len(results)
    next((tmp_path / "store").rglob("part-000.json")).unlink()
    measured["plain"]["64"] = 0.001  # another form has become faster
    again = plan_in(tmp_path)
    resumed = run(again, Progress(again, Speed(), silent()))
    assert made == ["compiled", "compiled"]
    for one, two in zip(results, resumed, strict=True):
        assert two.record["form"] == one.record["form"]
        assert_close_scores(one, two)


def test_compiling_must_pay_for_itself(tmp_path: Path, measured: dict[str, dict[str, float]]) -> None:
    measured["compiled"]["making"] = 1e6
    assert choosing.choose(plan_in(tmp_path)) == choosing.Choice("frozen", 64, 2.0)


def test_a_form_that_cannot_be_made_is_not_chosen(tmp_path: Path, measured: dict[str, dict[str, float]]) -> None:
    measured["compiled"] = {}
    measured["frozen"]["64"] = measured["frozen"]["256"] = 2.99
    assert choosing.choose(plan_in(tmp_path)) == choosing.Choice("plain", 256, 3.0)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_seconds_now", lambda classifier: 1e3)
    monkeypatch.setattr(choosing, "COMPILING", float("inf"))
    asked: list[tuple[str, int]] = []

    def share(form: Form, _classifier: Classifier, size: int) -> float:
        asked.append((form.name, size))
        if size == 512:
            raise torch.OutOfMemoryError
        return {"plain": 1.0, "frozen": 0.5}[form.name] / size

    monkeypatch.setattr(choosing, "_share_of", share)
    assert choosing.choose(plan_in(tmp_path)) == choosing.Choice("frozen", 256, 0.5 / 256)
    assert asked == [(name, size) for name in ("plain", "frozen") for size in (64, 128, 256, 512)]
    (tmp_path / "other").mkdir()
    assert choosing.choose(plan_in(tmp_path / "other")) == choosing.Choice("frozen", 256, 0.5 / 256)
    assert len(asked) == 8
    (tmp_path / "five").mkdir()
    assert choosing.choose(plan_in(tmp_path / "five", batch_size=5)) == choosing.Choice("frozen", 5, 0.1)


def test_a_gradient_costs_its_forward_pass_too() -> None:
    assert Speed(1.0, 3.0, 2.0).seconds(Passes(10, 4)) == 6 * 1.0 + 4 * 3.0
    assert Speed(1.0, 3.0, 2.0).seconds(Passes(10, 4), together=2) == 6 * 1.0 + 4 * (3.0 + 2.0 / 2)


def test_looking_neither_compiles_nor_keeps(tmp_path: Path, measured: dict[str, dict[str, float]]) -> None:
    plan = plan_in(tmp_path)
    assert choosing.choose(plan, only_look=True) == choosing.Choice("frozen", 64, 2.0)
    assert "fp32" not in (tmp_path / "store" / "form.json").read_text()


def test_a_store_is_computed_in_the_form_it_keeps(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = plan_in(tmp_path, lines)
    name = plan.classifier.weights_digest
    plan.store.keep_form(name, "cpu", {"fp32": {"name": "frozen", "batch_size": 32, "seconds": 1e-4}})
    results = run(plan, Progress(plan, Speed(), silent()))
    assert {result.status for result in results} == {"ok"}
    assert results[0].record["form"] == {"name": "frozen", "batch_size": 32}
    (tmp_path / "plain").mkdir()
    other = plan_in(tmp_path / "plain")
    plain = run(other, Progress(other, Speed(), silent()))
    assert [result.key for result in plain] == [result.key for result in results]
    for one, two in zip(plain, results, strict=True):
        assert_close_scores(one, two)
    assert plain[0].record["form"] == {"name": "plain"}


def test_precision_is_in_the_key_and_its_board_apart(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    keys = [{cell.key for cell in plan_in(tmp_path, precision=precision).cells} for precision in ("fp32", "bf16")]
    assert not keys[0] & keys[1]
    words = ("run", "--suite", tmp_path / "mine.toml", "--store", tmp_path / "store")
    for extra in ((), ("--precision", "bf16")):
        done = xbench(*words, *extra)
        assert done.status == 0, done.err
    names = {path.name for path in (tmp_path / "store" / "boards").glob("*.md")}
    assert names == {"mine.md", "mine-bf16.md"}
    assert "--precision bf16" in (tmp_path / "store" / "boards" / "mine-bf16.md").read_text()
    assert len(list((tmp_path / "store" / "maps").rglob("*.safetensors"))) == 4
    assert xbench("board", *words[1:], "--precision", "bf16").status == 0
