"""The package as others get it: from a wheel, an editable install and a bare checkout, each in an environment of its own.

Nothing is downloaded: the environments see the dependencies of the running one (its xbench left out), setuptools among them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from snippets import snippets

import xbench
from xbench import CLASSIFIERS, XbenchError
from xbench.registry import Registry

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import json, sys
import datasets, xbench
from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS
from xbench.run.suite import suite_names
registries = {"methods": METHODS, "metrics": METRICS, "datasets": DATASETS, "models": CLASSIFIERS}
print(json.dumps({
    "xbench": xbench.__file__,
    "foreign": datasets.__file__,
    "files": {cls.name: sys.modules[cls.__module__].__file__ for registry in registries.values() for cls in registry},
    "names": {folder: registry.names() for folder, registry in registries.items()},
    "suites": suite_names(),
    "ids": len(DATASETS.make("mnist").load().ids),
    "digest": CLASSIFIERS.make("mnist-cnn").load().weights_digest,
}))
"""


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that sees nothing of this process' Python and xbench paths."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON") and key != "XBENCH_PATH"}
    return subprocess.run([*map(str, command)], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)


def checked(*command: object, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *arguments: object, cwd: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    checked(sys.executable, "-m", "pip", "--python", python, *arguments, *options, cwd=cwd)


def example(name: str) -> str:
    """A method whose map is the red channel, under ``name``."""
    return f"""
from dataclasses import dataclass
from xbench import METHODS, Method, Passes

@METHODS.register({name!r})
@dataclass(frozen=True)
class Example(Method):
    __call__ = lambda self, classifier, x, y, rng: x[:, 0]
    cost = lambda self, shape: Passes()
"""


def contributing_examples() -> dict[str, str]:
    """The code blocks of CONTRIBUTING.md by the path that their first line names."""
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return dict(blocks)


def entry_names(folder: Path) -> set[str]:
    sources = "\n".join(path.read_text() for path in folder.glob("*.py"))
    return set(re.findall(r'^@[A-Z]+\.register\("([^"]+)"\)', sources, re.MULTILINE))


def tracked() -> list[str]:
    """The files of the checkout that git has or would add."""
    listed = checked("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def copy_checkout(target: Path) -> Path:
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    return target


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """A folder of links to all that is installed in the running environment except xbench."""
    folder = tmp_path_factory.mktemp("dependencies")
    for path in filter(lambda path: Path(path).name in ("site-packages", "dist-packages"), sys.path):
        for item in Path(path).iterdir():
            if "xbench" not in item.name and not (folder / item.name).exists():
                (folder / item.name).symlink_to(item)
    return folder


@pytest.fixture(scope="module")
def environment(dependencies, tmp_path_factory):
    """Makes an environment with the dependencies, a foreign package `datasets` and a foreign entry point; gives its Python."""

    def make(name: str) -> Path:
        home = tmp_path_factory.mktemp(name)
        venv.create(home, symlinks=True)
        (site,) = home.glob("lib/python*/site-packages")
        metadata = {"METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"}
        metadata["entry_points.txt"] = "[xbench.methods]\nby-entry-point = other_maps\n"
        write(site / "other-1.0.dist-info", metadata)
        write(site, {"dependencies.pth": f"{dependencies}\n"})
        write(site, {"datasets/__init__.py": "", "other_maps.py": example("by-entry-point")})
        return home / "bin" / "python"

    return make


@pytest.fixture(scope="module")
def wheel(environment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_checkout(tmp_path_factory.mktemp("checkout"))
    pip(environment("builder"), "wheel", source, "-w", folder, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@dataclasses.dataclass
class Installation:
    """Where a kind of install runs, ``home`` being the folder that xbench must come from."""

    python: Path
    home: Path
    path: dict[str, str]

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run(self.python, "-c", code, cwd=self.python.parent, **self.path, **environment)


@pytest.fixture(scope="module")
def installed(environment, request, tmp_path_factory):
    """Kind to installation, made when first asked for."""

    @functools.cache
    def install(kind: str) -> Installation:
        python = environment(kind)
        if kind == "wheel":
            pip(python, "install", request.getfixturevalue("wheel"), cwd=python.parent)
            return Installation(python, python.parents[1], {})
        checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
        if kind == "editable":
            pip(python, "install", "-e", checkout, cwd=python.parent)
        write(checkout, {"methods/dropped_later.py": example("dropped-later")})
        return Installation(python, checkout, {"PYTHONPATH": str(checkout)} if kind == "bare" else {})

    return install


@pytest.mark.parametrize("kind", ["wheel", "editable", "bare"])
def test_everything_is_found(kind, installed, tmp_path):
    installation = installed(kind)
    mine = write(tmp_path, contributing_examples())
    done = installation.run(PROBE, XBENCH_PATH=str(mine))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["xbench"]).is_relative_to(installation.home)
    assert Path(found["foreign"]).parents[1].name == "site-packages"
    for folder, place in (("methods", "."), ("datasets", "."), ("metrics", "xbench"), ("models", "xbench")):
        shipped, given = entry_names(ROOT / place / folder), entry_names(mine / folder)
        assert shipped
        assert given
        other = {"by-entry-point"} if folder == "methods" else set()
        if folder == "methods" and kind != "wheel":
            other.add("dropped-later")
        assert set(found["names"][folder]) == shipped | given | other
        assert all(Path(found["files"][name]).is_relative_to(installation.home) for name in shipped)
        assert all(Path(found["files"][name]).is_relative_to(mine) for name in given)
    assert found["suites"] == sorted(path.stem for path in (ROOT / "xbench" / "suites").glob("*.toml"))
    assert found["ids"] == 200
    assert found["digest"] == CLASSIFIERS.make("mnist-cnn").load().weights_digest


def test_a_file_of_a_shipped_name_is_an_error(installed, tmp_path):
    installation = installed("editable")
    mine = write(tmp_path, {"methods/gradient.py": example("mine")})
    done = installation.run("from xbench import METHODS; METHODS.names()", XBENCH_PATH=str(mine))
    shipped = installation.home / "methods" / "gradient.py"
    assert done.returncode == 1
    assert f"two files are called gradient.py: {shipped} and {mine / 'methods' / 'gradient.py'}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("case", "files", "message"),
    [
        ("veil", ["a/veil/__init__.py", "b/veil/x.py"], "{0}/a/veil/__init__.py hides the other veil of xbench: delete it"),
        ("absent", ["a/absent/x.py"], "XBENCH_PATH: {0}/b is not a folder"),
        ("same", ["a/same/x.py", "b/same/x.py"], "two files are called x.py: {0}/a/same/x.py and {0}/b/same/x.py; rename one"),
        ("bad", ["a/bad/x.py", "b/bad/y.py"], "{0}/a/bad/x.py: cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_folder_is_an_error_each_time(case, files, message, monkeypatch, tmp_path):
    write(tmp_path, {name: "1 / 0" if name.endswith("x.py") else "" for name in files})
    monkeypatch.setattr(xbench, "__path__", [*xbench.__path__, str(tmp_path / "a"), str(tmp_path / "b")])
    registry = Registry("case", case)
    for _ in range(2):
        with pytest.raises(XbenchError) as caught:
            registry.names()
        assert str(caught.value) == message.format(tmp_path)


def test_examples_of_contributing_pass_the_checks(installed, tmp_path):
    mine = write(tmp_path, contributing_examples())
    names = [name for folder in ("methods", "metrics", "datasets", "models") for name in sorted(entry_names(mine / folder))]
    (suite,) = (mine / "suites").glob("*.toml")
    code = f"from xbench.testing import check; print(*map(check, {names})); "
    code += f"from xbench.run.suite import load_suite; print(load_suite({str(suite)!r}).title)"
    done = installed("wheel").run(code, XBENCH_PATH=str(mine))
    assert done.stdout.splitlines() == ["method metric dataset classifier", "Concentration"], done.stderr


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    expected = set()
    for name in tracked():
        top = name.partition("/")[0]
        if top in ("xbench", "methods", "datasets"):
            expected.add(name if top == "xbench" else f"xbench/{name}")
    assert names - metadata == expected
    documents = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert {name.partition("/")[2] for name in metadata} == documents


def test_every_folder_of_data_is_listed():
    """Else setuptools prints a page of warnings for each when it builds."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name.rpartition("/")[0] for name in tracked() if name.partition("/")[0] in ("xbench", "methods", "datasets")}
    packages = {(folder if folder.startswith("xbench") else f"xbench/{folder}").replace("/", ".") for folder in folders}
    assert packages == set(listed["packages"])
    assert all("/" not in pattern for patterns in listed["package-data"].values() for pattern in patterns)


def test_the_wheel_is_as_large_as_the_documents_say(wheel):
    stated = re.search(r"wheel has (\d+) MB", (ROOT / "docs" / "data.md").read_text())
    assert stated is not None
    assert int(stated[1]) == round(wheel.stat().st_size / 1e6)


def test_every_command_of_the_readme_runs_from_the_wheel(installed, tmp_path):
    """The first installs, as the fixture did; the others run in an empty folder, as `snippets.py` makes them small."""
    installation = installed("wheel")
    code = f"""
import importlib.util, runpy, sys
assert importlib.util.find_spec("xbench").origin.startswith({str(installation.home)!r})
sys.argv = ["snippets.py", {str(tmp_path)!r}, "README.md"]
runpy.run_path({str(ROOT / "tests" / "snippets.py")!r}, run_name="__main__")
"""
    done = installation.run(code)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [row["error"] for row in rows if row["error"]]
    assert done.returncode == 0, done.stderr
    tried = [snippet for snippet in snippets("README.md") if snippet.language in ("bash", "python") and not snippet.why]
    assert tried[0].text.splitlines()[0] == "pip install ."
    assert [row["line"] for row in rows] == [snippet.line for snippet in tried]
    assert (tmp_path / "xbench-store" / "boards" / "robustness.md").exists()


def test_the_wheel_passes_the_smoke_suite(installed, tmp_path):
    program = installed("wheel").python.with_name("xbench")
    shown = checked(program, "run", "--suite", "smoke", cwd=tmp_path, XBENCH_CACHE=str(tmp_path / "cache"))
    assert "0 failed" in shown
    assert "failed" not in (tmp_path / "xbench-store" / "boards" / "smoke.md").read_text().partition("## How to read")[0]


def test_command_line_is_installed(installed):
    installation = installed("wheel")
    shown = checked(installation.python.with_name("xbench"), "--version", cwd=installation.home)
    assert shown.split() == ["xbench", xbench.__version__]
