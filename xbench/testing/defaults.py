"""The conformance checks of methods at their defaults, on real digits and the network that ships for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from xbench.checkpoints import Checkpoints
from xbench.classifier import CLASSIFIERS
from xbench.errors import NotApplicable, XbenchError
from xbench.explainer import Explainer
from xbench.guard import changes
from xbench.method import Method, TrainedMethod
from xbench.subset import DATASETS
from xbench.testing.state import snapshot
from xbench.testing.tiny import distance

DIGITS = 2


def default_findings(method: Method) -> Iterator[str]:
    """The rules that a method with its real parameters breaks on two digits of `mnist` and on `mnist-cnn`.

    Finite maps, the counted passes, the classifier left as found, and the same maps in a batch of two and in two batches of one
    (1e-5 of a map's range in float32; for ``iterative`` methods 1e-6 in float64). A trained method is checked with the network
    that ships for the digits; it, or a method that does not apply to them, is not checked here if there is none.
    """
    iterative = method.iterative and not isinstance(method, TrainedMethod)  # networks are trained for one precision
    dtype, tolerance = (torch.float64, 1e-6) if iterative else (torch.float32, 1e-5)
    dataset = DATASETS.make("mnist")
    classifier = CLASSIFIERS.make(dataset.classifier).load().to(dtype)
    if method.not_applicable(classifier):
        return
    explainer = Explainer(method, classifier, states=Checkpoints(dataset))
    subset = dataset.load()
    ids = subset.first(DIGITS)
    x = subset.read(ids)[0].to(dtype)
    y = classifier.probabilities(x).argmax(1)
    before, passes = snapshot(classifier), classifier.passes.copy()
    try:
        maps = explainer(x, y, ids)
    except NotApplicable:
        return
    except XbenchError as error:  # maps of a wrong shape or value
        yield str(error)
        return
    used, expected = classifier.passes - passes, method.cost_for(classifier) * DIGITS
    where = f"{method.spec} at its defaults on digits"
    if changed := changes(before, snapshot(classifier)):
        yield f"{where}: does not leave as found: {', '.join(changed)}"
    fewer = method.early_stop and 0 < used.forward <= expected.forward and used.backward <= expected.backward
    if used != expected and not fewer:
        yield f"{where}: {used} counted for {DIGITS} images, cost_for() says {expected}"
    singles = torch.cat([explainer(x[i : i + 1], y[i : i + 1], ids[i : i + 1]) for i in range(DIGITS)])
    if not (far := distance(singles, maps)) <= tolerance:
        yield f"{where}: batches of {DIGITS} and of 1 differ by {far:.1e} of a map's range, {tolerance} is allowed in {dtype}"
