"""What the documents say is what the code does."""

from __future__ import annotations

import importlib
import re
import types

import pytest
from conftest import ROOT

import xbench
from xbench.cli import app
from xbench.method import METHODS
from xbench.metric import METRICS
from xbench.registry import Entry
from xbench.run.suite import suite_names


@pytest.fixture(scope="module")
def entries() -> types.ModuleType:
    """docs/entries.py, which imports what lies beside it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "docs"))
        return importlib.import_module("entries")


@pytest.mark.parametrize("name", ["methods.md", "metrics.md", "entries.md", "protocols.md", "reliability.md"])
def test_the_reference_is_up_to_date(entries: types.ModuleType, name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == entries.PAGES[name](), "run: python docs/entries.py"


def test_docstrings_become_markdown(entries: types.ModuleType) -> None:
    docstring = r"""Sum of a * b_i over i < n, ``code_x`` and |y|.

    $$
    \sum_{i < n}
    a * b_i
    $$

    See Name 2020, https://arxiv.org/abs/1: signed.

    Args:
        width: of the |layer|; None: 8
            (own decision).
        lr, batch: the recipe.

    Raises ValueError.
    """
    defaults = {"width": None, "lr": 0.1, "batch": 2, "seed": 0}
    assert entries.as_markdown(docstring, defaults).splitlines() == [
        "Sum of a \\* b_i over i &lt; n, `code_x` and |y|.",
        "",
        "```math",
        r"\sum_{i < n} a * b_i",
        "```",
        "",
        "See Name 2020, <https://arxiv.org/abs/1>: signed.",
        "",
        "| parameter | default | meaning |",
        "|---|---|---|",
        "| `width` | `None` | of the \\|layer\\|; None: 8 (own decision). |",
        "| `lr`, `batch` | `0.1`, `2` | the recipe. |",
        "| `seed` | `0` |  |",
        "",
        "Raises ValueError.",
    ]
    assert entries.sources(docstring) == ["https://arxiv.org/abs/1"]


@pytest.mark.parametrize("entry", [*METHODS, *METRICS], ids=lambda entry: entry.name)
def test_every_entry_has_its_formula(entries: types.ModuleType, entry: type[Entry]) -> None:
    found = re.findall("^```math\n(.+)\n```$", entries.as_markdown(entry.__doc__, entry().parameters), re.MULTILINE)
    assert found, "no paragraph $$...$$ in the docstring"
    for formula in found:
        assert formula.count("{") == formula.count("}")
        assert formula.count(r"\left") == formula.count(r"\right")


def test_the_pictures_are_small_and_of_methods() -> None:
    pictures = [*(ROOT / "docs" / "figures" / "methods").glob("*.png")]
    assert {path.stem for path in pictures} <= {*METHODS.names(), "images"}
    assert sum(path.stat().st_size for path in pictures) < 1.5e6


def test_every_metric_has_a_small_picture() -> None:
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "figures" / "metrics").glob("*.png")}
    assert set(pictures) == set(METRICS.names())
    assert max(pictures.values()) < 60_000


def test_every_link_of_a_document_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!\w+:)([^)#\n]+)(?:#[^)\n]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {xbench.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_readme_names_only_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = {command.name for command in app.registered_commands}
    assert set(re.findall(r"(?:`|^)xbench ([a-z-]+)", readme, re.MULTILINE)) <= commands
    assert set(re.findall(r"--suite ([a-z-]+)(?![a-z/-])", readme)) <= set(suite_names())
    for spec in re.findall(r"-m (\"[^\"]+\"|[a-z-]+)", readme):
        METHODS.make(spec.strip('"'))


def test_the_changelog_names_every_method_and_metric() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    missing = [name for name in [*METHODS.names(), *METRICS.names()] if name not in text]
    assert not missing
