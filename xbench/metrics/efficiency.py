"""Efficiency: what a map costs in time, classifier passes and memory."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.metrics._measuring import peak_memory, seconds
from xbench.subset import Batch
from xbench.types import Maps


@METRICS.register("efficiency")
@dataclass(frozen=True)
class Efficiency(Metric):
    r"""Time, classifier passes and memory of a map, and the time that the method took to train; lower = better.

    $$
    t_{\text{one}} = \text{median}_r \, T_r(x), \quad t_{\text{batch}} = \frac{1}{n} \, \text{median}_r \, T_r(x_1, \ldots, x_n)
    $$

    T_r is the time of the r-th repeat.

    - ``seconds_one``: seconds for the map of the image alone; the median of ``repeats`` after one that warms up.
    - ``seconds_batch``: seconds for the maps of the whole batch at once, divided by the number of its images and the same for
      all of them; the median of ``repeats`` after one that warms up. A run gives batches of at most 50 images; methods pack
      them into passes of the classifier's batch size.
    - ``memory``: MiB by which memory grows at most while the whole batch is explained once more, the same for all of its
      images. On CUDA what torch's allocator holds; on a CPU the resident memory of the process, which has the granularity
      of pages and misses what the process had kept from before (see ``peak_memory``): the two do not compare. NaN where the
      system does not tell.
    - ``forward``, ``backward``: classifier passes for the image's map, as counted, reported.
    - ``training``: seconds that the method's network took to train, from its checkpoint, reported: on whatever machine that
      was. 0 for a method that is not trained.

    Time ends when the device has finished. It includes drawing random numbers and checking the maps. Seconds and memory are
    measured, not computed: they differ from run to run, and are stored under a key that names the machine.

    Own decisions: all of the above.

    Args:
        repeats: at least 1 (own decision: 3).

    Raises ValueError if ``repeats`` is below 1.
    """

    repeats: int = 3

    columns: ClassVar[tuple[Column, ...]] = (
        Column("seconds_one", "Time per image, one at a time", False, "s"),
        Column("seconds_batch", "Time per image, in a batch", False, "s"),
        Column("memory", "Peak memory of a batch", False, "MiB"),
        Column("forward", "Forward passes", None),
        Column("backward", "Backward passes", None),
        Column("training", "Time to train", None, "s"),
    )
    uses_maps: ClassVar[bool] = False
    measured: ClassVar[frozenset[str]] = frozenset({"seconds_one", "seconds_batch", "memory"})
    quick: ClassVar[dict[str, Any]] = {"repeats": 1}

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """All scores (b,); ``maps`` is not used."""
        device, counted = batch.x.device, explainer.classifier.passes

        def explain(start: int, stop: int) -> None:
            explainer(batch.x[start:stop], batch.target[start:stop], batch.ids[start:stop])

        def median(start: int, stop: int) -> float:
            return statistics.median(seconds(lambda: explain(start, stop), device) for _ in range(self.repeats))

        count = len(batch)
        explain(0, count)
        memory = peak_memory(lambda: explain(0, count), device)
        together = median(0, count) / count
        alone, passes = [], []
        for i in range(count):  # one at a time is what is measured
            before = counted.copy()
            explain(i, i + 1)
            passes.append(counted - before)
            alone.append(median(i, i + 1))
        values = {
            "seconds_one": alone,
            "seconds_batch": [together] * count,
            "memory": [torch.nan if memory is None else memory] * count,
            "forward": [each.forward for each in passes],
            "backward": [each.backward for each in passes],
            "training": [explainer.training_seconds] * count,
        }
        unknown = dict.fromkeys(range(count), "this system does not tell peak memory") if memory is None else {}
        scores = {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}
        return Scored(scores, reasons={"memory": unknown})

    @property
    def alone(self) -> float:
        """About half: once to warm up and at every repeat."""
        return (1 + self.repeats) / (2 * (1 + self.repeats) + 1)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """The method's passes, alone and in a batch, to warm up and for every repeat, and once for the memory."""
        return method.cost_for(classifier) * (2 * (1 + self.repeats) + 1)
