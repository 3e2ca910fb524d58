"""The suite that somebody asks for: one by name or file, with everything that is to be different."""

from __future__ import annotations

from collections.abc import Sequence

from xbench.run.settings import changed
from xbench.run.suite import Suite, load_suite
from xbench.subset import DATASETS


def chosen(
    suite: str,
    *,
    dataset: str | None = None,
    classifier: str | None = None,
    images: int | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
) -> Suite:
    """A suite with what is given instead of its own; its name says what is different.

    Raises XbenchError for an unknown suite, dataset or setting, and for more ``images`` than the dataset has.
    """
    made = changed(load_suite(suite), settings, images).on(dataset, classifier)
    if images is not None:
        DATASETS.make(made.dataset).load("evaluation").first(images)  # raises if there are fewer
    if seed is not None and seed != made.seed:
        made = made.model_copy(update={"seed": seed, "name": f"{made.name}-seed-{seed}"})
    return made
