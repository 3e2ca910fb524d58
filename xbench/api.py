"""xbench in a notebook: ``xbench.run`` computes a suite as the command does and gives its tables and pictures."""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from torch import nn

from xbench.board import Board, make_board
from xbench.board.exporting import tidy
from xbench.board.figures import Picture, rank_picture
from xbench.board.pictures import curves_figure, maps_figure
from xbench.board.snippet import html
from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.explainer import Explainer
from xbench.method import METHODS, Method
from xbench.models.module import from_module
from xbench.result import Result
from xbench.run.cells import Plan
from xbench.run.choice import chosen
from xbench.run.command import command_of
from xbench.run.form import planned_speed
from xbench.run.plan import load_classifier, make_plan
from xbench.run.progress import Progress
from xbench.run.runner import make_batch
from xbench.run.runner import run as run_plan
from xbench.store import Store
from xbench.subset import DATASETS, Dataset, Part, Subset
from xbench.training import usable_device

if TYPE_CHECKING:
    import pandas as pd


def run_suite(
    suite: str | Path,
    methods: Sequence[str | Method] | None = None,
    *,
    classifier: str | Classifier | nn.Module | None = None,
    dataset: str | Subset | None = None,
    store: str | Path = "xbench-store",
    limit: int | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    timeout: float | None = None,
    quiet: bool = False,
) -> Run:
    """Runs a suite, or what of it is not stored, as ``xbench run`` does; it is called as ``xbench.run``.

    Args:
        suite: a name (``xbench list suites``) or a .toml file.
        methods: specs or registered methods, instead of the suite's.
        classifier: instead of the suite's: a spec, a ``Classifier`` (see ``xbench.from_module``), or a network that takes the
            dataset's images in [0, 1] and gives logits of its classes. Objects are copied, so that nothing happens to them.
        dataset: a spec, or a ``Subset``, which has images to evaluate only: no trained methods, no calibration.
        store: folder of results and maps.
        limit: at most this many images for every metric.
        settings: other values for keys of the suite, as in ``--set``.
        seed: another seed than the suite's.
        device: by default where a classifier that is given is, else cpu.
        batch_size: images per classifier pass.
        timeout: seconds after which a part (50 images) of a cell has failed; only in a process's main thread.
        quiet: no line a cell.

    Raises XbenchError for anything unknown or unfit, before anything is computed. A cell that fails is a hole in the result.
    """
    given = dataset if isinstance(dataset, Subset) else None
    asked = chosen(
        str(suite),
        dataset=None if isinstance(dataset, Subset) else dataset,
        classifier=classifier if isinstance(classifier, str) else None,
        settings=settings,
        seed=seed,
    )
    if limit is not None and limit < 1:
        raise XbenchError(f"limit={limit}: must be at least 1 image")
    if timeout is not None and not timeout > 0:
        raise XbenchError(f"timeout={timeout}: must be above 0 seconds")
    source = DATASETS.make(asked.dataset) if given is None else _Given(given)
    if isinstance(classifier, nn.Module):
        model = _on(device, classifier, source)
    else:
        model = load_classifier(asked.classifier, device or "cpu")
    asked = asked.model_copy(update={"dataset": source.spec, "classifier": model.name})
    plan = make_plan(
        asked,
        Store(Path(store)),
        methods=[_spec(method) for method in methods or ()],
        limit=limit,
        device=str(model.device),
        batch_size=batch_size,
        classifier=model,
        dataset=source,
    )
    with Progress(plan, planned_speed(plan), Console(quiet=quiet, force_jupyter=False)) as progress:
        results = tuple(run_plan(plan, progress, timeout=timeout))
    if isinstance(classifier, nn.Module) or isinstance(dataset, Subset) or not all(_importable(c.method) for c in plan.cells):
        return Run(plan, results)
    specs = [_spec(method) for method in methods or ()]
    return Run(plan, results, command_of(str(suite), specs, limit, dataset, classifier, None, settings, seed))


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What ``xbench.run`` gives: the results of all cells in order, and what can be made of them. Notebooks show the board.

    ``reproduce`` is the command that computes the same, on the board too; "" if there is none, because a network, a subset or
    a notebook's own method was given.
    """

    plan: Plan
    results: tuple[Result, ...]
    reproduce: str = ""

    @property
    def failed(self) -> list[Result]:
        """The cells that failed; their ``reason`` says why."""
        return [result for result in self.results if result.status == "failed"]

    def frame(self) -> pd.DataFrame:
        """Every score as a tidy table, one row per metric, column, method and image; see ``xbench.board.exporting.tidy``."""
        return tidy(self.results, self.plan.suite.seed)

    def board(self) -> Board:
        """The board; its ``summary`` has means, intervals and ranks."""
        return self._board

    @functools.cached_property
    def _board(self) -> Board:
        return make_board(self.results, self.plan.suite.title, self.plan.suite.description, self.reproduce)

    def plot_ranks(self) -> Picture:
        """How often each method took each rank; XbenchError if no method is ranked."""
        return rank_picture(self.board())

    def plot_curves(self) -> Picture:
        """The mean curve of every method, a panel for each curve of the metrics; XbenchError if there is none."""
        return curves_figure(self.board())

    def plot_maps(self, images: int = 3) -> Picture:
        """The first images with every method's map of the predicted class; what is not stored is computed."""
        ids = self.plan.subset.first(images)
        batch = make_batch(self.plan, "evaluation", ids, "predicted")
        # Maps are stored in the groups in which a run computes them, so that these few are not.
        store = Store(self.plan.store.root, self.plan.store.report, create=False)
        maps = {}
        for method in dict.fromkeys(cell.method for cell in self.plan.cells if not cell.not_applicable):
            explainer = Explainer(method, self.plan.classifier, self.plan.suite.seed, self.plan.checkpoints, store)
            maps[method.spec] = explainer.maps(batch).cpu()
        titles = [f"{i}: class {c}" for i, c in zip(batch.ids, batch.target.tolist(), strict=True)]
        return maps_figure(batch.x.cpu(), titles, maps)

    def _repr_html_(self) -> str:
        return html(self.board())

    def __repr__(self) -> str:
        counts = {s: sum(result.status == s for result in self.results) for s in ("ok", "failed", "n/a")}
        words = f"{len(self.results)} cells, {counts['failed']} failed, {counts['n/a']} not applicable"
        return f"<xbench.Run {self.plan.suite.name!r}: {self.plan.subset.name} x {self.plan.classifier.name}, {words}>"


@dataclasses.dataclass(frozen=True)
class _Given(Dataset):
    """A subset that was given as it is."""

    subset: Subset | None = None

    @property
    def spec(self) -> str:
        assert self.subset is not None
        return self.subset.name

    def load(self, part: Part = "evaluation") -> Subset:
        """The subset; XbenchError for every other part."""
        assert self.subset is not None
        if part != "evaluation":
            raise XbenchError(f"{self.spec!r} was given as a Subset, without a part {part!r}: give the spec of a dataset")
        return self.subset


def _spec(method: str | Method) -> str:
    """The spec of a method; XbenchError for what is no registered method."""
    if isinstance(method, str):
        return method
    if not isinstance(method, Method):
        hint = "a method's class has to be called" if isinstance(method, type) else "see xbench.from_callable"
        raise XbenchError(f"methods: {method!r} is a {type(method).__name__}; give specs such as 'rise' or methods ({hint})")
    if not method.name or METHODS.make(method.spec) != method:
        raise XbenchError(f"{type(method).__name__} is not registered: write @METHODS.register('name') above its @dataclass")
    return method.spec


def _importable(method: Method) -> bool:
    """Whether another process finds the method: a notebook's own is in no file."""
    return getattr(sys.modules.get(type(method).__module__), "__file__", None) is not None


def _on(device: str | None, network: nn.Module, source: Dataset) -> Classifier:
    """A copy of a network, as a classifier of the dataset if it is none yet; it stays on its device unless one is given."""
    there: Any = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), "cpu")
    if isinstance(network, Classifier):
        made = copy.deepcopy(network)
    else:
        subset = source.load("evaluation")
        made = from_module(network, name=type(network).__name__, size=subset.shape[-1], label_space=subset.label_space)
    return made.to(usable_device(device) if device else there)
