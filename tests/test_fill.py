"""The fills against their definitions."""

from __future__ import annotations

import hashlib

import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn

from xbench import METHODS, ImageRandom, XbenchError
from xbench.classifier import Classifier
from xbench.errors import NotApplicable
from xbench.fill import CONSTANT, FILLS, make_filler, no_inpainter, valid_fill
from xbench.ops.imputation import linear_imputation
from xbench.testing import tiny_images

SHAPES = [(1, 28, 28), (3, 32, 32)]


WITHOUT_FILE = [name for name in FILLS if name != "torchscript"]


def classifier_of(shape, gray=0.4):
    """Takes images of ``shape`` as the embedded digits are taken, so that the shipped inpainter serves it."""
    gray = [gray] * shape[0] if isinstance(gray, float) else gray
    space = "digits-10" if shape == (1, 28, 28) else "tiny"
    about = {"name": "none", "classes": 2, "label_space": space, "cam_layer": None, "stages": []}
    return Classifier(nn.Identity(), shape=shape, mean=gray, std=[1.0] * shape[0], **about)


def random_keep(count, shape, share=0.6):
    return (torch.rand((count, 1, *shape[1:]), generator=torch.Generator().manual_seed(1)) < share).float()


def filled(name, x, keep=None, classifier=None, names=None, step=0):
    """Every image of ``x`` filled under one mask each."""
    classifier = classifier or classifier_of(tuple(x.shape[1:]))
    image = torch.arange(len(x))
    rng = ImageRandom(0, names or [str(i) for i in range(len(x))])
    keep = random_keep(len(x), tuple(x.shape[1:])) if keep is None else keep
    return make_filler(name, classifier, x, rng)(image, torch.full_like(image, step), keep.to(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WITHOUT_FILE)
def test_every_fill_has_the_shape_and_type_of_the_images(name, dtype, shape):
    if name == "inpaint" and shape[0] == 3:
        return
    x = tiny_images(3, shape).to(dtype)
    before = x.clone()
    fill = filled(name, x)
    assert fill.shape == x.shape
    assert fill.dtype == dtype
    assert not fill.requires_grad
    assert bool(fill.isfinite().all())
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_fills(shape):
    x = tiny_images(2, shape)
    gray = torch.linspace(0.2, 0.6, shape[0])
    classifier = classifier_of(shape, gray.tolist())
    fills = {name: filled(name, x, classifier=classifier) for name in ("gray", "mean", "zero")}
    for image in range(2):
        for channel in range(shape[0]):
            assert torch.all(fills["gray"][image, channel] == gray[channel])
            assert torch.all(fills["zero"][image, channel] == 0)
            mean = sum(x[image, channel].double().flatten().tolist()) / (shape[1] * shape[2])
            assert torch.allclose(fills["mean"][image, channel], torch.tensor(mean, dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize(("height", "sigma"), [(28, 1.25), (224, 10.0)])
def test_blur_is_scaled_with_the_height(height, sigma):
    x = tiny_images(1, (1, height, height)).double()
    expected = x[0, 0].numpy()
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis, mode="nearest", truncate=4.0)
    assert torch.allclose(filled("blur", x)[0, 0], torch.from_numpy(expected), atol=1e-12)


def test_noise_has_the_stated_moments_and_is_not_clipped():
    x = torch.zeros(64, 3, 32, 32)
    x[:, 1] = 0.7
    noise = filled("noise", x)
    around_mean = filled("mean-noise", x)
    for channel, mean in enumerate((0.0, 0.7, 0.0)):
        # 65 536 draws: the standard error of the mean is 0.0008.
        assert abs(noise[:, channel].mean() - 0.5) < 0.004
        assert abs(noise[:, channel].std() - 0.2) < 0.004
        assert abs(around_mean[:, channel].mean() - mean) < 0.004
        assert abs(around_mean[:, channel].std() - 0.2) < 0.004
    assert around_mean.min() < 0
    assert noise.max() > 1


@pytest.mark.parametrize("name", WITHOUT_FILE)
def test_an_image_is_filled_alike_in_every_batch_and_by_step_only_where_drawn(name):
    x = tiny_images(5)
    keep = random_keep(5, (1, 28, 28))
    together = filled(name, x, keep, names=list("abcde"))
    for i, image in enumerate("abcde"):
        assert torch.allclose(filled(name, x[i : i + 1], keep[i : i + 1], names=[image])[0], together[i], atol=1e-5)
    assert torch.equal(filled(name, x, keep, names=list("abcde"), step=1), together) == (name != "linear")


@pytest.mark.parametrize("name", WITHOUT_FILE)
def test_only_the_kept_pixels_are_read_except_by_the_constant_fills(name):
    x = tiny_images(3)
    keep = random_keep(3, (1, 28, 28))
    destroyed = torch.where(keep > 0, x, 1 - x)
    same = torch.equal(filled(name, x, keep), filled(name, destroyed, keep))
    assert same == (name not in ("blur", "mean", "mean-noise"))
    soft = keep * 0.4 + 0.3  # 0.7 where kept, 0.3 where removed
    assert torch.equal(filled(name, x, soft), filled(name, x, keep))


def test_linear_adds_its_noise_to_the_imputation():
    x = tiny_images(40)
    keep = random_keep(40, (1, 28, 28))
    noise = filled("linear", x, keep) - linear_imputation(x, keep)
    assert abs(noise.mean()) < 0.0005
    assert abs(noise.std() - 0.01) < 0.0005


def test_images_and_steps_are_matched_in_a_mixed_batch():
    x = tiny_images(2)
    classifier = classifier_of((1, 28, 28))
    filler = make_filler("linear", classifier, x, ImageRandom(0, ["a", "b"]))
    image, step = torch.tensor([1, 0, 1]), torch.tensor([2, 0, 0])
    keep = random_keep(3, (1, 28, 28))
    mixed = filler(image, step, keep)
    for i in range(3):
        assert torch.allclose(filler(image[i : i + 1], step[i : i + 1], keep[i : i + 1])[0], mixed[i], atol=1e-6)


class Halves(nn.Module):
    """A user's inpainter: the holes become what share of the image is missing."""

    def forward(self, image, hole):
        return image + hole * hole.mean()


def test_a_torchscript_file_of_the_users_is_pinned_and_checked(tmp_path):
    path = tmp_path / "half.pt"
    torch.jit.script(Halves()).save(str(path))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    x = tiny_images(2).double()
    keep = torch.ones(2, 1, 28, 28)
    keep[:, :, :7] = 0
    fill = filled(f"torchscript:{path}:{sha[:12]}", x, keep)
    assert torch.allclose(fill[:, :, :7], torch.full_like(fill[:, :, :7], 0.25), atol=1e-6)
    assert torch.allclose(fill[:, :, 7:], x[:, :, 7:], atol=1e-6)
    with pytest.raises(XbenchError, match=sha[:12]):
        filled(f"torchscript:{path}:{'0' * 12}", x, keep)
    with pytest.raises(XbenchError, match=r"none\.pt cannot be read: No such file"):
        filled(f"torchscript:{tmp_path / 'none.pt'}:{sha[:12]}", x, keep)


class Cropped(nn.Module):
    def forward(self, image, hole):
        return image[:, :, :5]


def test_a_torchscript_that_returns_something_else_is_an_error(tmp_path):
    path = tmp_path / "identity.pt"
    torch.jit.script(Cropped()).save(str(path))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(XbenchError, match=r"returned \(2, 1, 5, 28\) for images \(2, 1, 28, 28\)"):
        filled(f"torchscript:{path}:{sha[:16]}", tiny_images(2))


def test_where_no_inpainter_ships_the_reason_says_what_to_do():
    colour = classifier_of((3, 32, 32))
    assert no_inpainter("inpaint", classifier_of((1, 28, 28))) is None
    assert no_inpainter("linear", colour) is None
    assert "fit-inpainter" in no_inpainter("inpaint", colour)
    assert METHODS.make('sliding-patch(fill="inpaint")').not_applicable(colour) == no_inpainter("inpaint", colour)
    with pytest.raises(NotApplicable, match="fit-inpainter"):
        filled("inpaint", tiny_images(1, (3, 32, 32)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("grey", r"fill must be one of biharmonic, .*, got 'grey'"),
        ("blur:file", r"fill 'blur' takes no file, got 'blur:file'"),
        ("torchscript", r"must be written torchscript:FILE:SHA256"),
        ("inpaint:file.safetensors", r"must be written inpaint:FILE:SHA256"),
    ],
)
def test_wrong_specs_are_refused_with_the_valid_ones(spec, message):
    with pytest.raises(ValueError, match=message):
        valid_fill(spec)
    with pytest.raises(XbenchError, match=rf"rise\(fill=\.\.\.\): given .{spec}.: .*{message}"):
        METHODS.make(f'rise(fill="{spec}")')


def test_constant_fills_are_the_named_ones():
    assert set(CONSTANT) == {"blur", "gray", "mean", "mean-noise", "noise", "zero"}
    assert METHODS.make('rise(fill="mean-noise")').fill == "mean-noise"
