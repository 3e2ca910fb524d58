"""The VP paper's MNIST classifier: 3 convolution and 2 linear layers, trained by our own recipe, weights shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import CLASSIFIERS, Classifier, TrainableClassifier
from xbench.errors import XbenchError
from xbench.subset import Subset
from xbench.weights import load_weights, save_weights

WEIGHTS = Path(__file__).with_name("mnist-cnn.safetensors")


@CLASSIFIERS.register("mnist-cnn")
@dataclass(frozen=True)
class MnistCnn(TrainableClassifier):
    """3 conv + 2 linear layers on 28-px grey digits, as in the VP paper (widths 16, 32, 64 and 64: own decision).

    Normalises with mean and standard deviation 0.5, so that its mean pixel, the fill ``gray``, is the 0.5 that the paper's
    numbers imply. The recipe (Adam, one cycle, shifts of up to 2 px) is in ``fit``; accuracy and sha256 are in the metadata.
    """

    dataset: ClassVar[str] = "mnist"

    def load(self) -> Classifier:
        """The shipped weights on the CPU; XbenchError if the file is missing or damaged."""
        return self.load_from(WEIGHTS)

    def load_from(self, path: Path) -> Classifier:
        """Weights written by ``fit``; XbenchError if the file is missing, damaged or has other tensors."""
        module = network()
        state, _, _ = load_weights(path)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise XbenchError(f"weights file {path} does not fit {self.spec}: {str(error).splitlines()[-1].strip()}") from error
        return wrap(module)

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
        """Trains from scratch, writes the weights to ``path`` and returns the accuracy on ``test``.

        ``report`` gets one line per epoch. Two fits with one seed on one machine give identical weights.
        """
        x, label, _ = train.read(train.ids)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = network().to(device)
            generator = torch.Generator().manual_seed(seed)
            optimiser = torch.optim.Adam(module.parameters(), weight_decay=1e-4)
            batches = -(-len(x) // 64)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * batches)
            for epoch in range(epochs):
                module.train()
                total = 0.0
                for index in torch.randperm(len(x), generator=generator).split(64):
                    image, target = shifted(x[index], generator).to(device), label[index].to(device)
                    loss = F.cross_entropy(module((image - 0.5) / 0.5), target, label_smoothing=0.02)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                    total += float(loss.detach()) * len(index)
                report(f"epoch {epoch + 1}/{epochs}: loss {total / len(x):.4f}")
        classifier = wrap(module.cpu())
        test_x, test_label, _ = test.read(test.ids)
        accuracy = float((classifier.probabilities(test_x).argmax(1) == test_label).float().mean())
        about = {"accuracy": round(accuracy, 4), "epochs": epochs, "seed": seed, "train": train.digest(), "test": test.digest()}
        save_weights(path, module.state_dict(), about)
        return accuracy


def network() -> nn.Sequential:
    """The untrained network: normalised images (b, 1, 28, 28) to logits (b, 10)."""
    module = nn.Sequential()
    channels = (1, 16, 32, 64)
    for i in range(3):
        module.add_module(f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], 3, padding=1))
        module.add_module(f"relu{i + 1}", nn.ReLU())
        if i < 2:
            module.add_module(f"pool{i + 1}", nn.MaxPool2d(2))
    module.add_module("flatten", nn.Flatten())
    module.add_module("fc1", nn.Linear(64 * 7 * 7, 64))
    module.add_module("relu4", nn.ReLU())
    module.add_module("fc2", nn.Linear(64, 10))
    return module


def wrap(module: nn.Module) -> Classifier:
    """The network as a classifier of digits."""
    return Classifier(
        module,
        name="mnist-cnn",
        shape=(1, 28, 28),
        classes=10,
        label_space="digits-10",
        mean=[0.5],
        std=[0.5],
        # The rectified feature maps: with the raw ones GradCAM's sum is negative everywhere for one digit in five.
        cam_layer="relu3",
        stages=[["fc2"], ["fc1"], ["conv3"], ["conv2"], ["conv1"]],
    )


def shifted(x: Tensor, generator: torch.Generator, pixels: int = 2) -> Tensor:
    """Each image moved by up to ``pixels`` in both directions, zeros coming in."""
    padded = F.pad(x, [pixels] * 4)
    span = 2 * pixels + 1
    dy, dx = torch.randint(span, (2, len(x), 1), generator=generator)
    rows = dy + torch.arange(x.shape[2])
    columns = dx + torch.arange(x.shape[3])
    return padded[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
