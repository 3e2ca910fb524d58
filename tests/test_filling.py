"""Filling: MS-SSIM and LPIPS against the packages of their authors, the accuracy against a slow loop and known judges."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim as public_ms_ssim
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, Batch, Classifier, Explainer, XbenchError
from xbench.fill import make_filler
from xbench.metrics import filling
from xbench.metrics.filling import Filling
from xbench.ops.blur import gaussian_kernel
from xbench.ops.boxes import box_masks
from xbench.ops.similarity import SCALE_WEIGHTS, ms_ssim, ssim
from xbench.perceptual import HUB_FILE, lpips_distance
from xbench.rng import ImageRandom
from xbench.testing import tiny_batch, tiny_classifier, tiny_images

LAYERS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of random weights: enough for the plumbing."""
    generator = torch.Generator().manual_seed(0)
    state = {
        f"features.{n}.weight": torch.randn(o, i, k, k, generator=generator) / (i * k * k) ** 0.5
        for n, (o, i, k) in LAYERS.items()
    }
    path = tmp_path_factory.mktemp("backbone") / "alexnet.safetensors"
    save_file(state | {f"features.{n}.bias": torch.zeros(o) for n, (o, _, _) in LAYERS.items()}, path)
    return path


def pinned(path: Path) -> str:
    return f"{path}:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def explainer(classifier: Classifier, fill: str) -> Explainer:
    return Explainer(METHODS.make(f'lime(fill="{fill}")'), classifier)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 181, 165), (2, 161, 200)])
def test_ms_ssim_is_that_of_the_public_package(shape: tuple[int, int, int]) -> None:
    a = tiny_images(3, shape).double()
    b = (a + 0.3 * torch.rand(a.shape, generator=torch.Generator().manual_seed(1)) - 0.1).clamp(0, 1)
    window = gaussian_kernel(1.5, 5).expand(shape[0], 1, 1, 11)  # its own is rounded to float32, which costs digits
    expected = public_ms_ssim(a, b, data_range=1, size_average=False, win=window)
    torch.testing.assert_close(ms_ssim(a, b), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(3).double())


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (20, 1), (21, 2), (28, 2), (32, 2), (41, 3), (160, 4), (161, 5)])
def test_small_images_have_fewer_scales_whose_exponents_sum_to_one(side: int, scales: int) -> None:
    """From the definition: SSIM of the coarsest, and of the others what is left when both images get their own mean of 0."""
    a = tiny_images(2, (1, side, side + 3)).double()
    b = (a + 0.2 * torch.rand(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    exponents = torch.tensor(SCALE_WEIGHTS[:scales]).double()
    exponents /= exponents.sum() if scales < 5 else 1
    window = torch.tensor([math.exp(-(i**2) / (2 * 1.5**2)) for i in range(-5, 6)]).double()
    kernel = (window[:, None] * window / window.sum() ** 2)[None, None]
    expected, x, y = torch.ones(2).double(), a, b
    for scale in range(scales):
        mx, my = F.conv2d(x, kernel), F.conv2d(y, kernel)
        vx, vy = F.conv2d(x * x, kernel) - mx**2, F.conv2d(y * y, kernel) - my**2
        structure = (2 * (F.conv2d(x * y, kernel) - mx * my) + 9e-4) / (vx + vy + 9e-4)
        value = structure.mean((1, 2, 3)) if scale < scales - 1 else ssim(x[:, 0], y[:, 0])
        expected = expected * value.clamp_min(0) ** exponents[scale]
        x, y = (F.avg_pool2d(z, 2, padding=[n % 2 for n in z.shape[2:]]) for z in (x, y))
    assert min(x.shape[2:]) < 11 or scales == 5
    torch.testing.assert_close(ms_ssim(a, b), expected)


def test_ms_ssim_needs_a_window() -> None:
    with pytest.raises(ValueError, match="10x30 px are smaller than the SSIM window of 11 px"):
        ms_ssim(torch.rand(1, 1, 10, 30), torch.rand(1, 1, 10, 30))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_is_that_of_the_public_package(backbone: Path, tmp_path: Path) -> None:
    a, b = tiny_images(2, (3, 80, 70)), tiny_images(2, (3, 80, 70), seed=1)
    state = torch.random.get_rng_state()
    distance = lpips_distance(backbone)
    assert torch.random.get_rng_state().equal(state)
    public = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = load_file(backbone)
    public.net.load_state_dict({f"slice{i + 1}.{n}.{kind}": weights[f"features.{n}.{kind}"]
                                for i, n in enumerate(LAYERS) for kind in ("weight", "bias")})  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(distance(a, b), public(2 * a - 1, 2 * b - 1).flatten())
        small = F.interpolate(a[:, :1, :28, :28], size=(64, 64), mode="bilinear").expand(-1, 3, -1, -1)
        other = F.interpolate(b[:, :1, :28, :28], size=(64, 64), mode="bilinear").expand(-1, 3, -1, -1)
        expected = public(2 * small - 1, 2 * other - 1).flatten()
    torch.testing.assert_close(distance(a[:, :1, :28, :28], b[:, :1, :28, :28]), expected)
    assert distance(a, a).tolist() == [0, 0]
    as_pth = tmp_path / "alexnet.pth"
    torch.save(weights, as_pth)
    torch.testing.assert_close(lpips_distance(as_pth)(a, b), distance(a, b))
    (tmp_path / "wrong.safetensors").write_text("no")
    with pytest.raises(XbenchError, match=r"wrong.safetensors is not a safetensors file with the tensors features\.\*"):
        lpips_distance(tmp_path / "wrong.safetensors")


def test_box_masks_are_unions_of_boxes() -> None:
    boxes = [torch.tensor([[1.0, 0, 3, 2], [2, 1, 5, 3]]), torch.zeros(0, 4), torch.tensor([[0.6, 0, 9, 1.4]])]
    masks = box_masks(boxes, torch.zeros(3, 1, 4, 6))
    assert masks[0, 0].tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0] * 6]
    assert masks[1].sum() == 0
    assert masks[2, 0].tolist() == [[0, 1, 1, 1, 1, 1], *[[0] * 6] * 3]


@pytest.mark.parametrize("fill", ["gray", "noise", "telea", "local-mean"])
def test_equals_the_definition_image_by_image(fill: str, backbone: Path) -> None:
    classifier = tiny_classifier((3, 40, 48)).double()
    batch = tiny_batch(5, classifier)
    classifier.batch_size = 3
    scored = Filling(lpips_backbone=pinned(backbone))(explainer(classifier, fill), batch, None)
    filler = make_filler(fill, classifier, batch.x, ImageRandom(0, batch.ids))
    for i, boxes in enumerate(batch.boxes or []):
        keep = torch.ones(1, 1, 40, 48, dtype=torch.float64)
        for x0, y0, x1, y1 in boxes.int().tolist():
            keep[:, :, y0:y1, x0:x1] = 0
        real = batch.x[i : i + 1]
        made = filler(torch.tensor([i]), torch.tensor([0]), keep)
        filled = (real * keep + made * (1 - keep)).clamp(0, 1)
        for name, image in (("accuracy", filled), ("real", real)):
            top = int(classifier(image).argmax())
            assert float(scored.scores[name][i]) == float(top == int(batch.label[i]))
        assert float(scored.scores["ms_ssim"][i]) == pytest.approx(float(ms_ssim(real, filled)))
        assert float(scored.scores["lpips"][i]) == pytest.approx(float(lpips_distance(backbone)(real, filled)), abs=1e-6)


def test_a_mask_is_filled_instead_of_the_boxes() -> None:
    """A mask of the boxes' own pixels gives the same, another one what replacing its pixels gives."""
    classifier = tiny_classifier((3, 40, 48))
    batch = tiny_batch(4, classifier)
    assert batch.boxes is not None
    boxed = box_masks(batch.boxes, batch.x)[:, 0].bool()
    by_box = Filling()(explainer(classifier, "gray"), batch, None)
    by_mask = Filling()(explainer(classifier, "gray"), dataclasses.replace(batch, masks=list(boxed), boxes=None), None)
    assert by_mask.scores["ms_ssim"].equal(by_box.scores["ms_ssim"])
    other = torch.zeros(40, 48, dtype=torch.bool)
    other[3:30:2, 5:40:3] = True
    scored = Filling()(explainer(classifier, "gray"), dataclasses.replace(batch, masks=[other] * 4), None)
    filled = torch.where(other, classifier.gray, batch.x)
    torch.testing.assert_close(scored.scores["ms_ssim"], ms_ssim(batch.x, filled).to(batch.x))
    assert (by_box.record, scored.record["images_by_mask"]) == ({"images_by_mask": 0, "images_by_box": 4}, 4)


class Centre(nn.Module):
    """Class 1 if the centre of the image, of which 1 was subtracted, is brighter than 0.5, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, 0, 14, 14] + 0.5
        return torch.stack([-bright, bright], 1)


def test_known_scores() -> None:
    """A white square on black: black in its place removes it, white is the image itself, and with no box there is no score."""
    about = {"label_space": "two", "std": [1.0], "cam_layer": None, "stages": []}
    white = Classifier(Centre(), name="w", shape=(1, 28, 28), classes=2, mean=[1.0], **about)  # type: ignore[arg-type]
    x = torch.zeros(3, 1, 28, 28)
    x[:, :, 10:20, 10:20] = 1
    square = torch.tensor([[10.0, 10, 20, 20]])
    one = torch.ones(3, dtype=torch.int64)
    batch = Batch(["a", "b", "c"], x, one, one, [square, torch.tensor([[0.0, 0, 5, 5]]), torch.zeros(0, 4)])
    black = Filling()(explainer(white, "zero"), batch, None)
    assert black.scores["accuracy"][:2].tolist() == [0, 1]
    assert black.scores["ms_ssim"][:2].tolist() == pytest.approx([float(ms_ssim(x[:1], 0 * x[:1])), 1])
    assert black.reasons["accuracy"] == black.reasons["ms_ssim"] == {2: "no true box"}
    same = Filling()(explainer(white, "gray"), batch, None)
    assert [float(same.scores[name][0]) for name in ("accuracy", "real", "ms_ssim")] == [1, 1, 1]


def test_without_alexnet_the_reason_says_what_to_place_where(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    classifier = tiny_classifier()
    batch = tiny_batch(2, classifier)
    scored = Filling()(explainer(classifier, "gray"), batch, None)
    assert scored.scores["lpips"].isnan().all()
    assert scored.reasons["lpips"][0] == (
        f'no AlexNet weights: place torchvision\'s {HUB_FILE} in {tmp_path}/checkpoints, or give lpips_backbone="FILE:SHA256"'
    )
    without = Filling().identity
    assert without != Filling(lpips_backbone=pinned(backbone)).identity
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / HUB_FILE).write_bytes(b"not these")
    with pytest.raises(XbenchError, match="is damaged: its sha256 is not the one in its name"):
        Filling()(explainer(classifier, "gray"), batch, None)
    with pytest.raises(XbenchError, match=r"has the sha256 [0-9a-f]{64}, not 0{12}"):
        Filling(lpips_backbone=f"{backbone}:{'0' * 12}")(explainer(classifier, "gray"), batch, None)
    with pytest.raises(ValueError, match="must be written FILE:SHA256"):
        Filling(lpips_backbone=str(backbone))


def test_another_classifier_judges_and_its_passes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, judge = tiny_classifier(), tiny_classifier(seed=5)
    batch = tiny_batch(6, classifier)
    monkeypatch.setattr(filling, "_loaded", lambda spec, device: judge)
    metric = Filling(judge="other")
    before = classifier.passes.copy()
    scored = metric(explainer(classifier, "gray"), batch, None)
    assert classifier.passes - before == metric.cost(METHODS.make("lime"), classifier) * 6
    assert scored.scores["real"].equal((judge(batch.x).argmax(1) == batch.label).float())
    assert not scored.scores["real"].equal((classifier(batch.x).argmax(1) == batch.label).float())
    judge.label_space = "else"
    with pytest.raises(XbenchError, match="judge 'other' takes"):
        metric.not_applicable(METHODS.make("lime"), classifier)
    monkeypatch.undo()
    with pytest.raises(XbenchError, match="unknown classifier 'mnist-cmm': did you mean 'mnist-cnn'"):
        Filling(judge="mnist-cmm").not_applicable(METHODS.make("lime"), classifier)


def test_a_network_that_judges_itself_does_so_in_its_form() -> None:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    assert Filling(judge="mnist-cnn")._judging(classifier) is classifier
    assert Filling(judge="mnist-resnet8")._judging(classifier) is not classifier


@pytest.mark.parametrize(("explained", "judge"), [("mnist-cnn", "mnist-resnet8"), ("mnist-resnet8", "mnist-cnn")])
def test_digits_are_judged_by_the_other_shipped_network(explained: str, judge: str) -> None:
    classifier, other = (CLASSIFIERS.make(spec).load() for spec in (explained, judge))
    batch = tiny_batch(60, classifier)
    scored = Filling()(explainer(classifier, "gray"), batch, None)
    right = [(c(batch.x).argmax(1) == batch.label).float() for c in (classifier, other)]
    assert scored.scores["real"].equal(right[1])
    assert not scored.scores["real"].equal(right[0])


def test_only_methods_with_a_fill_have_a_score() -> None:
    metric, classifier = METRICS.make("filling"), tiny_classifier((3, 64, 64))
    assert metric.not_applicable(METHODS.make("gradient"), classifier) == "no fill"
    assert metric.not_applicable(METHODS.make("lime"), classifier) is None
    assert "no inpainter ships" in str(metric.not_applicable(METHODS.make('mp(fill="inpaint")'), classifier))
    assert metric.needs_boxes


@pytest.mark.parametrize(("judge", "real", "readable"), [(None, 0.95, 0.3), ("mnist-cnn", 1, 0.8)])
def test_digits_at_the_defaults(judge: str | None, real: float, readable: float) -> None:
    """The blur leaves digits readable, most to the network that is explained, fewer to another that did not choose them.

    Black, gray and the inpainter in the whole box of the ink do not.
    """
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    ids = list(subset.ids[:40])
    x, label, boxes = subset.read(ids)
    batch = Batch(ids, x, label, label, boxes)
    accuracy, likeness = {}, {}
    for fill in ("blur", "gray", "zero", "inpaint"):
        scores = Filling(judge=judge)(explainer(classifier, fill), batch, None).scores
        accuracy[fill], likeness[fill] = float(scores["accuracy"].mean()), float(scores["ms_ssim"].mean())
        assert float(scores["real"].mean()) >= real
    assert accuracy["blur"] > readable
    assert accuracy["blur"] > max(accuracy[fill] for fill in ("gray", "zero", "inpaint"))
    assert max(accuracy[fill] for fill in ("gray", "zero", "inpaint")) < 0.35
    assert likeness["blur"] > max(likeness[fill] for fill in ("gray", "zero", "inpaint"))
