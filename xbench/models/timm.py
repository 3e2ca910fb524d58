"""timm's image classifiers by name, with its weights, with weights of the user's own, or untrained."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError, unknown
from xbench.models._files import load_state, read_state
from xbench.models._found import classifier_of, seeded
from xbench.models.torchvision import is_file


@CLASSIFIERS.register("timm")
@dataclass(frozen=True)
class Timm(ClassifierEntry):
    """A classifier of timm (https://github.com/huggingface/pytorch-image-models): images (b, 3, size, size) in [0, 1].

    Found by themselves: the size and normalisation in the architecture's configuration; the number of logits; the layer for
    activation maps, which a vision transformer does not have; 5 groups of layers from the output to the input as randomisation
    stages (see `xbench.models._found`). Needs the extra ``timm``.

    Args:
        arch: name of the architecture, as ``timm.list_models`` has it; a tag behind a dot chooses among its weights.
        weights: ``"DEFAULT"`` for timm's, which it downloads once; the path of a file of yours (.safetensors, .pth, .pt), whose
            number of logits is read from it; None for an untrained network.
        classes: number of logits of an untrained network (the configuration's by default) or of your file.
        size: side of the images in pixels.
        mean, std: one value per channel, in [0, 1] pixel units.
        cam_layer: name of the layer for activation maps.
        label_space: what the logits mean, as the dataset says; ``imagenet-1k`` for timm's weights with 1000 logits.
        seed: of an untrained network.

    Raises XbenchError if timm is not installed, for an unknown architecture, for weights that are missing, damaged or do not
    fit, or if nothing says what the logits mean.
    """

    quick: ClassVar[dict[str, Any]] = {"arch": "test_vit", "weights": None, "size": 32, "label_space": "untrained"}

    arch: str = "vit_small_patch16_224"
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
        names = timm_architectures()
        if names is None:
            raise XbenchError("classifier 'timm' needs the extra: pip install \"xbench[timm]\"")
        if self.arch.partition(".")[0] not in names:
            raise unknown("timm architecture", self.arch, names)
        own = is_file(self.weights)
        if self.weights not in (None, "DEFAULT") and not own:
            raise XbenchError(
                f"weights={self.weights!r}: valid are 'DEFAULT', None, a file that ends in .safetensors, .pth or .pt"
            )
        import timm

        config = timm.get_pretrained_cfg(self.arch)
        if config is None:
            raise XbenchError(f"timm has no configuration of {self.arch}; its tags: {', '.join(_tags(self.arch))}")
        options: dict[str, Any] = {"img_size": self.size} if self.size and config.fixed_input_size else {}

        def build(classes: int | None) -> nn.Module:
            number: dict[str, Any] = {} if classes is None else {"num_classes": classes}
            network: nn.Module = timm.create_model(self.arch, pretrained=False, **options, **number)
            return network

        if self.weights is None:
            module = seeded(lambda: build(self.classes), self.seed)
        elif own:
            path = Path(self.weights).expanduser()
            try:
                module = seeded(lambda: load_state(read_state(path), build, self.classes))
            except XbenchError as error:
                raise XbenchError(f"{self.arch} with {path}: {error}") from error
        else:
            try:
                module = seeded(lambda: timm.create_model(self.arch, pretrained=True, **options))
            except Exception as error:
                raise XbenchError(
                    f"weights of {self.arch} are missing, and cannot be downloaded ({type(error).__name__}): "
                    f'{_elsewhere(config)}, or take a file of yours: checkpoint(path="FILE", arch="{self.arch}")'
                ) from error
        known = "imagenet-1k" if self.weights == "DEFAULT" and config.num_classes == 1000 else None
        return classifier_of(
            module,
            name=self.replace(weights=Path(self.weights).name).spec if own and self.weights else self.spec,
            size=self.size or config.input_size[-1],
            channels=config.input_size[0],
            mean=config.mean if self.mean is None else self.mean,
            std=config.std if self.std is None else self.std,
            label_space=self.label_space or known,
            cam_layer=self.cam_layer,
        )


def timm_architectures() -> list[str] | None:
    """The names of timm's architectures, None if it is not installed."""
    if importlib.util.find_spec("timm") is None:
        return None
    import timm

    return list(timm.list_models())


def _elsewhere(config: Any) -> str:
    """Where a file of timm's weights is, and where timm looks for it."""
    if not config.hf_hub_id:
        return f"put {config.url} into {Path(torch.hub.get_dir()) / 'checkpoints'}"
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"get model.safetensors from https://huggingface.co/{config.hf_hub_id} and give "
        f'weights="FILE.safetensors", or copy the folder models--{config.hf_hub_id.replace("/", "--")} of another machine\'s '
        f"cache into {HF_HUB_CACHE}"
    )


def _tags(arch: str) -> list[str]:
    import timm

    return list(timm.list_pretrained(f"{arch.partition('.')[0]}.*"))
