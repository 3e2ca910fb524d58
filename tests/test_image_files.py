"""Files of images of every kind, whole and damaged, and the cache that their pixels are kept in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_imagefolder import load, make_tree, noise, picture

from xbench import XbenchError
from xbench.datasets import _scan
from xbench.files import user_cache
from xbench.testing import tiny_images


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "PNG", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_every_format_and_mode_is_read(tmp_path, extension, mode):
    (tmp_path / "cat").mkdir()
    picture = Image.new("RGB", (8, 6), (255, 51, 0)).convert(mode)
    if mode in ("RGBA", "P") and extension in ("jpg", "JPEG", "bmp", "webp"):
        picture = picture.convert("RGB")
    picture.save(tmp_path / "cat" / f"a.{extension}")
    for channels in (3, 1):
        subset = load(tmp_path, channels=channels)
        x, _, _ = subset.read(subset.ids)
        grey = 255 * 0.299 + 51 * 0.587
        expected = [grey] if channels == 1 else [grey] * 3 if mode == "L" else [255, 51, 0]
        assert x.shape == (1, channels, 6, 8) == (1, *subset.shape)
        np.testing.assert_allclose(255 * x[0].mean((1, 2)), expected, atol=3.5)


def test_images_are_decoded_once(tmp_path, monkeypatch):
    make_tree(tmp_path)
    subset = load(tmp_path, "train")
    opened = []
    monkeypatch.setattr(Image, "open", lambda *words, inner=Image.open: opened.append(1) or inner(*words))
    x, _, _ = subset.read(subset.ids)
    kept = x.clone()
    x.zero_()  # what is kept is not what is handed out
    assert subset.read(subset.ids[::-1])[0].flip(0).equal(kept)
    assert len(opened) == len(subset) == 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "{path} cannot be read as an image: 0 bytes of no known format"),
        (lambda path: path.write_bytes(b"<html>"), "{path} cannot be read as an image: 6 bytes of no known format"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "{path} cannot be read as an image: image file is truncated"),
        (lambda path: Image.new("I;16", (32, 32)).save(path), "{path} has more than 8 bits a channel (mode I;16)"),
        (lambda path: (path.unlink(), path.mkdir()), "{path} cannot be read: "),
        (lambda path: picture(path, (30, 32)), "test/cat/1.png has 30 x 32 pixels, test/cat/0.png has 32 x 32: give the size "),
    ],
)
def test_a_broken_image_is_named(tmp_path, damage, message):
    path = make_tree(tmp_path) / "test" / "cat" / "1.png"
    damage(path)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path).read(["test/cat/1.png"])
    assert message.format(path=path) in str(caught.value)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), picture])
def test_an_image_that_changes_after_loading_is_named(tmp_path, change):
    subset = load(make_tree(tmp_path))
    change(tmp_path / "test" / "cat" / "1.png")
    with pytest.raises(XbenchError, match=r"cat/1\.png (has changed since the dataset was loaded|cannot be read)"):
        subset.read(["test/cat/1.png"])


def test_an_animation_is_its_first_picture(tmp_path):
    (tmp_path / "cat").mkdir()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for name in ("a.png", "b.webp"):
        frames[0].save(tmp_path / "cat" / name, save_all=True, append_images=frames[1:], lossless=True)
    subset = load(tmp_path)
    x, _, _ = subset.read(subset.ids)
    assert x.equal(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(2, 3, 8, 8))


def test_transparency_and_orientation_are_ignored(tmp_path):
    (tmp_path / "cat").mkdir()
    pixels = noise((6, 8), 0)
    Image.fromarray(np.dstack([pixels, np.zeros((8, 6), np.uint8)]), "RGBA").save(tmp_path / "cat" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "cat" / "b.png", exif=exif)
    subset = load(tmp_path)
    for image in subset.read(subset.ids)[0]:
        np.testing.assert_array_equal((image * 255).byte().permute(1, 2, 0).numpy(), pixels)


def test_an_image_too_huge_to_be_honest_is_named(tmp_path, monkeypatch):
    path = make_tree(tmp_path) / "test" / "cat" / "1.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(XbenchError, match=r"cat/\d\.png cannot be read: Image size \(1024 pixels\) exceeds limit"):
        load(tmp_path)
    assert path.exists()


def test_a_large_image_is_reduced(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (5000, 3000), (10, 200, 30)).save(tmp_path / "cat" / "a.jpg")
    subset = load(tmp_path, size=32)
    expected = torch.tensor([10, 200, 30]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(subset.read(subset.ids)[0], expected.expand(1, 3, 32, 32), atol=2.5 / 255, rtol=0)


def test_a_damaged_or_missing_cache_is_made_again(tmp_path):
    subset = load(make_tree(tmp_path))
    x, _, _ = subset.read(subset.ids)
    (pixels,) = (user_cache() / "pixels").glob("*.uint8")
    (sums,) = (user_cache() / "pixels").glob("*.crc")
    with pixels.open("r+b") as file:
        file.seek(3000)
        file.write(b"damage")
    assert subset.read(subset.ids)[0].equal(x)
    os.truncate(pixels, 5000)
    assert subset.read(subset.ids)[0].equal(x)
    pixels.unlink()
    assert load(tmp_path).read(subset.ids)[0].equal(x)
    sums.unlink()
    assert subset.read(subset.ids)[0].equal(x)


def test_other_ways_of_reading_have_other_caches(tmp_path):
    make_tree(tmp_path)
    small, large = load(tmp_path, size=8), load(tmp_path, size=16)
    for subset in (small, large, load(tmp_path), load(tmp_path, channels=1), load(tmp_path, size=8, crop=0.5)):
        assert subset.read(subset.ids)[0].shape == (6, *subset.shape)
    assert len(list((user_cache() / "pixels").glob("*.uint8"))) == 5


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "file"))
    subset = load(make_tree(tmp_path / "images"))
    with pytest.raises(XbenchError, match=r"file/pixels.*cannot be written \(Not a directory\): set XBENCH_CACHE"):
        subset.read(subset.ids)


def test_a_second_load_reads_only_files_that_changed(tmp_path, monkeypatch):
    make_tree(tmp_path)
    for path in tmp_path.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    first = load(tmp_path)
    changed = tmp_path / "test" / "owl" / "0.png"
    Image.fromarray(noise((32, 32), 5)).save(changed)
    read: list[Path] = []
    monkeypatch.setattr(_scan, "opened", lambda owner, path, inner=_scan.opened: read.append(path) or inner(owner, path))
    _scan._scanned.cache_clear()
    assert load(tmp_path).digest() != first.digest()
    assert read == [changed]
    (index,) = (user_cache() / "scans").iterdir()
    index.write_text("{")
    _scan._scanned.cache_clear()
    assert len(load(tmp_path)) == 6
    assert len(read) == 1 + 6


def test_reading_in_any_order_or_twice_gives_the_same_pixels(tmp_path):
    (tmp_path / "cat").mkdir()
    for i, image in enumerate(tiny_images(5, (3, 40, 40))):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "cat" / f"{i}.png")
    subset = load(tmp_path, size=24)
    order = [3, 0, 3, 4]
    x = subset.read([subset.ids[i] for i in order])[0]
    assert x.equal(subset.read(subset.ids)[0][order])


def test_the_cache_is_shown_and_its_decoded_images_are_deleted(tmp_path, xbench, monkeypatch):
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "cache"))
    assert "nothing is cached" in xbench("cache").out
    picture(tmp_path / "images" / "a" / "0.png")
    subset = load(tmp_path / "images", size=64)
    x = subset.read(subset.ids)[0]
    kept = tmp_path / "cache" / "checkpoints" / "vp.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"x" * 5000)
    shown = xbench("cache").out
    assert "checkpoints: 1 files, 0.0 MiB" in shown
    assert "pixels: 2 files, 0.0 MiB" in shown
    assert "deleted" not in shown
    assert "pixels: 2 files, 0.0 MiB, deleted" in xbench("cache", "--clear").out
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["checkpoints"]
    assert kept.stat().st_size == 5000
    assert subset.read(subset.ids)[0].equal(x)
