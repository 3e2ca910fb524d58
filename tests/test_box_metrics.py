"""Pointing game and energy in the box, against loops over pixels and maps whose score is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from given_maps import in_order
from torch import Tensor

from xbench import METRICS, Batch, Explainer, Method, Metric, XbenchError
from xbench.classifier import Passes
from xbench.metric import Scored
from xbench.metrics.energy_in_box import EnergyInBox
from xbench.metrics.pointing_game import PointingGame
from xbench.testing import tiny_classifier

H, W = 16, 20


def batch_of(boxes: list[list[list[float]]]) -> Batch:
    n = len(boxes)
    labels = torch.zeros(n, dtype=torch.int64)
    true = [torch.tensor(each).view(-1, 4).float() for each in boxes]
    return Batch([f"image-{i}" for i in range(n)], torch.zeros(n, 1, H, W), labels, labels, true)


def score(metric: Metric, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    return metric(Explainer(Method(), tiny_classifier((1, H, W)), seed), batch, maps)


def random_case(n: int = 60) -> tuple[Batch, Tensor]:
    """Maps with ties, negative values too; up to two boxes, some of them not on whole pixels."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(n, 2, 2, generator=generator) * torch.tensor([12.0, 9.0])
    side = 1 + torch.rand(n, 2, 2, generator=generator) * torch.tensor([7.0, 6.0])
    boxes = torch.cat([corner, corner + side], 2)
    boxes[::2] = boxes[::2].round()
    batch = batch_of([each[: 1 + i % 2].tolist() for i, each in enumerate(boxes)])
    return batch, (2 * torch.randn(n, H, W, generator=generator)).round()


def pixels_in(boxes: Tensor) -> list[tuple[int, int]]:
    """(column, row) of every pixel whose centre lies in one of the boxes."""
    every = [(x, y) for y in range(H) for x in range(W)]
    return [(x, y) for x, y in every if any(a <= x + 0.5 < c and b <= y + 0.5 < d for a, b, c, d in boxes.tolist())]


@pytest.mark.parametrize("tolerance", [0.0, 15.0, 60.0])
def test_pointing_game_equals_the_definition(tolerance: float) -> None:
    batch, maps = random_case()
    assert batch.boxes is not None
    expected = []
    for i, boxes in enumerate(batch.boxes):
        row, column = divmod(in_order(maps[i], batch.ids[i], 4)[0], W)
        assert maps[i, row, column] == maps[i].max()
        nearest = min(((column - x) ** 2 + (row - y) ** 2) ** 0.5 for x, y in pixels_in(boxes))
        expected.append(float(nearest <= tolerance * H / 224))
    assert score(PointingGame(tolerance), batch, maps, 4).scores["accuracy"].tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_the_tolerance_is_a_disc_that_scales_with_the_height() -> None:
    """28 px: 4 px at 16 px; the box's last pixel is (9, 9): 4 px beside it is near, 3 and 3 px diagonally is not."""
    places = [(9, 9), (13, 9), (14, 9), (11, 12), (12, 12)]
    maps = torch.zeros(5, H, W)
    for i, (x, y) in enumerate(places):
        maps[i, y, x] = 1
    batch = batch_of([[[4.0, 4.0, 10.0, 10.0]]] * 5)
    assert score(PointingGame(56.0), batch, maps).scores["accuracy"].tolist() == [1, 1, 0, 1, 0]
    assert score(PointingGame(0.0), batch, maps).scores["accuracy"].tolist() == [1, 0, 0, 0, 0]


def test_constant_maps_point_at_random_and_negative_ones_at_their_maximum() -> None:
    batch = batch_of([[[0.0, 0.0, W / 2, H]]] * 400)
    for value in (0.0, -3.0, 2.0):
        share = float(score(PointingGame(0.0), batch, torch.full((400, H, W), value)).scores["accuracy"].mean())
        assert share == pytest.approx(0.5, abs=0.1)
    maps = torch.full((400, H, W), -2.0)
    maps[:, 3, 4] = -1
    assert float(score(PointingGame(0.0), batch, maps).scores["accuracy"].mean()) == 1


def test_energy_equals_the_definition() -> None:
    batch, maps = random_case()
    assert batch.boxes is not None
    scored = score(EnergyInBox(), batch, maps)
    for i, boxes in enumerate(batch.boxes):
        inside = pixels_in(boxes)
        positive = [[max(0.0, value) for value in row] for row in maps[i].tolist()]
        expected = sum(positive[y][x] for x, y in inside) / sum(map(sum, positive))
        assert float(scored.scores["energy"][i]) == pytest.approx(expected)
        assert float(scored.scores["area"][i]) == pytest.approx(len(inside) / (H * W))


def test_energy_of_known_maps() -> None:
    """Overlapping boxes count once: 5 x 4 and 3 x 6 pixels that share 3 x 2 are 32 of 320."""
    boxes = [[2.0, 2.0, 7.0, 6.0], [4.0, 4.0, 7.0, 10.0]]
    box = torch.zeros(H, W)
    box[2:6, 2:7] = box[4:10, 4:7] = 1
    maps = torch.stack([box, 1 - box, torch.ones(H, W), box * 3 - 1, 1e-38 * torch.ones(H, W), 3e38 * torch.ones(H, W)])
    scored = score(EnergyInBox(), batch_of([boxes] * 6), maps)
    torch.testing.assert_close(scored.scores["energy"], torch.tensor([1, 0, 0.1, 1, 0.1, 0.1]).double())
    torch.testing.assert_close(scored.scores["area"], torch.full((6,), 0.1).double())
    assert scored.reasons == {"energy": {}, "area": {}}


def masked(batch: Batch, every: int) -> Batch:
    """The batch with a random mask for each ``every``-th image."""
    generator = torch.Generator().manual_seed(9)
    masks = [torch.rand(H, W, generator=generator) < 0.1 if i % every == 0 else None for i in range(len(batch))]
    return dataclasses.replace(batch, masks=masks)


@pytest.mark.parametrize("every", [1, 3])
def test_a_mask_takes_the_place_of_boxes(every: int) -> None:
    batch, maps = random_case()
    batch = masked(batch, every)
    assert batch.boxes is not None
    assert batch.masks is not None
    energy, pointing = score(EnergyInBox(), batch, maps), score(PointingGame(28.0), batch, maps, 4)
    for i, (mask, boxes) in enumerate(zip(batch.masks, batch.boxes, strict=True)):
        inside = pixels_in(boxes) if mask is None else [(x, y) for y, x in mask.nonzero().tolist()]
        positive = [[max(0.0, value) for value in row] for row in maps[i].tolist()]
        expected = sum(positive[y][x] for x, y in inside) / sum(map(sum, positive))
        assert float(energy.scores["energy"][i]) == pytest.approx(expected)
        row, column = divmod(in_order(maps[i], batch.ids[i], 4)[0], W)
        nearest = min(((column - x) ** 2 + (row - y) ** 2) ** 0.5 for x, y in inside)
        assert float(pointing.scores["accuracy"][i]) == float(nearest <= 2)
    drawn = len(range(0, len(batch), every))
    assert energy.record == pointing.record == {"images_by_mask": drawn, "images_by_box": len(batch) - drawn}
    assert 0 < float(pointing.scores["accuracy"].mean()) < 1


def test_masks_without_boxes_will_do_and_an_empty_one_is_no_object() -> None:
    batch, maps = random_case(4)
    mask = torch.zeros(H, W, dtype=torch.bool)
    whole = dataclasses.replace(batch, boxes=None, masks=[~mask, mask, None, ~mask])
    energy, pointing = score(EnergyInBox(), whole, maps), score(PointingGame(), whole, maps)
    assert energy.scores["area"][[0, 3]].tolist() == pointing.scores["accuracy"][[0, 3]].tolist() == [1, 1]
    for name, scored in (("area", energy), ("energy", energy), ("accuracy", pointing)):
        assert scored.scores[name].isnan().tolist() == [False, True, True, False]
        assert scored.reasons[name] == {1: "the mask is empty", 2: "no true box"}


def test_no_score_without_a_true_box_or_a_positive_value() -> None:
    box = [[0.0, 0.0, 5.0, 5.0]]
    maps = torch.stack([torch.ones(H, W), torch.ones(H, W), torch.zeros(H, W), -torch.ones(H, W), torch.zeros(H, W)])
    batch = batch_of([box, [], box, box, []])
    energy, pointing = score(EnergyInBox(), batch, maps), score(PointingGame(), batch, maps)
    assert energy.scores["energy"].isnan().tolist() == [False, True, True, True, True]
    never = dict.fromkeys((2, 3), "map never positive")
    assert energy.reasons["energy"] == {**never, 1: "no true box", 4: "no true box"}
    for name, scored in (("area", energy), ("accuracy", pointing)):
        assert scored.scores[name].isnan().tolist() == [False, True, False, False, True]
        assert scored.reasons[name] == {1: "no true box", 4: "no true box"}
    nothing = score(PointingGame(), batch_of([[], []]), maps[:2])
    assert nothing.scores["accuracy"].isnan().all()


def test_are_registered_and_explain_the_label() -> None:
    assert METRICS.make("pointing-game(tolerance=3.5)") == PointingGame(3.5)
    for metric in (PointingGame(), METRICS.make("energy-in-box")):
        assert (metric.target_rule, metric.needs_boxes) == ("label", True)
        assert metric.cost(Method(), tiny_classifier()) == Passes()
    with pytest.raises(XbenchError, match="tolerance must be at least 0"):
        METRICS.make("pointing-game(tolerance=-1.0)")
