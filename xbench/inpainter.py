"""The learned inpainter: a gated-convolution network, how it is trained and what it is measured by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.checkpoints import train_to_file
from xbench.ops.holes import random_holes
from xbench.rng import ImageRandom
from xbench.subset import Subset
from xbench.training import Fitted, Progress, Recipe
from xbench.types import Images, Masks

LR, BATCH = 5e-3, 32
GAIN = 2.2
"""Standard deviation of the initial weights, in units of 1 / sqrt(inputs), with which gated layers keep their variance."""
EVALUATED = 256
"""Images a batch when the trained network is measured."""


class GatedConv(nn.Module):
    """A convolution (b, i, h, w) -> (b, o, h / stride, w / stride), every output multiplied by a learned gate in (0, 1).

    Yu et al. 2019, https://arxiv.org/abs/1806.03589, section 3.1: elu(conv(x)) * sigmoid(conv'(x)).
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(inputs, 2 * outputs, size, stride, padding, dilation)  # features and gates
        nn.init.normal_(self.conv.weight, std=GAIN / math.sqrt(inputs * size**2))
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The gated features."""
        feature, gate = self.conv(x).chunk(2, dim=1)
        return F.elu(feature) * torch.sigmoid(gate)


class GatedInpainter(nn.Module):
    """A small gated-convolution network that restores images of ``channels`` channels from their observed pixels.

    Gated convolutions as in Yu et al. 2019 (https://arxiv.org/abs/1806.03589). Own decisions, for images of about 32 px: one
    U-shaped network of 12 layers with two halvings, skip connections and dilations up to 4 in place of their two stages and
    their attention, nothing adversarial, so that the fill is the same every time; the hole is given to it as the mean of the
    observed pixels. Fully convolutional, for images of any size; an output pixel depends on a square of about 85 px.

    Args:
        channels: of the images.
        width: channels of the first layer; four times as many at a quarter of the resolution.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.encode_1 = GatedConv(channels + 1, width, 5)
        self.encode_2 = nn.Sequential(GatedConv(width, 2 * width, stride=2), GatedConv(2 * width, 2 * width))
        self.encode_4 = nn.Sequential(
            GatedConv(2 * width, 4 * width, stride=2),
            *(GatedConv(4 * width, 4 * width, dilation=dilation) for dilation in (1, 2, 4)),
        )
        self.decode_2 = nn.Sequential(GatedConv(6 * width, 2 * width), GatedConv(2 * width, 2 * width))
        self.decode_1 = nn.Sequential(GatedConv(3 * width, width), GatedConv(width, width))
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Images, keep: Masks) -> Images:
        """Images (n, c, h, w) in [0, 1] from ``x`` (n, c, h, w) where ``keep`` (n, 1, h, w), of zeros and ones, is 1.

        What ``x`` holds in the hole does not matter. The observed pixels are not copied: whoever calls composites.
        """
        fine = self.encode_1(torch.cat([x * keep + observed_mean(x, keep) * (1 - keep), keep], 1))
        middle = self.encode_2(fine)
        coarse = self.encode_4(middle)
        middle = self.decode_2(torch.cat([_resized(coarse, middle), middle], 1))
        fine = self.decode_1(torch.cat([_resized(middle, fine), fine], 1))
        return torch.sigmoid(self.out(fine))


def observed_mean(x: Images, keep: Masks) -> Images:
    """Mean per channel (n, c, 1, 1) of the pixels where ``keep`` is 1; 0 if there are none."""
    return (x * keep).sum((2, 3), keepdim=True) / keep.sum((2, 3), keepdim=True).clamp_min(1)


def _resized(coarse: Tensor, fine: Tensor) -> Tensor:
    """A coarse field at the size of a finer one."""
    return F.interpolate(coarse, size=fine.shape[2:], mode="nearest")


def inpainter_recipe(images: Subset, width: int, epochs: int, seed: int = 0, device: torch.device | str = "cpu") -> Recipe:
    """The recipe of an inpainter: a random hole for every image of every step, and the mean squared error in the holes.

    See `xbench.ops.holes.random_holes`. Own decisions: the loss, which is what PSNR measures and, without an adversary, makes
    nothing up; the learning rate and the batch size, from short trials on digits.
    """
    channels = images.shape[0]

    def loss(network: nn.Module, x: Images, rng: ImageRandom) -> Tensor:
        keep = random_holes(rng.uniform, images.shape[1:]).to(x)
        hole = 1 - keep
        error: Tensor = ((network(x * keep, keep) - x).square() * hole).sum() / (hole.sum().clamp_min(1) * channels)
        return error

    return Recipe(
        title=f"an inpainter on {images.name}",
        identity={
            "channels": channels,
            "width": width,
            "recipe": {"epochs": epochs, "lr": LR, "batch": BATCH},
            "train": images.digest(),
            "seed": seed,
        },
        make=lambda: GatedInpainter(channels, width),
        loss=loss,
        train=images,
        rng=ImageRandom(seed, []),
        like=torch.empty(0, device=device),
        epochs=epochs,
        lr=LR,
        batch=BATCH,
    )


def fit_inpainter(recipe: Recipe, test: Subset, path: Path, progress: Progress | None = None) -> dict[str, float]:
    """Trains an inpainter and writes it to ``path``, as `xbench.checkpoints.train_to_file` does; what ``held_out`` gives."""

    def about(fitted: Fitted) -> dict[str, Any]:
        network = recipe.network().eval()
        network.load_state_dict(fitted.state)
        scores = held_out(network, test, recipe.like)
        return {"train_name": recipe.train.name, "test_psnr": {name: round(value, 2) for name, value in scores.items()}}

    train_to_file(recipe, path, about, progress)
    scores: dict[str, float] = recipe.read(path)[1]["test_psnr"]
    return scores


@torch.no_grad()
def held_out(network: nn.Module, test: Subset, like: Tensor) -> dict[str, float]:
    """PSNR in dB of ``test`` with a random hole in every image: of the network, ``inpaint``, and of the observed ``mean``.

    Own decision: from the mean squared error of all missing pixels, because an image that is restored exactly, like a hole in a
    black background, has an infinite PSNR.
    """
    errors, count = torch.zeros(2, dtype=torch.float64), 0.0
    for start in range(0, len(test), EVALUATED):
        ids = test.ids[start : start + EVALUATED]
        x = test.read(ids)[0].to(like)
        keep = random_holes(ImageRandom(0, ids).uniform, test.shape[1:]).to(x)
        fills = network(x * keep, keep), observed_mean(x, keep)
        errors += torch.stack([((fill - x).square() * (1 - keep)).double().sum() for fill in fills]).cpu()
        count += float((1 - keep).sum()) * x.shape[1]
    return dict(zip(("inpaint", "mean"), (-10 * (errors / count).log10()).tolist(), strict=True))
