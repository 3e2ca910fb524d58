"""Captum: occlusion, KernelSHAP, infidelity and sensitivity."""

from __future__ import annotations

import torch
from captum.attr import KernelShap, Occlusion, Saliency
from captum.metrics import infidelity, sensitivity_max
from pairs import DRAWS, MASKS, SEGMENTS, Pair, Subject
from torch import Tensor, nn

from xbench.methods.kernel_shap import KernelShap as OurKernelShap
from xbench.ops.segments import superpixels


def pairs(of: Subject) -> list[Pair]:
    """All of them."""
    x, y, size = of.batch.x, of.batch.target, of.classifier.batch_size
    patch = x.shape[2] // 7
    probability = nn.Sequential(of.network, nn.Softmax(1))
    window = (x.shape[1], patch, patch)
    settings = OurKernelShap().resolved(of.classifier.shape)

    @torch.no_grad()
    def occlusion() -> Tensor:
        return Occlusion(probability).attribute(x, window, window, 0.5, y, perturbations_per_eval=max(1, size // len(x)))

    @torch.no_grad()
    def shap(image: Tensor, label: int, _map: Tensor) -> Tensor:
        labels = superpixels(image, SEGMENTS, settings.sigma, settings.compactness).view(1, 1, *image.shape[2:])
        return KernelShap(probability).attribute(
            image, 0.5, label, feature_mask=labels, n_samples=MASKS, perturbations_per_eval=size
        )

    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        draw = 0.03 * torch.randn_like(inputs)
        return draw, inputs - draw

    maps, each = of.maps[:, None].expand_as(x), len(x)
    return [
        Pair(
            "`sliding-patch`, 7 x 7 positions",
            "Captum `Occlusion`",
            of.method(f"sliding-patch(patch={patch}, stride={patch})"),
            occlusion,
        ),
        Pair(
            f"`kernel-shap`, {MASKS} samples",
            "Captum `KernelShap`",
            of.method(f"kernel-shap(samples={MASKS}, segments={SEGMENTS})"),
            of.each(shap),
        ),
        Pair(
            f"`infidelity`, {DRAWS} draws",
            "Captum `infidelity`",
            of.metric(f"infidelity(draws={DRAWS})"),
            lambda: infidelity(
                of.network, noise, x, maps, target=y, n_perturb_samples=DRAWS, max_examples_per_batch=max(size, each)
            ),
        ),
        Pair(
            f"`sensitivity-max`, {DRAWS} draws",
            "Captum `sensitivity_max`",
            of.metric(f"sensitivity-max(draws={DRAWS})"),
            lambda: sensitivity_max(
                Saliency(of.network).attribute, x, n_perturb_samples=DRAWS, max_examples_per_batch=max(size, each), target=y
            ),
        ),
    ]
