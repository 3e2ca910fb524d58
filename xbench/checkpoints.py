"""Trained networks on disk: written once a training ends, found and verified when one is asked for."""

from __future__ import annotations

import functools
import importlib
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xbench import __version__
from xbench.classifier import Classifier
from xbench.errors import NotApplicable, XbenchError
from xbench.method import TrainedMethod
from xbench.registry import digest
from xbench.subset import Dataset, Subset
from xbench.training import Fitted, Progress, Recipe, method_recipe, train
from xbench.weights import save_weights


def train_to_file(
    recipe: Recipe, path: Path, about: Callable[[Fitted], Mapping[str, Any]], progress: Progress | None = None
) -> None:
    """Trains a recipe's network and writes it to ``path``, with what ``about`` says of it; a file that is there is verified.

    A killed training goes on after its last whole epoch, kept beside the file in one that ends with ``.partial``.

    Raises XbenchError if a file is there that is damaged or of another recipe.
    """
    if path.exists():
        recipe.read(path)
        return
    partial = path.with_name(f"{path.name}.partial")
    fitted = train(recipe, progress, partial)
    record = {
        "losses": [round(loss, 6) for loss in fitted.losses],
        "epoch": fitted.epoch,
        "seconds": round(fitted.seconds, 1),
        "versions": {"xbench": __version__, "torch": torch.__version__},
    }
    save_weights(path, fitted.state, recipe.identity | record | dict(about(fitted)))
    partial.unlink(missing_ok=True)


def fit_to_file(
    method: TrainedMethod, classifier: Classifier, images: Subset, seed: int, folder: Path, progress: Progress | None = None
) -> Path:
    """Trains ``method`` on ``images`` and writes the checkpoint into ``folder``, as ``train_to_file`` does; its path."""
    recipe = method_recipe(method, classifier, images, seed)
    path = folder / _file(method, recipe)
    about = {"spec": method.spec, "classifier_name": classifier.name, "train_name": images.name}
    train_to_file(recipe, path, lambda _: about, progress)
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
        self._networks: dict[object, tuple[nn.Module, str, float]] = {}

    def find(self, method: TrainedMethod, classifier: Classifier) -> tuple[nn.Module, str]:
        """The trained network in eval mode on the classifier's device, and the digest of its weights; read once, then kept.

        Raises NotApplicable naming the command that trains it if there is none, XbenchError if its file is damaged.
        """
        return self._load(method, classifier, 0, train_now=False)[:2]

    def fit(self, method: TrainedMethod, classifier: Classifier, seed: int) -> tuple[nn.Module, str]:
        """The same for any classifier and seed; trained now and written to the last folder if there is none yet."""
        return self._load(method, classifier, seed, train_now=True)[:2]

    def training_seconds(self, method: TrainedMethod, classifier: Classifier) -> float:
        """How long the training of the network that ``find`` gives took, as its file says."""
        return self._load(method, classifier, 0, train_now=False)[2]

    @functools.cached_property
    def train(self) -> Subset:
        """The images that the networks are trained on; NotApplicable if the dataset has no training part."""
        try:
            return self.dataset.load("train")
        except XbenchError as error:
            raise NotApplicable(f"trained methods need the training part of {self.dataset.spec}: {error}") from error

    def _load(
        self, method: TrainedMethod, classifier: Classifier, seed: int, *, train_now: bool
    ) -> tuple[nn.Module, str, float]:
        method = method.resolved(classifier.shape).trained_as()
        slot = (method, classifier.weights_digest, seed, classifier.device, classifier.gray.dtype)
        if slot not in self._networks:
            recipe = method_recipe(method, classifier, self.train, seed)
            paths = [folder / _file(method, recipe) for folder in self.folders]
            path = next((path for path in paths if path.exists()), None)
            words = ["xbench", "fit", method.spec, "--dataset", self.dataset.spec, "--classifier", classifier.name]
            if path is None and not train_now:
                raise NotApplicable(f"{method.spec} is not trained for this classifier and dataset: run {shlex.join(words)}")
            path = path or fit_to_file(method, classifier, self.train, seed, self.folders[-1])
            try:
                state, about, sha = recipe.read(path)
            except XbenchError as error:
                again = "the next run trains it again" if train_now else f"run {shlex.join(words)}"
                raise XbenchError(f"{error} and {again}") from error
            network = recipe.network()
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise XbenchError(
                    f"checkpoint {path} does not fit {method.spec}: {str(error).splitlines()[-1].strip()}"
                ) from error
            self._networks[slot] = network.eval().requires_grad_(False), sha, float(about["seconds"])
        return self._networks[slot]


def _file(method: TrainedMethod, recipe: Recipe) -> str:
    """The name of a checkpoint: by the method and all that determines its network."""
    return f"{method.name}-{digest(recipe.identity)[:16]}.safetensors"
