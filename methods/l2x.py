"""L2X: learning to explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.fill import Fill
from xbench.method import METHODS
from xbench.methods.vp import GridExplainer, mask_network, masked_divergence
from xbench.ops.resize import resized
from xbench.ops.topk import gumbel_topk
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("l2x")
@dataclass(frozen=True)
class L2X(GridExplainer):
    r"""Learning to explain: a network gives a score per cell, from which training draws the k cells that are kept.

    $$
    g = \text{up}(s), \quad s = N_\theta(x), \quad \theta = \operatorname{argmin}_\theta E \left[ \text{KL}(p(x) \, \| \, p(x m
    + b (1 - m))) \right], \quad m = \text{up} \left( \max_{j \le k} \text{softmax} \frac{s + G_j}{\tau} \right)
    $$

    N is the network, b the ``baseline``, G_j Gumbel noise.

    Chen et al. 2018, https://arxiv.org/abs/1802.07814. The mask is the maximum of k Gumbel-softmax draws over the cells, see
    `gumbel_topk`, upsampled bilinearly (own decision); the loss is KL(p(x) || p(x masked)), up to a constant the cross entropy
    of the original. That trains a second network to predict from the masked input; here, as in the comparison of "Variational
    Perturbations for Visual Feature Attribution" (ICLR 2022 submission), the classifier itself does. Draws that fall on the
    same cell keep fewer than k, where VP's SOFT top-k keeps exactly k.

    The network is that of `nvp`. The map is the upsampled score, unbounded; explaining takes no classifier pass.

    Args:
        upsample: size m of a grid cell in pixels, one of 1, 2, 4, 8, 16; None: 8, below 64 px 2, as for `vp`. Memory in
            training grows with 1/m^4: at 224 px a batch's draws take 0.5 GB for m = 4 and 30 MB for 8, a few times over.
        baseline: what replaces the removed pixels in training, see `make_filler`. The original sets them to 0; ``gray``, the
            zero of the classifier's normalised input, is the same there. A metric that fills with another image than the
            training did finds a much worse map.
        share: of the cells, the k that are drawn; 0.2 as in the VP paper.
        tau: temperature of the Gumbel softmax; 0.5 in the authors' code for text, 0.1 for their synthetic data.
        output: ``scores``, or ``topk``: 1 on the k best cells and 0 elsewhere, the selection of the paper at test time. A
            ranking of pixels needs the scores (own decision).
        epochs, lr, batch: the training recipe (own decision).
        width: channels of the hidden layers (own decision).
        seed: of the training: each seed is a network of its own.
    """

    label: ClassVar[str] = "L2X"
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "width": 4}
    positive: ClassVar[tuple[str, ...]] = ("lr", "tau")

    upsample: int | None = None
    baseline: Fill = "gray"
    share: float = 0.2
    tau: float = 0.5
    output: Literal["scores", "topk"] = "scores"
    epochs: int = 10
    lr: float = 1e-3
    batch: int = 64
    width: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    @property
    def fills(self) -> tuple[str, ...]:
        """The baseline alone."""
        return (self.baseline,)

    def trained_as(self) -> Self:
        """Both outputs are read from one network."""
        return self.replace(output="scores")

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Images (b, c, h, w) to scores (b, 1, h/m, w/m)."""
        return mask_network(self, shape, 1)

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The divergence of the prediction when only the drawn cells are shown."""
        scores = network(x)[:, 0]
        cells = scores[0].numel()
        uniform = rng.uniform("gumbel", (self._selected(cells), cells))
        mask = gumbel_topk(scores.flatten(1), uniform, self.tau).view_as(scores)
        keep = resized(mask, x)[:, None]
        return masked_divergence(classifier, x, keep, self.background(classifier, x, keep, rng))

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The upsampled scores, or the selection of the best cells."""
        scores = network(x)[:, 0]
        if self.output == "scores":
            return resized(scores, x)
        flat = scores.flatten(1)
        best = flat.argsort(dim=1, descending=True, stable=True)[:, : self._selected(flat.shape[1])]
        selection = torch.zeros_like(flat).scatter_(1, best, 1.0).view_as(scores)
        return resized(selection, x, "nearest")

    def _selected(self, cells: int) -> int:
        return max(1, round(self.share * cells))
