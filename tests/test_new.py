"""`xbench new` writes one file that passes its checks as it is, and refuses what would break something."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome

Cli = Callable[..., Outcome]

# In a process of its own: what it registers must not stay in this one.
STEPS = """
import sys
from xbench.cli import main
for words in {words!r}:
    sys.argv = ["xbench", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def test_what_is_written_passes_its_checks_and_runs(xbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ("method", "metric", "dataset", "classifier")
    for kind in kinds:
        done = xbench("new", kind, f"my-{kind}", "--folder", "mine")
        assert done.status == 0, done.err
        assert f"try: XBENCH_PATH={tmp_path / 'mine'} xbench check my-{kind}" in done.out
    words = [["check", f"my-{kind}"] for kind in kinds]
    words.append(["run", "--suite", "smoke", "--limit", "2", "-m", "my-method", "-m", "random"])
    words.append(["run", "--suite", "smoke", "--limit", "2", "-m", "my-method(power=2.0)", "--dataset", "my-dataset"])
    environment = {**os.environ, "XBENCH_PATH": str(tmp_path / "mine"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-c", STEPS.format(words=words)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in kinds:
        assert f"{kind} my-{kind} passes all checks" in done.stdout
    assert done.stdout.count(", 0 failed, ") == 2


def test_it_goes_to_the_first_folder_of_xbench_path(xbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XBENCH_PATH", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")]))
    assert xbench("new", "method", "one-more").status == 0
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.py")] == [Path("first/methods/one_more.py")]


def test_within_the_checkout_it_goes_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xbench.cli import creating

    package = tmp_path / "xbench"
    (package / "board").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(creating.xbench, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("XBENCH_PATH", "elsewhere")
    monkeypatch.chdir(package / "board")
    roots = {kind: creating._root(kind) for kind in creating.Kind}
    assert roots == {"method": tmp_path, "dataset": tmp_path, "metric": package, "classifier": package}


@pytest.mark.parametrize("name", ["My", "1st", "a_b", "a--b", "-a", "a/b", "../a", "", "a b", "é"])
def test_names_that_no_spec_or_file_can_have_are_refused(xbench: Cli, tmp_path: Path, name: str) -> None:
    done = xbench("new", "method", "--folder", tmp_path, "--", name)
    assert done.status == 2
    assert f"name {name!r}: must be lower-case letters" in done.err
    assert not list(tmp_path.rglob("*.py"))


def test_nothing_is_overwritten(xbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XBENCH_PATH", raising=False)
    done = xbench("new", "method", "rise", "--folder", ".")
    assert done.status == 2
    assert "there is a method 'rise' already: choose another name; taken: " in done.err
    assert xbench("new", "metric", "rise", "--folder", ".").status == 0  # another kind
    Path("metrics/rise.py").write_text("mine")
    done = xbench("new", "metric", "rise", "--folder", ".")
    assert done.status == 2
    assert "rise.py exists: choose another name, or delete it" in done.err
    assert Path("metrics/rise.py").read_text() == "mine"
    done = xbench("new", "method", "mine")
    assert done.status == 2
    assert "where shall the method go? Name a folder of yours: --folder DIR, or set XBENCH_PATH=DIR" in done.err
