"""AP: adversarial perturbation on the perceptual ball."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.method import METHODS, Method
from xbench.ops.blur import gaussian_blur
from xbench.ops.lbfgs import Points, lbfgs
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Logits, Maps, Scores

HISTORY = 2**27
"""Values that the optimiser's histories may hold at a time, half a GiB in float32 (own decision)."""

See = Callable[[str, Tensor], None]
"""Gets a layer's name and its output (n, ...)."""
Passed = Callable[[Images, See], Logits]
"""Images (n, c, h, w) -> their logits, while the other sees the outputs of some layers."""


@METHODS.register("perceptual-ball")
@dataclass(frozen=True)
class PerceptualBall(Method):
    r"""How much each pixel changes until another class overtakes while the features stay near (Elliott et al. 2021).

    $$
    g = G_\sigma * \sqrt{ \text{mean}_k \, d_k^2 }, \quad d = \operatorname{argmin}_d \, w \sum_l \text{mean} ( f^l(x + d) -
    f^l(x) )^2 + \text{mean} \, d^2 + \left( D(x + d) - \text{margin} \right)^2, \quad D = f_c - \max_{j \ne c} f_j
    $$

    w is the ``weight``, G_sigma the Gaussian, f^l the output of layer l.

    Elliott, Law and Russell, https://arxiv.org/abs/1912.09405, in the form of the authors' code
    (https://github.com/alan-turing-institute/perceptualBall). L-BFGS without line search (`xbench.ops.lbfgs`) minimises, from
    no change on, weight * sum over layers of mean (f(x + d) - f(x))^2 + mean d^2 + (f_c - max of the other logits - margin)^2,
    f the output of a layer and d in the classifier's normalised units. The map is sqrt(mean over channels of d^2) under a
    Gaussian; it is not negative. The changed image may leave [0, 1], as in the code.

    The code explains the predicted class, fails where that is class 0, and finds layers only in a module called ``features``.

    Args:
        iterations: steps of L-BFGS.
        layers: dotted names of the layers; None: every convolution of the classifier, before its activation (own decision: the
            code names six rectified layers of VGG-19 from the middle of the network; other networks have none of these names).
        margin: the difference of the logits that is aimed at; the class is overtaken below 0.
        weight: of the features; None: 10000 as in the code, 10 below 64 px (own decision: under `mnist-cnn`, 10000
            leaves the logit ahead by 5.2 of 5.5 on the mean of 20 digits, with 10 another class overtakes on each).
        sigma: standard deviation of the Gaussian in pixels; None: 2 at 224 px as in the code, scaled with the height, and 1
            below 64 px (own decisions: at 28 px, 0.25 px do not blur; 20 digits won the deletion and insertion game by 0.20
            with it, by 0.43 with 1).
    """

    iterative: ClassVar[bool] = True
    early_stop: ClassVar[bool] = True
    label: ClassVar[str] = "AP"
    quick: ClassVar[dict[str, Any]] = {"iterations": 4}

    iterations: int = 100
    layers: tuple[str, ...] | None = None
    margin: float = -2.0
    weight: float | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.weight is not None and self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must be different, got {self.layers}")
        if self.sigma is not None and self.sigma < 0:
            raise ValueError(f"sigma must not be negative, got {self.sigma}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w), >= 0; NotApplicable if the classifier lacks a layer, or one gives not one tensor or no logits."""
        if reason := self.not_applicable(classifier):
            raise NotApplicable(reason)
        sigma = self.resolved(classifier.shape).sigma
        assert sigma is not None
        change = self.change(classifier, x, y)
        return gaussian_blur(change.square().mean(1, keepdim=True).sqrt(), sigma)[:, 0]

    def change(self, classifier: Classifier, x: Images, y: Labels) -> Images:
        """The perturbation d (b, c, h, w) in the classifier's normalised units."""
        size = min(classifier.batch_size, max(1, HISTORY // (2 * self.iterations * x[0].numel())))
        with watched(classifier, self._layers(classifier)) as passed:
            chunks = zip(x.split(size), y.split(size), strict=True)
            return torch.cat([self._optimised(classifier, passed, *chunk) for chunk in chunks])

    def _optimised(self, classifier: Classifier, passed: Passed, x: Images, y: Labels) -> Images:
        weight = self.resolved(classifier.shape).weight
        assert weight is not None
        clean: dict[str, Tensor] = {}
        with torch.no_grad():
            # Copies, because an in-place activation may follow.
            passed(x, lambda layer, output: clean.update({layer: output.clone()}))

        def evaluate(image: Tensor, points: Points) -> tuple[Scores, Points]:
            distances: dict[str, Scores] = {}
            pulled: set[str] = set()

            def pull(layer: str, output: Tensor) -> None:
                """Takes the distance of the features, and adds its gradient where that of the logits comes by.

                As a term of the loss it would go through all features again and again.
                """

                def pulling(gradient: Tensor) -> Tensor:
                    pulled.add(layer)
                    return torch.add(gradient, moved, alpha=2 * share)

                with torch.no_grad():
                    moved = output - (clean[layer] if len(image) == len(x) else clean[layer][image])
                    share = weight / moved[0].numel()
                    distances[layer] = share * torch.linalg.vector_norm(moved, dim=tuple(range(1, moved.dim()))).square()
                output.register_hook(pulling)

            with torch.enable_grad():
                d = points.detach().requires_grad_()
                logits = passed(x[image] + classifier.std * d.view(-1, *x.shape[1:]), pull)
                own = logits.gather(1, y[image, None])[:, 0]
                others = logits.scatter(1, y[image, None], -torch.inf).amax(1)
                loss = (own - others - self.margin).square() + d.square().mean(1)
                (gradient,) = torch.autograd.grad(loss.sum(), d)
            if apart := distances.keys() - pulled:
                raise NotApplicable(f"layer {min(apart)!r} of classifier {classifier.name!r} does not lead to the logits")
            return loss.detach() + sum(distances.values()), gradient

        return lbfgs(evaluate, torch.zeros_like(x).flatten(1), self.iterations).view_as(x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass for the features and, at most, one forward and one backward pass per iteration."""
        return Passes(forward=self.iterations + 1, backward=self.iterations)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """The classifier has no layer of one of the names, or no convolution."""
        names = [name for name, _ in classifier.module.named_modules() if name]
        missing = [layer for layer in self._layers(classifier) if layer not in names]
        if missing:
            return f"classifier {classifier.name!r} has no layer {missing[0]!r}; it has: {', '.join(names)}"
        if self.layers is None and not self._layers(classifier):
            return f"classifier {classifier.name!r} has no convolution: name its layers; it has: {', '.join(names)}"
        return None

    def resolved(self, shape: tuple[int, int, int]) -> PerceptualBall:
        """The same method with the default weight and Gaussian of images of ``shape`` filled in."""
        large = shape[1] >= 64
        return self.replace(
            weight=(1e4 if large else 10.0) if self.weight is None else self.weight,
            sigma=(2 * shape[1] / 224 if large else 1.0) if self.sigma is None else self.sigma,
        )

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """The default weight of the features, and 10 and 100 times more and less (own decision)."""
        weight = self.replace(weight=None).resolved(shape).weight
        assert weight is not None
        return {"weight": [self.replace(weight=weight * factor) for factor in (0.01, 0.1, 1.0, 10.0, 100.0)]}

    def _layers(self, classifier: Classifier) -> tuple[str, ...]:
        if self.layers is not None:
            return self.layers
        return tuple(name for name, module in classifier.module.named_modules() if isinstance(module, nn.Conv2d))


@contextlib.contextmanager
def watched(classifier: Classifier, layers: tuple[str, ...]) -> Iterator[Passed]:
    """A function that passes images through the classifier while another sees what its ``layers`` give; no hook stays."""
    caught: dict[str, list[Any]] = {}
    modules: dict[str, nn.Module] = dict(classifier.module.named_modules())
    seeing: See | None = None

    def watch(layer: str) -> Any:
        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            caught[layer].append(type(output))
            if isinstance(output, Tensor) and seeing is not None:
                seeing(layer, output)

        return modules[layer].register_forward_hook(catch)

    def passed(images: Images, see: See) -> Logits:
        nonlocal seeing
        caught.update({layer: [] for layer in layers})
        seeing = see
        logits: Logits = classifier(images)
        seeing = None
        for layer, kinds in caught.items():
            if len(kinds) != 1 or not issubclass(kinds[0], Tensor):
                raise NotApplicable(
                    f"layer {layer!r} of classifier {classifier.name!r} must give one tensor in a pass, gave {len(kinds)}"
                )
        return logits

    with contextlib.ExitStack() as stack:
        for layer in dict.fromkeys(layers):
            stack.callback(watch(layer).remove)
        yield passed
