"""Commands of one process: what they write, print and return. What wrong input is answered with: see test_errors.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome
from PIL import Image

Cli = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('spec = "deletoin"', "unknown metric 'deletoin': did you mean 'deletion'?"),
        ('spec = "deletion(x=1)"', "unknown parameter of deletion 'x'"),
    ],
)
def test_a_wrong_metric_in_a_suite_file(xbench: Cli, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "t"\ndescription = "d"\ndataset = "mnist"\nclassifier = "mnist-cnn"\n[[metrics]]\n{line}\n')
    done = xbench("run", "--suite", path, "--store", tmp_path / "store")
    assert done.status == 2
    assert message in done.err


def test_an_output_folder_without_rights_is_named(xbench: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (("run", "--suite", "smoke", "--store"), ("explain", "mnist/0001", "--out"), ("fit", "vp(seed=9)", "--out")):
        done = xbench(*words, tmp_path / "file" / "out")
        assert done.status == 2
        assert str(tmp_path / "file") in done.err
        assert "cannot be written" in done.err or "Not a directory" in done.err
        assert len(done.err.splitlines()) == 1


def test_an_unreadable_image_is_named(xbench: Cli, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"not an image")
    done = xbench("explain", path)
    assert done.status == 2
    assert f"{path} cannot be read as an image" in done.err


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P"])
def test_explain_takes_any_image_and_writes_a_picture(xbench: Cli, tmp_path: Path, mode: str) -> None:
    Image.new(mode, (40, 30)).save(tmp_path / "in.png")
    done = xbench("explain", tmp_path / "in.png", "-m", "gradient", "-m", "vp", "--out", tmp_path / "out.png")
    assert done.status == 0, done.err
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 2 * picture.height


def test_explain_is_the_methods_own_map(xbench: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = xbench("explain", "mnist/0047", "-m", "rise(masks=50)", "--out", tmp_path / name)
        assert done.status == 0, done.err
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "class 0, p = " in done.out


@pytest.mark.parametrize("kind", ["methods", "metrics", "datasets", "classifiers", "suites", "fills"])
def test_everything_can_be_listed(xbench: Cli, kind: str) -> None:
    plain, machine = xbench("list", kind), xbench("list", kind, "--json")
    assert (plain.status, machine.status) == (0, 0)
    for row in json.loads(machine.out):
        assert row["name"] in plain.out


def test_plan_shows_cost_and_computes_nothing(xbench: Cli, tmp_path: Path) -> None:
    done = xbench("plan", "--suite", "smoke", "--store", tmp_path / "store")
    assert done.status == 0
    assert "to compute" in done.out
    assert "N/A: " in done.out
    assert not list((tmp_path / "store").rglob("part-*.json"))


def test_plan_tells_a_reason_once_for_all_cells_that_have_it(xbench: Cli, tmp_path: Path) -> None:
    words = ("plan", "--suite", "smoke", "--store", tmp_path / "store")
    cells = json.loads(xbench(*words, "--json").out)["plan"]
    lines = [line for line in xbench(*words).out.splitlines() if line.startswith("N/A: ")]
    told = []
    for line in lines:
        names, _, rest = line.removeprefix("N/A: ").partition(" x ")
        metrics, _, reason = rest.partition(": ")
        every = dict.fromkeys(cell["metric"] for cell in cells)
        for method in names.split(", "):
            told += [(method, metric, reason) for metric in (every if metrics == "all metrics" else metrics.split(", "))]
    holes = [(c["method"], c["metric"], c["not_applicable"]) for c in cells if c["not_applicable"]]
    assert sorted(told) == sorted(holes)
    assert len(lines) == len({reason for _, _, reason in holes}) < len(holes)


def test_check_fails_with_status_1_for_a_bad_method(xbench: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> str:
        raise AssertionError("maps differ between two calls")

    monkeypatch.setattr("xbench.testing.check", fails)
    done = xbench("check", "rise")
    assert done.status == 1
    assert "rise fails: maps differ between two calls" in done.err


def test_the_help_of_every_command_is_printed_without_torch() -> None:
    code = """
import sys
from xbench.cli import app
for words in [[], *([command.name] for command in app.registered_commands)]:
    app([*words, "--help"], standalone_mode=False)
print(*sys.modules)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "xbench.cli.running" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "matplotlib"}  # typer itself loads pydantic
