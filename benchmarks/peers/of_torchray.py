"""TorchRay: RISE and extremal perturbations."""

from __future__ import annotations

from pairs import MASKS, Pair, Subject
from torch import Tensor
from torchray.attribution.extremal_perturbation import extremal_perturbation
from torchray.attribution.rise import rise

ITERATIONS = 10


def pairs(of: Subject) -> list[Pair]:
    """RISE at any size, extremal perturbations of photos: TorchRay's masks are too coarse for digits."""

    def masks(x: Tensor, _y: int, _map: Tensor) -> object:
        return rise(of.network, x, num_masks=MASKS, batch_size=of.classifier.batch_size)

    def perturbed(x: Tensor, y: int, _map: Tensor) -> object:
        return extremal_perturbation(of.network, x, y, areas=[0.1], max_iter=ITERATIONS)

    found = [Pair(f"`rise`, {MASKS} masks", "TorchRay `rise`", of.method(f"rise(masks={MASKS})"), of.each(masks))]
    if of.batch.x.shape[2] < 64:
        return found
    method = of.method(f"extremal-perturbation(areas=(0.1,), iterations={ITERATIONS})")
    work = f"`extremal-perturbation`, {ITERATIONS} iterations"
    return [*found, Pair(work, "TorchRay `extremal_perturbation`", method, of.each(perturbed))]
