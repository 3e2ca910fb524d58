"""Every wrong input is answered by one line that has what was given, what is valid and what to do; never by a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image
from scratch import register, scratch_registries

from xbench import METHODS, Classifier, Images, Labels, Maps, Method, Passes, XbenchError
from xbench.models.mnist_cnn import MnistCnn

Cli = Callable[..., Outcome]
RUN = ("run", "--suite", "smoke", "-m", "gradient")
SETTING = (*RUN, "--set")

TABLE: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    # words of the command line
    (("rnu",), ("unknown command 'rnu'", "did you mean 'run'?", "valid: board, cache, check, compare, ")),
    ((*RUN, "--lmit", "3"), ("unknown option of xbench run '--lmit'", "did you mean '--limit'?", "valid: --address, ")),
    ((*RUN, "more"), ("unexpected extra argument", "more", "see: xbench run --help")),
    (("run",), ("Missing option '--suite'", "A suite's name (see: xbench list suites)", "see: xbench run --help")),
    (("run", "-s"), ("Option '-s' requires an argument", "see: xbench run --help")),
    (("list",), ("Missing argument", "methods", "fills", "see: xbench list --help")),
    (("list", "metods"), ("'metods' is not one of", "'methods'", "see: xbench list --help")),
    (("export", "--suite", "smoke"), ("Missing option '--out'", ".csv, or .parquet")),
    # numbers and choices
    ((*RUN, "--limit", "0"), ("'--limit'", "'0'", "1", "see: xbench run --help")),
    ((*RUN, "--limit", "-3"), ("'--limit'", "-3", "1")),
    ((*RUN, "--limit", "x"), ("'--limit'", "'x'", "integer")),
    ((*RUN, "--images", "0"), ("'--images'", "'0'", "1")),
    ((*RUN, "--images", "99999"), ("subset 'mnist' has 200 images, 99999 were asked for",)),
    ((*RUN, "--seed", "x"), ("'--seed'", "'x'", "integer")),
    ((*RUN, "--batch-size=0"), ("'--batch-size'", "'0'", "1")),
    ((*RUN, "--timeout", "0"), ("'--timeout'", "'0'", "0.001")),
    ((*RUN, "--engine", "rai"), ("'--engine'", "'rai'", "'local', 'ray'")),
    ((*RUN, "--address", "auto"), ("--address", "needs --engine ray")),
    ((*RUN, "--shard", "3/2"), ("--shard '3/2'", "write i/n with 1 <= i <= n")),
    ((*RUN, "--shard", "a"), ("--shard 'a'", "write i/n")),
    ((*RUN, "--device", "gpu"), ("device 'gpu' cannot be used", "valid: cpu, cuda, cuda:0")),
    ((*RUN, "--device", "cuda:77"), ("device 'cuda:77' cannot be used", "valid: cpu")),
    ((*RUN, "--device", "meta"), ("device 'meta' cannot be used", "valid: cpu")),
    # suites and their settings
    (("run", "--suite", "robustnes"), ("unknown suite 'robustnes'", "did you mean 'robustness'?", "valid: ")),
    (("run", "--suite", "absent.toml"), ("suite file absent.toml does not exist",)),
    (("run", "--suite", "broken.toml"), ("suite broken.toml", "cannot be read", "Invalid value")),
    (("run", "--suite", "folder.toml"), ("suite folder.toml", "cannot be read", "Is a directory")),
    (("run", "--suite", "odd.toml"), ("odd.toml", "unknown key 'descripton'", "did you mean 'description'?", "valid: ")),
    (("run", "--suite", "empty.toml"), ("empty.toml", "metrics", "at least 1 item")),
    (("run", "--suite", "metric.toml"), ("unknown metric 'deletoin'", "did you mean 'deletion'?", "valid: ")),
    (("run", "--suite", "parameter.toml"), ("unknown parameter of deletion 'x'", "valid: ")),
    ((*SETTING, "seed"), ("--set seed: write path=value, as in --set metrics.stability.images=10",)),
    ((*SETTING, "sed=1"), ("--set sed=1", "unknown key 'sed'", "did you mean 'seed'?", "valid: ")),
    ((*SETTING, "seed=x"), ("--set seed=x", "valid integer")),
    ((*SETTING, "seed.x=1"), ("--set seed.x=1", "there is no key 'x'")),
    ((*SETTING, "metrics.stabilty.images=3"), ("'stabilty'", "did you mean 'stability'?", "valid: 0, 1, ")),
    (
        (*SETTING, "metrics.stability.imags=3"),
        ("imags", "did you mean 'images'?", "valid: calls, dimensions, draws, eps, images, "),
    ),
    ((*SETTING, "metrics.stability.images=0"), ("--set metrics.stability.images=0", "greater than 0")),
    ((*SETTING, "metrics.9.images=3"), ("unknown key '9'", "valid: 0, 1, 2, 3, ")),
    ((*SETTING, "metrics.area.spec=nope"), ("unknown metric 'nope'", "valid: area, ")),
    ((*SETTING, "metrics.area.spec='area(fill=1)'"), ("area(fill=...): given 1",)),
    # specs
    (("run", "-s", "smoke", "-m", "rize"), ("unknown method 'rize'", "did you mean 'rise'?", "valid: ")),
    (("run", "-s", "smoke", "-m", "Rise"), ("malformed method 'Rise'", "write name or name(", "xbench list methods")),
    (("run", "-s", "smoke", "-m", ""), ("malformed method ''", "xbench list methods")),
    (("run", "-s", "smoke", "--methods", "rise,"), ("malformed method ''", "xbench list methods")),
    (("run", "-s", "smoke", "-m", "rise(masks"), ("malformed method 'rise(masks'", "xbench list methods")),
    (("run", "-s", "smoke", "-m", "rise(1)"), ("malformed method 'rise(1)'", "parameters are name=value")),
    (("run", "-s", "smoke", "-m", "rise(mask=3)"), ("unknown parameter of rise 'mask'", "did you mean 'masks'?", "valid: ")),
    (("run", "-s", "smoke", "-m", "rise(masks='many')"), ("rise(masks=...): given 'many'", "valid integer")),
    (("run", "-s", "smoke", "-m", "rise(masks=-1)"), ("masks must be at least 1, got -1",)),
    (("run", "-s", "smoke", "-m", "vp(upsample=0)"), ("upsample must be 1, 2, 4, 8 or 16, got 0",)),
    (("run", "-s", "smoke", "-m", "sliding-patch(fill='blurr')"), ("'blurr'", "must be one of biharmonic, blur, ")),
    ((*RUN, "--dataset", "minst"), ("unknown dataset 'minst'", "did you mean 'mnist'?", "valid: ")),
    ((*RUN, "--dataset", "imagenet"), ("'imagenet' has no classifier", "--classifier", "xbench list classifiers")),
    ((*RUN, "-c", "mnist-cm"), ("unknown classifier 'mnist-cm'", "did you mean 'mnist-cnn'?", "valid: ")),
    ((*RUN, "-c", "module"), ("needs a function and the images' size", "module(factory=")),
    ((*RUN, "-c", "module(factory='nope:f', size=28)"), ("'nope:f'", "cannot be imported", "PYTHONPATH")),
    ((*RUN, "-c", "checkpoint"), ("needs a file and its architecture", "checkpoint(path=")),
    ((*RUN, "-c", "resnet20"), ("needs a file of weights", "resnet20(weights=", "xbench fit-classifier resnet20")),
    ((*RUN, "-c", "torchvision(arch='resnet5')"), ("'resnet5'", "did you mean 'resnet50'?", "valid: ")),
    ((*RUN, "-c", "vgg16-small(weights='damaged.safetensors')"), ("damaged.safetensors is damaged or no file of weights",)),
    ((*RUN, "-d", "1"), ("unknown option of xbench run '-d'", "--dataset", "--device")),
    # images and files
    (("explain", "absent.png"), ("absent.png is neither an image file nor DATASET/ID", "mnist")),
    (("explain", "broken.png"), ("broken.png cannot be read as an image",)),
    (("explain", "mnist/99999"), ("dataset 'mnist' has no image '99999'", "for instance ")),
    (("explain", "mnist/0047", "--target", "10"), ("--target 10", "has classes 0..9")),
    (("explain", "mnist/0047", "-m", "attention-rollout"), ("'attention-rollout' cannot explain", "vision transformers")),
    (("explain", "mnist/0047", "-c", "mnist-cmm"), ("unknown classifier 'mnist-cmm'", "did you mean 'mnist-cnn'?")),
    (("explain", "mnist/0047", "-o", "file/x.png"), ("file/x.png cannot be written",)),
    (("explain", "mnist/0047", "-o", "folder.toml"), ("folder.toml cannot be written: Is a directory",)),
    # stores
    ((*RUN, "--store", "file"), ("store file cannot be written", "choose another with --store")),
    (("board", "-s", "smoke", "--store", "absent"), ("store absent does not exist", "xbench run --store absent makes it")),
    (("board", "-s", "smoke", "--store", "nothing"), ("nothing has no result of suite 'smoke'", "xbench run --suite smoke")),
    (("compare", "vp", "nvp", "-s", "smokee"), ("unknown suite 'smokee'", "did you mean 'smoke'?")),
    (("compare", "vp", "nvp", "-s", "smoke", "--store", "nothing"), ("nothing does not have every score", "xbench run ")),
    (("verify", "-s", "smoke", "--store", "nothing"), ("nothing has no result of suite 'smoke'",)),
    (("verify", "-s", "smoke", "--cells", "0"), ("'--cells'", "'0'", "1")),
    (("publish", "-s", "smoke", "--store", "nothing"), ("is not complete in nothing", "(missing)", "--allow-incomplete")),
    (("export", "-s", "smoke", "--store", "nothing", "-o", "x.txt"), ("x.txt", "must end in .csv or .parquet")),
    (("merge", "absent", "--store", "m"), ("absent is no store", "results, maps, answers, checkpoints")),
    # fitting, checking, choosing
    (("fit", "gradient"), ("'gradient' has no network to fit", "trained methods: ")),
    (("fit", "vp", "--dataset", "minst"), ("unknown dataset 'minst'", "did you mean 'mnist'?")),
    (("fit", "vp", "--device", "tpu"), ("device 'tpu' cannot be used", "valid: cpu")),
    (("fit", "vp(seed=9)", "--out", "file/out"), ("file", "cannot be read or written")),
    (("fit-classifier", "efficientnet-lite", "--out", "x"), ("has no training recipe", "with one: mnist-cnn")),
    (("fit-classifier", "mnist-cnn", "--epochs", "0", "--out", "x"), ("'--epochs'", "'0'", "1")),
    (("fit-classifier", "resnet8", "--out", "x"), ("no dataset of its own", "--dataset")),
    (("fit-inpainter", "--width", "0", "--out", "x"), ("'--width'", "'0'", "1")),
    (("subset", "mnist", "--images", "5000"), ("5300 were asked for", "predicted correctly")),
    (("check", "rize"), ("unknown entry 'rize'", "did you mean 'rise'?", "valid: ")),
    (("check", "rise(masks=0)"), ("masks must be at least 1, got 0",)),
    (("check", "imagefolder"), ("'imagefolder' needs the folder of your images", "imagefolder(path=")),
    (("new", "metod", "x"), ("'metod' is not one of 'method'",)),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    suite = 'title = "t"\ndescription = "d"\ndataset = "mnist"\nclassifier = "mnist-cnn"\n'
    texts = {
        "file": "",
        "broken.png": "no image",
        "damaged.safetensors": "abc",
        "broken.toml": "title = [",
        "odd.toml": suite.replace("description", "descripton"),
        "empty.toml": f"{suite}metrics = []\n",
        "metric.toml": f'{suite}[[metrics]]\nspec = "deletoin"\n',
        "parameter.toml": f'{suite}[[metrics]]\nspec = "deletion(x=1)"\n',
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    for folder in ("folder.toml", "nothing"):
        Path(folder).mkdir()


@pytest.mark.parametrize(("words", "parts"), TABLE, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)
def test_wrong_input_is_one_line(xbench: Cli, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    done = xbench(*words)
    assert done.status == 2, done.out
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    missing = [part for part in parts if part not in line]
    assert not missing, line


class NaNMaps(Method):
    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: object) -> Maps:
        return torch.full((len(x), *x.shape[2:]), torch.nan)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        return Passes()


def test_maps_that_are_not_numbers_are_one_failed_cell_each(xbench: Cli) -> None:
    with scratch_registries():
        register(METHODS, NaNMaps)
        done = xbench("run", "--suite", "smoke", "--limit", "2", "-m", "made", "-m", "random")
        assert done.status == 1
        assert "area x made failed: XbenchError: method 'made' returned NaN or infinite values in 2 of 2 maps" in done.err
        assert "Traceback" not in done.err
        done = xbench("explain", "mnist/0047", "-m", "made")
        assert done.status == 2
        assert "method 'made' returned NaN or infinite values in 1 of 1 maps" in done.err


def test_an_image_of_another_shape_is_named() -> None:
    classifier = MnistCnn().load()
    with pytest.raises(XbenchError, match=r"'mnist-cnn' takes images .* c, h, w = \(1, 28, 28\), got \(2, 3, 28, 28\)"):
        classifier(torch.zeros(2, 3, 28, 28))


def test_a_damaged_file_of_a_store_is_named_and_computed_again(xbench: Cli, tmp_path: Path) -> None:
    words = ("run", "--suite", "smoke", "--limit", "2", "-m", "gradient")
    assert xbench(*words).status == 0
    part = next(Path("xbench-store/results").rglob("deletion-*/part-000.json"))
    before = json.loads(part.read_text())
    part.write_text("{")
    done = xbench(*words)
    assert done.status == 0
    assert f"warning: {part} is damaged (JSONDecodeError); computed again" in done.err
    assert json.loads(part.read_text())["scores"] == before["scores"]


def test_an_image_file_is_resized_to_what_the_classifier_takes(xbench: Cli) -> None:
    Image.new("RGB", (40, 30)).save("photo.png")
    assert xbench("explain", "photo.png", "-m", "gradient").status == 0


@pytest.mark.parametrize("place", ["absent", "file"])
def test_a_folder_of_xbench_path_that_is_none_is_named(place: str, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "XBENCH_PATH": str(tmp_path / place)}
    command = [sys.executable, "-m", "xbench", "list", "methods"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: XBENCH_PATH: {tmp_path / place} is not a folder\n"
