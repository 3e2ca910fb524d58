"""What commands print: quietly, in detail, through a pipe, without colours, for machines; their help and their completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT, Outcome

from xbench.cli import app, completing
from xbench.cli.telling import console, results
from xbench.method import METHODS
from xbench.run.suite import suite_names
from xbench.subset import DATASETS

Cli = Callable[..., Outcome]
GROUP: Any = typer.main.get_command(app)


def process(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process whose output is a pipe."""
    about = {**os.environ, "PYTHONPATH": str(ROOT), "XBENCH_CACHE": str(cwd / "cache"), **environment}
    command = [sys.executable, "-m", "xbench", *words]
    return subprocess.run(command, cwd=cwd, env=about, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_command_has_help_for_all_that_it_takes(xbench: Cli, name: str) -> None:
    done = xbench(name, "--help")
    assert (done.status, done.err) == (0, "")
    command = GROUP.commands[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert parameter.param_type_name == "argument" or parameter.opts[0] in done.out


def test_no_words_are_a_question_for_help(xbench: Cli) -> None:
    assert xbench() == xbench("--help")
    assert xbench().status == 0


def test_help_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, xbench.cli\nsys.argv = ['xbench', 'run', '--help']\ntry: xbench.cli.main()\n"
    code += "finally: print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")


def test_quiet_is_the_last_line_and_verbose_says_what_each_cell_took(xbench: Cli, tmp_path: Path) -> None:
    words = ("run", "--suite", "smoke", "--limit", "2", "-m", "gradient", "-m", "random", "--store", tmp_path)
    quiet = xbench(*words, "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    (line,) = quiet.out.splitlines()
    assert line.startswith("8 cells, 0 failed, ")
    plain, verbose = xbench(*words), xbench(*words, "-v")
    assert "written: " in plain.out
    assert "area x gradient: 2 images in " not in plain.out
    assert "area x gradient: 2 images in " in verbose.out
    assert "backward passes" in verbose.out


def test_verbose_shows_tracebacks_and_quiet_does_not_hide_failures(
    xbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(METHODS.get("gradient"), "__call__", broken)
    words = ("run", "--suite", "smoke", "--limit", "2", "-m", "gradient", "--store", tmp_path)
    quiet, verbose = xbench(*words, "-q"), xbench(*words, "-v")
    assert (quiet.status, verbose.status) == (1, 1)
    assert "area x gradient failed: RuntimeError: it broke" in quiet.err
    assert "Traceback" not in quiet.err
    assert "Traceback (most recent call last)" in verbose.err
    wrong, detailed = xbench("run", "--suite", "smokee"), xbench("run", "--suite", "smokee", "-v")
    assert "Traceback" not in wrong.err
    assert "Traceback" in detailed.err
    assert detailed.err.endswith(wrong.err)


def test_a_table_through_a_pipe_is_tab_separated(xbench: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = xbench("list", "methods")
    head, *rows = [line.split("\t") for line in done.out.splitlines()]
    assert head == ["name", "what it does", "parameters"]
    assert [row[0] for row in rows] == METHODS.names()
    assert all(len(row) == 3 for row in rows)
    assert "\x1b" not in done.out
    for one in (results, console):
        monkeypatch.setattr(one, "_force_terminal", True)
    assert "┏" in xbench("list", "suites").out


def test_plan_for_machines(xbench: Cli, tmp_path: Path) -> None:
    words = ("plan", "--suite", "smoke", "-m", "gradient", "--store", tmp_path)
    found = json.loads(xbench(*words, "--json").out)
    assert (found["cells"], found["stored"], found["not_applicable"], found["to_compute"]) == (4, 0, 1, 3)
    rows = {row["metric"]: row for row in found["plan"]}
    assert rows["consistency"]["not_applicable"] == "no mask grid"
    assert rows["area"]["images"] == 8
    maps = 8  # one forward and one backward pass each, made once for all metrics
    assert found["forward"] == sum(row["forward"] for row in found["plan"]) + maps


def test_no_color_and_a_closed_pipe(tmp_path: Path) -> None:
    done = process("list", "suites", cwd=tmp_path, NO_COLOR="1", FORCE_COLOR="1")
    assert done.returncode == 0
    assert "\x1b[3" not in done.stdout.replace("\x1b[3m", "")  # no colour; bold and italics are none
    assert done.stderr == ""


def test_the_shell_completes_names(tmp_path: Path) -> None:
    # Whatever shell the tests are started from, if any.
    done = process("--show-completion", "bash", cwd=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_XBENCH_COMPLETE" in done.stdout
    asked = {"COMP_WORDS": "xbench run --suite s", "COMP_CWORD": "3", "_XBENCH_COMPLETE": "complete_bash"}
    assert process(cwd=tmp_path, **asked).stdout.split() == ["sanity", "smoke"]


def test_completion_knows_what_is_registered() -> None:
    assert completing.suites("") == suite_names()
    assert completing.methods("r") == [name for name in METHODS.names() if name.startswith("r")]
    assert completing.datasets("") == DATASETS.names()
    assert "mnist-cnn" in completing.classifiers("mn")
    assert {"rise", "area", "mnist", "mnist-cnn"} <= set(completing.entries(""))


def test_doctor_finds_all_well(xbench: Cli) -> None:
    done = xbench("doctor", "--json")
    found = json.loads(done.out)
    assert (done.status, found["broken"]) == (0, [])
    assert {"xbench", "python", "torch", "torchvision"} <= set(found["versions"])
    assert found["entries"]["methods"] == len(METHODS.names())
    rate = found["images per second, masked and passed forward, and with backward"]["mnist-cnn on cpu"]
    assert float(rate.split()[0].replace(",", "")) > 0
    text = xbench("doctor").out
    assert text.rstrip().endswith("everything works")
    assert "mnist-cnn on cpu: " in text


def test_doctor_finds_what_is_broken(xbench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XBENCH_PATH", str(tmp_path / "absent"))
    monkeypatch.setattr("xbench.cli.doctor._speed", lambda _: {})
    done = xbench("doctor")
    assert done.status == 1
    assert f"broken: {tmp_path / 'file' / 'cache'} cannot be written (Not a directory): set XBENCH_CACHE" in done.err
    assert f"broken: XBENCH_PATH: {tmp_path / 'absent'} is not a folder: make it, or take it out of XBENCH_PATH" in done.err
    assert done.out.rstrip().endswith("something is broken")
