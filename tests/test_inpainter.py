"""The learned inpainter: its holes and layers against their definitions, its training, its files, and the weights that ship."""

from __future__ import annotations

import hashlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scratch import register, scratch_registries
from torch import Tensor, nn

from xbench import DATASETS, Dataset, ImageRandom, NotApplicable, Subset, XbenchError
from xbench.inpainter import GatedConv, GatedInpainter, fit_inpainter, held_out, inpainter_recipe
from xbench.inpainting import SHIPPED, inpainter_for, load_inpainter, load_torchscript, pinned, shipped
from xbench.ops.holes import HOLES, random_holes
from xbench.ops.inpainting import biharmonic
from xbench.testing import tiny_images
from xbench.training import train
from xbench.weights import load_weights, save_weights, state_digest

IDS = [f"i{n}" for n in range(24)]
WEIGHTS = SHIPPED / "inpaint-digits-10.safetensors"


def test_gated_convolution_is_its_definition() -> None:
    layer = GatedConv(3, 5, 3, stride=2, dilation=2)
    x = torch.randn(2, 3, 16, 16)
    feature, gate = (
        F.conv2d(x, w, b, 2, 2, 2) for w, b in zip(layer.conv.weight.split(5), layer.conv.bias.split(5), strict=True)
    )
    expected = torch.where(feature > 0, feature, feature.exp() - 1) / (1 + (-gate).exp())
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        layer.conv.bias[5:] = -1e3
    assert not layer(x).any(), "closed gates"


def network(channels: int = 1, width: int = 4) -> GatedInpainter:
    torch.manual_seed(0)
    return GatedInpainter(channels, width).double().eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 27, 41), (1, 3, 5)])
def test_network_restores_images_of_any_size_from_the_observed_pixels_alone(shape: tuple[int, int, int]) -> None:
    x, module = tiny_images(4, shape).double(), network(shape[0])
    keep = random_holes(ImageRandom(3, IDS[:4]).uniform, shape[1:]).double()
    keep[3] = 0  # nothing observed
    fill = module(x, keep)
    assert fill.shape == x.shape
    assert 0 <= fill.min() <= fill.max() <= 1
    torch.testing.assert_close(module(torch.where(keep > 0, x, torch.rand_like(x)), keep), fill)
    torch.testing.assert_close(module(x[1:2], keep[1:2]), fill[1:2])


def test_every_pixel_of_a_small_image_counts_for_every_other() -> None:
    x = torch.rand(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    network()(x, torch.ones_like(x))[0, 0, -1, -1].backward()
    assert x.grad is not None
    assert x.grad[0, 0, 0, 0] != 0


def stripes(count: int = 24) -> Subset:
    """Vertical stripes, which one can go on with."""
    phase = torch.arange(24)[:, None, None, None] % 4
    images = ((torch.arange(16) + phase) // 2 % 2).float().expand(24, 1, 16, 16)

    def read(ids: Sequence[str]) -> tuple[Tensor, Tensor, None]:
        return images[[IDS.index(i) for i in ids]], torch.zeros(len(ids), dtype=torch.int64), None

    return Subset("stripes:train", tuple(IDS[:count]), (1, 16, 16), "stripes", "source", read)


def test_loss_is_the_squared_error_of_the_missing_pixels() -> None:
    recipe, module, ids = inpainter_recipe(stripes(), width=4, epochs=1), network().float(), IDS[:5]
    x, _, _ = stripes().read(ids)
    loss = float(recipe.loss(module, x, ImageRandom(3, ids)))
    keep = random_holes(ImageRandom(3, ids).uniform, (16, 16))
    errors = [float(fill - pixel) ** 2 for fill, pixel in zip(module(x, keep)[keep == 0], x[keep == 0], strict=True)]
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_training_learns_to_go_on_with_stripes(tmp_path: Path) -> None:
    recipe = inpainter_recipe(stripes(), width=4, epochs=25, seed=1)
    state = torch.random.get_rng_state()
    psnr = fit_inpainter(recipe, stripes(), tmp_path / "w.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    _, about, _ = load_weights(tmp_path / "w.safetensors")
    assert about["losses"][-1] < about["losses"][0] / 2
    assert psnr["mean"] == pytest.approx(6.0, abs=0.3), "half of the pixels are 0, half are 1"
    assert psnr["inpaint"] > psnr["mean"] + 3
    assert psnr == about["test_psnr"]
    found = held_out(load_inpainter(tmp_path / "w.safetensors"), stripes(), torch.zeros(()))
    assert found["inpaint"] == pytest.approx(psnr["inpaint"], abs=0.006)


def test_one_seed_gives_one_network_even_when_killed(tmp_path: Path) -> None:
    recipe = inpainter_recipe(stripes(), width=2, epochs=3, seed=0)
    digest = state_digest(train(recipe).state)
    assert state_digest(train(inpainter_recipe(stripes(), width=2, epochs=3, seed=1)).state) != digest

    def stop(done: int, _total: int, losses: list[float]) -> None:
        if len(losses) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_inpainter(recipe, stripes(), tmp_path / "w.safetensors", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors.partial"]
    fit_inpainter(recipe, stripes(), tmp_path / "w.safetensors")
    assert load_weights(tmp_path / "w.safetensors")[2] == digest
    other = inpainter_recipe(stripes(20), width=2, epochs=3, seed=1)
    with pytest.raises(XbenchError, match=r"w\.safetensors .*another train, seed"):
        fit_inpainter(other, stripes(), tmp_path / "w.safetensors")


def test_command_trains_and_says_how_to_use_it(xbench, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with scratch_registries():
        register(DATASETS, Dataset, load=lambda self, part: stripes())
        done = xbench("fit-inpainter", "--dataset", "made", "--out", path, "--epochs", "2", "--width", "2")
        assert done.status == 0, done.err
        assert "PSNR in the holes of made:test" in done.out
        assert "epoch 1: loss" in done.out
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f'use it as fill="inpaint:{path}:{sha[:12]}"' in done.out
        before = path.stat().st_mtime_ns
        again = xbench("fit-inpainter", "--dataset", "made", "--out", path, "--epochs", "2", "--width", "2")
        assert again.out.splitlines()[-2:] == done.out.splitlines()[-2:], "what is there is not trained again"
        assert path.stat().st_mtime_ns == before
        bad = xbench("fit-inpainter", "--dataset", "made", "--out", path, "--device", "toaster")
        assert (bad.status, "device 'toaster' cannot be used" in bad.err) == (2, True)


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(XbenchError, match=r"w\.safetensors cannot be read: No such file"):
        load_inpainter(path)
    save_weights(path, network().float().state_dict(), {"channels": 1, "width": 5})
    with pytest.raises(XbenchError, match=r"w\.safetensors is no inpainter written by xbench fit-inpainter: .*size mismatch"):
        load_inpainter(path)
    save_weights(path, network().float().state_dict(), {"channels": 1, "width": 4, "more": True})
    assert state_digest(load_inpainter(path).state_dict()) == state_digest(network().float().state_dict())
    with pytest.raises(XbenchError, match="is no inpainter"):
        load_inpainter(SHIPPED / "mnist-cnn.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(XbenchError, match=r"w\.safetensors is damaged"):
        load_inpainter(path)
    with pytest.raises(XbenchError, match=r"w\.safetensors is no TorchScript module"):
        load_torchscript(path)


def test_a_file_is_pinned_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    sha = hashlib.sha256(b"one").hexdigest()
    assert pinned(path, sha) == pinned(path, sha[:12].upper()) == path
    for given in (sha[:11], "0" * 12, sha[1:], sha + "0", ""):
        with pytest.raises(XbenchError, match=f"has the sha256 {sha}, .* write .*file:{sha[:12]}$"):
            pinned(path, given)
    path.write_bytes(b"another")
    with pytest.raises(XbenchError, match="has the sha256"):
        pinned(path, sha)


class Average(nn.Module):
    """LaMa's convention: the hole is 1 in the mask and 0 in the image."""

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        mean = image.sum((2, 3), keepdim=True) / (1 - hole).sum((2, 3), keepdim=True)
        return image + mean * hole


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_loaded_once(tmp_path: Path) -> None:
    torch.jit.script(Average()).save(str(tmp_path / "average.pt"))
    module = load_torchscript(tmp_path / "average.pt")
    assert module is load_torchscript(tmp_path / "average.pt")
    image, hole = torch.rand(2, 3, 5, 5), torch.zeros(2, 1, 5, 5)
    hole[:, :, 1:3] = 1
    torch.testing.assert_close(module(image * (1 - hole), hole), Average()(image * (1 - hole), hole))


def test_no_weights_for_other_images() -> None:
    assert shipped("digits-10")
    assert not shipped("imagenet-1k")
    with pytest.raises(NotApplicable, match=r"no inpainter ships for images of imagenet-1k: .*xbench fit-inpainter"):
        inpainter_for("imagenet-1k")


def test_every_caller_has_a_network_of_its_own() -> None:
    first = inpainter_for("digits-10").double()
    assert {p.dtype for p in inpainter_for("digits-10").parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in first.parameters())
    assert not first.training


def test_shipped_weights_are_the_published_ones() -> None:
    expected = "a19c94900c74f353f4fef363d531f950e3e71007a552f5e7a9347234356f9589"
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == expected
    assert WEIGHTS.stat().st_size < 1e6
    _, about, _ = load_weights(WEIGHTS)
    assert about["train"] == DATASETS.make("mnist").load("train").digest()


@pytest.mark.parametrize("kind", HOLES)
def test_shipped_weights_restore_digits_better_than_biharmonic(kind: str) -> None:
    subset = DATASETS.make("mnist").load("heldout")
    ids = subset.ids[:20]
    x = subset.read(ids)[0]
    keep = HOLES[kind](ImageRandom(3, ids).uniform, (28, 28), torch.full((20,), 0.3))
    error = [
        ((fill - x).square() * (1 - keep)).sum() for fill in (inpainter_for("digits-10")(x * keep, keep), biharmonic(x, keep))
    ]
    assert error[0] < 0.7 * error[1]


def test_benchmark_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "inpainting.py"
    layers = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    backbone = {f"features.{n}.weight": torch.randn(o, i, k, k) / (i * k * k) ** 0.5 for n, (o, i, k) in layers.items()}
    save_file(backbone | {f"features.{n}.bias": torch.zeros(o) for n, (o, _, _) in layers.items()}, tmp_path / "random")
    for arguments, columns in (([], 4), (["--lpips-backbone", str(tmp_path / "random")], 5)):
        monkeypatch.setattr(sys, "argv", ["inpainting.py", "--images", "4", *arguments])
        runpy.run_path(str(script), run_name="__main__")
        printed = capsys.readouterr().out
        rows = [line for line in printed.splitlines() if line.startswith("| rectangles")]
        assert len(rows) == 6 + 2
        assert rows[0].count("|") == columns + 1
        assert ("LPIPS is left out" in printed) == (columns == 4)
