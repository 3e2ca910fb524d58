"""Every command and Python block of the documents runs; `snippets.py` says how they are made small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from snippets import DOCUMENTS, Snippet, commands, small, snippets

ALL = [snippet for document in DOCUMENTS for snippet in snippets(document)]
RUN = [(s.document, s.line) for s in ALL if s.language in ("bash", "python") and not s.why]


def test_every_snippet_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "snippets.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [f"{row['document']}:{row['line']}: {row['error']}" for row in rows if row["error"]]
    assert not failed, "\n\n".join(failed)
    assert [(row["document"], row["line"]) for row in rows] == RUN, done.stderr
    assert done.returncode == 0


def test_what_is_not_run_says_why() -> None:
    unknown = [f"{s.document}:{s.line}" for s in ALL if s.language not in ("bash", "python", "toml", "text", "math")]
    assert not unknown, f"a fence needs one of the languages bash, python, toml, text and math: {unknown}"
    marked = [s for s in ALL if s.why]
    assert len(marked) < len(RUN) / 2, "most of what the documents say has to be tried"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "xbench run --suite smoke -m vp --device cuda",
            [["run", "--suite", "smoke", "-m", "vp", "--device", "cpu", "--limit", "2"]],
        ),
        ("xbench fit 'vp(width=64, upsample=4)'", [["fit", "vp(upsample=4, epochs=1, batch=256, width=4)"]]),
        (
            "xbench run -s smoke -m a -m b -m c -m d",
            [["run", "-s", "smoke", "-m", "a", "-m", "b", "-m", "c", "--limit", "2"]],
        ),
        ("xbench list methods  # all", [["list", "methods"]]),
    ],
)
def test_a_command_is_made_small(line: str, expected: list[list[str]]) -> None:
    (words,) = commands(line)
    assert list(small(words)) == expected


def test_a_failing_snippet_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import snippets as module

    monkeypatch.chdir(tmp_path)
    for language, text, error in [
        ("python", "1 / 0\n", ZeroDivisionError),
        ("bash", "rm -r everything\n", ValueError),
        ("bash", "xbench list nothing\n", RuntimeError),
    ]:
        with pytest.raises(error):
            module.run(Snippet("README.md", 1, language, text, ""), {})
