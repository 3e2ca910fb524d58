"""torchvision's image classifiers by name, with its weights, with weights of the user's own, or untrained."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import torch
import torchvision.models
from torch import nn

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError, unknown
from xbench.models._files import load_state, read_state
from xbench.models._found import classifier_of, seeded

RESNET = (("fc", "layer4"), ("layer3",), ("layer2",), ("layer1",), ("bn1", "conv1"))
"""The VP paper's stages of a ResNet: 10, 28, 40, 49 and 50 layers of a ResNet-50."""


@CLASSIFIERS.register("torchvision")
@dataclass(frozen=True)
class Torchvision(ClassifierEntry):
    """A classifier of torchvision (https://pytorch.org/vision/stable/models.html): images (b, 3, size, size) in [0, 1].

    Found by themselves: the size and normalisation of the architecture's default weights; the number of logits; the layer for
    activation maps, which a vision transformer does not have; the randomisation stages, for a ResNet those of the VP paper,
    else 5 groups of layers from the output to the input (see `xbench.models._found`).

    Args:
        arch: name of the architecture, as ``torchvision.models.list_models`` has it.
        weights: ``"DEFAULT"`` or the name of other weights of torchvision, which are downloaded once into torch.hub's folder
            and compared with the sha256 in their name; the path of a file of yours (.safetensors, .pth, .pt), whose number of
            logits is read from it; None for an untrained network.
        classes: number of logits of an untrained network (1000 by default) or of your file.
        size: side of the images in pixels.
        mean, std: one value per channel, in [0, 1] pixel units.
        cam_layer: name of the layer for activation maps.
        label_space: what the logits mean, as the dataset says; ``imagenet-1k`` for weights of torchvision.
        seed: of an untrained network.

    Raises XbenchError for an unknown architecture or weights, for weights that are missing, damaged or do not fit, or if
    nothing says what the logits mean.
    """

    quick: ClassVar[dict[str, Any]] = {"arch": "shufflenet_v2_x0_5", "weights": None, "size": 64, "label_space": "untrained"}

    arch: str = "resnet50"
    weights: str | None = "DEFAULT"
    classes: int | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cam_layer: str | None = None
    label_space: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes is not None and self.weights is not None and not is_file(self.weights):
            raise ValueError(f"classes={self.classes}: is for a file of yours or an untrained network, weights=None")
        for name in ("classes", "size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")

    def load(self) -> Classifier:
        """The classifier on the CPU."""
        if self.arch not in architectures():
            raise unknown("torchvision architecture", self.arch, architectures())
        own = is_file(self.weights)
        enum = torchvision.models.get_model_weights(self.arch)
        pinned: Any = None if self.weights is None or own else self._pinned(enum)
        preset = (pinned or enum.DEFAULT).transforms()
        size = self.size or preset.crop_size[0]
        options: dict[str, Any] = {"image_size": size} if self.arch.startswith("vit") else {}
        if self.arch in ("googlenet", "inception_v3"):
            # Their converted weights expect TensorFlow's normalisation, which the network then makes from the usual one.
            options |= {"init_weights": False, "transform_input": pinned is not None}

        def build(classes: int | None) -> nn.Module:
            number = {} if classes is None else {"num_classes": classes}
            network: nn.Module = torchvision.models.get_model(self.arch, weights=None, **options, **number)
            return network

        if self.weights is None:
            module = seeded(lambda: build(self.classes), self.seed)
        else:
            path = Path(self.weights).expanduser() if own else downloaded(pinned.url, self.arch)
            try:
                module = seeded(lambda: load_state(read_state(path), build, self.classes))
            except XbenchError as error:
                raise XbenchError(f"{self.arch} with {path}: {error}") from error
        return classifier_of(
            module,
            name=self.replace(weights=Path(self.weights).name).spec if own and self.weights else self.spec,
            size=size,
            channels=3,
            mean=preset.mean if self.mean is None else self.mean,
            std=preset.std if self.std is None else self.std,
            label_space=self.label_space or ("imagenet-1k" if pinned is not None else None),
            cam_layer=self.cam_layer,
            stages=_resnet_stages(module) if isinstance(module, torchvision.models.ResNet) else None,
        )

    def _pinned(self, enum: Any) -> Any:
        """The weights of torchvision's that ``weights`` names."""
        names = ["DEFAULT", *(member.name for member in enum)]
        if self.weights not in names:
            raise unknown(f"weights of {self.arch} (a file ends in .safetensors, .pth or .pt)", str(self.weights), names)
        return enum[self.weights] if self.weights != "DEFAULT" else enum.DEFAULT


def architectures() -> list[str]:
    """The names of torchvision's image classifiers."""
    return list(torchvision.models.list_models(module=torchvision.models))


def is_file(weights: str | None) -> bool:
    """Whether weights are given as a file rather than by name."""
    return weights is not None and Path(weights).suffix in (".safetensors", ".pth", ".pt", ".bin")


def downloaded(url: str, arch: str) -> Path:
    """The file in torch.hub's folder, downloaded if it is not there; XbenchError saying where to put it if that fails."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    expected = re.search(r"-([a-f0-9]{8,})\.", path.name)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, HTTPException) as error:
            path.unlink(missing_ok=True)
            raise XbenchError(
                f"weights of {arch} are missing, and cannot be downloaded ({error}): put {url} at {path}, or take a file of "
                f'yours: checkpoint(path="FILE", arch="{arch}")'
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and not found.startswith(expected[1]):
        raise XbenchError(f"weights file {path} is damaged: its sha256 does not begin with {expected[1]}; delete it")
    return path


def _resnet_stages(module: nn.Module) -> list[list[str]]:
    owners = [name for name, layer in module.named_modules() if [*layer.parameters(recurse=False)]]
    return [
        [name for block in stage for name in reversed(owners) if name == block or name.startswith(f"{block}.")]
        for stage in RESNET
    ]
