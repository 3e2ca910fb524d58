"""VP: variational perturbations, and the parts that the other trained methods share with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method, TrainedMethod, default_upsample
from xbench.ops.resize import resized
from xbench.ops.topk import soft_topk_masks
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps, Masks


class GridExplainer(TrainedMethod):
    """A network that scores the cells of a grid over the image, trained on images that are masked by its scores.

    What `vp`, `nvp`, `varsal`, `l2x` and `realtime`, which describe the parameters, have in common.
    """

    positive: ClassVar[tuple[str, ...]] = ("lr",)
    """Parameters that must be above 0."""
    refit: ClassVar[dict[str, Any]] = {"epochs": 2}

    upsample: Any = None
    width: Any = 32

    @property
    def fills(self) -> tuple[str, ...]:
        """What replaces the removed pixels in training; one of them, at random, for every image and step."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for spec in self.fills:
            valid_fill(spec)
        if not self.fills:
            raise ValueError("baselines must name at least one fill, got ()")
        if self.upsample not in (None, 1, 2, 4, 8, 16):
            raise ValueError(f"upsample must be 1, 2, 4, 8 or 16, got {self.upsample}")
        for name in self.positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("epochs", "batch", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """With the grid that belongs to the image size."""
        return self.replace(upsample=self.upsample or default_upsample(shape))

    def at_upsample(self, m: int) -> Method:
        """The same method with cells of m pixels; a network of its own."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """The cell sizes of the VP paper: 4, 8 and 16 px, below 64 px 1, 2 and 4."""
        m = default_upsample(shape)
        return {"upsample": [self.at_upsample(size) for size in (m // 2, m, 2 * m)]}

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return next(filter(None, (no_inpainter(spec, classifier) for spec in self.fills)), None)

    def fit_cost(self, shape: tuple[int, int, int]) -> Passes:
        """The clean and the masked image, the latter with a gradient."""
        return Passes(forward=2, backward=1)

    def background(self, classifier: Classifier, x: Images, keep: Masks, rng: ImageRandom) -> Images:
        """What replaces the pixels that ``keep`` (b, 1, h, w) removes, (b, c, h, w); the fill is drawn for every image."""
        choice = rng.integers("background", len(self.fills), ())
        background = torch.empty_like(x)
        for number in choice.unique().tolist():
            image = (choice == number).nonzero()[:, 0].to(x.device)
            filler = make_filler(self.fills[number], classifier, x, rng)
            background[image] = filler(image, torch.zeros_like(image), keep.detach()[image])
        return background


@dataclass(frozen=True)
class MaskExplainer(GridExplainer):
    """A network that scores every cell of a grid, trained so that the best-scored pixels alone keep the prediction.

    What `vp` and `nvp`, which describe the parameters, have in common.
    """

    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "width": 4}
    positive: ClassVar[tuple[str, ...]] = ("eps", "lr")

    upsample: int | None = None
    baseline: Fill = "gray"
    eps: float = 0.03
    epochs: int = 10
    lr: float = 1e-3
    batch: int = 64
    width: int = 32
    seed: int = 0

    @property
    def fills(self) -> tuple[str, ...]:
        """The baseline alone."""
        return (self.baseline,)

    def divergence(self, classifier: Classifier, x: Images, field: Maps, rng: ImageRandom) -> Tensor:
        """KL(p(x) || p(x masked)) in nats, averaged over the images.

        The mask keeps the share k of the pixels where ``field`` (b, h/m, w/m), upsampled, is largest; k ~ U(0, 1) for every
        image (own decision: the paper draws one for the batch, which makes the loss of an epoch too noisy to choose by).
        """
        keep = soft_topk_masks(resized(field, x), rng.uniform("ratio", ()).to(x), self.eps)
        return masked_divergence(classifier, x, keep, self.background(classifier, x, keep, rng))


@METHODS.register("vp")
@dataclass(frozen=True)
class Vp(MaskExplainer):
    r"""Variational perturbations: a network gives the mean and the variance of a Gaussian mask score per cell.

    $$
    g = \text{up}(\mu), \quad \mu, \nu = N_\theta(x), \quad \theta = \operatorname{argmin}_\theta E_{x, k, s} \left[
    \text{KL}(p(x) \, \| \, p(x m_k + b (1 - m_k))) \right] + \frac{\beta}{h w} \text{KL}(\mathcal{N}(\mu, \nu) \, \| \,
    \mathcal{N}(0, I))
    $$

    $$s \sim \mathcal{N}(\mu, \nu), \quad m_k = \text{SOFT}_k(\text{up}(s))$$

    N is the network, b the ``baseline``.

    ICLR 2022 submission "Variational Perturbations for Visual Feature Attribution". Training draws s0 = mu + sqrt(nu) noise,
    upsamples it bilinearly, keeps the k best pixels by SOFT top-k and minimises KL(p(x) || p(x masked)) + beta reg, where
    reg = -1/2 sum(1 + log nu - mu^2 - nu) is the KL divergence of the posterior from N(0, I), averaged over the images. The map
    is the upsampled mean, unbounded; explaining takes no classifier pass.

    The network has 3x3 convolutions, 5 below 64 px and 12 above as in the paper, with batch norm and ReLU except on the last;
    the first log2(m) have stride 2 (own decisions where the paper is silent).

    Args:
        upsample: size m of a grid cell in pixels, one of 1, 2, 4, 8, 16; None: 8 as in the paper, 2 below 64 px.
        baseline: what replaces the removed pixels in training. The paper blurs or adds noise; the constant ``gray`` is an own
            decision: a metric that fills with another image than the training did finds a much worse map.
        eps: temperature of the SOFT top-k mask; sharper below (own decision).
        epochs, lr, batch: the training recipe (own decision; the paper has Adam and names no learning rate).
        width: channels of the hidden layers (own decision; not in the paper).
        seed: of the training: each seed is a network of its own.
        beta: weight of reg times the number of pixels; None: 1/100 as in the paper, 1/1000 below 64 px as there for MNIST.
        output: ``mean``, or ``std``: the standard deviation of the upsampled score, the paper's uncertainty map.
    """

    label: ClassVar[str] = "VP"

    beta: float | None = None
    output: Literal["mean", "std"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is not None and self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """With the grid and the beta that belong to the image size."""
        default = 1e-3 if shape[-1] < 64 else 1e-2
        return super().resolved(shape).replace(beta=default if self.beta is None else self.beta)

    def uncertainty(self) -> Method | None:
        """The posterior's standard deviation, read from the same network."""
        return None if self.output == "std" else self.replace(output="std")

    def trained_as(self) -> Self:
        """Both outputs are read from one network."""
        return self.replace(output="mean")

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Images (b, c, h, w) to mean and log variance (b, 2, h/m, w/m)."""
        return mask_network(self, shape, 2)

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The divergence of a sampled field plus beta reg."""
        assert self.beta is not None, "the loop trains resolved methods"
        mu, log_nu = network(x).unbind(1)
        field = mu + torch.exp(log_nu / 2) * rng.normal("field", mu.shape[1:]).to(mu)
        reg: Tensor = -0.5 * (1 + log_nu - mu.square() - log_nu.exp()).sum((1, 2)).mean()
        return self.divergence(classifier, x, field, rng) + self.beta / x[0, 0].numel() * reg

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The upsampled mean, or the standard deviation of the upsampled field."""
        mu, log_nu = network(x).unbind(1)
        return resized(mu, x) if self.output == "mean" else resized(log_nu.exp(), x, "bilinear-squared").sqrt()


def mask_network(
    method: GridExplainer, shape: tuple[int, int, int], channels: int, widths: Sequence[int] | None = None
) -> nn.Sequential:
    """3x3 convolutions with batch norm and ReLU down to the method's grid; the last one linear with ``channels`` outputs.

    ``widths`` are the channels of the others, by default the method's width for 4 of them below 64 px and 11 above.
    """
    assert method.upsample is not None, "the loop trains resolved methods"
    widths = widths or [method.width] * (4 if shape[-1] < 64 else 11)
    halvings = method.upsample.bit_length() - 1
    network = nn.Sequential()
    inputs = shape[0]
    for i, width in enumerate(widths):
        conv = nn.Conv2d(inputs, width, 3, stride=2 if i < halvings else 1, padding=1, bias=False)
        network.extend([conv, nn.BatchNorm2d(width), nn.ReLU()])
        inputs = width
    return network.append(nn.Conv2d(inputs, channels, 3, padding=1))


def masked_divergence(classifier: Classifier, x: Images, keep: Masks, background: Images) -> Tensor:
    """KL(p(x) || p(x masked)) in nats, averaged over the images; ``keep`` (b, 1, h, w) in [0, 1], 0 shows the background."""
    with torch.no_grad():
        clean = classifier(x).log_softmax(1)
    masked = classifier(torch.lerp(background, x, keep)).log_softmax(1)
    divergence: Tensor = F.kl_div(masked, clean, reduction="batchmean", log_target=True)
    return divergence
