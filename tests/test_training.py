"""The training loop against an independent one, its reproducibility, and the life of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xbench import Dataset, Explainer, ImageRandom, NotApplicable, Subset, TrainedMethod, XbenchError
from xbench.checkpoints import Checkpoints, fit_to_file
from xbench.classifier import Classifier, Passes
from xbench.testing import tiny_classifier, tiny_images
from xbench.training import fit
from xbench.weights import load_weights, save_weights, state_digest

IMAGES = tiny_images(20, (1, 8, 8))
IDS = [f"i{n}" for n in range(20)]


@dataclasses.dataclass(frozen=True)
class Scale(TrainedMethod):
    """Regresses the classifier's logits of noisy images from a linear map; nothing to explain, much to train."""

    name = "scale"
    refit: ClassVar = {"epochs": 1}

    grid: int | None = None
    epochs: int = 3
    lr: float = 0.05
    batch: int = 8
    seed: int = 0
    sign: int = 1

    def resolved(self, shape):
        return self.replace(grid=self.grid or shape[-1])

    def trained_as(self):
        return self.replace(sign=1)

    def network(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(math.prod(shape)), nn.Linear(math.prod(shape), classes))

    def loss(self, network, classifier, x, rng):
        noisy = x + 0.1 * rng.normal("noise", x.shape[1:]).to(x)
        return (network(noisy) - classifier(x)).square().mean()

    def explain(self, network, x, y, rng):
        return self.sign * network(x).sum(1)[:, None, None] * x[:, 0]

    def fit_cost(self, shape):
        return Passes(forward=1)


@dataclasses.dataclass(frozen=True)
class Squares(Dataset):
    """A training part of 20 images."""

    name = "squares"

    def load(self, part="evaluation"):
        assert part == "train"
        return subset()


def subset(count: int = 20) -> Subset:
    def read(ids: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        index = [IDS.index(i) for i in ids]
        return IMAGES[index], torch.zeros(len(ids), dtype=torch.int64), None

    return Subset("squares:train", tuple(IDS[:count]), (1, 8, 8), "tiny-4", "source", read)


def classifier(seed: int = 0) -> Classifier:
    return tiny_classifier((1, 8, 8), seed=seed)


class Calls:
    """A progress callback that keeps what it is told, and interrupts the training after some steps."""

    def __init__(self, stop: int = 0) -> None:
        self.stop = stop
        self.seen: list[tuple[int, int, list[float]]] = []

    def __call__(self, done: int, total: int, losses: list[float]) -> None:
        self.seen.append((done, total, losses))
        if done == self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("lr", "best"), [(0.01, 2), (0.05, 0)])
def test_loop_is_adam_with_a_cosine_over_shuffled_batches_and_keeps_the_best_epoch(lr: float, best: int) -> None:
    model, method = classifier(), Scale(lr=lr)
    calls = Calls()
    fitted = fit(method, model, subset(), seed=5, progress=calls)

    rng = ImageRandom(5, [])
    torch.manual_seed(rng.shared("network").initial_seed())
    network = method.network(model.shape, model.classes)
    adam = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=9)
    states, losses, step = [], [], 0
    for epoch in range(3):
        order = torch.randperm(20, generator=rng.shared("order", epoch))
        sums = []
        for index in (order[:8], order[8:16], order[16:]):
            draws = ImageRandom(rng.shared("step", step).initial_seed(), [IDS[i] for i in index])
            loss = method.loss(network, model, IMAGES[index], draws)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            sums.append(float(loss.detach()) * len(index))
            step += 1
        states.append({k: v.clone() for k, v in network.state_dict().items()})
        losses.append(sum(sums) / 20)
    assert losses.index(min(losses)) == best
    assert fitted.losses == pytest.approx(losses, rel=1e-5)
    assert fitted.epoch == best
    for name, tensor in states[best].items():
        torch.testing.assert_close(fitted.state[name], tensor, rtol=1e-4, atol=1e-5)
    assert [call[:2] for call in calls.seen] == [(i, 9) for i in range(1, 10)]
    assert [len(call[2]) for call in calls.seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_one_seed_gives_identical_weights_and_another_gives_others() -> None:
    torch.manual_seed(1)
    first = fit(Scale(), classifier(), subset())
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    with torch.no_grad():  # as a metric calls it
        again = fit(Scale(), classifier(), subset())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert state_digest(first.state) == state_digest(again.state)
    assert first.losses == again.losses
    other = state_digest(fit(Scale(), classifier(), subset(), seed=1).state)
    assert state_digest(first.state) != other
    assert state_digest(fit(Scale(seed=1), classifier(), subset()).state) == other


def test_classifier_is_left_as_found_and_counts_its_passes() -> None:
    model = classifier()
    before = state_digest(model.state_dict())
    fit(Scale(), model, subset())
    assert model.passes == Scale().fit_cost(model.shape) * 20 * 3
    assert state_digest(model.state_dict()) == before
    assert not model.training
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_killed_training_goes_on_to_the_same_network(tmp_path: Path, steps: int) -> None:
    whole = fit_to_file(Scale(), classifier(), subset(), 0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_to_file(Scale(), classifier(), subset(), 0, tmp_path, Calls(stop=steps))
    assert [path.name for path in tmp_path.glob("*.partial")] == ([f"{whole.name}.partial"] if steps > 3 else [])
    calls = Calls()
    resumed = fit_to_file(Scale(), classifier(), subset(), 0, tmp_path, calls)
    assert calls.seen[0][0] == steps // 3 * 3 + 1, "whole epochs are not repeated"
    assert resumed.name == whole.name
    assert load_weights(resumed)[2] == load_weights(whole)[2]
    assert not list(tmp_path.glob("*.partial"))
    assert load_weights(resumed)[1]["losses"] == load_weights(whole)[1]["losses"]


def test_partial_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    partial = tmp_path / "x.partial"
    with pytest.raises(KeyboardInterrupt):
        fit(Scale(), classifier(), subset(), 0, Calls(stop=4), partial)
    with pytest.raises(XbenchError, match=r"x\.partial .*another method, seed"):
        fit(Scale(lr=0.1), classifier(), subset(), 1, None, partial)


def test_divergence_is_an_error() -> None:
    with pytest.raises(XbenchError, match=r"scale\(.*\) for 'tiny' diverged in epoch 1"):
        fit(Scale(lr=1e30), classifier(), subset())


def test_checkpoint_says_how_it_was_made_and_is_made_once(tmp_path: Path) -> None:
    path = fit_to_file(Scale(lr=0.02), classifier(), subset(), 3, tmp_path)
    state, about, sha = load_weights(path)
    assert sha == state_digest(state)
    assert about["method"] == json.loads(json.dumps(Scale(lr=0.02, grid=8).identity))
    assert about["classifier"] == classifier().weights_digest
    assert about["train"] == subset().digest()
    assert about["seed"] == 3
    assert len(about["losses"]) == 3
    assert about["losses"][about["epoch"]] == min(about["losses"])
    assert about["versions"]["torch"] == torch.__version__
    calls = Calls()
    assert fit_to_file(Scale(lr=0.02, grid=8), classifier(), subset(), 3, tmp_path, calls) == path
    assert calls.seen == [], "what is there is not trained again"


def test_every_part_of_the_recipe_has_its_own_file(tmp_path: Path) -> None:
    model, train = classifier(), subset()
    paths = {
        fit_to_file(Scale(), model, train, 0, tmp_path),
        fit_to_file(Scale(lr=0.1), model, train, 0, tmp_path),
        fit_to_file(Scale(), classifier(1), train, 0, tmp_path),
        fit_to_file(Scale(), model, subset(19), 0, tmp_path),
        fit_to_file(Scale(), model, train, 1, tmp_path),
    }
    assert len(paths) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_find_gives_the_trained_network(tmp_path: Path, dtype: torch.dtype) -> None:
    model = classifier().to(dtype=dtype)
    path = fit_to_file(Scale(), model, subset(), 0, tmp_path)
    checkpoints = Checkpoints(Squares(), tmp_path)
    network, sha = checkpoints.find(Scale(), model)
    assert state_digest(network.state_dict()) == sha == load_weights(path)[2]
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert not network.training
    assert checkpoints.find(Scale(grid=8), model)[0] is network, "read once, and under every spec of the same method"


def test_explainer_uses_the_trained_network_and_is_keyed_by_it(tmp_path: Path) -> None:
    model = classifier()
    fit_to_file(Scale(), model, subset(), 0, tmp_path)
    states = Checkpoints(Squares(), tmp_path)
    explainer = Explainer(Scale(), model, states=states)
    maps = explainer(IMAGES, torch.zeros(20, dtype=torch.int64), IDS)
    network = states.find(Scale(), model)[0]
    torch.testing.assert_close(maps, network(IMAGES).sum(1)[:, None, None] * IMAGES[:, 0])
    assert Explainer(Scale(grid=8), model, states=states).key == explainer.key
    negative = Explainer(Scale(sign=-1), model, states=states)
    torch.testing.assert_close(negative(IMAGES, torch.zeros(20, dtype=torch.int64), IDS), -maps)
    assert negative.key != explainer.key
    assert explainer.refitted(1).key != explainer.key
    assert explainer.refitted(1).on(classifier(1)).key != explainer.refitted(1).key


def test_nothing_found_names_the_command_and_trains_nothing(tmp_path: Path) -> None:
    model = classifier()
    with pytest.raises(NotApplicable, match=r"run xbench fit 'scale\(grid=8, lr=0.1\)' --dataset squares --classifier tiny$"):
        Checkpoints(Squares(), tmp_path).find(Scale(lr=0.1), model)
    assert model.passes == Passes()
    assert not list(tmp_path.iterdir())


def test_dataset_without_its_training_part_does_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Squares, "load", Mock(side_effect=XbenchError("the folder train is missing")))
    with pytest.raises(NotApplicable, match="training part of squares: the folder train is missing"):
        Checkpoints(Squares(), tmp_path).find(Scale(), classifier())


def test_fit_trains_once_for_every_classifier_and_seed(tmp_path: Path) -> None:
    model = classifier()
    random = model.randomised(["fc"], 0)
    checkpoints = Checkpoints(Squares(), tmp_path)
    fits = {checkpoints.fit(Scale(), twin, seed)[1] for twin in (model, random) for seed in (0, 1)}
    assert len(fits) == 4
    passes = model.passes.copy()
    assert passes.forward == 4 * 60
    again = Checkpoints(Squares(), tmp_path)  # a resumed run
    assert {again.fit(Scale(), twin, seed)[1] for twin in (model, random) for seed in (0, 1)} == fits
    assert again.find(Scale(), model)[1] == again.fit(Scale(), model, 0)[1]
    assert model.passes == passes


def test_shipped_checkpoints_come_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Squares(), tmp_path)
    assert any((folder.parent / "vp.py").exists() and folder.name == "checkpoints" for folder in checkpoints.folders[:-1])
    fitted = fit_to_file(Scale(), classifier(), subset(), 0, tmp_path / "first")
    checkpoints.folders.insert(0, fitted.parent)
    state = {name: tensor + 1 for name, tensor in load_file(fitted).items()}
    save_weights(tmp_path / fitted.name, state, load_weights(fitted)[1])
    assert checkpoints.find(Scale(), classifier())[1] == load_weights(fitted)[2]


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    model = classifier()
    path = fit_to_file(Scale(), model, subset(), 0, tmp_path)
    good, (state, about, _) = path.read_bytes(), load_weights(path)

    def refused(message: str) -> None:
        with pytest.raises(XbenchError, match=message) as error:
            Checkpoints(Squares(), tmp_path).find(Scale(), model)
        assert str(path) in str(error.value) and not isinstance(error.value, NotApplicable)  # noqa: PT018

    path.write_bytes(good[:-100])
    refused("damaged")
    path.write_bytes(good[:-4] + b"abcd")
    refused("damaged")
    save_file(state, path)
    refused("not ours")
    path.write_bytes(fit_to_file(Scale(), model, subset(), 1, tmp_path).read_bytes())
    refused("trained with another seed")
    save_weights(path, {"weight": torch.zeros(2)}, about)
    refused("does not fit")
