"""A second network of the digits `mnist`, a ResNet-8 whose weights are shipped: it judges images that `mnist-cnn` does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xbench.classifier import CLASSIFIERS, Classifier, TrainableClassifier
from xbench.models.resnet8 import ResNet8
from xbench.subset import Subset
from xbench.weights import load_weights, save_weights

WEIGHTS = Path(__file__).with_name("mnist-resnet8.safetensors")


@CLASSIFIERS.register("mnist-resnet8")
@dataclass(frozen=True)
class MnistResNet8(TrainableClassifier):
    """`resnet8` on 28-px grey digits: images (b, 1, 28, 28) in [0, 1] to 10 logits.

    Trained by the recipe of `resnet8`: ``xbench fit-classifier mnist-resnet8 --out FILE``. The file holds half-precision
    numbers (own decision: half the size), which the network takes in float32; accuracy and sha256 are in its metadata.
    """

    dataset: ClassVar[str] = "mnist"

    def load(self) -> Classifier:
        """The shipped weights on the CPU; XbenchError if the file is missing or damaged."""
        return self.load_from(WEIGHTS)

    def load_from(self, path: Path) -> Classifier:
        """Weights written by ``fit``; XbenchError if the file is missing, damaged or has other tensors."""
        load_weights(path)  # for the sha256 that it declares
        classifier = dataclasses.replace(_network(), weights=str(path)).load()
        classifier.name = self.spec
        return classifier

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
        """Trains from scratch, writes the rounded weights to ``path`` and returns their accuracy on ``test``."""
        _network().fit(train, test, path, seed=seed, epochs=epochs, report=report, device=device)
        state, about, _ = load_weights(path)
        rounded = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        save_weights(path, rounded, about)
        x, label, _ = test.read(test.ids)
        accuracy = float((self.load_from(path).probabilities(x).argmax(1) == label).float().mean())
        save_weights(path, rounded, {**about, "accuracy": round(accuracy, 4)})
        return accuracy


def _network() -> ResNet8:
    return ResNet8(classes=10, label_space="digits-10", channels=1, size=28)
