"""RealTime: real time image saliency, by a trained masking network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill
from xbench.method import METHODS
from xbench.methods.vp import GridExplainer
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps, Masks

FAKE = 0.3
"""Probability that training asks for the mask of another class than the predicted one, as in the authors' code."""


@METHODS.register("realtime")
@dataclass(frozen=True)
class RealTime(GridExplainer):
    r"""Real time image saliency: a network with the class as input gives the mask of the pixels that show this class.

    $$
    g = M = \text{up}(N_\theta(x, c)), \quad \theta = \operatorname{argmin}_\theta E \left[ \lambda_1 \text{TV}(M) + \lambda_2
    \text{mean}(M) - \log \, p_c(\Phi(x, M)) + \lambda_3 \, p_c(\Phi(x, 1 - M))^{\lambda_4} \right]
    $$

    N is the network, lambda_1 the ``smoothness``, lambda_2 the ``area``, lambda_3 the ``destruction``, lambda_4 the ``power``.

    Dabkowski & Gal 2017, https://arxiv.org/abs/1705.07857. For the predicted class c, with Phi(x, M) the image masked by M,
    training minimises smoothness TV(M) + area mean(M) - log p_c(Phi(x, M)) + destruction p_c(Phi(x, 1 - M))^power, where TV is
    the sum of squared differences of neighbouring pixels. As in the authors' code (https://github.com/PiotrDabkowski/
    pytorch-saliency), for 30 % of the images the network is asked for another class: then M and 1 - M change places in Phi, so
    that an empty mask is best. The map is the mask, in [0, 1]; explaining takes no classifier pass.

    The network is a U-Net, 5 times halved (3 times below 64 px) and brought up again to 1/m of the image with skip connections;
    at its bottom the features are weighted by the sigmoid of their product with an embedding of the class. Own decisions: the
    encoder is its own and trained with the rest, where the authors take the pretrained ResNet-50 that they explain and train
    the embedding before the rest, so that it works for any classifier; two 3x3 convolutions with batch norm and ReLU per
    resolution, nearest upsampling, a sigmoid as activation of the mask, where the authors divide two channels by their sum.

    Args:
        upsample: size m of a mask's cell in pixels, one of 1, 2, 4, 8, 16; upsampled bilinearly. None: 4 as in the paper, 2
            below 64 px (own decision).
        baselines: fills that replace the removed pixels in training, see `make_filler`; one is drawn for every image and step,
            the same for M and 1 - M (own decision). The authors' are the blurred image and a random colour with noise, for
            which ``noise`` stands here. A metric that fills with another image than the training did finds a worse map.
        area: weight of the mask's mean. This and the next three are the paper's numbers; that 10 weighs the area and 0.001 the
            total variation is an own decision, because the other way round the mask is flat (MNIST: between 0.49 and 0.55). The
            authors' code has 8 for the mean of M^0.3, 0.005 for TV, and margins of logits instead of probabilities.
        smoothness: weight of the total variation TV.
        destruction: weight of what is left of the class when the mask is removed.
        power: of that probability; below 1 it asks for very small ones.
        epochs, lr, weight_decay, batch: the training recipe. Adam's lr, weight decay and batch are those of the authors' code;
            the cosine decay and 10 epochs are own decisions.
        width: channels at full resolution, doubled by every halving (own decision).
        seed: of the training: each seed is a network of its own.
    """

    label: ClassVar[str] = "RealTime"
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "width": 4}
    positive: ClassVar[tuple[str, ...]] = ("power", "lr")

    upsample: int | None = None
    baselines: tuple[Fill, ...] = ("blur", "noise")
    area: float = 10.0
    smoothness: float = 1e-3
    destruction: float = 5.0
    power: float = 0.3
    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch: int = 64
    width: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("area", "smoothness", "destruction", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def fills(self) -> tuple[str, ...]:
        """The baselines."""
        return self.baselines

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """With the grid that belongs to the image size."""
        return self.replace(upsample=self.upsample or (2 if shape[-1] < 64 else 4))

    def fit_cost(self, shape: tuple[int, int, int]) -> Passes:
        """The clean image, and with a gradient what the mask keeps and what it removes."""
        return Passes(forward=3, backward=2)

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Images (b, c, h, w) and classes (b,) to masks (b, h/m, w/m) in [0, 1]."""
        assert self.upsample is not None, "the loop trains resolved methods"
        top = self.upsample.bit_length() - 1
        return MaskingNetwork(shape[0], classes, self.width, max(3 if shape[-1] < 64 else 5, top + 1), top)

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The sum of the four terms, averaged over the images."""
        with torch.no_grad():
            predicted = classifier(x).argmax(1)
        fake = (rng.uniform("fake", ()) < FAKE).to(x.device)
        other = predicted + 1 + rng.integers("class", classifier.classes - 1, ()).to(x.device)
        mask = resized(network(x, torch.where(fake, other % classifier.classes, predicted)), x)[:, None]
        keep = torch.where(fake[:, None, None, None], 1 - mask, mask)
        background = self.background(classifier, x, keep, rng)
        kept, removed = (
            classifier(masked).log_softmax(1).gather(1, predicted[:, None])[:, 0]
            for masked in (torch.lerp(background, x, keep), torch.lerp(x, background, keep))
        )
        # p^power as exp(power log p), whose gradient is finite at p = 0.
        terms = self.destruction * (self.power * removed).exp() - kept + self.smoothness * _total_variation(mask)
        loss: Tensor = terms.mean() + self.area * mask.mean()
        return loss

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The upsampled mask of class ``y``."""
        return resized(network(x, y), x)


class MaskingNetwork(nn.Module):
    """Images (b, c, h, w) and classes (b,) to masks (b, h/m, w/m) in [0, 1]: a U-Net whose bottom is filtered by the class.

    The image is halved ``bottom`` times and brought up again until it is halved ``top`` times; m = 2^top.
    """

    def __init__(self, channels: int, classes: int, width: int, bottom: int, top: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(bottom + 1)]
        levels = range(1, bottom + 1)
        self.down = nn.ModuleList([_block(channels, width, 1), *(_block(widths[i - 1], widths[i], 2) for i in levels)])
        self.classes = nn.Embedding(classes, widths[-1])
        nn.init.normal_(self.classes.weight, std=widths[-1] ** -0.5)
        self.up = nn.ModuleList(_block(widths[i + 1] + widths[i], widths[i], 1) for i in reversed(range(top, bottom)))
        self.mask = nn.Conv2d(widths[top], 1, 1)

    def forward(self, x: Images, y: Labels) -> Maps:
        """The masks."""
        features = []
        for block in self.down:
            x = block(x)
            features.append(x)
        x = features.pop()
        x = x * torch.sigmoid(torch.einsum("bchw,bc->bhw", x, self.classes(y)))[:, None]
        for block in self.up:
            skip = features.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1))
        return torch.sigmoid(self.mask(x)[:, 0])


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    block = nn.Sequential()
    for channels, step in ((inputs, stride), (outputs, 1)):
        conv = nn.Conv2d(channels, outputs, 3, stride=step, padding=1, bias=False)
        block.extend([conv, nn.BatchNorm2d(outputs), nn.ReLU()])
    return block


def _total_variation(mask: Masks) -> Tensor:
    return mask.diff(dim=2).square().sum((1, 2, 3)) + mask.diff(dim=3).square().sum((1, 2, 3))
