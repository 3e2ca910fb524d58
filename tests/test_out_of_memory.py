"""Batches shrink when memory runs out, with the same results; the stream does not wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import assert_close_scores, plan_in, silent
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xbench import METHODS, Classifier, ImageRandom
from xbench.classifier import Passes
from xbench.perturb import all_logits, stream
from xbench.run.machine import Speed
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.testing import tiny_classifier, tiny_images


def nothing_masked(x: Tensor) -> Callable[..., Tensor]:
    """Masks that darken step s to 1 / (s + 1)."""
    return lambda image, step: (1 / (step + 1.0))[:, None, None, None].expand(-1, 1, *x.shape[2:])


def darkened(classifier: Classifier, x: Tensor) -> Tensor:
    return stream(classifier, x, 5, nothing_masked(x), lambda image, step, mask: torch.zeros_like(x[image]), all_logits)


class Small(nn.Module):
    """A network whose memory ends above some number of images."""

    def __init__(self, module: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.module, self.most, self.error = module, most, error
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        if len(x) > self.most:
            raise type(self.error)(*self.error.args)
        return self.module(x)  # type: ignore[no-any-return]


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


def small(most: int, error: Exception = ERRORS[0]) -> Classifier:
    classifier = tiny_classifier()
    classifier.module = Small(classifier.module, most, error)
    classifier.batch_size = 16
    return classifier


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu"])
def test_batches_shrink_until_they_fit_and_stay_so(error: Exception) -> None:
    x = tiny_images(7)
    expected = darkened(tiny_classifier(), x)
    classifier = small(3, error)
    torch.testing.assert_close(darkened(classifier, x), expected, atol=1e-5, rtol=1e-5)
    assert classifier.passes == Passes(35, 0), "what failed is not counted"
    assert classifier.module.asked[:4] == [16, 8, 4, 2]
    assert set(classifier.module.asked[3:]) <= {1, 2}
    classifier.probabilities(x)
    assert max(classifier.module.asked[3:]) == 2
    assert classifier.batch_size == 2
    assert classifier.chosen_batch_size == 16


def test_what_does_not_fit_one_by_one_and_other_errors_are_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        darkened(small(0), tiny_images(2))
    other = small(3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        darkened(other, tiny_images(7))
    assert other.module.asked == [16]


@pytest.mark.parametrize("name", ["rise", "lime", "sliding-patch", "pda"])
def test_methods_give_the_same_maps_where_memory_is_short(name: str) -> None:
    method, x = METHODS.make(name).replace(**METHODS.get(name).quick), tiny_images(3)
    y, rng = torch.tensor([0, 1, 2]), lambda: ImageRandom(0, ["a", "b", "c"])
    expected = method(tiny_classifier(), x, y, rng())
    torch.testing.assert_close(method(small(3), x, y, rng()), expected, atol=1e-5, rtol=1e-4)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device: those whose result Python reads."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item")
        return func(*args, **(kwargs or {}))


def test_the_stream_does_not_wait_for_the_device() -> None:
    classifier, x = tiny_classifier(), tiny_images(4)
    classifier.batch_size = 3
    with Waits() as waits:
        float(x.sum())
        assert waits.count == 1
        darkened(classifier, x)
        classifier.probabilities(x)
    assert waits.count == 1


def test_a_cell_that_runs_out_of_memory_is_tried_with_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    plan = plan_in(tmp_path, lines)
    expected = run(plan, Progress(plan, Speed(), silent()))
    (tmp_path / "small").mkdir()
    plan = plan_in(tmp_path / "small", lines)
    before = Classifier.forward

    def forward(self: Classifier, x: Tensor) -> Tensor:
        if len(x) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return before(self, x)

    monkeypatch.setattr(Classifier, "forward", forward)
    results = run(plan, Progress(plan, Speed(), silent()))
    assert [result.status for result in results] == ["ok", "ok"]
    for one, two in zip(expected, results, strict=True):
        assert_close_scores(one, two)
    assert any("out of memory, tried again with batches of" in line for line in lines), lines
