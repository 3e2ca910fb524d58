"""Attribution methods: frozen hyper-parameters that turn (classifier, images, classes, draws) into maps."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.registry import Entry, Registry
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


class Method(Entry):
    """An attribution method: subclass as a frozen dataclass of hyper-parameters and implement ``__call__``.

    Class attributes:
        control: True for a map that does not ask the classifier; shown on every board and never ranked.
        iterative: True if rounding is amplified (optimisation), so that batch invariance is checked in float64.
        early_stop: True if an image may need fewer passes than ``cost`` says, which is then the most it can take.
        label: what the papers call it.
    """

    control: ClassVar[bool] = False
    iterative: ClassVar[bool] = False
    early_stop: ClassVar[bool] = False
    label: ClassVar[str] = ""
    seed: Any = 0
    """Overridden by a dataclass field in stochastic methods; added to the run's seed."""
    fill: Any = None
    """Overridden by a dataclass field in methods that replace pixels: the spec of a fill, see `xbench.fill`."""

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) explaining class ``y`` of images ``x``; higher = more important.

        ``rng`` gives every draw per image. The classifier must be left as it was found.
        """
        raise NotImplementedError

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """Classifier passes per image of shape (c, h, w); the counters must report exactly these (see ``early_stop``)."""
        raise NotImplementedError

    def cost_for(self, classifier: Classifier) -> Passes:
        """Classifier passes per image on this classifier: what planner, metrics and checks ask.

        ``cost`` of its image shape; a method whose cost depends on more of the classifier implements this one instead.
        """
        return self.cost(classifier.shape)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the method cannot explain this classifier, or None."""
        return None

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The same method with every parameter that has its default by the image shape filled in; itself if it has none.

        Explainers and checkpoints are keyed by the resolved method, so that two specs of one computation share its maps.
        """
        return self

    def at_upsample(self, m: int) -> Method | None:
        """The same method with its masks on a grid of 1/m of the image, or None if it has no mask grid."""
        return None

    def uncertainty(self) -> Method | None:
        """The method whose maps say how uncertain these are, pixel by pixel, or None if there is none."""
        return None

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """The hyper-parameter sweeps that the sensitivity metric compares, by name; empty if there is none."""
        return {}


class TrainedMethod(Method):
    """A method with a network of its own, trained once for a classifier and a dataset.

    Its hyper-parameters include the recipe (``epochs``, ``lr``, ``batch``), so that they are part of every result's key.
    `xbench.training` holds the loop; an entry says what its network, its loss and its maps are.
    """

    epochs: Any = 1
    lr: Any = 1e-3
    batch: Any = 64
    weight_decay: Any = 0.0
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    refit: ClassVar[dict[str, Any]] = {}
    """The reduced recipe with which the randomisation check fits the method anew on every randomised classifier."""

    def trained_as(self) -> Self:
        """The method whose network this one uses: parameters that change only the map set back to their defaults."""
        return self

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """A new network for images of shape (c, h, w) and ``classes`` logits; the loop seeds torch's initialisation."""
        raise NotImplementedError

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The training loss of a batch, a scalar, averaged over its images; ``rng`` gives other draws in every step."""
        raise NotImplementedError

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) from the trained network, without a classifier pass."""
        raise NotImplementedError

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No classifier pass at inference."""
        return Passes()

    def fit_cost(self, shape: tuple[int, int, int]) -> Passes:
        """Classifier passes per training image and epoch."""
        raise NotImplementedError


def default_upsample(shape: tuple[int, int, int]) -> int:
    """The papers' mask grid: 1/8 of the image at 224 px; 1/2 below 64 px (own decision for 28 and 32 px)."""
    return 2 if shape[-1] < 64 else 8


METHODS: Registry[Method] = Registry("method", "methods")
