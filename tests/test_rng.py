"""Draws that depend on the image and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xbench import ImageRandom

DRAWS: dict[str, Callable[[ImageRandom, str, int], Tensor]] = {
    "normal": lambda rng, stream, step: rng.normal(stream, (2, 5), step),
    "uniform": lambda rng, stream, step: rng.uniform(stream, (2, 5), step),
    "integers": lambda rng, stream, step: rng.integers(stream, 1000, (2, 5), step),
}
every = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
IDS = ["0001", "0002", "photo/3", "0004"]


@every
def test_draws_do_not_depend_on_the_rest_of_the_batch(draw: Callable[[ImageRandom, str, int], Tensor]) -> None:
    whole = draw(ImageRandom(0, IDS), "s", 0)
    assert whole.shape == (4, 2, 5)
    assert draw(ImageRandom(0, [IDS[2], IDS[0]]), "s", 0).equal(whole[[2, 0]])


@every
def test_draws_depend_on_seed_image_stream_and_step(draw: Callable[[ImageRandom, str, int], Tensor]) -> None:
    draws = [draw(ImageRandom(seed, [i]), s, t) for seed in (0, 1) for i in ("a", "b") for s in ("x", "y") for t in (0, 1)]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 16
    assert draw(ImageRandom(0, ["a"]), "x", 0).equal(draws[0])


@every
def test_draws_neither_read_nor_move_the_global_generator(draw: Callable[[ImageRandom, str, int], Tensor]) -> None:
    rng = ImageRandom(0, IDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = draw(rng, "s", 0)
        assert torch.get_rng_state().equal(before)
        torch.manual_seed(6)
        assert draw(rng, "s", 0).equal(first)


def test_the_distributions_are_what_they_are_called() -> None:
    rng = ImageRandom(0, ["a", "b"])
    normal, uniform, integers = rng.normal("s", (20000,)), rng.uniform("s", (20000,)), rng.integers("s", 3, (20000,))
    assert (normal.dtype, uniform.dtype, integers.dtype) == (torch.float32, torch.float32, torch.int64)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert integers.flatten().bincount().tolist() == pytest.approx([40000 / 3] * 3, rel=0.03)


def test_shared_draws_do_not_depend_on_the_images() -> None:
    draws = [torch.rand(4, generator=ImageRandom(0, ids).shared("masks", 2)) for ids in (["a"], ["b", "c"])]
    assert draws[0].equal(draws[1])
    assert not torch.rand(4, generator=ImageRandom(1, ["a"]).shared("masks", 2)).equal(draws[0])
    assert not torch.rand(4, generator=ImageRandom(0, ["a"]).shared("masks", 3)).equal(draws[0])
