"""Photos: the 20 ImageNet photos that the package foolbox carries, a colour set of 224 px that works offline."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xbench.classifier import CLASSIFIERS
from xbench.datasets._pixels import Reduction
from xbench.errors import XbenchError, unknown
from xbench.registry import digest
from xbench.subset import DATASETS, Dataset, Part, Subset, confident_ids
from xbench.types import Images, Labels

IDS = Path(__file__).with_name("photos.json")
BOXES = Path(__file__).with_name("photos-boxes.json")
SIZE = 224


@DATASETS.register("photos")
@dataclass(frozen=True)
class Photos(Dataset):
    """20 photos of ImageNet (Russakovsky et al. 2015, https://arxiv.org/abs/1409.0575) with their labels, from foolbox 3.3.4.

    Images (b, 3, 224, 224) in [0, 1], labels 0..999. ``evaluation`` are the photos that `efficientnet-lite` predicts
    correctly with p > 0.5, the VP paper's selection rule; ``heldout`` are the others; there is no part to train on.
    A photo is reduced as usual for ImageNet: the shorter side to 256, of which the centre 224 x 224 remain, bicubically.

    Boxes, drawn by hand on the reduced photos in whole pixels (own decision; these are not ImageNet's): one around all that is
    seen of each object of the label, those left out of which only a sliver is seen at the margin. Photo 12, a "prayer rug",
    shows none: its boxes are the two windows of a prayer rug's form.

    Raises XbenchError if the extra ``photos`` is not installed, or if a file is missing, unreadable or has another checksum.
    """

    classifier: ClassVar[str] = "efficientnet-lite"

    def load(self, part: Part = "evaluation") -> Subset:
        """The ids of ``part`` in their fixed order; XbenchError for a part other than evaluation and heldout."""
        _folder()
        content = json.loads(IDS.read_text())
        parts = content["parts"]
        if part not in parts:
            raise unknown("part of dataset 'photos'", part, parts)
        name = self.spec if part == "evaluation" else f"{self.spec}:{part}"
        return _subset(name, parts[part], content["photos"], _boxes())


def select() -> str:
    """The content of photos.json: file, label and sha256 of every photo, and the ids of the two parts by the selection rule.

    To write it anew (the tests compare it with the committed one)::

        python -c "from xbench.datasets import photos; photos.IDS.write_text(photos.select())"
    """
    photos = {}
    for path in sorted(_folder().glob("imagenet_*.jpg")):
        _, number, label = path.stem.split("_")
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        photos[f"photos/{number}"] = {"file": path.name, "label": int(label), "sha256": checksum}
    evaluation = confident_ids(_subset("photos", list(photos), photos, _boxes()), CLASSIFIERS.make(Photos.classifier).load())
    parts = {"evaluation": evaluation, "heldout": [image for image in photos if image not in evaluation]}
    return json.dumps({"parts": parts, "photos": photos}, indent=1) + "\n"


def _boxes() -> dict[str, list[list[int]]]:
    return {image: about["boxes"] for image, about in json.loads(BOXES.read_text()).items()}


def _subset(
    name: str, ids: Sequence[str], photos: Mapping[str, Mapping[str, Any]], boxes: Mapping[str, list[list[int]]]
) -> Subset:
    return Subset(
        name=name,
        ids=tuple(ids),
        shape=(3, SIZE, SIZE),
        label_space="imagenet-1k",
        source_digest=digest([[photo["sha256"], boxes[image]] for image, photo in photos.items()]),
        read=functools.partial(_read, photos, boxes),
    )


def _read(
    photos: Mapping[str, Mapping[str, Any]], boxes: Mapping[str, list[list[int]]], ids: Sequence[str]
) -> tuple[Images, Labels, list[Tensor]]:
    images = torch.stack([_decoded(_folder() / photos[i]["file"], photos[i]["sha256"]) for i in ids])
    labels = torch.tensor([photos[i]["label"] for i in ids])
    return images, labels, [torch.tensor(boxes[i]).float() for i in ids]


def _decoded(path: Path, sha256: str) -> Tensor:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise XbenchError(f"dataset 'photos': {path} has another sha256 than {sha256[:12]}...; install foolbox 3.3.4 anew")
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise XbenchError(f"dataset 'photos': {path} cannot be read ({error}); install foolbox 3.3.4 anew") from error
    square = Reduction(SIZE, crop=SIZE / 256).pixels(image)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def _folder() -> Path:
    spec = importlib.util.find_spec("foolbox")  # found, not imported: the import takes seconds and needs eagerpy
    if spec is None or spec.origin is None:
        raise XbenchError("dataset 'photos' needs the extra: pip install \"xbench[photos]\"")
    return Path(spec.origin).parent / "data"
