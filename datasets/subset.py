"""Subset: the images of a list that `xbench subset` wrote, verified."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xbench.errors import XbenchError
from xbench.registry import digest
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'subset'"
Listed = dict[str, dict[str, tuple[int, str]]]


@DATASETS.register("subset")
@dataclass(frozen=True)
class SubsetFile(Dataset):
    """Chosen images of any dataset: ``evaluation`` and ``heldout`` as listed in a file that ``xbench subset --out FILE`` wrote.

    The file holds the dataset's spec and, of every image, id, label and a sha256 over its file (or pixels), label and boxes; it
    can be committed and shared. ``path`` is where the data lie on this machine, if elsewhere than the spec in the file says.
    ``train`` and ``test`` are the dataset's own.

    Raises XbenchError if the file is missing or not such a list, and, before anything is computed, if an image or a label is
    missing or no longer what it was, naming which.
    """

    file: str | None = None
    path: str | None = None

    def load(self, part: Part = "evaluation") -> Subset:
        """The listed images of ``part``; all of them are verified now."""
        spec, listed = self._listed()
        dataset = DATASETS.make(spec)
        if self.path is not None:
            if "path" not in dataset.parameters:
                raise XbenchError(f"{OWNER}: dataset {spec} has no parameter path to set to {self.path!r}")
            dataset = dataset.replace(path=self.path)
        if part not in listed:
            return dataset.load(part)
        rows = listed[part]
        if not rows:
            raise XbenchError(f"{OWNER}: {self.file} lists no image for {part}")
        test = dataset.load("test")
        _verify(f"{OWNER}: {self.file}", test, rows)
        short = SubsetFile(file=Path(self.file or "").name).spec
        return Subset(
            name=short if part == "evaluation" else f"{short}:{part}",
            ids=tuple(rows),
            shape=test.shape,
            label_space=test.label_space,
            source_digest=digest([[image, sha256] for image, (_, sha256) in rows.items()]),
            read=test.read,
            contents={image: sha256 for image, (_, sha256) in rows.items()},
            masks=test.masks,
        )

    def _listed(self) -> tuple[str, Listed]:
        if self.file is None:
            raise XbenchError(f'{OWNER} needs a list: xbench subset DATASET --out FILE, then subset(file="FILE")')
        where = f"{OWNER}: {self.file}"
        try:
            content = json.loads(Path(self.file).expanduser().read_text(encoding="utf-8"))
            parts = {
                part: {str(image): (int(label), str(sha256)) for image, (label, sha256) in content[part].items()}
                for part in ("evaluation", "heldout")
            }
            spec = str(content["dataset"])
        except OSError as error:
            raise XbenchError(f"{where} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise XbenchError(
                f"{where} is no list that xbench subset --out writes ({type(error).__name__}: {error})"
            ) from error
        if both := set(parts["evaluation"]) & set(parts["heldout"]):
            raise XbenchError(f"{where} lists {min(both)!r} for evaluation and for heldout")
        return spec, parts


def _verify(where: str, test: Subset, rows: dict[str, tuple[int, str]]) -> None:
    """XbenchError saying what is no longer as it is listed."""
    known = set(test.ids)
    absent = [image for image in rows if image not in known]
    if absent:
        raise XbenchError(
            f"{where} lists {len(absent)} of {len(rows)} images that are not in {test.name}: {_some(absent)}; "
            f"an id there is, for instance, {test.ids[0]!r}"
        )
    sums = test.checksums(list(rows))
    changed = [image for image, sha256 in zip(rows, sums, strict=True) if rows[image][1] != sha256]
    if not changed:
        return
    labels = test.read(changed[:1])[1]
    before, now = rows[changed[0]][0], int(labels[0])
    what = (
        f"its label was {before} and is {now}"
        if before != now
        else "its file, pixels or boxes are others, or it is read otherwise"
    )
    raise XbenchError(
        f"{where}: {len(changed)} of {len(rows)} images are not those of the list any more: {_some(changed)} "
        f"({changed[0]}: {what}); restore the data, or choose anew with xbench subset"
    )


def _some(images: Sequence[str]) -> str:
    return ", ".join(map(repr, images[:3])) + (", ..." if len(images) > 3 else "")
