"""Linear imputation without its noise, by us and by pytorch-grad-cam's NoisyLinearImputer, in alternation.

python benchmarks/imputation.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor

from xbench.ops.blur import gaussian_blur
from xbench.ops.imputation import linear_imputation

SIZE = 224


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    blobs = gaussian_blur(torch.rand(1, 3, SIZE, SIZE, generator=generator), 8)
    x = (0.9 * scaled(blobs) + 0.1 * torch.rand(blobs.shape, generator=generator)).expand(9, -1, -1, -1).contiguous()
    noise = torch.rand(SIZE, SIZE, generator=generator)
    print(
        f"{len(x)} masks that remove 10 .. 90 %, 3 x {SIZE} x {SIZE} px, {options.threads} threads, {options.repeats} repeats\n"
    )
    header = [
        "removed",
        "seconds",
        "theirs",
        "ratio",
        "processor seconds",
        "theirs",
        "ratio",
        "residual",
        "theirs",
        "difference",
    ]
    for row in (header, ["---"] * len(header)):
        print("| " + " | ".join(row) + " |")
    for name, map in (("single pixels", noise), ("regions", gaussian_blur(noise[None, None], 8)[0, 0])):
        order = map.flatten().argsort().argsort().view_as(map)
        keep = torch.stack([(order >= tenths * SIZE * SIZE // 10).float()[None] for tenths in range(1, 10)])
        linear_imputation(x, keep)
        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(timed(lambda keep=keep: linear_imputation(x, keep)))
            theirs.append(timed(lambda keep=keep: peer(x, keep)))
        a, b = linear_imputation(x, keep), peer(x, keep)
        wall, processor = (compared([t[k] for t in ours], [t[k] for t in theirs]) for k in (0, 1))
        errors = [f"{value:.0e}" for value in (residual(a, keep), residual(b, keep), float((a - b).abs().max()))]
        print("| " + " | ".join([name, *wall, *processor, *errors]) + " |", flush=True)


def scaled(x: Tensor) -> Tensor:
    """Stretched to [0, 1]."""
    return (x - x.amin()) / (x.amax() - x.amin())


def peer(x: Tensor, keep: Tensor) -> Tensor:
    """What pytorch-grad-cam makes, which takes one image."""
    impute = NoisyLinearImputer(noise=0)
    return torch.stack([impute(image, mask[0]) for image, mask in zip(x, keep, strict=True)])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of the processor: the latter leave out what other programs took on a busy machine."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compared(ours: list[float], theirs: list[float]) -> list[str]:
    """Medians, and the median ratio with the smallest and the largest."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    spread = f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
    return [f"{statistics.median(ours):.2f}", f"{statistics.median(theirs):.2f}", spread]


def residual(x: Tensor, keep: Tensor) -> float:
    """The largest difference of a missing pixel from the weighted mean of its neighbours, times their weights."""
    weights = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], dtype=torch.float64).view(1, 1, 3, 3) / 12
    planes = x.double().flatten(0, 1)[:, None]
    error = planes * F.conv2d(torch.ones_like(planes[:1]), weights, padding=1) - F.conv2d(planes, weights, padding=1)
    return float((error.abs().view_as(x) * (keep < 0.5)).max())


if __name__ == "__main__":
    main()
