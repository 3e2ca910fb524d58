"""The files that `xbench new` writes: working examples of each kind, entry-name and EntryClass to be replaced."""

METHOD = r'''"""entry-name: (say in one line what it is)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from xbench import METHODS, Classifier, ImageRandom, Images, Labels, Maps, Method
from xbench.classifier import Passes


@METHODS.register("entry-name")
@dataclass(frozen=True)
class EntryClass(Method):
    r"""Sum over the channels of |d f_c / d x|^power, f_c the logit of the class; maps (b, h, w), >= 0.

    $$g = \sum_k \left\lvert \frac{\partial f_c}{\partial x_k} \right\rvert^{power}$$

    (Say what yours computes, the shapes and ranges, and its source with a URL.) Own decision: an example to be changed.

    Args:
        power: exponent of the gradient's absolute value, above 0.

    Raises ValueError if ``power`` is not above 0.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power must be above 0, got {self.power}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps of classes ``y``, higher = more important. Random draws, if there are any, come from ``rng``."""
        maps = []
        for part, c in zip(x.split(classifier.batch_size), y.split(classifier.batch_size), strict=True):
            image = part.detach().requires_grad_()
            with torch.enable_grad():
                logits = classifier(image).gather(1, c[:, None]).sum()
            maps.append(torch.autograd.grad(logits, image)[0].abs().pow(self.power).sum(1))
        return torch.cat(maps)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """Classifier passes per image: they are counted, and have to be these."""
        return Passes(forward=1, backward=1)
'''

METRIC = r'''"""entry-name: (say in one line what it measures)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench import METRICS, Batch, Classifier, Column, Explainer, Maps, Method, Metric, Scored
from xbench.classifier import Passes


@METRICS.register("entry-name")
@dataclass(frozen=True)
class EntryClass(Metric):
    r"""Share of the map's pixels above half of its largest value, in [0, 1]; NaN for a map without a positive value.

    $$\frac{1}{h w} \sum_u \left[ g(u) > \frac{1}{2} \max g \right]$$

    (Say what yours measures, its unit and range, and its source with a URL.) Own decision: an example to be changed.
    """

    # higher_is_better=None: shown and not ranked.
    columns: ClassVar[tuple[Column, ...]] = (Column("share", "Share above half", higher_is_better=None),)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """One score per image; a NaN has a reason."""
        assert maps is not None
        largest = maps.flatten(1).amax(1)
        share = (maps > largest[:, None, None] / 2).double().mean((1, 2)).float()
        empty = {int(i): "the map has no positive value" for i in (largest <= 0).nonzero()}
        share[largest <= 0] = float("nan")
        return Scored({"share": share}, reasons={"share": empty} if empty else {})

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """Classifier passes per image, those for the map left out: they are counted, and have to be these."""
        return Passes()
'''

DATASET = '''"""entry-name: (say in one line what the images are)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench import DATASETS, Dataset, Images, Labels, Subset
from xbench.errors import unknown
from xbench.subset import Part

# The parts have no image in common. Results are computed on "evaluation"; "heldout" is to choose thresholds on.
PARTS = {"evaluation": range(20), "heldout": range(20, 50)}


@DATASETS.register("entry-name")
@dataclass(frozen=True)
class EntryClass(Dataset):
    """Bright squares of 8 px at random places on black. Images (b, 1, 28, 28) in [0, 1], labels 0..9, no boxes.

    (Say where yours come from, and under which licence.) Own decision: an example to be changed.
    """

    classifier: ClassVar[str] = "mnist-cnn"

    def load(self, part: Part = "evaluation") -> Subset:
        """The ids of ``part``; XbenchError for one that does not exist."""
        if part not in PARTS:
            raise unknown("part of dataset 'entry-name'", part, PARTS)
        return Subset(
            name=self.spec if part == "evaluation" else f"{self.spec}:{part}",
            ids=tuple(f"{i:04d}" for i in PARTS[part]),
            shape=(1, 28, 28),
            label_space="digits-10",  # what the labels mean: a classifier with another one is refused
            source_digest=hashlib.sha256(b"squares of 8 px, version 1").hexdigest(),  # of the files the pixels come from
            read=read,
        )


def read(ids: Sequence[str]) -> tuple[Images, Labels, None]:
    """Images and labels of the given ids; no boxes."""
    x = torch.zeros(len(ids), 1, 28, 28)
    for image, number in zip(x, map(int, ids), strict=True):
        top, left = number * 7 % 20, number * 11 % 20
        image[:, top : top + 8, left : left + 8] = 1
    return x, torch.tensor([int(i) % 10 for i in ids]), None
'''

CLASSIFIER = '''"""entry-name: (say in one line what it is)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from xbench import CLASSIFIERS, DATASETS, Classifier, ClassifierEntry


@CLASSIFIERS.register("entry-name")
@dataclass(frozen=True)
class EntryClass(ClassifierEntry):
    """The digit k whose mean training image m_k is nearest: its logit is x . m_k - |m_k|^2 / 2.

    (Say what yours is, and where its weights come from.) Own decision: an example to be changed.
    """

    def load(self) -> Classifier:
        """The classifier on the CPU."""
        train = DATASETS.make("mnist").load("train")
        x, label, _ = train.read(train.ids)
        means = torch.stack([x[label == k].flatten(1).mean(0) for k in range(10)])
        module = nn.Sequential()
        module.add_module("flatten", nn.Flatten())
        module.add_module("fc", nn.Linear(28 * 28, 10))
        module.load_state_dict({"fc.weight": means, "fc.bias": means.square().sum(1) / -2})
        return Classifier(
            module,
            name=self.spec,
            shape=(1, 28, 28),
            classes=10,
            label_space="digits-10",  # what the logits mean: a dataset with another one is refused
            mean=[0.0],
            std=[1.0],
            cam_layer=None,  # the layer for class activation maps
            stages=[["fc"]],  # the layers, from the output to the input, that the randomisation check resets
        )
'''
