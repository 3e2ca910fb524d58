"""The ranking against Python's own sort, and on the maps that break thresholds: ties, constants, one-hot, all negative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xbench.ops.ranking import ranks


def draws(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed))


def maps_with_ties(b: int = 5, h: int = 6, w: int = 7) -> Tensor:
    return torch.randint(-3, 3, (b, h, w), generator=torch.Generator().manual_seed(1)).float()


def slow_ranks(scores: Tensor, ties: Tensor) -> Tensor:
    """One map (h, w): sort the pixels by (value descending, draw ascending, raster position)."""
    values, tie = scores.flatten().tolist(), ties.tolist()
    positions = [0] * len(values)
    for position, pixel in enumerate(sorted(range(len(values)), key=lambda i: (-values[i], tie[i], i))):
        positions[pixel] = position
    return torch.tensor(positions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_plain_sort(dtype: torch.dtype) -> None:
    maps, ties = maps_with_ties().to(dtype), draws(5, 42)
    expected = torch.stack([slow_ranks(m, t) for m, t in zip(maps, ties, strict=True)])
    found = ranks(maps, ties)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


def test_equal_draws_fall_back_on_the_raster_order() -> None:
    assert torch.equal(ranks(torch.zeros(1, 3, 4), torch.zeros(1, 12)), torch.arange(12)[None])


def test_every_position_is_taken_once_at_full_size() -> None:
    maps = maps_with_ties(2, 224, 224)
    found = ranks(maps, draws(2, 224 * 224))
    assert torch.equal(found.sort(1).values, torch.arange(224 * 224).expand(2, -1))
    for n in (0, 1, 17, 25_088, 50_176):
        assert ((found >= n).sum(1) == 50_176 - n).all()  # exactly n removed, whatever the ties


def test_constant_maps_have_the_order_of_the_draws() -> None:
    ties = draws(3, 30)
    by_draw = ties.argsort(1).argsort(1)
    for value in (0.0, 1.0, -2.5):
        assert torch.equal(ranks(torch.full((3, 5, 6), value), ties), by_draw)
    signs = torch.zeros(3, 5, 6)
    signs[:, ::2] = -0.0
    assert torch.equal(ranks(signs, ties), by_draw)


def test_one_hot_map_has_its_pixel_first_and_the_others_by_draw() -> None:
    maps, ties = torch.zeros(1, 4, 5), draws(1, 20)
    maps[0, 2, 3] = 1
    found = ranks(maps, ties)[0]
    others = [i for i in range(20) if i != 13]
    assert found[13] == 0
    assert torch.equal(found[others] - 1, ties[0, others].argsort().argsort())


def test_negative_maps_have_the_least_negative_first() -> None:
    assert ranks(torch.tensor([[[-3.0, -1.0], [-2.0, -4.0]]]), draws(1, 4)).tolist() == [[2, 0, 1, 3]]


def test_monotone_transforms_change_nothing() -> None:
    maps, ties = maps_with_ties(), draws(5, 42)
    expected = ranks(maps, ties)
    for transformed in (3 * maps + 1, maps - 10, maps.exp(), maps**3):
        assert torch.equal(ranks(transformed, ties), expected)


def test_negation_reverses_a_map_without_ties() -> None:
    maps = draws(4, 42).view(4, 6, 7)
    ties = draws(4, 42, seed=1)
    assert torch.equal(ranks(-maps, ties), 41 - ranks(maps, ties))


def test_images_do_not_see_each_other() -> None:
    maps, ties = maps_with_ties(), draws(5, 42)
    assert torch.equal(ranks(maps, ties), torch.cat([ranks(maps[i : i + 1], ties[i : i + 1]) for i in range(5)]))


@pytest.mark.parametrize("shape", [(2, 11), (2, 13), (1, 12)])
def test_refuses_draws_that_do_not_match(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="ties of shape"):
        ranks(torch.zeros(2, 3, 4), torch.zeros(shape))
