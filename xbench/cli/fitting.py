"""`xbench fit`, `fit-inpainter`, `fit-classifier` and `subset`: what the shipped networks and image lists were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xbench.cli.common import DeviceOption, console, stoppable
from xbench.errors import XbenchError
from xbench.files import check_writable


def fit(
    method: Annotated[str, typer.Argument(help="A trained method, by spec, e.g. 'vp(upsample=4)'.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset whose training part is used.")] = "mnist",
    classifier: Annotated[str, typer.Option("--classifier", "-c", help="Classifier to explain.")] = "mnist-cnn",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the network; by default the user's cache.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Trains a trained method's network, so that runs find it. A stopped fit goes on after its last epoch.

    The seed is a parameter of the method: xbench fit 'vp(seed=1)'.
    """
    from xbench.checkpoints import fit_to_file
    from xbench.method import METHODS, TrainedMethod
    from xbench.run.plan import check_match, load_classifier
    from xbench.store import user_cache
    from xbench.subset import DATASETS

    entry = METHODS.make(method)
    if not isinstance(entry, TrainedMethod):
        trained = ", ".join(cls.name for cls in METHODS if issubclass(cls, TrainedMethod))
        raise XbenchError(f"method {entry.spec!r} has no network to fit; trained methods: {trained}")
    model = load_classifier(classifier, device)
    train = DATASETS.make(dataset).load("train")
    check_match(train, model)
    folder = out or user_cache() / "checkpoints"
    check_writable(folder)
    with stoppable(), _FitProgress(console) as progress:
        path = fit_to_file(entry, model, train, 0, folder, progress.step)
    _say(f"written: {path}")


def fit_inpainter(
    out: Annotated[Path, typer.Option("--out", help="File to write (.safetensors).")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset whose training part is used.")] = "mnist",
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 30,
    width: Annotated[int, typer.Option("--width", min=1, help="Channels of the first layer.")] = 12,
    seed: Annotated[int, typer.Option("--seed", help="Seed of initialisation and draws.")] = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Trains the network of the fill "inpaint" on a dataset. A stopped training goes on after its last epoch.

    Prints how well it restores the missing pixels of the dataset's test part, and the fill that uses it.
    """
    from xbench import inpainter
    from xbench.inpainting import checksum
    from xbench.subset import DATASETS
    from xbench.training import usable_device

    check_writable(out.parent)
    entry = DATASETS.make(dataset)
    recipe = inpainter.inpainter_recipe(entry.load("train"), width, epochs, seed, usable_device(device))
    with stoppable(), _FitProgress(console) as progress:
        psnr = inpainter.fit_inpainter(recipe, entry.load("test"), out, progress.step)
    _say(f"PSNR in the holes of {entry.spec}:test {psnr['inpaint']:.2f} dB (the observed pixels' mean: {psnr['mean']:.2f} dB)")
    _say(f'written: {out}; use it as fill="inpaint:{out}:{checksum(out)[:12]}"')


def fit_classifier(
    classifier: Annotated[str, typer.Argument(help="A classifier with a training recipe, by spec, e.g. mnist-cnn.")],
    out: Annotated[Path, typer.Option("--out", help="Weights file to write (.safetensors).")],
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Seed of initialisation and draws.")] = 0,
) -> None:
    """Trains a classifier by its shipped recipe and prints its accuracy on the dataset's test part."""
    from xbench.classifier import CLASSIFIERS, TrainableClassifier
    from xbench.subset import DATASETS

    entry = CLASSIFIERS.make(classifier)
    if not isinstance(entry, TrainableClassifier):
        recipes = ", ".join(cls.name for cls in CLASSIFIERS if issubclass(cls, TrainableClassifier))
        raise XbenchError(f"classifier {entry.spec!r} has no training recipe; with one: {recipes}")
    check_writable(out.parent)
    dataset = DATASETS.make(entry.dataset)
    accuracy = entry.fit(dataset.load("train"), dataset.load("test"), out, seed=seed, epochs=epochs, report=_say)
    _say(f"accuracy on {dataset.spec}:test {accuracy:.4f}; written: {out}")


def subset(
    dataset: Annotated[str, typer.Argument(help="Dataset, by spec.")],
    classifier: Annotated[str | None, typer.Option("--classifier", "-c", help="By default the dataset's own.")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Size of the evaluation part.")] = 200,
    heldout: Annotated[int, typer.Option("--heldout", min=0, help="Size of the held-out part.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice and the order.")] = 0,
) -> None:
    """Chooses evaluation and held-out images by the VP paper's rule and prints their ids as JSON.

    The rule: of the dataset's test part those predicted correctly with p > 0.5, in a seeded order; the parts are disjoint.
    """
    import torch

    from xbench.classifier import CLASSIFIERS
    from xbench.run.plan import check_match
    from xbench.subset import DATASETS, confident_ids

    entry = DATASETS.make(dataset)
    if not (classifier or entry.classifier):
        raise XbenchError(f"dataset {dataset!r} has no classifier of its own: name one with --classifier")
    model = CLASSIFIERS.make(classifier or entry.classifier).load()
    test = entry.load("test")
    check_match(test, model)
    ids = confident_ids(test, model)
    if len(ids) < images + heldout:
        asked = images + heldout
        raise XbenchError(f"only {len(ids)} images of {dataset!r} are predicted correctly with p > 0.5; {asked} were asked for")
    generator = torch.Generator().manual_seed(seed)
    order = [ids[i] for i in torch.randperm(len(ids), generator=generator).tolist()]
    typer.echo(json.dumps({"evaluation": order[:images], "heldout": order[images : images + heldout]}))


class _FitProgress:
    """A bar with a remaining time on a terminal, a line per epoch elsewhere."""

    def __init__(self, where: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=where,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=None)
        self._terminal = where.is_terminal
        self._epochs = 0

    def __enter__(self) -> _FitProgress:
        if self._terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, total: int, losses: list[float]) -> None:
        """Called by the training loop after every step."""
        self._bar.update(self._task, completed=done, total=total)
        if len(losses) > self._epochs:
            self._epochs = len(losses)
            text = f"epoch {self._epochs}: loss {losses[-1]:.4f}"
            self._bar.update(self._task, description=text)
            if not self._terminal:
                _say(f"{text}, {100 * done / total:.0f} % done")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
