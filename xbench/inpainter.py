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
from xbench.types import Images, Masks, Scores

L1 = 0.0
GAIN = 2.2


class GatedConv(nn.Module):
    """A convolution (b, i, h, w) -> (b, o, h / stride, w / stride) whose every output is multiplied by a learned gate in (0, 1).

    Yu et al. 2019, https://arxiv.org/abs/1806.03589, section 3.1: elu(conv(x)) * sigmoid(conv'(x)).
    """

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(inputs, 2 * outputs, size, stride, padding, dilation)  # features and gates
        nn.init.normal_(self.conv.weight, std=GAIN / math.sqrt(inputs * size**2))
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
    observed pixels. Fully convolutional, for images of any size; an output pixel sees 93 px around it.

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
        count = keep.sum((2, 3), keepdim=True).clamp_min(1)
        mean = (x * keep).sum((2, 3), keepdim=True) / count
        fine = self.encode_1(torch.cat([x * keep + mean * (1 - keep), keep], 1))
        middle = self.encode_2(fine)
        coarse = self.encode_4(middle)
        middle = self.decode_2(torch.cat([_resized(coarse, middle), middle], 1))
        fine = self.decode_1(torch.cat([_resized(middle, fine), fine], 1))
        return torch.sigmoid(self.out(fine))


def _resized(coarse: Tensor, fine: Tensor) -> Tensor:
    """A coarse field at the size of a finer one."""
    return F.interpolate(coarse, size=fine.shape[2:], mode="nearest")


def inpainter_recipe(
    images: Subset, *, width: int = 12, epochs: int = 40, lr: float = 2e-3, batch: int = 64, seed: int = 0, device: str = "cpu"
) -> Recipe:
    """The recipe of an inpainter."""
    channels = images.shape[0]

    def loss(network: nn.Module, x: Images, rng: ImageRandom) -> Tensor:
        keep = random_holes(rng.uniform, images.shape[1:]).to(x)
        difference = (network(x * keep, keep) - x) * (1 - keep)
        error: Tensor = (difference.square() + L1 * difference.abs()).sum() / ((1 - keep).sum() * channels)
        return error

    return Recipe(
        title=f"an inpainter on {images.name}",
        identity={},
        make=lambda: GatedInpainter(channels, width),
        loss=loss,
        train=images,
        rng=ImageRandom(seed, []),
        like=torch.empty(0, device=device),
        epochs=epochs,
        lr=lr,
        batch=batch,
    )
