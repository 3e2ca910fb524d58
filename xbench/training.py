"""The training loop: one for all networks that xbench trains, those of methods and inpainters."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.method import TrainedMethod
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import Subset
from xbench.types import Images
from xbench.weights import load_weights, save_weights

Progress = Callable[[int, int, list[float]], None]
"""Called after every step with (steps done, steps in all, mean loss of every finished epoch)."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that determines a trained network.

    Args:
        title: what is trained, for messages.
        identity: what the metadata of a file must say for it to be this recipe's.
        make: the untrained network; torch's generator is seeded before.
        loss: (network, images, draws) -> the training loss of a batch, a scalar, averaged over its images.
        train: the training images.
        rng: the source of every draw that does not belong to an image.
        like: a tensor of the device and the precision to train in.
        epochs, lr, batch, weight_decay, betas: see ``train``.
    """

    title: str
    identity: dict[str, Any]
    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Images, ImageRandom], Tensor]
    train: Subset
    rng: ImageRandom
    like: Tensor
    epochs: int
    lr: float
    batch: int
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def network(self) -> nn.Module:
        """The untrained network on its device, initialised by the seed; torch's global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.rng.shared("network").initial_seed())
            network = self.make()
        return network.to(self.like)

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """State, metadata and digest of a file; XbenchError naming the file if it is damaged or of another recipe."""
        try:
            state, about, sha = load_weights(path)
        except XbenchError as error:
            raise XbenchError(f"{error}; delete it") from error
        other = [name for name, value in self.identity.items() if digest(about.get(name)) != digest(value)]
        if other:
            raise XbenchError(
                f"file {path} is not what is asked for: it was trained with another {', '.join(other)}; delete it"
            )
        return state, about, sha


def usable_device(device: str) -> torch.device:
    """The device of that name; XbenchError if there is none or it is not there."""
    try:
        made = torch.zeros(1, device=device)
        made.item()  # a meta device has no values
        return made.device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise XbenchError(f"device {device!r} cannot be used ({why}); valid: cpu, cuda, cuda:0, ...") from error


def method_recipe(method: TrainedMethod, classifier: Classifier, train: Subset, seed: int = 0) -> Recipe:
    """The recipe of a method's network for a classifier.

    Trained is the method resolved for the image shape, without parameters that only change the map. Its own ``seed``, if it
    has one, is added to ``seed``.
    """
    method = method.resolved(classifier.shape).trained_as()
    return Recipe(
        title=f"{method.spec} for {classifier.name!r}",
        identity={
            "method": method.identity,
            "classifier": classifier.weights_digest,
            "train": train.digest(),
            "seed": seed,
        },
        make=lambda: method.network(classifier.shape, classifier.classes),
        loss=lambda network, x, rng: method.loss(network, classifier, x, rng),
        train=train,
        rng=ImageRandom(seed + method.seed, []),
        like=classifier.gray,
        epochs=method.epochs,
        lr=method.lr,
        batch=method.batch,
        weight_decay=method.weight_decay,
        betas=method.betas,
    )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network: ``state`` on the CPU after the best ``epoch`` (from 0), mean loss of every epoch, seconds taken."""

    state: dict[str, Tensor]
    losses: list[float]
    epoch: int
    seconds: float


def train(recipe: Recipe, progress: Progress | None = None, partial: Path | None = None) -> Fitted:
    """Trains the network of a recipe.

    Adam with the recipe's ``betas``, ``weight_decay`` and ``lr``, the last decayed to 0 by a cosine over all steps, ``batch``
    images a step, ``epochs`` epochs, each in a new random order. Kept is the state at the end of the epoch with the lowest
    mean training loss (VarSal's rule). Every draw is keyed by (seed, step, image), so that two trainings on one machine with
    one number of threads give identical weights (on a GPU if the operations of the loss are deterministic there), and so does
    one that was killed and goes on from ``partial``, a file written after every epoch.

    Raises XbenchError if the loss is not finite, or if ``partial`` is damaged or of another recipe.
    """
    network, rng, images = recipe.network().train(), recipe.rng, recipe.train
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    best, losses, seconds = _snapshot(network), list[float](), 0.0
    if partial is not None and partial.exists():
        best, losses, seconds = _resume(recipe, partial, network, optimiser)
    steps = math.ceil(len(images) / recipe.batch)
    for epoch in range(len(losses), recipe.epochs):
        start = time.perf_counter()
        order = torch.randperm(len(images), generator=rng.shared("order", epoch)).tolist()
        total = torch.zeros((), device=recipe.like.device)
        for step in range(epoch * steps, (epoch + 1) * steps):
            first = (step - epoch * steps) * recipe.batch
            ids = [images.ids[i] for i in order[first : first + recipe.batch]]
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * (1 + math.cos(math.pi * step / (recipe.epochs * steps))) / 2
            draws = ImageRandom(rng.shared("step", step).initial_seed(), ids)
            total += _step(recipe, network, optimiser, images.read(ids)[0], draws) * len(ids)
            if progress is not None:
                progress(step + 1, recipe.epochs * steps, list(losses))
        losses.append(float(total) / len(images))
        if not math.isfinite(losses[-1]):
            raise XbenchError(f"training {recipe.title} diverged in epoch {epoch + 1}: try a lower lr")
        if losses[-1] < min(losses[:-1], default=math.inf):
            best = _snapshot(network)
        seconds += time.perf_counter() - start
        if partial is not None:
            _pause(recipe, partial, network, optimiser, best, {"losses": losses, "seconds": seconds})
    return Fitted(best, losses, losses.index(min(losses)), seconds)


def fit(
    method: TrainedMethod,
    classifier: Classifier,
    images: Subset,
    seed: int = 0,
    progress: Progress | None = None,
    partial: Path | None = None,
) -> Fitted:
    """Trains ``method`` for ``classifier`` on ``images``, see ``train``."""
    return train(method_recipe(method, classifier, images, seed), progress, partial)


def step_of(recipe: Recipe) -> Callable[[], object]:
    """A step of a training that leads nowhere: a new network on the recipe's first batch, to measure how long it takes."""
    network, ids = recipe.network().train(), recipe.train.ids[: recipe.batch]
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    x, draws = recipe.train.read(ids)[0], ImageRandom(0, ids)
    return lambda: _step(recipe, network, optimiser, x, draws)


def _step(recipe: Recipe, network: nn.Module, optimiser: torch.optim.Adam, x: Tensor, rng: ImageRandom) -> Tensor:
    """One update; the batch's loss, detached. Gradients are on even where the caller (a metric) has switched them off."""
    x = x.to(recipe.like)
    cudnn = torch.backends.cudnn
    with torch.enable_grad(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=cudnn.allow_tf32, deterministic=True):
        loss = recipe.loss(network, x, rng)
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
