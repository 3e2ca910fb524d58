"""SaS: saliency as a schedule of masks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.method import METHODS, Method
from xbench.ops.blur import gaussian_blur
from xbench.ops.normalise import minmax
from xbench.ops.pyramid import Pyramid, blur_pyramid, sharpened
from xbench.ops.schedule import Schedule, inner_masks
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

TEMPERATURE = 20
NOISE = 1e-2

Score = Callable[[Float[Tensor, "b k c h w"]], Tensor]
"""k versions of each of b images -> the sum of their scores."""


@METHODS.register("sas")
@dataclass(frozen=True)
class Sas(Method):
    r"""The pre-mask whose thresholded masks of growing area keep the class's logit high, and their complements low.

    $$
    g = \text{minmax}(s), \quad s = \operatorname{argmin}_s \sum_{k=1}^{K-1} \left[ - f_c(x \text{ under } m_k) + f_c(x \text{
    under } 1 - m_k) \right], \quad m_k = \text{sigmoid}(s - t_k), \quad \text{mean}(m_k^2) = \frac{k}{K}
    $$

    Singh and Namboodiri, Saliency as a Schedule. A leaf (h, w), smoothed by a Gaussian, is the pre-mask s; its masks are
    m_k = sigmoid(s - t_k), t_k such that mean(m_k^2) = k / K. A mask blurs the image where it is below 1, by up to 20 px at 224
    px (`xbench.ops.pyramid`). Gradient descent minimises the sum over k = 1..K-1 of -f_c(x under m_k) (insertion) and of
    f_c(x under 1 - m_k) (deletion), f_c the logit of the class. The map is s, scaled to [0, 1] by its minimum and maximum
    (equation 8), which ranks the pixels as every mask does.

    With ``layer`` the score of a masked image is -||f(x) - f(x under m)||^2 instead of the logit, f the features of that layer:
    feature saliency. The paper brings the features of x under m_k near to those of x, which is ``mode="insertion"``; that the
    deletion half takes those of x under 1 - m_k away from them is an own decision.

    The masks are fitted to the classifier, so a good score of the masked images, and with it in a game of deletion and
    insertion, is no proof of a faithful map. On 39 digits and `mnist-cnn` the best mask of each reaches a logit of 7.0 on
    average where the whole digit has 6.2 (every digit gains), the best complement -0.6 where the blurred digit has 0.9; on a
    photo and `efficientnet-lite` it is 15.8 after 25 iterations where the whole photo has 10.1.

    Args:
        mode: which of the two losses, or their sum.
        layer: dotted name of a module of the classifier, for feature saliency.
        steps: K, the number of areas.
        iterations: steps of plain gradient descent from noise of standard deviation 0.01 (own decisions); None: 800 as in the
            paper, below 64 px 200 as there for 32 px.
        lr: step size on the sum of the scores; None: 1 below 64 px, (height / 32)^2 above (own decisions).
        sigma: standard deviation of the Gaussian in pixels; None: 1 below 64 px, height / 32 above (own decisions).
        pool: side in pixels, odd, of the window of a smooth maximum after the Gaussian; 0: none (own decision).
        exact: whether the gradient passes through the thresholds t_k or takes them as constant.
        seed: of the start.
    """

    iterative: ClassVar[bool] = True
    label: ClassVar[str] = "SaS"
    quick: ClassVar[dict[str, Any]] = {"iterations": 3, "steps": 4}

    mode: Literal["insertion", "deletion", "both"] = "both"
    layer: str | None = None
    steps: int = 20
    iterations: int | None = None
    lr: float | None = None
    sigma: float | None = None
    pool: int = 0
    exact: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, got {self.steps}")
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if self.sigma is not None and self.sigma < 0:
            raise ValueError(f"sigma must not be negative, got {self.sigma}")
        if self.pool != 0 and (self.pool < 0 or self.pool % 2 == 0):
            raise ValueError(f"pool must be 0 or an odd number of pixels, got {self.pool}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) in [0, 1]; NotApplicable if the classifier has no such ``layer``."""
        return minmax(self.premask(classifier, x, y, rng))

    def premask(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The optimised pre-mask (b, h, w), unbounded: the map before it is scaled to [0, 1].

        Its masks are ``schedule_masks(premask, steps)``, the images under them ``sharpened(blur_pyramid(x), masks)``; the
        pre-mask after fewer iterations is that of ``replace(iterations=...)``. Raises NotApplicable as a call does.
        """
        start = NOISE * rng.normal("premask", x.shape[2:]).to(x)
        method = self.resolved(classifier.shape)
        # As many images as have their masks in one batch; a single one whose masks fill more than one.
        chunks = torch.arange(len(x), device=x.device).split(max(1, classifier.batch_size // (self.steps - 1)))
        with torch.enable_grad():
            return torch.cat([optimise(method, classifier, x[i], y[i], start[i]) for i in chunks])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per mask and iteration, twice for ``both``; for a ``layer`` one forward more."""
        iterations = self.resolved(shape).iterations
        assert iterations is not None
        passes = (self.steps - 1) * (2 if self.mode == "both" else 1) * iterations
        return Passes(forward=passes + (self.layer is not None), backward=passes)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """The classifier has no layer of that name."""
        names = [name for name, _ in classifier.module.named_modules() if name]
        if self.layer is None or self.layer in names:
            return super().not_applicable(classifier)
        return f"classifier {classifier.name!r} has no layer {self.layer!r}; it has: {', '.join(names)}"

    def resolved(self, shape: tuple[int, int, int]) -> Sas:
        """The same method with the defaults of images of ``shape`` filled in."""
        large, scale = shape[1] >= 64, shape[1] / 32
        return self.replace(
            iterations=self.iterations or (800 if large else 200),
            lr=self.lr or (scale**2 if large else 1.0),
            sigma=self.sigma if self.sigma is not None else (scale if large else 1.0),
        )

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}


def optimise(method: Sas, classifier: Classifier, x: Images, y: Labels, start: Maps) -> Maps:
    """The pre-mask (b, h, w) that a resolved ``method`` reaches from the leaf ``start`` (b, h, w).

    The loss is a sum over images and gradient descent works elementwise, so the images of a batch do not touch each other.
    """
    assert method.iterations is not None
    assert method.lr is not None
    assert method.sigma is not None
    if reason := method.not_applicable(classifier):
        raise NotApplicable(reason)
    pyramid = blur_pyramid(x)
    leaf = start.clone().requires_grad_()
    t = None
    with scoring(classifier, x, y, method.layer) as score:
        for _ in range(method.iterations):
            masks, t = inner_masks(smooth(leaf, method.sigma, method.pool), method.steps, t, method.exact)
            m = masks.detach()
            halves = {"insertion": [m], "deletion": [1 - m], "both": [m, 1 - m]}[method.mode]
            # Insertion raises the score of m, deletion lowers that of 1 - m: both along the score's gradient at the mask.
            ascent = torch.stack([score_gradient(score, pyramid, half, classifier.batch_size) for half in halves]).sum(0)
            (step,) = torch.autograd.grad(masks, leaf, ascent)
            with torch.no_grad():
                leaf += method.lr * step
    return smooth(leaf.detach(), method.sigma, method.pool)


def score_gradient(score: Score, pyramid: Pyramid, masks: Schedule, batch_size: int) -> Schedule:
    """The gradient of the score at each of the ``masks`` (b, k, h, w); those of a single image may take several batches."""
    parts: list[Tensor] = []
    for part in masks.split(batch_size, dim=1):
        keep = part.detach().requires_grad_()
        parts += torch.autograd.grad(score(sharpened(pyramid, keep)), keep)
    return torch.cat(parts, 1)


@contextlib.contextmanager
def scoring(classifier: Classifier, x: Images, y: Labels, layer: str | None) -> Iterator[Score]:
    """The score: the logit of class ``y``, or minus the squared distance of the features of ``layer`` to those of ``x``."""
    if layer is None:

        def logit(images: Tensor) -> Tensor:
            logits: Tensor = classifier(images.flatten(0, 1))
            return logits.gather(1, y.repeat_interleave(images.shape[1])[:, None]).sum()

        yield logit
        return
    caught: list[Any] = []

    def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # A copy, because an in-place activation may follow.
        caught.append(output.clone() if isinstance(output, Tensor) else output)

    modules: dict[str, nn.Module] = dict(classifier.module.named_modules())
    handle = modules[layer].register_forward_hook(catch)

    def pass_through(images: Images) -> tuple[Tensor, Tensor]:
        """Features (n, d) and logits."""
        caught.clear()
        logits = classifier(images)
        if len(caught) != 1 or not isinstance(caught[0], Tensor):
            raise NotApplicable(
                f"layer {layer!r} of classifier {classifier.name!r} must give one tensor in a pass, gave {len(caught)} outputs"
            )
        return caught[0].flatten(1), logits

    try:
        with torch.no_grad():
            clean, _ = pass_through(x)

        def closeness(images: Tensor) -> Tensor:
            features, logits = pass_through(images.flatten(0, 1))
            distance = (features.view(*images.shape[:2], -1) - clean[:, None]).square().sum()
            return 0 * logits.sum() - distance  # the classifier counts backward passes at its logits

        yield closeness
    finally:
        handle.remove()


def smooth(leaf: Maps, sigma: float, pool: int) -> Maps:
    """The pre-mask: leaves (b, h, w) under a Gaussian of ``sigma`` pixels, then, unless ``pool`` is 0, `softmax_pool`."""
    blurred = gaussian_blur(leaf[:, None], sigma)[:, 0]
    return softmax_pool(blurred, pool) if pool else blurred


def softmax_pool(maps: Maps, window: int) -> Maps:
    """Each pixel of (b, h, w) replaced by sum_j v_j softmax_j(20 v), v the values of the odd ``window`` around it.

    A smooth maximum, as in the area of Extremal Perturbations (Fong et al. 2019). Own decision: borders are replicated.
    """
    for axis in (1, 2):
        n = maps.shape[axis]
        index = torch.arange(-(window // 2), n + window // 2, device=maps.device).clamp(0, n - 1)
        maps = maps.index_select(axis, index)
    values = maps.unfold(1, window, 1).unfold(2, window, 1).flatten(3)
    return (values * (TEMPERATURE * values).softmax(3)).sum(3)
