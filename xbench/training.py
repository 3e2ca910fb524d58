"""The training of methods that have a network of their own: one loop for all of them, and the checkpoints it leaves."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xbench import __version__
from xbench.classifier import Classifier
from xbench.errors import NotApplicable, XbenchError
from xbench.method import TrainedMethod
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import Dataset, Subset
from xbench.weights import load_weights, save_weights

Progress = Callable[[int, int, list[float]], None]
"""Called after every step with (steps done, steps in all, mean loss of every finished epoch)."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that determines a trained network: the method's hyper-parameters, the classifier, the training images and a seed.

    ``method`` becomes the one that is trained: resolved for the image shape, without parameters that only change the map. Its
    own ``seed``, if it has one, is added to ``seed``.
    """

    method: TrainedMethod
    classifier: Classifier
    train: Subset
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", self.method.resolved(self.classifier.shape).trained_as())

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint's metadata must say for it to be this recipe's."""
        return {
            "method": self.method.identity,
            "classifier": self.classifier.weights_digest,
            "train": self.train.digest(),
            "seed": self.seed,
        }

    @property
    def rng(self) -> ImageRandom:
        """The source of every draw that does not belong to an image."""
        return ImageRandom(self.seed + self.method.seed, [])

    @property
    def file(self) -> str:
        """The name of the checkpoint."""
        return f"{self.method.name}-{digest(self.identity)[:16]}.safetensors"

    def network(self) -> nn.Module:
        """The untrained network on the classifier's device, initialised by the seed; torch's global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.rng.shared("network").initial_seed())
            network = self.method.network(self.classifier.shape, self.classifier.classes)
        return network.to(self.classifier.gray)

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """State, metadata and digest of a checkpoint; XbenchError naming the file if it is damaged or of another recipe."""
        state, about, sha = load_weights(path)
        other = [name for name, value in self.identity.items() if digest(about.get(name)) != digest(value)]
        if other:
            raise XbenchError(
                f"checkpoint {path} is not what its name says: it was trained with another {', '.join(other)}; delete it"
            )
        return state, about, sha


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network: ``state`` on the CPU after the best ``epoch`` (from 0), mean loss of every epoch, seconds taken."""

    state: dict[str, Tensor]
    losses: list[float]
    epoch: int
    seconds: float


def fit(
    method: TrainedMethod,
    classifier: Classifier,
    train: Subset,
    seed: int = 0,
    progress: Progress | None = None,
    partial: Path | None = None,
) -> Fitted:
    """Trains ``method`` for ``classifier`` on the images of ``train``.

    Adam with the method's ``lr``, decayed to 0 by a cosine over all steps, ``batch`` images a step, ``epochs`` epochs, each in
    a new random order. Kept is the state at the end of the epoch with the lowest mean training loss (VarSal's rule). Every
    draw is keyed by (seed, step, image), so that two fits on one machine with one number of threads give identical weights (on
    a GPU if the classifier's own operations are deterministic there), and so does one that was killed and goes on from
    ``partial``, a file written after every epoch.

    Raises XbenchError if the loss is not finite, or if ``partial`` is damaged or of another recipe.
    """
    recipe = Recipe(method, classifier, train, seed)
    method = recipe.method
    network = recipe.network().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=method.lr)
    rng = recipe.rng
    best, losses, seconds = _snapshot(network), list[float](), 0.0
    if partial is not None and partial.exists():
        best, losses, seconds = _resume(recipe, partial, network, optimiser)
    steps = math.ceil(len(train) / method.batch)
    for epoch in range(len(losses), method.epochs):
        start = time.perf_counter()
        order = torch.randperm(len(train), generator=rng.shared("order", epoch)).tolist()
        total = torch.zeros((), device=classifier.device)
        for step in range(epoch * steps, (epoch + 1) * steps):
            first = (step - epoch * steps) * method.batch
            ids = [train.ids[i] for i in order[first : first + method.batch]]
            for group in optimiser.param_groups:
                group["lr"] = method.lr * (1 + math.cos(math.pi * step / (method.epochs * steps))) / 2
            draws = ImageRandom(rng.shared("step", step).initial_seed(), ids)
            total += _step(method, network, optimiser, classifier, train.read(ids)[0], draws) * len(ids)
            if progress is not None:
                progress(step + 1, method.epochs * steps, list(losses))
        losses.append(float(total) / len(train))
        if not math.isfinite(losses[-1]):
            raise XbenchError(f"training {method.spec} for {classifier.name!r} diverged in epoch {epoch + 1}: try a lower lr")
        if losses[-1] < min(losses[:-1], default=math.inf):
            best = _snapshot(network)
        seconds += time.perf_counter() - start
        if partial is not None:
            _pause(recipe, partial, network, optimiser, best, {"losses": losses, "seconds": seconds})
    return Fitted(best, losses, losses.index(min(losses)), seconds)


def fit_to_file(
    method: TrainedMethod, classifier: Classifier, train: Subset, seed: int, folder: Path, progress: Progress | None = None
) -> Path:
    """Trains as ``fit`` does and writes the checkpoint into ``folder``; a checkpoint that is there is verified and returned.

    A killed training goes on after its last whole epoch, kept beside the checkpoint in a file that ends with ``.partial``.
    """
    recipe = Recipe(method, classifier, train, seed)
    path = folder / recipe.file
    if path.exists():
        recipe.read(path)
        return path
    partial = path.with_name(f"{path.name}.partial")
    fitted = fit(method, classifier, train, seed, progress, partial)
    about = {
        "spec": method.spec,
        "classifier_name": classifier.name,
        "train_name": train.name,
        "losses": [round(loss, 6) for loss in fitted.losses],
        "epoch": fitted.epoch,
        "seconds": round(fitted.seconds, 1),
        "versions": {"xbench": __version__, "torch": torch.__version__},
    }
    save_weights(path, fitted.state, recipe.identity | about)
    partial.unlink(missing_ok=True)
    return path


class Checkpoints:
    """The trained networks of one dataset: those that ship with xbench or lie on ``XBENCH_PATH``, and those in ``folders``.

    Args:
        dataset: on whose ``train`` part the methods are trained.
        folders: of the user's own checkpoints; ``fit`` writes to the last.
    """

    def __init__(self, dataset: Dataset, *folders: Path) -> None:
        self.dataset = dataset
        methods = importlib.import_module("xbench.methods")
        self.folders = [*(Path(path) / "checkpoints" for path in methods.__path__), *folders]
        self._networks: dict[object, tuple[nn.Module, str]] = {}

    def find(self, method: TrainedMethod, classifier: Classifier) -> tuple[nn.Module, str]:
        """The trained network in eval mode on the classifier's device, and the digest of its weights; read once, then kept.

        Raises NotApplicable naming the command that trains it if there is none, XbenchError if its file is damaged.
        """
        return self._load(method, classifier, 0, self._missing)

    def fit(self, method: TrainedMethod, classifier: Classifier, seed: int) -> tuple[nn.Module, str]:
        """The same for any classifier and seed; trained now and written to ``folder`` if there is none yet."""
        return self._load(method, classifier, seed, self._train)

    def _load(
        self, method: TrainedMethod, classifier: Classifier, seed: int, otherwise: Callable[[Recipe], Path]
    ) -> tuple[nn.Module, str]:
        recipe = Recipe(method, classifier, self.train, seed)
        slot = (recipe.method, classifier.weights_digest, seed, classifier.device, classifier.gray.dtype)
        if slot not in self._networks:
            paths = [folder / recipe.file for folder in self.folders]
            path = next((path for path in paths if path.exists()), None) or otherwise(recipe)
            state, _, sha = recipe.read(path)
            network = recipe.network()
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise XbenchError(
                    f"checkpoint {path} does not fit {method.spec}: {str(error).splitlines()[-1].strip()}"
                ) from error
            self._networks[slot] = network.eval().requires_grad_(False), sha
        return self._networks[slot]

    @functools.cached_property
    def train(self) -> Subset:
        """The images that the networks are trained on; NotApplicable if the dataset has no training part."""
        try:
            return self.dataset.load("train")
        except XbenchError as error:
            raise NotApplicable(f"trained methods need the training part of {self.dataset.spec}: {error}") from error

    def _train(self, recipe: Recipe) -> Path:
        return fit_to_file(recipe.method, recipe.classifier, recipe.train, recipe.seed, self.folders[-1])

    def _missing(self, recipe: Recipe) -> Path:
        command = f"xbench fit '{recipe.method.spec}' --dataset {self.dataset.spec} --classifier {recipe.classifier.name}"
        raise NotApplicable(f"{recipe.method.spec} is not trained for this classifier and dataset: run {command}")


def _step(
    method: TrainedMethod, network: nn.Module, optimiser: torch.optim.Adam, classifier: Classifier, x: Tensor, rng: ImageRandom
) -> Tensor:
    """One update; the batch's loss, detached. Gradients are on even where the caller (a metric) has switched them off."""
    x = x.to(classifier.gray)
    cudnn = torch.backends.cudnn
    with torch.enable_grad(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=cudnn.allow_tf32, deterministic=True):
        loss = method.loss(network, classifier, x, rng)
        optimiser.zero_grad()
        loss.backward()
    optimiser.step()
    return loss.detach()


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _pause(
    recipe: Recipe,
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Adam,
    best: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Writes all that a training needs to go on after an epoch; its draws are keyed by step and need no state."""
    moments = {
        f"{index}.{name}": tensor for index, state in optimiser.state_dict()["state"].items() for name, tensor in state.items()
    }
    parts = {"network": network.state_dict(), "best": best, "adam": moments}
    state = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    save_weights(path, state, recipe.identity | dict(record))


def _resume(
    recipe: Recipe, path: Path, network: nn.Module, optimiser: torch.optim.Adam
) -> tuple[dict[str, Tensor], list[float], float]:
    """Puts the state of ``_pause`` back; the best state, the losses and the seconds so far."""
    state, about, _ = recipe.read(path)
    network.load_state_dict(_part(state, "network"))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(state, "adam").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    return _part(state, "best"), about["losses"], about["seconds"]


def _part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")}
