"""VarSal: variational saliency maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.fill import Fill
from xbench.method import METHODS, Method
from xbench.methods.vp import GridExplainer, mask_network, masked_divergence
from xbench.ops.prior import soft_tv_kl
from xbench.ops.resize import resized
from xbench.ops.topk import soft_topk_masks
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("varsal")
@dataclass(frozen=True)
class VarSal(GridExplainer):
    r"""Variational saliency maps: an encoder gives the mean and the variance of a Gaussian saliency value per pixel.

    $$
    g = \text{up}(\mu), \quad \mu, \nu = N_\theta(x), \quad \theta = \operatorname{argmin}_\theta E_{x, k, s} \left[
    \text{KL}(p(x) \, \| \, p(x m_k + b (1 - m_k))) \right] + \frac{\beta}{h w} \text{KL}(\mathcal{N}(\mu, \nu) \, \| \,
    \mathcal{N}(0, K_h \otimes K_w))
    $$

    $$s \sim \mathcal{N}(\mu, \nu), \quad m_k = \text{SOFT}_k(\text{up}(s))$$

    N is the network, b the baseline, K_n tridiagonal: 1 on and ``alpha`` beside the diagonal.

    ICLR 2021 submission "Variational saliency maps for explaining model's behavior". Training draws a saliency map from the
    posterior N(mu, nu), keeps the share k ~ U(0.1, 0.9) of the pixels where it is largest and minimises KL(p(x) || p(x masked))
    + beta KL(posterior || prior). The soft-TV prior correlates neighbouring pixels, see `soft_tv_kl`. The map is the
    posterior's mean, unbounded; explaining takes no classifier pass.

    The encoder has 16 convolutions 3x3 at full resolution, 4 of ``width``, 5 of half and 6 of a quarter of it, then the 2
    outputs, with batch norm and ReLU except on the last. Own decisions: the mask is VP's SOFT top-k; share and baseline are
    drawn for every image (in the paper for every batch), which makes the loss of an epoch less noisy to choose by.

    Args:
        upsample: size m of a cell in pixels, one of 1, 2, 4, 8, 16; the paper has 1. Above, the first log2(m) layers have
            stride 2, and prior and posterior live on the grid, upsampled bilinearly (own decision).
        baselines: fills that replace the removed pixels in training, see `make_filler`; one is drawn for every image and step.
            The paper's: blur, noise, and the image's mean with noise. A metric that fills with another image than the training
            did finds a much worse map.
        eps: temperature of the SOFT top-k mask; sharper below (own decision).
        alpha: covariance of neighbouring cells under the soft-TV prior, from 0 to 0.5, where it exists on a grid of any size.
        prior: ``soft-tv``, or ``standard``: N(0, I), the paper's ablation, which is the other one with ``alpha`` 0.
        beta: weight of the prior's divergence times the number of pixels; 1/10 as in the paper.
        printed_form: take the divergence as the paper prints it, without the factor 1/2 and the constants.
        output: ``mean`` of the posterior, one ``sample`` of it, or ``std``, its standard deviation: the uncertainty.
        epochs, lr, weight_decay, batch: the training recipe. Weight decay, Adam's betas (0.9, 0.99) and batch are the paper's;
            lr is 1e-4 there, 2e-3 decayed by a cosine here, and 4 epochs are an own decision too.
        width: channels of the first 4 layers, a multiple of 4.
        seed: of the training: each seed is a network of its own. It also keys the draws of ``sample``.
    """

    label: ClassVar[str] = "VarSal"
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "width": 8}
    refit: ClassVar[dict[str, Any]] = {"epochs": 2, "width": 16}
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    positive: ClassVar[tuple[str, ...]] = ("eps", "lr")

    upsample: int = 1
    baselines: tuple[Fill, ...] = ("blur", "noise", "mean-noise")
    eps: float = 0.03
    alpha: float = 0.4
    prior: Literal["soft-tv", "standard"] = "soft-tv"
    beta: float = 0.1
    printed_form: bool = False
    output: Literal["mean", "sample", "std"] = "mean"
    epochs: int = 4
    lr: float = 2e-3
    weight_decay: float = 5e-4
    batch: int = 128
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 0.5:
            raise ValueError(f"alpha must be between 0 and 0.5, got {self.alpha}")
        for name in ("beta", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, got {self.width}")

    @property
    def fills(self) -> tuple[str, ...]:
        """The baselines."""
        return self.baselines

    def uncertainty(self) -> Method | None:
        """The posterior's standard deviation, read from the same network."""
        return None if self.output == "std" else self.replace(output="std")

    def trained_as(self) -> Self:
        """All outputs are read from one network."""
        return self.replace(output="mean")

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Images (b, c, h, w) to mean and log variance (b, 2, h/m, w/m)."""
        width = self.width
        return mask_network(self, shape, 2, [width] * 4 + [width // 2] * 5 + [width // 4] * 6)

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The divergence of the masked prediction plus beta times that of the posterior."""
        mu, log_nu = network(x).unbind(1)
        field = _draw(mu, log_nu, rng.normal("field", mu.shape[1:]))
        ratio = 0.1 + 0.8 * rng.uniform("ratio", ()).to(x)
        keep = soft_topk_masks(resized(field, x), ratio, self.eps)
        divergence = masked_divergence(classifier, x, keep, self.background(classifier, x, keep, rng))
        alpha = self.alpha if self.prior == "soft-tv" else 0.0
        reg = soft_tv_kl(mu, log_nu, alpha, self.printed_form).mean()
        return divergence + self.beta / x[0, 0].numel() * reg

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The upsampled mean, sample or standard deviation of the posterior."""
        mu, log_nu = network(x).unbind(1)
        if self.output == "std":
            return resized(log_nu.exp(), x, "bilinear-squared").sqrt()
        return resized(mu if self.output == "mean" else _draw(mu, log_nu, rng.normal("sample", mu.shape[1:])), x)


def _draw(mu: Maps, log_nu: Maps, noise: Tensor) -> Maps:
    return mu + torch.exp(log_nu / 2) * noise.to(mu)
