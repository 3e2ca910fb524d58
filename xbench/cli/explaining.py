"""`xbench explain`: an image in, heat maps out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xbench.cli import completing
from xbench.cli.common import DeviceOption
from xbench.cli.telling import say
from xbench.errors import NotApplicable, XbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from xbench.board.figures import Picture
    from xbench.classifier import Classifier


def explain(
    image: Annotated[str, typer.Argument(help="An image file, or DATASET/ID such as mnist/0047.")],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Method, by spec; may be repeated.", autocompletion=completing.methods),
    ] = None,
    classifier: Annotated[
        str, typer.Option("--classifier", "-c", help="Classifier, by spec.", autocompletion=completing.classifiers)
    ] = "mnist-cnn",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Dataset that trained methods were fitted on; by default the classifier's.")
    ] = None,
    target: Annotated[int | None, typer.Option("--target", help="Class to explain; the predicted one by default.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")] = Path("explanation.png"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of every draw.")] = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Explains one image: writes a PNG with the image and every method's map laid over it."""
    import torch

    from xbench.board.pictures import maps_figure
    from xbench.checkpoints import Checkpoints
    from xbench.explainer import Explainer
    from xbench.method import METHODS, TrainedMethod
    from xbench.run.plan import load_classifier
    from xbench.store import user_cache
    from xbench.subset import DATASETS

    methods = [METHODS.make(spec) for spec in dict.fromkeys(method or ["gradcam"])]
    model = load_classifier(classifier, device)
    if target is not None and not 0 <= target < model.classes:
        raise XbenchError(f"--target {target}: classifier {model.name!r} has classes 0..{model.classes - 1}")
    x, name = read_image(image, model)
    probabilities = model.probabilities(x)
    y = probabilities.argmax(1) if target is None else torch.tensor([target], device=x.device)
    trained_on = dataset or next((cls.name for cls in DATASETS if cls.classifier == model.name), None)
    states = Checkpoints(DATASETS.make(trained_on), user_cache() / "checkpoints") if trained_on else None
    maps = {}
    for entry in methods:
        reason = entry.not_applicable(model)
        if reason:
            raise NotApplicable(f"method {entry.spec!r} cannot explain {model.name!r}: {reason}")
        if isinstance(entry, TrainedMethod) and states is None:
            raise XbenchError(
                f"method {entry.spec!r} is trained on a dataset: name it with --dataset; valid: {DATASETS.names()}"
            )
        maps[entry.spec] = Explainer(entry, model, seed, states)(x, y, [name]).cpu()
    title = f"class {int(y)}, p = {float(probabilities[0, y]):.3f}"
    _write(maps_figure(x.cpu(), [title], maps), out)
    say(f"{name}: {title}; written: {out}")


def read_image(image: str, classifier: Classifier) -> tuple[Tensor, str]:
    """The image (1, c, h, w) on the classifier's device, resized to its input, and the name that draws are keyed by.

    Raises XbenchError if there is no such file or dataset image, or if the file is no image.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.functional import pil_to_tensor

    from xbench.subset import DATASETS

    path = Path(image)
    dataset, _, identifier = image.partition("/")
    if not path.exists() and identifier and dataset in DATASETS.names():
        from xbench.run.plan import check_match

        subset = DATASETS.make(dataset).load("evaluation")
        check_match(subset, classifier)
        try:
            x, _, _ = subset.read([identifier])
        except (LookupError, ValueError) as error:
            raise XbenchError(f"dataset {dataset!r} has no image {identifier!r}; for instance {subset.ids[0]!r}") from error
        return x.to(classifier.device), identifier
    if not path.is_file():
        raise XbenchError(f"{image} is neither an image file nor DATASET/ID with a dataset of: {', '.join(DATASETS.names())}")
    channels, height, width = classifier.shape
    try:
        with Image.open(path) as file:
            picture = file.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise XbenchError(f"{path} cannot be read as an image: {error}") from error
    return (pil_to_tensor(picture)[None].float() / 255).to(classifier.device), path.name


def _write(picture: Picture, path: Path) -> None:
    from xbench.files import atomic

    try:
        with atomic(path) as temporary:
            temporary.write_bytes(picture.saved("png"))
    except OSError as error:
        raise XbenchError(f"{path} cannot be written: {error.strerror}") from error
