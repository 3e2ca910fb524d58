"""The masks of CUB-200-2011, in its layout on the disk: read, reduced with their photos, scored by, and named when wrong."""

from __future__ import annotations

import json

import pytest
import trees
from test_public_datasets import load

from xbench import XbenchError
from xbench.testing import check_dataset


@pytest.mark.parametrize("folder", ["CUB_200_2011/segmentations", "segmentations"])
def test_masks_of_cub200(tmp_path, folder):
    trees.cub_tree(tmp_path / "CUB_200_2011")
    plain = load("cub200", path=tmp_path, size=64, crop=1.0)
    assert plain.masks is None
    drawn = trees.segmentations(tmp_path / folder, 3)
    subset = load("cub200", path=tmp_path, size=64, crop=1.0, masks=True)
    assert subset.name == "cub200(size=64, crop=1.0, masks=True)"
    masks = subset.masks(subset.ids)
    assert masks[0] is None
    # of 80 px in width the middle 64 remain; three of five annotators are 153
    assert masks[1].tolist() == (drawn[3][:, 8:72] >= 153).tolist()
    assert 0.3 < float(masks[1].float().mean()) < 0.7
    assert load("cub200", path=tmp_path, size=64, crop=1.0).digest() == plain.digest() != subset.digest()
    assert [subset.contents[i] == plain.contents[i] for i in subset.ids] == [True, False]
    half = load("cub200", path=tmp_path, size=32, crop=1.0, masks=True).masks(subset.ids)[1]
    assert half.shape == (32, 32)
    noisy = load("corrupted", dataset=f'cub200(path="{tmp_path}", size=64, crop=1.0, masks=True)')
    assert noisy.masks(subset.ids)[1].equal(masks[1])
    trees.segmentations(tmp_path / folder, 1)  # a part to train on without masks is an error, as no mask is found there
    check_dataset(f'cub200(path="{tmp_path}", size=32, masks=True)')


def test_a_mask_that_is_missing_or_wrong_is_named(tmp_path):
    root = trees.cub_tree(tmp_path / "CUB_200_2011")
    given = {"path": root, "size": 32, "masks": True}
    with pytest.raises(XbenchError, match=r"unpack segmentations\.tgz of CUB-200-2011"):
        load("cub200", **given)
    trees.segmentations(root / "segmentations", 1)
    with pytest.raises(XbenchError, match=r"has no PNG for any photo of evaluation, for instance 001.Bird/Bird_0"):
        load("cub200", **given)
    trees.segmentations(root / "segmentations", 0, 3)
    damaged = root / "segmentations" / "200.Bird" / "Bird_3.png"
    whole = damaged.read_bytes()
    before = load("cub200", **given)
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(XbenchError, match=r"Bird_3.png has changed since the dataset was loaded"):
        before.masks(before.ids)
    with pytest.raises(XbenchError, match=r"dataset 'cub200': .*Bird_3.png cannot be read as an image"):
        load("cub200", **given).masks(before.ids)
    trees.save(damaged, (60, 48))
    with pytest.raises(XbenchError, match=r"the mask .*Bird_3.png has 60 x 48 pixels, its image 80 x 64"):
        load("cub200", **given)


def test_a_run_scores_by_masks_and_says_so(tmp_path, xbench):
    root = trees.cub_tree(tmp_path / "CUB_200_2011")
    drawn = trees.segmentations(root / "segmentations", 3)
    suite = tmp_path / "masks.toml"
    suite.write_text(
        f"""title = "Masks"
description = "d"
dataset = 'cub200(path="{root}", size=64, crop=1.0, masks=True)'
classifier = 'torchvision(arch="shufflenet_v2_x0_5", weights=None, classes=200, size=64, label_space="cub-200")'
methods = ["random"]
metrics = [{{ spec = "energy-in-box" }}]
"""
    )
    done = xbench("run", "--suite", suite, "--store", tmp_path / "store")
    assert done.status == 0, done.err
    (part,) = (tmp_path / "store" / "results").rglob("part-000.json")
    content = json.loads(part.read_text())
    assert content["record"]["metric"] == {"images_by_mask": 1, "images_by_box": 1}
    area = [40 * 32 / 64**2, (drawn[3][:, 8:72] >= 153).mean()]
    assert content["scores"]["area"] == pytest.approx(area, abs=1e-6)
    board = next((tmp_path / "store" / "boards").glob("*.md")).read_text()
    assert "cub200(size=64, crop=1.0, masks=True)" in board
