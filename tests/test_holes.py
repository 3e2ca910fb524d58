"""Random holes against their definitions written pixel by pixel, their shares and their draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from xbench import ImageRandom
from xbench.ops.holes import HOLES, random_holes

IDS = [f"i{n}" for n in range(4)]


def draws(ids: Sequence[str] = IDS) -> Callable[[str, Sequence[int]], Tensor]:
    return ImageRandom(3, ids).uniform


def missing_in_rectangles(size: tuple[int, int], share: float, image: int) -> Tensor:
    table = draws()("rectangles", (4, 4))[image].tolist()
    count = int(table[0][3] * 4) + 1
    missing = torch.zeros(size, dtype=torch.bool)
    for stretch, top, left, _ in table[:count]:
        side = math.sqrt(share / count)
        height = max(1, round(min(1, side * 2 ** (stretch - 0.5)) * size[0]))
        width = max(1, round(min(1, side * 2 ** (0.5 - stretch)) * size[1]))
        row, column = round((size[0] - height) * top), round((size[1] - width) * left)
        missing[row : row + height, column : column + width] = True
    return missing


def missing_in_cells(size: tuple[int, int], share: float, image: int) -> Tensor:
    """Compares with the seeds of all cells, not only with those around."""
    log_side, *offset = draws()("cells", (3,))[image].tolist()
    count = math.ceil(28 * max(size) / size[0]) + 3
    table = draws()("seeds", (count, count, 3))[image]
    seeds = table[..., :2] + torch.cartesian_prod(torch.arange(count), torch.arange(count)).view(count, count, 2)
    side = size[0] / 28 * 8**log_side
    missing = torch.zeros(size, dtype=torch.bool)
    for row in range(size[0]):
        for column in range(size[1]):
            place = torch.tensor([(row + 0.5) / side + offset[0] + 1, (column + 0.5) / side + offset[1] + 1])
            nearest = (seeds - place).square().sum(2).argmin()
            missing[row, column] = table[..., 2].flatten()[nearest] < share
    return missing


@pytest.mark.parametrize(("size", "share"), [((28, 28), 0.2), ((20, 26), 0.7)])
@pytest.mark.parametrize(("kind", "reference"), [("rectangles", missing_in_rectangles), ("cells", missing_in_cells)])
def test_holes_are_those_of_a_slow_reference(
    kind: str, reference: Callable[..., Tensor], size: tuple[int, int], share: float
) -> None:
    keep = HOLES[kind](draws(), size, torch.full((4,), share))
    assert keep.shape == (4, 1, *size)
    for image in range(4):
        assert ((keep[image, 0] == 0) != reference(size, share, image)).sum() <= 2, "rounding may move a pixel"


def test_a_stroke_is_a_chain_of_discs_until_it_covers_its_share() -> None:
    keep = HOLES["strokes"](draws(), (28, 28), torch.full((4,), 0.3))
    shape, walk = draws()("stroke", (2,)), draws()("walk", (64, 3))
    for image in range(4):
        radius, angle = 28 * (1 / 20 + float(shape[image, 0]) * 0.075), 2 * math.pi * float(shape[image, 1])
        y, x, hole = 0.0, 0.0, torch.zeros(28, 28, dtype=torch.bool)
        for step in range(64):
            if hole.float().mean() >= 0.3:
                break
            turn, top, left = walk[image, step].tolist()
            y, x = (28 * top, 28 * left) if step % 8 == 0 else (y, x)
            angle += (2 * turn - 1) * math.pi / 3
            y, x = y + 1.5 * radius * math.sin(angle), x + 1.5 * radius * math.cos(angle)
            y, x = (-v if v < 0 else 56 - v if v > 28 else v for v in (y, x))
            rows, columns = torch.arange(28)[:, None] + 0.5, torch.arange(28) + 0.5
            hole |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        assert ((keep[image, 0] == 0) != hole).sum() <= 2, "rounding may move a pixel"


@pytest.mark.parametrize("kind", HOLES)
def test_holes_have_their_share_and_are_keyed_by_image(kind: str) -> None:
    ids = [str(i) for i in range(100)]
    for share in (0.05, 0.25):
        keep = HOLES[kind](draws(ids), (28, 28), torch.full((100,), share))
        assert set(keep.unique().tolist()) == {0, 1}
        assert 0.85 * share < float(1 - keep.mean()) < 1.3 * share, "rectangles overlap, the last disc goes beyond"
        assert torch.equal(HOLES[kind](draws(ids[7:9]), (28, 28), torch.full((2,), share)), keep[7:9])
    assert HOLES[kind](draws(ids), (28, 28), torch.zeros(100)).min() == (0 if kind == "rectangles" else 1)


def test_random_holes_are_of_every_kind_and_share() -> None:
    ids = [str(i) for i in range(300)]
    keep = random_holes(draws(ids), (28, 28))
    missing = 1 - keep.flatten(1).mean(1)
    assert missing.min() < 0.05
    assert missing.max() > 0.75
    assert 0.3 < missing.mean() < 0.45
    kind, share = draws(ids)("holes", (2,)).unbind(1)
    for number, make in enumerate(HOLES.values()):
        chosen = (kind * 3).long() == number
        assert 75 < chosen.sum() < 125
        assert torch.equal(make(draws(ids), (28, 28), 0.05 + 0.75 * share)[chosen], keep[chosen])
