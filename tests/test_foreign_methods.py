"""The page on other people's methods: its files are methods, from the command line to the board."""

from __future__ import annotations

import importlib.util
import json
import linecache
import re
import sys
import types
from pathlib import Path

import pytest
from conftest import ROOT
from scratch import scratch_registries
from test_run import SUITE, call

from xbench import METHODS, XbenchError
from xbench.testing import check_method

BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "foreign-methods.md").read_text(), re.DOTALL))
"""The code of the page by the path in its first line."""
FILES = {path: re.findall(r'^from_\w+\("([^"]+)"', code, re.MULTILINE) for path, code in BLOCKS.items() if "/" in path}
"""The methods of each file."""
OBJECT = """
class Ink:
    def __call__(self, model, x, y):
        return {}

from_callable("object", Ink())
"""


def load(path: Path) -> types.ModuleType:
    """A file as a module, which it is again after an edit."""
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_cell(code: str, number: int, module: types.ModuleType) -> None:
    """Runs code as a notebook does: its text is kept, there is no file."""
    name = f"<cell {number}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    sys.modules[module.__name__] = module
    exec(compile(code, name, "exec"), module.__dict__)


@pytest.mark.parametrize("path", FILES)
def test_every_method_of_the_page_passes_the_checks(path: str, tmp_path: Path) -> None:
    if "grad_cam" in path:
        pytest.importorskip("pytorch_grad_cam")
    file = tmp_path / Path(path).name
    file.write_text(BLOCKS[path])
    with scratch_registries():
        load(file)
        for name in FILES[path]:
            check_method(name)


def test_a_file_of_the_page_goes_all_the_way_to_the_board(tmp_path: Path) -> None:
    own, store, suite = tmp_path / "own", tmp_path / "store", tmp_path / "mine.toml"
    for path in ("methods/my_callables.py", "methods/my_captum.py"):
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_text(BLOCKS[path])
    methods = ["smooth-saliency", "smooth-saliency(draws=2, seed=1)", "occlusion", "signed-gradcam", "gradient"]
    suite.write_text(SUITE.format(methods=json.dumps(methods), images=2))
    checked = call("check", "smooth-saliency", path=own)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    first = call("run", "--suite", suite, "--store", store, path=own)
    assert first.returncode == 0, first.stderr
    board = (store / "boards" / "mine.md").read_text()
    assert all(method in board for method in methods[:-1])


def test_the_cell_of_the_page_gives_maps_and_can_be_run_again() -> None:
    module = types.ModuleType("notebook")
    with scratch_registries():
        run_cell(BLOCKS["notebook"], 1, module)
        assert module.maps.equal(module.x[:, 0])
        first = METHODS.make("ink").identity
        run_cell(BLOCKS["notebook"], 2, module)
        assert METHODS.make("ink").identity == first
        run_cell(BLOCKS["notebook"].replace("x, y: x,", "x, y: 2 * x,"), 3, module)
        assert METHODS.make("ink").identity != first, "other code, other results"
        run_cell(
            "class Ink:\n    def __call__(self, model, x, y):\n        return x\nfrom_callable('object', Ink())", 4, module
        )
        one = METHODS.make("object").identity
        run_cell(
            "class Ink:\n    def __call__(self, model, x, y):\n        return -x\nfrom_callable('object', Ink())", 5, module
        )
        assert METHODS.make("object").identity != one


def test_an_edit_of_any_file_that_defines_the_method_is_seen(tmp_path: Path) -> None:
    defining, adapting = tmp_path / "defining.py", tmp_path / "adapting.py"
    defining.write_text("def ink(model, x, y):\n    return x\n")
    adapting.write_text("from own_defining import ink\nfrom xbench import from_callable\n\nfrom_callable('ink', ink)\n")

    def identity() -> str:
        with scratch_registries():
            load(defining)
            load(adapting)
            return str(METHODS.make("ink").identity["source"])

    first = identity()
    assert identity() == first
    defining.write_text(defining.read_text() + "# edited\n")
    second = identity()
    adapting.write_text(adapting.read_text() + "# edited\n")
    assert len({first, second, identity()}) == 3


def test_a_name_is_used_once_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "twice.py"
    line = "from_callable('ink', lambda model, x, y: x)\n"
    file.write_text("from xbench import from_callable\n" + line + line)
    with scratch_registries(), pytest.raises(XbenchError, match="method name 'ink' is used twice"):
        load(file)
