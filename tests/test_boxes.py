"""Boxes, against pixel by pixel definitions, boxes whose overlap is known, and torch's own resizing of single crops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xbench.ops.boxes import max_iou, resized_crops, threshold_boxes

ALPHAS = torch.arange(20) / 20


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_box(values: Tensor, alpha: float) -> list[int]:
    """The definition, pixel by pixel."""
    h, w = values.shape
    peak = max(0.0, float(values.max()))
    inside = [(x, y) for y in range(h) for x in range(w) if max(0.0, float(values[y, x])) > alpha * peak]
    if not inside:
        return [0, 0, 0, 0]
    columns, rows = zip(*inside, strict=True)
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def slow_iou(one: list[float], other: list[float]) -> float:
    """Counts pixels; boxes have whole numbers."""
    pixels = [{(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))} for b in (one, other)]
    return len(pixels[0] & pixels[1]) / max(1, len(pixels[0] | pixels[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_boxes_equal_the_definition(dtype: torch.dtype) -> None:
    maps = torch.cat([random(6, 7, 9), random(3, 7, 9).round(), random(3, 7, 9) - 2, -random(1, 7, 9).abs()]).to(dtype)
    boxes = threshold_boxes(maps, ALPHAS)
    assert boxes.shape == (13, 20, 4)
    assert boxes.dtype == dtype
    alphas = ALPHAS.to(dtype).tolist()
    assert boxes.tolist() == [[slow_box(values, alpha) for alpha in alphas] for values in maps]


def test_a_map_that_is_its_box_has_it_at_every_threshold() -> None:
    maps = torch.full((1, 8, 10), -3.0)
    maps[0, 2:5, 3:9] = 0.7
    assert threshold_boxes(maps, ALPHAS).eq(torch.tensor([3, 2, 9, 5])).all()


def test_constant_and_one_hot_maps() -> None:
    one_hot = torch.zeros(5, 6)
    one_hot[4, 0] = 1e-6
    maps = torch.stack([torch.ones(5, 6), torch.zeros(5, 6), torch.full((5, 6), -1.0), one_hot])
    expected = torch.tensor([[0, 0, 6, 5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 4, 1, 5]])
    assert threshold_boxes(maps, ALPHAS).eq(expected[:, None]).all()


def test_a_pixel_at_the_threshold_is_out() -> None:
    ramp = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    starts = threshold_boxes(ramp, torch.tensor([0.0, 0.2, 0.25, 0.4, 0.5]))[0, :, 0]
    assert starts.tolist() == [1, 1, 2, 2, 3]


def test_iou_equals_counting_pixels() -> None:
    corners = torch.randint(0, 9, (40, 2, 2), generator=torch.Generator().manual_seed(1)).sort(1).values
    boxes = corners.flatten(1).double()
    mine, truths = boxes[:24].view(4, 6, 4), [boxes[24:27], boxes[27:28], boxes[28:39], boxes[:0]]
    expected = [
        [max([slow_iou(box, truth) for truth in per_image.tolist()], default=0.0) for box in image]
        for image, per_image in zip(mine.tolist(), truths, strict=True)
    ]
    torch.testing.assert_close(max_iou(mine, truths), torch.tensor(expected).double())


def test_known_overlaps() -> None:
    square = torch.tensor([[2.0, 3.0, 12.0, 13.0]])
    shifted = square + torch.tensor([[0, 0, 0, 0], [5, 0, 5, 0], [5, 5, 5, 5], [10, 0, 10, 0], [0, 0, 10, 0]])
    expected = torch.tensor([[1, 1 / 3, 25 / 175, 0, 1 / 2]])
    torch.testing.assert_close(max_iou(shifted[None], [square]), expected)
    torch.testing.assert_close(max_iou(shifted[None, 1:4], [shifted[[0, 3]]]), torch.tensor([[1 / 3, 25 / 175, 1.0]]))
    assert max_iou(torch.zeros(1, 1, 4), [square]) == 0
    assert max_iou(torch.zeros(1, 1, 4), [torch.zeros(0, 4)]) == 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 17)])
def test_crops_are_resized_as_torch_resizes_each_crop(shape: tuple[int, int, int]) -> None:
    _, h, w = shape
    x = random(7, *shape).sigmoid()
    boxes = torch.tensor(
        [[0, 0, w, h], [2, 3, 7, 9], [0, 0, 1, 1], [w - 2, h - 1, w, h], [0, 4, w, 6], [3, 0, 4, h], [5, 5, 9, 8]]
    )
    crops = resized_crops(x, boxes.float())
    for image, crop, (x0, y0, x1, y1) in zip(x, crops, boxes.tolist(), strict=True):
        expected = interpolate(image[None, :, y0:y1, x0:x1], size=(h, w), mode="bicubic", align_corners=False)[0]
        torch.testing.assert_close(crop, expected.clamp(0, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(crops[0], x[0])
    assert crops.dtype == x.dtype


def test_an_empty_box_is_a_black_crop_and_what_is_outside_a_box_is_not_seen() -> None:
    x = random(2, 3, 12, 12).sigmoid()
    assert resized_crops(x, torch.zeros(2, 4)).eq(0).all()
    box = torch.tensor([[4.0, 5.0, 8.0, 9.0]]).expand(2, 4)
    other = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(3)).double()
    other[:, :, 5:9, 4:8] = x[:, :, 5:9, 4:8]
    assert torch.equal(resized_crops(other, box), resized_crops(x, box))
