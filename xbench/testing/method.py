"""The conformance checks of methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.guard import changes
from xbench.method import METHODS, Method, TrainedMethod
from xbench.rng import ImageRandom
from xbench.testing.defaults import default_findings
from xbench.testing.entry import conclude, declaration, entry
from xbench.testing.state import global_seed, snapshot
from xbench.testing.tiny import distance, tiny_classifier, tiny_images, tiny_transformer
from xbench.types import Images, Labels, Maps

RUNS = (((1, 28, 28), 2, torch.float32), ((3, 32, 32), 2, torch.float64), ((3, 224, 224), 1, torch.float32))
"""Shape, number and precision of the images that every method must explain."""
NETWORKS: tuple[Callable[..., Classifier], ...] = (tiny_classifier, tiny_transformer)
"""A method is checked on the first that it applies to."""
RANDOM_FILLS = ("linear", "mean-noise", "noise")
"""Fills with noise: under them the maps depend on the seed of the run, whether or not the method draws."""


def check_method(spec: str) -> None:
    """Checks a method against the rules of the benchmark.

    ``spec`` is a name, checked with the method's ``quick`` parameters, or a full spec, checked as it stands. On a tiny random
    convolutional network, or on a vision transformer if it does not apply to that one, with 1 and 3 channels, 28, 32
    and 224 px: the maps' shape, dtype and finiteness; classifier, images and global state left as found; passes counted as
    ``cost_for`` says, or fewer with ``early_stop``; equal maps for equal seeds, whatever the global generators hold and under
    ``no_grad``; other maps for other seeds if and only if the method has a parameter ``seed`` (a random fill aside); the same
    maps whatever the batch (1e-5 of a map's range in float32; for ``iterative`` methods 1e-6 in float64) and, where there is a
    GPU, on it; spec, docstring, sweeps and upsample variants; a trained method's loss, on a random network. A method that
    applies to both networks also explains two images of the transformer. A bare name is then checked with its real parameters
    on two digits, see `default_findings`.

    Raises AssertionError listing every rule that is broken, XbenchError for an unknown name or parameter; an exception of the
    method is not caught.
    """
    conclude(_findings(entry(METHODS, spec)))
    if "(" not in spec:
        conclude(default_findings(METHODS.make(spec)))


def _findings(method: Method) -> Iterator[str]:
    yield from declaration(METHODS, method)
    reasons = {make: method.not_applicable(make()) for make in NETWORKS}
    if None not in reasons.values():
        why = "; ".join(dict.fromkeys(str(reason) for reason in reasons.values()))
        yield f"does not apply to the tiny classifiers, so that its maps are not checked: {why}"
        return
    for shape, count, dtype in RUNS:
        yield from _once(method, _Subject(method, shape, count, dtype))
    if reasons == dict.fromkeys(NETWORKS):
        with contextlib.suppress(NotApplicable):  # some methods find out only when the network runs
            yield from _once(method, _Subject(method, (1, 28, 28), 2, torch.float32, make=tiny_transformer))
    yield from _repeats(method)
    if method.control and method.cost_for(tiny_classifier()) != Passes():
        yield "is a control, but its cost is not 0"
    yield from _variants(method)
    if isinstance(method, TrainedMethod):
        yield from _training(method)
    if torch.cuda.is_available():
        yield from _cuda(method)


class _Subject:
    """A method with a tiny classifier, images and (if it is a trained one) a random network.

    The classifier is what ``make`` makes, the first of the tiny networks that the method applies to by default.
    """

    def __init__(
        self,
        method: Method,
        shape: tuple[int, int, int],
        count: int,
        dtype: torch.dtype,
        device: str = "cpu",
        make: Callable[..., Classifier] | None = None,
    ) -> None:
        make = make or next(each for each in NETWORKS if method.not_applicable(each()) is None)
        self.classifier = make(shape).to(device=device, dtype=dtype)
        self.x = tiny_images(count, shape).to(device=device, dtype=dtype)
        self.y = torch.arange(count, device=device) % self.classifier.classes
        self.explain = _bound(method.resolved(shape), self.classifier)

    def maps(self, index: list[int] | None = None, seed: int = 0) -> Maps:
        """Maps of the images at ``index`` (all by default); AssertionError, at once, if they have another shape."""
        x, y = (self.x, self.y) if index is None else (self.x[index], self.y[index])
        maps = self.explain(x, y, ImageRandom(seed, [f"tiny-{i}" for i in (range(len(x)) if index is None else index)]))
        expected = (len(x), *x.shape[2:])
        if not isinstance(maps, Tensor) or tuple(maps.shape) != expected:
            given = f"maps of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
            raise AssertionError(f"for images {tuple(x.shape)} it returns {given}, expected {expected}")
        return maps


def _bound(method: Method, classifier: Classifier) -> Callable[[Images, Labels, ImageRandom], Maps]:
    if not isinstance(method, TrainedMethod):
        return lambda x, y, rng: method(classifier, x, y, rng)
    network = _network(method, classifier).eval()

    def explain(x: Images, y: Labels, rng: ImageRandom) -> Maps:
        with torch.no_grad():
            return method.explain(network, x, y, rng)

    return explain


def _network(method: TrainedMethod, classifier: Classifier) -> nn.Module:
    with global_seed(0):
        return method.network(classifier.shape, classifier.classes).to(classifier.mean)  # type: ignore[arg-type]


def _once(method: Method, subject: _Subject) -> Iterator[str]:
    classifier, count = subject.classifier, len(subject.x)
    where = f"{method.spec} of {classifier.name} on {tuple(subject.x.shape)} in {subject.x.dtype}"
    pixels, classes = subject.x.clone(), subject.y.clone()
    before, passes = snapshot(classifier), classifier.passes.copy()
    maps = subject.maps()
    used, expected = classifier.passes - passes, method.cost_for(classifier) * count
    changed = changes(before, snapshot(classifier))
    if maps.dtype != subject.x.dtype or maps.device != subject.x.device:
        yield f"{where}: maps are {maps.dtype} on {maps.device}"
    if maps.requires_grad:
        yield f"{where}: maps still carry a graph: detach them"
    if not bool(maps.isfinite().all()):
        yield f"{where}: maps have NaN or infinite values"
    if changed:
        yield f"{where}: does not leave as found: {', '.join(changed)}"
    if not (subject.x.equal(pixels) and subject.y.equal(classes)) or subject.x.requires_grad:
        yield f"{where}: changes the images or classes that it is given"
    fewer = 0 < used.forward <= expected.forward and used.backward <= expected.backward
    if used != expected and not (method.early_stop and fewer):
        yield f"{where}: {used} counted for {count} images, cost() says {expected}{' at most' if method.early_stop else ''}"


def _repeats(method: Method) -> Iterator[str]:
    dtype, tolerance = (torch.float64, 1e-6) if method.iterative else (torch.float32, 1e-5)
    subject = _Subject(method, (1, 28, 28), 3, dtype)
    with global_seed(1):
        maps = subject.maps()
    with global_seed(2):
        if not subject.maps().equal(maps):
            yield "two calls with the same seed differ: draws must come from the ImageRandom that is passed in"
    with torch.no_grad():
        if not subject.maps().equal(maps):
            yield "a call under torch.no_grad() gives other maps"
    singles = torch.cat([subject.maps([i]) for i in range(3)])
    if not (far := distance(singles, maps)) <= tolerance:
        yield f"a batch of 3 and 3 batches of 1 differ by {far:.1e} of a map's range, {tolerance} is allowed in {dtype}"
    batch_size, subject.classifier.batch_size = subject.classifier.batch_size, 2
    if not (far := distance(subject.maps([2, 0, 1])[[1, 2, 0]], maps)) <= tolerance:
        yield f"another order and batch_size 2 change the maps by {far:.1e} of their range, {tolerance} is allowed in {dtype}"
    subject.classifier.batch_size = batch_size
    seeded = "seed" in method.parameters
    same = subject.maps(seed=1).equal(maps)
    if not seeded and not same and method.parameters.get("fill") not in RANDOM_FILLS:
        yield "the maps depend on the seed, but the method has no parameter seed"
    if seeded and same and not isinstance(method, TrainedMethod):  # a trained method's seed may be that of its training only
        yield "has a parameter seed, but the maps do not depend on the seed"


def _variants(method: Method) -> Iterator[str]:
    for shape in ((1, 28, 28), (3, 224, 224)):
        for name, sweep in method.sweeps(shape).items():
            if len(set(sweep)) < max(2, len(sweep)):
                yield f"sweeps({shape})[{name!r}] must hold at least 2 different methods: {sweep}"
            yield from _registered(f"sweeps({shape})[{name!r}]", sweep)
    variants = [method.at_upsample(m) for m in (1, 2, 4)]
    made = [variant for variant in variants if variant is not None]
    if not made:
        return
    if len(set(made)) < 3:
        yield f"at_upsample(1), (2) and (4) must give three different methods: {variants}"
    yield from _registered("at_upsample", made)
    for variant in made:
        yield from _once(variant, _Subject(variant, (1, 28, 28), 1, torch.float32))


def _registered(where: str, methods: Sequence[Method]) -> Iterator[str]:
    for variant in methods:
        if METHODS.make(variant.spec) != variant:
            yield f"{where} gives {variant!r}, which is not what its spec makes"


def _training(method: TrainedMethod) -> Iterator[str]:
    method.replace(**method.refit)
    subject = _Subject(method, (1, 28, 28), 4, torch.float32)
    classifier = subject.classifier
    method = method.resolved(classifier.shape)
    rng = ImageRandom(0, [f"tiny-{i}" for i in range(4)])
    losses = []
    for seed in (1, 2):
        network = _network(method, classifier).train()
        with global_seed(seed):
            before, passes = snapshot(classifier), classifier.passes.copy()
            loss = method.loss(network, classifier, subject.x, rng)
            if loss.shape != () or not bool(loss.isfinite()) or not loss.requires_grad:
                yield f"loss() must be a finite scalar with a gradient, got {loss}"
                return
            loss.backward()  # type: ignore[no-untyped-call]
            changed = changes(before, snapshot(classifier))
        used, expected = classifier.passes - passes, method.fit_cost(classifier.shape) * 4
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if not gradients or not all(bool(g.isfinite().all()) for g in gradients) or not any(bool(g.any()) for g in gradients):
            yield "the gradient of loss() is not finite or reaches no parameter of the network"
        if changed:
            yield f"loss() does not leave as found: {', '.join(changed)}"
        if used != expected:
            yield f"loss() and its gradient: {used} counted for 4 images, fit_cost() says {expected}"
        losses.append(loss.detach())
    if not losses[0].equal(losses[1]):
        yield "loss() draws from a global generator: draws must come from the ImageRandom that is passed in"


def _cuda(method: Method) -> Iterator[str]:
    cpu, gpu = (_Subject(method, (1, 28, 28), 2, torch.float64, device) for device in ("cpu", "cuda"))
    yield from _once(method, gpu)
    if not (far := distance(gpu.maps().cpu(), cpu.maps())) <= 1e-6:
        yield f"the GPU's maps differ from the CPU's by {far:.1e} of their range, 1e-6 is allowed in float64"
