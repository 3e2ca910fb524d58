"""Nothing is lost: kills, damaged files, full and read-only disks, methods that misbehave, several runs at once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from faults import complete, content, in_child, kill_and_resume, parts, quiet, suite_file
from scratch import register, scratch_registries

from xbench import CLASSIFIERS, DATASETS, METHODS, Method, TrainedMethod, XbenchError
from xbench.checkpoints import fit_to_file
from xbench.classifier import Passes
from xbench.guard import Guard, TooLong, deadline
from xbench.run.claims import claim
from xbench.run.merge import merge
from xbench.run.plan import make_plan
from xbench.run.runner import run
from xbench.run.suite import load_suite
from xbench.store import Store, StoreError

IMAGES = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A suite and the store of an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("whole")
    suite = suite_file(folder, IMAGES)
    complete(suite, folder / "store")
    return suite, folder / "store"


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to))


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(whole, tmp_path):
    suite, store = whole
    (tmp_path / "store").mkdir()
    assert kill_and_resume(suite, tmp_path / "store", kills=5, longest=0.5) > 0
    assert content(tmp_path / "store") == content(store)


def test_two_runs_on_one_store_share_the_work(whole, tmp_path):
    suite, store = whole
    shared = tmp_path / "store"
    for child in [in_child(lambda: complete(suite, shared)) for _ in range(2)]:
        assert os.waitpid(child, 0)[1] == 0
    assert content(shared) == content(store)
    assert not list((shared / "claims").glob("*.claim"))


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 1
    path.write_bytes({"truncated": bytes(data[:middle]), "flipped": bytes(data), "empty": b""}[damage])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize("kind", ["part-*.json", "*.safetensors"])
def test_a_damaged_file_is_reported_and_computed_again(whole, tmp_path, kind, damage):
    suite, store = whole
    damaged = copied(store, tmp_path / "store")
    path = sorted(damaged.rglob(kind))[0]
    spoil(path, damage)
    if kind == "*.safetensors":  # maps are read when a score is missing
        for part in (damaged / "results").rglob("part-*.json"):
            part.unlink()
    lines: list[str] = []
    complete(suite, damaged, lines.append)
    assert any(path.name in line and "damaged" in line for line in lines), lines
    assert content(damaged) == content(store)


def test_maps_are_not_taken_for_those_of_other_images(tmp_path):
    store, lines = Store(tmp_path), list[str]()
    store.report = lines.append
    first = store.maps("key", "classifier/method", ["a@1", "b@1"], [0, 0], lambda missing: torch.zeros(len(missing), 2, 2))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes().replace(b"b@1", b"c@1"))  # the header, which the checksum of the maps does not cover
    store = Store(tmp_path, lines.append)
    other = store.maps("key", "classifier/method", ["c@1"], [0], lambda missing: torch.ones(len(missing), 2, 2))
    assert "damaged" in lines[0]
    assert other.eq(1).all()
    assert first.eq(0).all()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_network_fails_alone_and_is_fitted_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "cache"))
    classifier, train = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load("train")
    with scratch_registries():
        name = register(
            METHODS,
            TrainedMethod,
            __doc__="Trained (own decision).",
            network=lambda self, shape, classes: torch.nn.Conv2d(1, 1, 3, padding=1),
            loss=lambda self, network, classifier, x, rng: (network(x) - x).square().mean(),
            explain=lambda self, network, x, y, rng: network(x)[:, 0],
            fit_cost=lambda self, shape: Passes(),
        )

        def fitted() -> Path:
            return fit_to_file(METHODS.make(name), classifier, train, 0, tmp_path / "cache" / "checkpoints")

        path = fitted()
        _, whole = run_methods(tmp_path, [name, "gradient"])
        assert whole[name, "deletion"].status == "ok"
        spoil(path, damage)
        _, results = run_methods(tmp_path, [name, "gradient"])
        failed = results[name, "deletion"]
        assert failed.status == "failed"
        assert str(path) in failed.reason
        assert "damaged" in failed.reason
        assert failed.reason.endswith(f"; delete it and run xbench fit {name} --dataset mnist --classifier mnist-cnn")
        assert results["gradient", "deletion"] == whole["gradient", "deletion"]
        with pytest.raises(XbenchError, match=r"damaged.*; delete it"):
            fitted()
        path.unlink()
        fitted()
        _, again = run_methods(tmp_path, [name, "gradient"])
        assert again == whole, "what was stored of the network is read"


def test_a_store_that_cannot_be_written_stops_the_run_and_keeps_what_it_has(whole, tmp_path, monkeypatch):
    suite, _ = whole
    store = tmp_path / "store"
    written = Path.replace
    left = [3]

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(target))
        return written(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StoreError, match="No space left on device; what was stored before is kept"):
        complete(suite, store)
    monkeypatch.undo()
    kept = [path for path in store.rglob("[!.]*") if path.suffix in (".json", ".safetensors") and path.is_file()]
    assert len(kept) == 3
    assert not list(store.rglob(".*.json-*")), "no half-written file is left"
    complete(suite, store)
    assert content(store) == content(whole[1])


def run_methods(tmp_path: Path, methods: list[str], timeout: float | None = None):
    suite = suite_file(tmp_path, 10)
    plan = make_plan(load_suite(str(suite)), Store(tmp_path / "store"), methods=methods)
    with quiet(plan) as progress:
        results = run(plan, progress, timeout=timeout)
    return plan, {(r.method, r.metric.partition("(")[0]): r for r in results}


def harmful(call) -> str:
    return register(METHODS, Method, __doc__="Harmful (own decision).", __call__=call, cost=lambda self, shape: Passes())


def changes_weights(self, classifier, x, y, rng):
    classifier.module.fc2.bias.add_(1)
    classifier.module.train()
    return x.sum(1)


def hangs(self, classifier, x, y, rng):
    while True:
        time.sleep(0.01)


def wrong_device(self, classifier, x, y, rng):
    return torch.zeros(x.shape[0], *x.shape[2:], device="meta")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (changes_weights, "does not leave the classifier as found: training mode of module"),
        (hangs, "TooLong: took longer than 5 s"),
        (wrong_device, "returned maps on meta, expected cpu"),
    ],
)
def test_a_method_that_does_harm_fails_alone(tmp_path, call, reason):
    with scratch_registries():
        name = harmful(call)
        _, results = run_methods(tmp_path, [name, "gradient"], timeout=5 if call is hangs else None)
        assert results[name, "deletion"].status == "failed"
        assert reason in results[name, "deletion"].reason
        alone = tmp_path / "alone"
        alone.mkdir()
        _, expected = run_methods(alone, ["gradient"])
        assert results["gradient", "deletion"].scores == expected["gradient", "deletion"].scores


def test_a_full_disk_is_no_fault_of_the_method(tmp_path):
    def fills_the_disk(self, classifier, x, y, rng):
        raise OSError(28, "No space left on device", "/cache/network.safetensors")

    with (
        scratch_registries(),
        pytest.raises(StoreError, match=r"^/cache/network\.safetensors cannot be written: No space left"),
    ):
        run_methods(tmp_path, [harmful(fills_the_disk), "gradient"])


def test_the_guard_puts_back_what_was_changed():
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    guard, x = Guard(classifier), torch.zeros(1, 1, 28, 28)
    guard.check()
    clean = classifier(x)
    classifier.module.fc2.weight.data.zero_()
    classifier.module.fc1.register_forward_hook(lambda *_: None)
    counted = classifier.passes.forward
    with pytest.raises(XbenchError, match=r"as found: hooks of module\.fc1, value of parameter module\.fc2\.weight"):
        guard.check()
    assert classifier(x).equal(clean)
    assert classifier.passes.forward == counted + 1
    guard.check()


def test_a_deadline_ends_with_its_block():
    with deadline(0.05):
        pass
    time.sleep(0.06)
    with pytest.raises(TooLong, match=r"took longer than 0\.02 s"), deadline(0.02):
        time.sleep(1)


def test_a_claim_is_held_by_one_and_taken_over_from_the_dead(tmp_path):
    def held() -> bool:
        with claim(tmp_path, "a") as mine:
            return mine

    with claim(tmp_path, "a") as mine, claim(tmp_path, "b") as other:
        assert mine
        assert other
        assert not held()
    assert held()

    def dies() -> None:
        with claim(tmp_path, "a"):
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(dies), 0)
    assert (tmp_path / "a.claim").exists()
    assert held(), "its process is dead"
    (tmp_path / "a.claim").write_text('{"host": "elsewhere", "pid": 1}')
    assert not held(), "a sign of life of another machine"
    os.utime(tmp_path / "a.claim", (0, 0))
    assert held(), "no sign of life for long"


@pytest.mark.parametrize("count", [2, 3])
def test_shards_are_merged_into_the_store_of_one_run(whole, tmp_path, count):
    suite, store = whole
    stores = [tmp_path / f"shard-{i}" for i in range(1, count + 1)]
    done = []
    for i, shard in enumerate(stores, 1):
        plan = make_plan(load_suite(str(suite)), Store(shard))
        done += [task.name for task in plan.share((i, count))]
        with quiet(plan) as progress:
            run(plan, progress, (i, count))
    assert len(set(done)) == len(done), "no task is in two shards"
    target = Store(tmp_path / "merged", print)
    copied_files, _ = merge(target, stores, print)
    assert copied_files > 0
    complete(suite, target.root)
    assert content(target.root) == content(store)
    assert merge(target, stores, print)[0] == 0


def test_stores_that_disagree_are_not_merged(whole, tmp_path):
    _, store = whole
    other = copied(store, tmp_path / "other")
    path = next(iter(sorted((other / "results").rglob("part-*.json"))))
    opened = Store(other)
    part = opened.read_part(path.parent, 0)
    name = next(iter(part["scores"]))
    part["scores"][name][0] += 1
    opened.write_part(path.parent, 0, part)
    target = copied(store, tmp_path / "target")
    before = parts(target)
    with pytest.raises(XbenchError, match="have the same key and different scores: nothing was copied"):
        merge(Store(target), [other], print)
    assert parts(target) == before
    with pytest.raises(XbenchError, match="is no store: it has none of the folders results, maps, answers, checkpoints"):
        merge(Store(target), [tmp_path / "absent"], print)
    path.write_text("{")
    lines: list[str] = []
    merge(Store(tmp_path / "fresh"), [other], lines.append)
    assert lines == [f"{path} is damaged and left out"]
