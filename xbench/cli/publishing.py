"""`xbench publish` and `xbench verify`: results for others, and whether they come out again."""

from __future__ import annotations

import functools
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xbench.cli.common import (
    STORE,
    ClassifierOption,
    DatasetOption,
    DeviceOption,
    StoreOption,
    SuiteOption,
    plan_of,
    stoppable,
)
from xbench.cli.telling import say, warn
from xbench.errors import XbenchError
from xbench.run.command import command_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xbench.run.cells import Cell, Plan
    from xbench.run.suite import Suite

PUBLISHED = Path("leaderboards")
VERSIONS = ("xbench", "torch", "revision")
"""What has to be the same for all results that are published together."""


def publish(
    suite: SuiteOption,
    store: StoreOption = STORE,
    to: Annotated[Path, typer.Option("--to", help="Folder of published boards.")] = PUBLISHED,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    allow_incomplete: Annotated[bool, typer.Option("--allow-incomplete", help="Although cells failed or are missing.")] = False,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Although versions of xbench or torch differ.")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Although code was not committed.")] = False,
) -> None:
    """Copies a suite's results into a folder of published boards, with the board and the suite that makes it again.

    Of the maps it copies those of the page's gallery, reduced to small pictures.

    Refuses results with failed or missing cells, of several versions, or computed by a checkout with uncommitted changes.
    """
    from xbench.cli.boards import show_and_write
    from xbench.cli.gallery import publish_gallery
    from xbench.run.runner import collect
    from xbench.store import Store

    if to.resolve() == store.resolve():
        raise XbenchError(f"--to {to} is the store itself: name another folder to publish into")
    made = plan_of(suite, store, None, None, dataset, classifier, create=False)
    results = collect(made)
    holes = [f"{r.metric} x {r.method} ({r.status})" for r in results if r.status in ("failed", "missing")]
    if holes and not allow_incomplete:
        raise XbenchError(f"suite {suite!r} is not complete in {store}: {_listed(holes)}; run it first, or --allow-incomplete")
    if all(result.status != "ok" for result in results):
        raise XbenchError(f"suite {suite!r} has no result in {store}: nothing to publish")
    machines = _machines(made)
    versions = [
        ", ".join(f"{name} {value}" for name, value in zip(VERSIONS, found, strict=True) if value) for found in machines
    ]
    if len(versions) > 1 and not allow_mixed:
        raise XbenchError(f"suite {suite!r} mixes versions in {store}: {'; '.join(versions)}; run it anew, or --allow-mixed")
    dirty = [text for text, (*_, revision) in zip(versions, machines, strict=True) if revision.endswith("-dirty")]
    if dirty and not allow_dirty:
        raise XbenchError(f"suite {suite!r} was computed by code not committed ({dirty[0]}): run it anew, or --allow-dirty")
    target = Store(to, warn)
    for cell, result in zip(made.cells, results, strict=True):
        folder = to / cell.folder.relative_to(store)
        if result.status == "ok":
            if cell.metric.measured:  # times of another machine would be read in place of these
                for other in target.cells(made.subset.name, made.classifier.name, cell.method.spec, cell.metric.spec):
                    if other.name != folder.name:
                        shutil.rmtree(other)
            folder.mkdir(parents=True, exist_ok=True)
            for part in sorted(cell.folder.glob("part-*.json")):
                shutil.copyfile(part, folder / part.name)
        elif result.status == "failed":
            target.write_status(folder, {"status": "failed", "reason": result.reason})
    publish_gallery(made, to)
    name = made.suite.name
    methods = list(dict.fromkeys(cell.method.spec for cell in made.cells))
    (to / f"{name}.toml").write_text(frozen_suite(made.suite, methods))
    show_and_write(made, results, to, command_of(f"{to}/{name}.toml"))


def verify(
    suite: SuiteOption,
    store: Annotated[Path, typer.Option("--store", help="Folder of the results to verify.")] = PUBLISHED,
    cells: Annotated[int, typer.Option("--cells", min=1, help="How many cells are computed again, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw: another seed verifies other cells.")] = 0,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, help="Largest allowed difference of a score, relative to the column's largest."),
    ] = 1e-3,
    device: DeviceOption = "cpu",
) -> None:
    """Computes a random sample of published cells again, up to 50 images of each, and compares; exit status 1 if any differs.

    Nothing is written. Iterative methods amplify rounding: another machine may need a larger --tolerance for them.
    """
    published = plan_of(suite, store, None, None, None, None, device, create=False)
    stored = [cell for cell in published.cells if cell.done and not cell.not_applicable]
    if not stored:
        raise XbenchError(f"{store} has no result of suite {suite!r} to verify")
    draw = random.Random(seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, stoppable():
        again = plan_of(suite, Path(folder), None, None, None, None, device)
        for cell in draw.sample(stored, min(cells, len(stored))):
            part = draw.randrange(len(cell.parts))
            largest = _recomputed(published, again, cell, part)
            good = largest <= tolerance
            wrong += not good
            what = f"{cell.metric.spec} x {cell.method.spec}, images {part * 50 + 1} to {part * 50 + len(cell.parts[part])}"
            line = f"{'same' if good else 'DIFFERS'}: {what}: largest difference {largest:.1e} of {tolerance:g}"
            say(line)
    if wrong:
        raise typer.Exit(1)


def _recomputed(published: Plan, again: Plan, cell: Cell, part: int) -> float:
    """The largest difference of a score of a part when it is computed again; infinity where one is NaN and the other is not."""
    import numpy as np

    from xbench.run.runner import make_batch, run_part

    twin = next(one for one in again.cells if (one.method, one.metric) == (cell.method, cell.metric))
    content = published.store.read_part(cell.folder, part)
    fresh = run_part(again, twin, part, functools.partial(make_batch, again))
    assert content is not None
    largest = 0.0
    # What was measured, such as seconds, no run gives again.
    for column in (one for one in cell.metric.columns if one.name not in cell.metric.measured):
        old, new = (np.array(of["scores"][column.name], dtype=float) for of in (content, fresh))
        if not np.array_equal(np.isfinite(old), np.isfinite(new)):
            return float("inf")
        finite = np.isfinite(old)
        if finite.any():
            scale = max(float(np.abs(old[finite]).max()), 1e-12)
            largest = max(largest, float(np.abs(new - old)[finite].max()) / scale)
    return largest


def _machines(plan: Plan) -> list[tuple[str, ...]]:
    """The different versions that computed the stored parts of a plan's cells."""
    found: dict[tuple[str, ...], None] = {}
    for cell in plan.cells:
        for index in range(0 if cell.not_applicable else len(cell.parts)):
            part = plan.store.read_part(cell.folder, index)
            if part is not None:
                about = part["record"].get("machine", {})
                found[tuple(str(about.get(name, "")) for name in VERSIONS)] = None
    return list(found)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (" ..." if len(items) > 5 else "")


def frozen_suite(suite: Suite, methods: Sequence[str]) -> str:
    """A suite as TOML with its methods spelled out, so that entries added later do not change a published board."""
    lines = [f"{key} = {json.dumps(getattr(suite, key))}" for key in ("title", "description", "dataset", "classifier", "seed")]
    lines.append("methods = [\n" + "".join(f"    {json.dumps(method)},\n" for method in methods) + "]")
    for run in suite.metrics:
        lines.append(f"\n[[metrics]]\nspec = {json.dumps(run.spec)}")
        if run.images is not None:
            lines.append(f"images = {run.images}")
        if run.draws is not None:
            lines.append(f"draws = {{ count = {run.draws.count}, size = {run.draws.size} }}")
    return "\n".join(lines) + "\n"
