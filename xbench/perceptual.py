"""LPIPS, the distance of two images in the features of a network: from a file, so that nothing is downloaded."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from xbench.errors import XbenchError
from xbench.inpainting import checksum
from xbench.types import Images, Scores

BACKBONE = "a safetensors file with the tensors features.* of torchvision's AlexNet, ImageNet weights"
HUB_FILE = "alexnet-owt-7be5be79.pth"
"""What torchvision calls these weights; the digits are the first of their sha256."""
SIZE = 64
"""Images with a side below are enlarged to this side."""
BATCH = 50


def hub_backbone() -> Path:
    """Where torchvision keeps the weights of AlexNet once it has downloaded them; the file need not be there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / HUB_FILE


def lpips_distance(backbone: Path) -> Callable[[Images, Images], Scores]:
    """LPIPS (n,) of two batches of images (n, c, h, w) in [0, 1]; 0 = equal, higher = less alike.

    Zhang et al. 2018, https://arxiv.org/abs/1801.03924: version 0.1 with AlexNet, whose linear layers the package lpips brings.
    Grey images are given to it as three equal channels; an image with a side below 64 px is enlarged to 64 x 64 px, bilinearly
    (own decision).

    Args:
        backbone: a safetensors file with the tensors ``features.*`` of torchvision's AlexNet, or torchvision's own ``.pth``.

    Raises XbenchError naming the file if it cannot be read or is of something else.
    """
    network = _network(backbone, checksum(backbone))

    def prepared(images: Images) -> Images:
        if min(images.shape[2:]) < SIZE:
            images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear")
        return 2 * images.float().expand(-1, 3, -1, -1) - 1

    @torch.no_grad()
    def distance(a: Images, b: Images) -> Scores:
        metric = network.to(a.device)
        pairs = zip(a.split(BATCH), b.split(BATCH), strict=True)
        return torch.cat([metric(prepared(one), prepared(other)).flatten() for one, other in pairs]).to(a.dtype)

    return distance


@functools.lru_cache(maxsize=2)
def _network(backbone: Path, _checksum: str) -> nn.Module:
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision in an old way
        metric: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:
        if backbone.suffix == ".pth":
            given = torch.load(backbone, map_location="cpu", weights_only=True)
        else:
            given = safetensors.torch.load_file(backbone)
        # The package calls features.0.weight slice1.0.weight, and so on.
        metric.net.load_state_dict({name: given[f"features.{name.partition('.')[2]}"] for name in metric.net.state_dict()})
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise XbenchError(f"{backbone} is not {BACKBONE}: {str(error).splitlines()[0]}") from error
    frozen: nn.Module = metric.eval().requires_grad_(False)
    return frozen
