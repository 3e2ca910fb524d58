"""What the small classifiers share: weights of the user's own, and the recipe that trains them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import Classifier, TrainableClassifier
from xbench.errors import XbenchError
from xbench.models._files import fitting, read_state
from xbench.models.mnist_cnn import shifted
from xbench.subset import Subset, chunked
from xbench.types import Images
from xbench.weights import save_weights

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 128
SHIFT = 4


@dataclass(frozen=True)
class SmallClassifier(TrainableClassifier):
    """Base of the classifiers of small images; subclasses give the network, its stages and its layer for activation maps."""

    weights: str | None = None
    classes: int = 10
    label_space: str = "cifar-10"
    channels: Literal[1, 3] = 3
    size: int = 32

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1")
        if not self.label_space:
            raise ValueError("label_space='': must name what the logits mean, for instance 'cifar-10'")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: valid are 1 (grey) and 3 (RGB)")
        if self.size < 8:
            raise ValueError(f"size={self.size}: must be at least 8")

    def network(self) -> nn.Module:
        """The untrained network: normalised images (b, channels, size, size) to logits (b, classes)."""
        raise NotImplementedError

    def stages(self, module: nn.Module) -> list[list[str]]:
        """Layer names to randomise, from the output down to the input."""
        raise NotImplementedError

    @property
    def cam_layer(self) -> str:
        """The layer whose output are the feature maps for class activation maps."""
        raise NotImplementedError

    def load(self) -> Classifier:
        """The classifier with the weights of the file, on the CPU."""
        if self.weights is None:
            raise XbenchError(
                f'classifier {self.name!r} needs a file of weights: {self.name}(weights="FILE.safetensors"), '
                f"which xbench fit-classifier {self.name} --dataset D --out FILE.safetensors makes"
            )
        path = Path(self.weights).expanduser()
        with torch.device("meta"):  # nothing is drawn: loading leaves the global random state alone
            module = self.network()
        module.load_state_dict(_state(path, module, self.name), assign=True)
        return self._wrapped(module)

    def suited_to(self, train: Subset) -> Self:
        """Image size, channels, number of classes and their meaning are those of the training images."""
        channels, h, w = train.shape
        if h != w:
            raise XbenchError(f"classifier {self.name!r} takes square images, {train.name!r} has {w} x {h}: give its size")
        classes = 1 + max(int(train.read(ids)[1].max()) for ids in chunked(train.ids))
        return self.replace(classes=classes, label_space=train.label_space, channels=channels, size=h)

    def fit(
        self,
        train: Subset,
        test: Subset,
        path: Path,
        *,
        seed: int,
        epochs: int,
        report: Callable[[str], None],
        device: str = "cpu",
    ) -> float:
        """Trains from scratch, writes the weights to ``path`` and returns the accuracy on ``test``; a report line an epoch.

        The recipe (own decision): SGD with Nesterov's momentum 0.9 and weight decay 5e-4, 128 images a step, the learning rate
        in one cycle up to 0.1 (Smith & Topin 2018, https://arxiv.org/abs/1708.07120), cross-entropy; every image is moved by up
        to 4 px, a coloured one mirrored every other time. Two fits with one seed on one machine give identical weights.

        Raises XbenchError if the loss is not finite.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.network().to(device)
        draws = torch.Generator().manual_seed(seed)
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in self._normalisation())
        optimiser = torch.optim.SGD(module.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = epochs * math.ceil(len(train) / BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=max(steps, 2))
        for epoch in range(epochs):
            module.train()
            total = 0.0
            for index in torch.randperm(len(train), generator=draws).split(BATCH):
                x, label, _ = train.read([train.ids[i] for i in index.tolist()])
                x = self._varied(x, draws).to(device)
                loss = F.cross_entropy(module((x - mean) / std), label.to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(index)
            if not math.isfinite(total):
                raise XbenchError(f"training {self.spec} diverged in epoch {epoch + 1}")
            report(f"epoch {epoch + 1}/{epochs}: loss {total / len(train):.4f}")
        classifier = self.replace(weights=path.name)._wrapped(module.cpu()).to(device)
        right = 0
        for ids in chunked(test.ids):
            x, label, _ = test.read(ids)
            right += int((classifier.probabilities(x.to(device)).argmax(1).cpu() == label).sum())
        accuracy = right / len(test)
        about = {"accuracy": round(accuracy, 4), "epochs": epochs, "seed": seed, "train": train.digest(), "test": test.digest()}
        save_weights(path, classifier.module.state_dict(), about)
        return accuracy

    def _varied(self, x: Images, draws: torch.Generator) -> Images:
        moved = shifted(x, draws, SHIFT)
        if self.channels == 1:  # digits and letters are not themselves in a mirror
            return moved
        mirrored = torch.rand((len(x), 1, 1, 1), generator=draws) < 0.5
        return torch.where(mirrored, moved.flip(3), moved)

    def _normalisation(self) -> tuple[list[float], list[float]]:
        return (MEAN, STD) if self.channels == 3 else ([sum(MEAN) / 3], [sum(STD) / 3])

    def _wrapped(self, module: nn.Module) -> Classifier:
        mean, std = self._normalisation()
        return Classifier(
            module,
            # Without its folder the file has a readable name on boards and the same one on every machine.
            name=self.replace(weights=Path(self.weights or "").name).spec,
            shape=(self.channels, self.size, self.size),
            classes=self.classes,
            label_space=self.label_space,
            mean=mean,
            std=std,
            cam_layer=self.cam_layer,
            stages=self.stages(module),
        )


def layers_of(module: nn.Module, group: str) -> list[str]:
    """The layers with parameters of their own in a group, from the output down to the input."""
    layers = dict(module.named_modules())
    return [name for name in reversed(layers) if name.startswith(f"{group}.") and [*layers[name].parameters(recurse=False)]]


def _state(path: Path, module: nn.Module, name: str) -> dict[str, Tensor]:
    """The state dict in a file, in float32; XbenchError unless it is that of ``module``."""
    state = read_state(path)
    try:
        return fitting(state, module)
    except XbenchError as error:
        raise XbenchError(f"weights file {path} does not fit {name}: {error}") from error
