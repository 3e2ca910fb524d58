"""What may be published, whether it comes out again, and what else the command line makes of stored results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome

from xbench.method import METHODS
from xbench.run.machine import revision
from xbench.store import Store

Cli = Callable[..., Outcome]

SUITE = """title = "T"
description = "d"
dataset = "mnist"
classifier = "mnist-cnn"
methods = ["gradient", "random", "edges"]
[[metrics]]
spec = "deletion"
images = 6
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def store(xbench: Cli, suite: Path, tmp_path: Path) -> Path:
    done = xbench("run", "--suite", suite, "--store", tmp_path / "store")
    assert done.status == 0, done.err
    return tmp_path / "store"


def change(store: Path, method: str, change: Callable[[dict], None]) -> None:
    """Changes the stored part of a method, with a valid checksum."""
    (part,) = (store / "results").glob(f"*/*/{method}/*/part-000.json")
    content = json.loads(part.read_text())
    del content["sha256"]
    change(content)
    Store(store).write_part(part.parent, 0, content)


def test_mixed_versions_and_uncommitted_code_are_refused_unless_told(
    xbench: Cli, suite: Path, store: Path, tmp_path: Path
) -> None:
    words = ("publish", "--suite", suite, "--store", store, "--to", tmp_path / "out")
    for method in ("gradient", "random", "edges"):
        change(store, method, lambda part: part["record"]["machine"].update(revision="abc-dirty"))
    refused = xbench(*words)
    assert refused.status == 2
    assert "by code not committed" in refused.err
    assert "abc-dirty" in refused.err
    change(store, "random", lambda part: part["record"]["machine"].update(torch="1.0.0"))
    refused = xbench(*words, "--allow-dirty")
    assert refused.status == 2
    assert "mixes versions" in refused.err
    assert "torch 1.0.0" in refused.err
    assert not (tmp_path / "out").exists()
    assert xbench(*words, "--allow-dirty", "--allow-mixed").status == 0


def test_measured_results_take_the_place_of_those_of_another_machine(xbench: Cli, suite: Path, tmp_path: Path) -> None:
    suite.write_text(SUITE.replace("deletion", "efficiency(repeats=1)"))
    assert xbench("run", "--suite", suite, "--store", tmp_path / "store", "-m", "random").status == 0
    words = ("publish", "--suite", suite, "--store", tmp_path / "store", "--to", tmp_path / "out", "--allow-dirty")
    assert xbench(*words, "--allow-incomplete").status == 0
    (here,) = (tmp_path / "out" / "results").glob("*/*/random/efficiency*")
    here.rename(here.with_name(here.name[:-16] + "0" * 16))
    other = here.parent.parent / "edges" / here.name
    other.mkdir(parents=True)  # of which there is nothing new to publish
    assert xbench(*words, "--allow-incomplete").status == 0
    assert list(here.parent.glob("efficiency*")) == [here]
    assert other.exists()
    itself = xbench(*words[:-2], tmp_path / "store")
    assert itself.status == 2
    assert "is the store itself" in itself.err
    assert list((tmp_path / "store").rglob("efficiency*/part-000.json"))


def test_incomplete_results_are_refused_unless_told(xbench: Cli, suite: Path, store: Path, tmp_path: Path) -> None:
    for part in (store / "results").glob("*/*/edges/*/part-000.json"):
        part.unlink()
        Store(store).write_status(part.parent, {"status": "failed", "reason": "RuntimeError: no", "traceback": "/home/me"})
    words = ("publish", "--suite", suite, "--store", store, "--to", tmp_path / "out", "--allow-dirty")
    refused = xbench(*words)
    assert refused.status == 2
    assert "deletion x edges (failed)" in refused.err
    assert xbench(*words, "--allow-incomplete").status == 0
    page = (tmp_path / "out" / "mine.md").read_text()
    assert "failed: RuntimeError: no" in page
    assert not [path for path in (tmp_path / "out").rglob("*.json") if "/home/me" in path.read_text()]
    again = xbench("board", "--suite", tmp_path / "out" / "mine.toml", "--store", tmp_path / "out", "--out", tmp_path / "again")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "mine.md").read_text() == page


def test_verify_finds_what_does_not_come_out_again(xbench: Cli, suite: Path, store: Path) -> None:
    words = ("verify", "--suite", suite, "--store", store, "--cells", "3")
    done = xbench(*words)
    assert done.status == 0, done.err
    assert done.out.count("same: deletion x ") == 3
    change(store, "gradient", lambda part: part["scores"]["auc"].__setitem__(2, part["scores"]["auc"][2] + 0.1))
    done = xbench(*words)
    assert done.status == 1
    assert "DIFFERS: deletion x gradient, images 1 to 6" in done.out
    assert done.out.count("same: ") == 2
    assert xbench(*words, "--tolerance", "0.9").status == 0


def test_export_is_tidy_in_both_formats(xbench: Cli, suite: Path, store: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("a.csv", "a.parquet"):
        done = xbench("export", "--suite", suite, "--store", store, "--out", tmp_path / name)
        assert done.status == 0, done.err
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        tables.append(
            read(tmp_path / name, **({"dtype": {"image": str}, "keep_default_na": True} if name.endswith("csv") else {}))
        )
    csv, parquet = tables
    assert len(csv) == len(parquet) == 18
    assert list(csv.columns) == list(parquet.columns)
    assert csv["value"].tolist() == pytest.approx(parquet["value"].tolist(), rel=1e-6)
    assert csv["image"].tolist() == parquet["image"].tolist()
    assert not csv["higher_is_better"].any()
    assert csv.groupby("method")["control"].first().to_dict() == {"edges": True, "gradient": False, "random": True}
    wrong = xbench("export", "--suite", suite, "--store", store, "--out", tmp_path / "a.xlsx")
    assert wrong.status == 2
    assert "must end in .csv or .parquet" in wrong.err


def test_results_say_which_commit_computed_them(store: Path) -> None:
    commit = revision()
    (part,) = (store / "results").glob("*/*/random/*/part-000.json")
    assert json.loads(part.read_text())["record"]["machine"].get("revision", "") == commit
    assert re.fullmatch(r"([0-9a-f]{7,40}(-dirty)?)?", commit)


def test_methods_with_an_uncertainty_name_it() -> None:
    named = {cls.name: cls().uncertainty() for cls in METHODS}
    assert {name: other.spec for name, other in named.items() if other} == {
        "vp": 'vp(output="std")',
        "varsal": 'varsal(output="std")',
    }
    assert METHODS.make('vp(output="std")').uncertainty() is None


def test_two_stores_are_compared(xbench: Cli, suite: Path, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert xbench("run", "--suite", suite, "--store", other, "-m", "gradient", "-m", "random").status == 0
    change(other, "gradient", lambda part: part["scores"].update(auc=[v + 0.25 for v in part["scores"]["auc"]]))
    done = xbench("compare", store, other, "--suite", suite)
    assert done.status == 0, done.err
    rows = {line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")[3:-1]] for line in done.out.splitlines()[2:]}
    assert sorted(rows) == ["gradient", "random"]
    assert rows["gradient"][2:] == ["**0.250 [0.250, 0.250]**", "2.5e-01"]
    assert rows["random"][2:] == ["0.000 [0.000, 0.000]", "0.0e+00"]


def test_other_seeds_and_several_suites_on_one_board(xbench: Cli, suite: Path, store: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.toml"
    second.write_text(SUITE.replace('"T"', '"U"').replace('"deletion"', '"area"').replace("images = 6", "images = 4"))
    words = ("board", "--suite", suite, "--store", store, "--out", tmp_path / "out")
    missing = xbench(*words, "--other-seed", "1")
    assert missing.status == 2
    assert "has no results of seed 1: xbench run --suite" in missing.err
    assert "--seed 1" in missing.err
    assert xbench("run", "--suite", suite, "--store", store, "--seed", "1").status == 0
    assert (store / "boards" / "mine-seed-1.md").exists()
    assert xbench("run", "--suite", second, "--store", store).status == 0
    assert xbench(*words, "--other-seed", "1").status == 0
    done = xbench(*words, "--suite", second)
    assert done.status == 0, done.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"mine.html", "second.html", "overall.html", "overall.md", "overall-ranks.tex"} <= names
    assert "| method | all | T | U |" in " ".join((tmp_path / "out" / "overall.md").read_text().split())
    site = (tmp_path / "out" / "mine.html").read_text()
    assert '<section id="gallery">' in site
    assert site.count('alt="map of ') == 3 * 6
    assert (tmp_path / "out" / "overall.html").read_text().count('alt="map of ') == 3 * (6 + 4)


def test_papers_prints_or_writes(xbench: Cli, suite: Path, store: Path, tmp_path: Path) -> None:
    done = xbench("papers", "--suite", suite, "--store", store)
    assert done.status == 2
    assert "no published table shares a metric and two methods" in done.err
    suite.write_text(SUITE.replace('"edges"', '"sliding-patch"'))
    assert xbench("run", "--suite", suite, "--store", store).status == 0
    words = ("papers", "--suite", suite, "--store", store)
    done = xbench(*words)
    assert done.status == 0, done.err
    assert "| random map " in done.out
    assert xbench(*words, "--out", tmp_path / "papers.md").status == 0
    assert (tmp_path / "papers.md").read_text().strip() == done.out.strip()
