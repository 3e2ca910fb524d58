"""The Ray engine: tasks on the processes of one machine or of a cluster, results in the store's folder, which all share."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xbench.errors import XbenchError
from xbench.result import Result
from xbench.run.cells import Cell, Plan, Task
from xbench.run.plan import make_plan
from xbench.run.progress import ELSEWHERE, Progress
from xbench.run.runner import WAIT, Shard, Worker, collect
from xbench.run.suite import Suite
from xbench.store import Store
from xbench.types import Precision

try:
    import ray
except ImportError as error:
    raise XbenchError('--engine ray needs Ray: pip install "xbench[ray]"') from error

RETRIES = 3
"""How often a task is tried again after the process that computed it has died."""
AHEAD = 4
"""Tasks handed to Ray per processor: enough that none waits for the driver, few enough to be held in memory."""

Outcomes = list[tuple[str, str]]
"""(a cell's key, how its part ended)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to make the same plan; ``marker`` is a file by which it knows the store's folder again."""

    suite: str
    store: Path
    methods: tuple[str, ...]
    limit: int | None
    device: str
    precision: Precision
    timeout: float | None
    marker: str


def run(
    plan: Plan, progress: Progress, shard: Shard = (1, 1), timeout: float | None = None, *, address: str | None
) -> list[Result]:
    """Computes a plan as `xbench.run.runner.run` does, by the processes of a Ray cluster.

    ``address`` is that of a running cluster (``auto``: the one of this machine); None starts one here and ends it afterwards.
    A task takes one processor, on ``cuda`` one GPU as well. When the process that computes it dies, another one goes on with
    what is not stored. Raises XbenchError if a machine of the cluster does not see the store's folder.
    """
    names = ("XBENCH_PATH", "XBENCH_CACHE", "PYTHONPATH")
    environment = {name: os.environ[name] for name in names if os.environ.get(name)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    ray.init(
        address or "local",  # not one that runs on this machine for something else, or did
        include_dashboard=None if address else False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": environment},
    )
    device = plan.classifier.device.type
    folder = plan.store.root.resolve()
    marker = folder / "claims" / f"driver-{secrets.token_hex(8)}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    methods = tuple(dict.fromkeys(cell.method.spec for cell in plan.cells))
    job = Job(
        plan.suite.model_dump_json(), folder, methods, plan.limit, device, plan.classifier.precision, timeout, marker.name
    )
    compute = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_retries=RETRIES)(take)
    try:
        _drive(plan.share(shard), lambda task: compute.remote(job, task.name), functools.partial(_finish, plan, progress))
    finally:
        marker.unlink(missing_ok=True)
        # After Ctrl-C this process ends at once and Ray's watchdog ends the cluster; to shut it down takes seconds.
        if not isinstance(sys.exception(), KeyboardInterrupt):
            ray.shutdown()
    return collect(plan)


def _drive(tasks: list[Task], submit: Callable[[Task], Any], finish: Callable[[Task, Outcomes | None], None]) -> None:
    """Keeps the cluster busy with the tasks in order, and hears of each that ends."""
    slots = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, flying = list(reversed(tasks)), dict[Any, Task]()
    while waiting or flying:
        while waiting and len(flying) < slots:
            task = waiting.pop()
            flying[submit(task)] = task
        (done, *_), _ = ray.wait(list(flying))
        task = flying.pop(done)
        try:
            outcomes: Outcomes | None = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, XbenchError) else error from None
        except ray.exceptions.WorkerCrashedError:
            outcomes = None
        if outcomes == []:  # another run holds it
            time.sleep(WAIT)
            waiting.append(task)
        else:
            finish(task, outcomes)


def _finish(plan: Plan, progress: Progress, task: Task, outcomes: Outcomes | None) -> None:
    """Tells the progress how the parts of a task ended; None: every process that tried it has died."""
    ended = dict(outcomes or ())
    for cell in task.cells:
        if outcomes is None and plan.store.read_part(cell.folder, task.index) is None:
            reason = f"the process that computed it died {RETRIES + 1} times (killed, or out of memory?)"
            plan.store.write_status(cell.folder, {"status": "failed", "reason": reason, "traceback": ""})
            progress.finish(cell, task.index, "failed")
        else:
            progress.finish(cell, task.index, ended.get(cell.key, ELSEWHERE))


def take(job: Job, name: str) -> Outcomes:
    """In a process of the cluster: computes a task and says how each of its parts ended; nothing if another run is at it."""
    worker, tasks, report = _worker(job)
    task = tasks.get(name)
    if task is None:
        return [("", ELSEWHERE)]  # stored by the process that died over it
    report.clear()
    worker.take(task)
    return list(report)


@functools.cache
def _worker(job: Job) -> tuple[Worker, dict[str, Task], Outcomes]:
    """This process's worker on its own plan, the tasks of the plan by name, and where the worker says how parts ended."""
    if not (job.store / "claims" / job.marker).exists():
        raise XbenchError(f"{socket.gethostname()} does not see the store {job.store}: put it where all machines share it")
    suite = Suite.model_validate_json(job.suite)
    plan = make_plan(suite, Store(job.store), methods=job.methods, limit=job.limit, device=job.device, precision=job.precision)
    report: Outcomes = []
    return Worker(plan, _Report(report), job.timeout), {task.name: task for task in plan.tasks}, report


class _Report:
    """Writes down how parts ended, where the driver shows a bar."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    def start(self, cell: Cell) -> None:
        """Nobody looks at this process."""

    def finish(self, cell: Cell, _index: int, outcome: str) -> None:
        """A part of a cell ended."""
        self._outcomes.append((cell.key, outcome))
