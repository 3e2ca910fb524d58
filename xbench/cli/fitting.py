"""`xbench fit`, `fit-inpainter`, `fit-classifier` and `subset`: what the shipped networks and image lists were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xbench.cli.common import DeviceOption, stoppable
from xbench.cli.telling import console, note, say
from xbench.errors import XbenchError
from xbench.files import atomic, check_writable


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
    say(f"written: {path}")


def fit_inpainter(
    out: Annotated[Path, typer.Option("--out", help="File to write (.safetensors).")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset whose training part is used.")] = "mnist",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times that every training image is seen.")] = 30,
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
    say(f"PSNR in the holes of {entry.spec}:test {psnr['inpaint']:.2f} dB (the observed pixels' mean: {psnr['mean']:.2f} dB)")
    say(f'written: {out}; use it as fill="inpaint:{out}:{checksum(out)[:12]}"')


def fit_classifier(
    classifier: Annotated[str, typer.Argument(help="A classifier with a training recipe, by spec, e.g. mnist-cnn.")],
    out: Annotated[Path, typer.Option("--out", help="Weights file to write (.safetensors).")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset to train on; by default the recipe's own.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times that every training image is seen.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Seed of initialisation and draws.")] = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Trains a classifier by its shipped recipe and prints its accuracy on the dataset's test part.

    Image size, channels, number of classes and what they mean are taken from the dataset where the classifier leaves them open.
    """
    from xbench.classifier import CLASSIFIERS, TrainableClassifier
    from xbench.subset import DATASETS
    from xbench.training import usable_device

    entry = CLASSIFIERS.make(classifier)
    if not isinstance(entry, TrainableClassifier):
        recipes = ", ".join(cls.name for cls in CLASSIFIERS if issubclass(cls, TrainableClassifier))
        raise XbenchError(f"classifier {entry.spec!r} has no training recipe; with one: {recipes}")
    if not (dataset or entry.dataset):
        raise XbenchError(f"the recipe of {entry.spec!r} has no dataset of its own: name one with --dataset")
    usable_device(device)
    check_writable(out.parent)
    data = DATASETS.make(dataset or entry.dataset)
    train, test = data.load("train"), data.load("test")
    entry = entry.suited_to(train)
    accuracy = entry.fit(train, test, out, seed=seed, epochs=epochs, report=note, device=device)
    say(f"accuracy on {data.spec}:test {accuracy:.4f}; written: {out}")
    if "weights" in entry.parameters:
        say(f"use it as: {entry.replace(weights=str(out)).spec}")


def subset(
    dataset: Annotated[str, typer.Argument(help="Dataset, by spec.")],
    classifier: Annotated[str | None, typer.Option("--classifier", "-c", help="By default the dataset's own.")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Size of the evaluation part.")] = 200,
    heldout: Annotated[int, typer.Option("--heldout", min=0, help="Size of the held-out part.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice and the order.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (.json); printed if left out.")] = None,
    every: Annotated[bool, typer.Option("--any", help="Choose among all images, whatever a classifier predicts.")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Chooses evaluation and held-out images by the VP paper's rule and writes their ids and checksums as JSON.

    The rule: of the dataset's test part those predicted correctly with p > 0.5, in a seeded order; the parts are disjoint.
    Runs take them with --dataset 'subset(file="FILE")', which fails if the data have changed.
    """
    import torch

    from xbench.run.plan import check_match, load_classifier
    from xbench.subset import DATASETS, confident_ids

    entry = DATASETS.make(dataset)
    about: dict[str, Any] = {"dataset": entry.spec, "rule": "any", "seed": seed}
    if every:
        test = entry.load("test")
        ids = list(test.ids)
    else:
        if not (classifier or entry.classifier):
            raise XbenchError(f"dataset {dataset!r} has no classifier of its own: name one with --classifier, or choose --any")
        model = load_classifier(classifier or entry.classifier, device)
        test = entry.load("test")
        check_match(test, model)
        ids = confident_ids(test, model)
        about |= {"rule": "predicted correctly with p > 0.5", "classifier": model.name, "weights": model.weights_digest}
    if len(ids) < images + heldout:
        which = "there" if every else "predicted correctly with p > 0.5"
        raise XbenchError(f"only {len(ids)} images of {dataset!r} are {which}; {images + heldout} were asked for")
    generator = torch.Generator().manual_seed(seed)
    order = [ids[i] for i in torch.randperm(len(ids), generator=generator).tolist()]
    parts = {"evaluation": order[:images], "heldout": order[images : images + heldout]}
    text = _listing(about, {part: test.listing(chosen) for part, chosen in parts.items()})
    if out is None:
        typer.echo(text, nl=False)
        return
    with atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(
        f"written: {out}, {images} images to evaluate and {heldout} held out; take them with --dataset 'subset(file=\"{out}\")'"
    )


def _listing(about: dict[str, Any], parts: dict[str, dict[str, tuple[int, str]]]) -> str:
    """JSON with a line an image, so that two files can be compared."""
    rows = {
        part: ",\n".join(f" {json.dumps(image)}: {json.dumps(content)}" for image, content in listed.items())
        for part, listed in parts.items()
    }
    fields = [f'"{name}": {json.dumps(value)}' for name, value in about.items()]
    fields += [f'"{part}": {{\n{lines}\n}}' if lines else f'"{part}": {{}}' for part, lines in rows.items()]
    return "{" + ",\n".join(fields) + "}\n"


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
                note(f"{text}, {100 * done / total:.0f} % done")
