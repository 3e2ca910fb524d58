"""Boxes of objects from files: a CSV, ImageNet's list for localisation, or a folder of Pascal VOC's XML."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from xbench.errors import XbenchError

Boxes = dict[str, list[list[float]]]
CORNERS = ("x0", "y0", "x1", "y1")


def read_boxes(owner: str, path: str) -> Boxes:
    """Boxes (x0, y0, x1, y1) in pixels of the file, by the image's file name, as written (own decision: x1, y1 exclusive).

    ``path`` is one of

    - a CSV file with the columns file, x0, y0, x1, y1 (others are ignored), one row a box; a row without numbers is an image
      without an object;
    - a CSV file with the columns ImageId, PredictionString as in LOC_val_solution.csv: "class x0 y0 x1 y1 class x0 ...";
    - a folder with one XML file an image in Pascal VOC's format, as ImageNet's, found in folders below too.

    The name is what the file's first column, or the XML file's name, says. XbenchError naming file and line of what is wrong.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        files = sorted(where.rglob("*.xml"))
        if not files:
            raise XbenchError(f"{owner}: the folder of boxes {path} holds no XML file")
        return {file.stem: _voc(owner, file) for file in files}
    boxes: Boxes = {}
    header, rows = table(owner, where)
    if "ImageId" in header and "PredictionString" in header:
        for line, row in rows:
            words = row["PredictionString"].split()
            boxes[row["ImageId"]] = [
                _box(owner, where, line, words[i + 1 : i + 5]) for i in range(0, len(words), 5) if words[i:]
            ]
        return boxes
    require(owner, where, header, ("file", *CORNERS))
    for line, row in rows:
        found = boxes.setdefault(row["file"], [])
        if any(row[corner].strip() for corner in CORNERS):
            found.append(_box(owner, where, line, [row[corner] for corner in CORNERS]))
    return boxes


def boxes_by_image(owner: str, path: str | None, images: Iterable[str]) -> dict[str, list[list[float]] | None]:
    """The boxes in ``path`` of every image, none for one that is not listed; None for all where ``path`` is None.

    An image is listed by its id, by the end of it behind a slash, or by either without the extension. XbenchError if a listed
    name is that of two images, or if no image is listed.
    """
    if path is None:
        return dict.fromkeys(images)
    listed, owners = read_boxes(owner, path), dict[str, str]()
    found: dict[str, list[list[float]] | None] = {}
    for image in images:
        steps = image.split("/")
        ends = ["/".join(steps[i:]) for i in range(len(steps))]
        names = [name for end in ends for name in (end, end.rpartition(".")[0]) if name in listed]
        found[image] = listed[names[0]] if names else []
        if names and owners.setdefault(names[0], image) != image:
            raise XbenchError(f"{owner}: boxes {path} lists {names[0]!r}, which may be {owners[names[0]]!r} or {image!r}")
    if not owners:
        example, name = next(iter(found), "none"), next(iter(listed), "nothing")
        raise XbenchError(f"{owner}: boxes {path} lists none of the images: it has {name!r}, an image is {example!r}")
    return found


def table(owner: str, path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV file, and its rows with their line numbers; XbenchError if it cannot be read or a row is short."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            header = list(reader.fieldnames or [])
    except OSError as error:
        raise XbenchError(f"{owner}: {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise XbenchError(f"{owner}: {path} is no CSV in UTF-8: {error}") from error
    for line, row in rows:
        if None in row or None in row.values():
            raise XbenchError(f"{owner}: {path}, line {line}: {len(header)} columns expected, as the header has")
    return header, rows


def require(owner: str, path: Path, header: list[str], columns: tuple[str, ...]) -> None:
    """XbenchError naming the columns that a CSV file lacks."""
    missing = [column for column in columns if column not in header]
    if missing:
        raise XbenchError(f"{owner}: {path} has no column {', '.join(missing)}; it has: {', '.join(header) or 'none'}")


def _box(owner: str, path: Path, line: int, words: list[str]) -> list[float]:
    try:
        x0, y0, x1, y1 = (float(word) for word in words)
    except ValueError as error:
        raise XbenchError(f"{owner}: {path}, line {line}: a box is four numbers x0, y0, x1, y1, given {words}") from error
    if not (x0 < x1 and y0 < y1):
        raise XbenchError(f"{owner}: {path}, line {line}: a box needs x0 < x1 and y0 < y1, given {words}")
    return [x0, y0, x1, y1]


def _voc(owner: str, path: Path) -> list[list[float]]:
    try:
        corners = [
            [str(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.parse(path).iter("bndbox")
        ]
    except (OSError, ElementTree.ParseError) as error:
        raise XbenchError(f"{owner}: {path} is no XML file of boxes: {error}") from error
    return [_box(owner, path, i + 1, words) for i, words in enumerate(corners)]
