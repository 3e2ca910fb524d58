"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re

from conftest import ROOT

from xbench.cli import app
from xbench.method import METHODS
from xbench.metric import METRICS
from xbench.run.suite import suite_names


def test_the_table_of_entries_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("entries", ROOT / "docs" / "entries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run: python docs/entries.py"


def test_the_readme_names_only_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = {command.name for command in app.registered_commands}
    assert set(re.findall(r"(?:`|^)xbench ([a-z-]+)", readme, re.MULTILINE)) <= commands
    assert set(re.findall(r"--suite ([a-z-]+)(?![a-z/-])", readme)) <= set(suite_names())
    for spec in re.findall(r"-m (\"[^\"]+\"|[a-z-]+)", readme):
        METHODS.make(spec.strip('"'))
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_changelog_names_every_method_and_metric() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    missing = [name for name in [*METHODS.names(), *METRICS.names()] if name not in text]
    assert not missing
