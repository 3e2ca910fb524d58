"""What the datasets share whose files hold many small images: IDX files (MNIST), CIFAR's files, and downloads."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from xbench.datasets._files import check_ids
from xbench.errors import XbenchError
from xbench.files import user_cache
from xbench.subset import Subset
from xbench.types import Images, Labels

Bytes = npt.NDArray[np.uint8]


def array_subset(owner: str, name: str, part: str, images: Bytes, labels: Bytes, classes: int, label_space: str) -> Subset:
    """The subset of images (n, c, h, w) and labels (n,) in bytes; an image's id is its file's part and its number there.

    XbenchError if the numbers of images and labels differ, if there are none, or if a label is no class.
    """
    if len(images) != len(labels) or not len(images):
        raise XbenchError(f"{owner}: the {part} files hold {len(images)} images and {len(labels)} labels")
    if int(labels.max()) >= classes:
        raise XbenchError(f"{owner}: the {part} files hold the label {int(labels.max())}; valid are 0..{classes - 1}")
    ids = tuple(f"{part}/{i:05d}" for i in range(len(images)))
    rows = {image: i for i, image in enumerate(ids)}

    def read(chosen: Sequence[str]) -> tuple[Images, Labels, None]:
        check_ids(owner, chosen, rows)
        index = [rows[image] for image in chosen]
        return torch.from_numpy(images[index]).float() / 255, torch.from_numpy(labels[index]).long(), None

    return Subset(
        name=name,
        ids=ids,
        shape=images.shape[1:],
        label_space=label_space,
        source_digest=_sha256(images, labels),
        read=read,
    )


def _sha256(*arrays: Bytes) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(str(array.shape).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


@functools.cache
def read_idx(owner: str, path: Path) -> Bytes:
    """The bytes of an IDX file (http://yann.lecun.com/exdb/mnist), gzipped or not, in their shape; XbenchError if damaged."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise XbenchError(f"{owner}: {path} cannot be read: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise XbenchError(f"{owner}: {path} is no IDX file of bytes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", data[3], 4))
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(body) != np.prod(shape):
        raise XbenchError(f"{owner}: {path} holds {len(body)} bytes, {'x'.join(map(str, shape))} are declared")
    return body.reshape(shape)


def download_folder() -> Path:
    """Where torchvision's data sets are put and looked for if no path is given."""
    return user_cache() / "datasets"


def fetch(owner: str, make: Callable[[], object], root: Path) -> None:
    """Lets torchvision download into ``root``; XbenchError saying that it could not, and where the files would go."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            make()
    except Exception as error:  # urllib's, the operating system's and torchvision's own
        raise XbenchError(
            f"{owner} could not be downloaded ({type(error).__name__}: {error}): put torchvision's files into {root}"
        ) from error
