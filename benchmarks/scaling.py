"""How much faster several workers are than one: a suite on fresh stores, by processes that share a store, and by Ray.

``python benchmarks/scaling.py [--workers 1 2] [--images 200]`` prints, for both engines and every number of workers, seconds
by the clock, those spent in cells (summed over the workers), and those of CPU time where they can be told. Every worker has
one thread. What a run costs beside computing (starting Ray, importing torch in its workers) is part of the clock's seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from xbench.run.cells import Plan
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import collect, run
from xbench.run.suite import MetricRun, Suite
from xbench.store import Store


def suite(images: int) -> Suite:
    """Much of what can be divided: four methods, each on chunks of 50 images."""
    return Suite(
        name="scaling",
        title="Scaling",
        description="RISE with other masks.",
        dataset="mnist",
        classifier="mnist-cnn",
        methods=[f"rise(masks=1000, seed={seed})" for seed in range(4)],
        metrics=[MetricRun(spec="deletion", images=images)],
    )


def progress(plan: Plan) -> Progress:
    """Shows nothing."""
    return Progress(plan, Speed(), Console(quiet=True))


def by_processes(images: int, store: Path, workers: int) -> None:
    """As many processes as workers on one store, copies of this one."""
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            plan = make_plan(suite(images), Store(store))
            with progress(plan) as shown:
                run(plan, shown)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit("a worker failed")


def by_ray(images: int, store: Path, workers: int) -> None:
    """A cluster of one machine with as many processors as workers."""
    from ray.cluster_utils import Cluster

    from xbench.run.ray_engine import run as run_on_ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
    try:
        plan = make_plan(suite(images), Store(store))
        with progress(plan) as shown:
            run_on_ray(plan, shown, address=cluster.address)
    finally:
        cluster.shutdown()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    for name, engine in (("processes on one store", by_processes), ("--engine ray", by_ray)):
        first = 0.0
        for workers in arguments.workers:
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / "store"
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                start = time.perf_counter()
                engine(arguments.images, store, workers)
                seconds = time.perf_counter() - start
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                results = collect(make_plan(suite(arguments.images), Store(store)))
            assert all(result.status == "ok" for result in results)
            first = first or seconds
            cells = sum(result.record["seconds"] for result in results)
            used = f", {cpu:.1f} s of CPU" if engine is by_processes else ""
            print(
                f"{name}, {workers} workers: {seconds:.1f} s ({first / seconds:.2f} times), {cells:.1f} s in cells{used}",
                flush=True,
            )


if __name__ == "__main__":
    main()
