"""Weights of the user's own for an architecture of torchvision, of timm, or of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError, unknown
from xbench.models._files import load_state, read_state
from xbench.models._found import channels_of, classifier_of
from xbench.models.module import made_by
from xbench.models.timm import Timm, timm_architectures
from xbench.models.torchvision import Torchvision, architectures, is_file


@CLASSIFIERS.register("checkpoint")
@dataclass(frozen=True)
class Checkpoint(ClassifierEntry):
    """A file of weights (a state dict, .safetensors or .pth) and the architecture that it is for.

    An architecture of torchvision or timm is as the classifiers ``torchvision`` and ``timm`` describe, the number of logits
    read from the file; a name that both have is torchvision's (own decision). For one of your own, see ``module``. A checkpoint
    that holds the state dict as ``state_dict``, ``model_state_dict`` or ``model`` is understood, and one whose names all have
    the same prefix.

    Args:
        path: the file; a .pth or .pt file must hold tensors alone, because nothing is unpickled.
        arch: an architecture of torchvision or timm by name, or ``"package.module:function"``, which returns the network.
        size: side of the images in pixels; an architecture of your own needs it.
        mean, std: one value per channel, in [0, 1] pixel units.
        cam_layer: name of the layer for activation maps.
        label_space: what the logits mean, as the dataset says.

    Raises XbenchError if the file is missing, damaged, or holds more than tensors, if a tensor is missing, unexpected or of
    another shape, for an unknown architecture, or if nothing says what the logits mean.
    """

    path: str | None = None
    arch: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cam_layer: str | None = None
    label_space: str | None = None

    def load(self) -> Classifier:
        """The classifier on the CPU."""
        if self.path is None or self.arch is None:
            raise XbenchError(
                'classifier \'checkpoint\' needs a file and its architecture: checkpoint(path="FILE", arch="NAME")'
            )
        if not is_file(self.path):
            raise XbenchError(f"path={self.path!r}: must end in .safetensors, .pth or .pt")
        file = Path(self.path).expanduser()
        name = self.replace(path=file.name).spec
        if ":" in self.arch:
            return self._own(file, self.arch, name)
        in_timm = timm_architectures() or []
        if self.arch in architectures():
            entry: Torchvision | Timm = Torchvision(arch=self.arch)
        elif self.arch.partition(".")[0] in in_timm:
            entry = Timm(arch=self.arch)
        else:
            raise unknown("architecture", self.arch, {*architectures(), *in_timm})
        common = {field: getattr(self, field) for field in ("size", "mean", "std", "cam_layer", "label_space")}
        classifier = entry.replace(weights=self.path, **common).load()
        classifier.name = name
        return classifier

    def _own(self, file: Path, factory: str, name: str) -> Classifier:
        if self.size is None:
            raise XbenchError(f"architecture {factory!r} does not say the images' size: give size=...")
        module = made_by(factory)
        try:
            module = load_state(read_state(file), lambda _classes: module, None)
        except XbenchError as error:
            raise XbenchError(f"{factory} with {file}: {error}") from error
        return classifier_of(
            module,
            name=name,
            size=self.size,
            channels=channels_of(module),
            mean=self.mean,
            std=self.std,
            label_space=self.label_space,
            cam_layer=self.cam_layer,
        )
