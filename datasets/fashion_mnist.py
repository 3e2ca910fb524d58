"""Fashion-MNIST: 28-px grey pictures of clothes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import FashionMNIST

from xbench.datasets._arrays import array_subset, download_folder, fetch, read_idx
from xbench.datasets._files import no_heldout
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'fashion-mnist'"
DEBIAN = Path("/usr/share/dataset-fashion-mnist")


@DATASETS.register("fashion-mnist")
@dataclass(frozen=True)
class FashionMnist(Dataset):
    """Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747): 60 000 pictures to train on and 10 000 to test.

    Images (b, 1, 28, 28) in [0, 1], labels 0..9, no boxes. ``evaluation`` is the whole test part; there is no ``heldout``
    (`subset` has one). ``path`` is a folder with the four IDX files, gzipped or not, as torchvision's or its parent; by default
    that of the Debian package dataset-fashion-mnist, else the user's cache, where ``download=True`` lets torchvision put them.

    Raises XbenchError if a file is missing, naming it and where to put it, or damaged.
    """

    path: str | None = None
    download: bool = False

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``."""
        if part == "heldout":
            raise no_heldout(self)
        own = "train" if part == "train" else "test"
        prefix = "train" if own == "train" else "t10k"
        if self.download:
            root = self._roots()[-1]
            fetch(OWNER, lambda: FashionMNIST(root, download=True), root)
        images = read_idx(OWNER, self._file(f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(OWNER, self._file(f"{prefix}-labels-idx1-ubyte"))
        if images.shape[1:] != (28, 28) or labels.ndim != 1:
            raise XbenchError(f"{OWNER}: images {images.shape} and labels {labels.shape}, expected (n, 28, 28) and (n,)")
        name = self.name if part == "evaluation" else f"{self.name}:{part}"
        return array_subset(OWNER, name, own, images[:, None], labels, 10, "fashion-10")

    def _roots(self) -> list[Path]:
        return [DEBIAN, download_folder()] if self.path is None else [Path(self.path).expanduser()]

    def _file(self, name: str) -> Path:
        roots = self._roots()
        places = [folder for root in roots for folder in (root, root / "FashionMNIST" / "raw")]
        found = [path for folder in places for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        if not found:
            raise XbenchError(
                f"{OWNER}: {name} (or {name}.gz) is not in {' or '.join(map(str, roots))}: install the Debian package "
                'dataset-fashion-mnist, give fashion-mnist(path="FOLDER"), or download it: fashion-mnist(download=True)'
            )
        return found[0]
