"""The rules of the source tree that no linter knows: imports run one way, files stay small, nothing is unpickled."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import xbench

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted([*ROOT.glob("xbench/**/*.py"), *ROOT.glob("methods/**/*.py"), *ROOT.glob("datasets/**/*.py")])
TESTS = sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])

# From the bottom up. A module imports from the layers below its own and from its own group, never from a group beside it.
LAYERS: list[list[set[str]]] = [
    [{"errors"}, {"files"}, {"types"}, {"__init__"}, {"suites"}],
    [{"ops"}, {"weights"}, {"batches"}],
    [{"registry", "rng", "classifier", "randomising", "subset", "method", "explainer", "metric", "result"}],
    [
        {
            "perturb",
            "trajectory",
            "gradients",
            "fill",
            "guard",
            "form",
            "inpainter",
            "inpainting",
            "perceptual",
            "training",
            "checkpoints",
        },
        {"adapters", "foreign"},
    ],
    [{"methods"}, {"metrics"}, {"datasets"}, {"models"}, {"store"}],
    [{"run"}, {"board"}, {"testing"}],
    [{"api"}, {"cli", "__main__"}],
]
PLACE = {part: (height, group) for height, layer in enumerate(LAYERS) for group, parts in enumerate(layer) for part in parts}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        del parts[-1]
    return ".".join(parts if parts[0] == "xbench" else ["xbench", *parts])


PACKAGES = {module_name(path) for path in PATHS if path.name == "__init__.py"}
TREES = {module_name(path): ast.parse(path.read_text()) for path in PATHS}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, function bodies included, what only a type checker sees left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            child = ast.Module(child.orelse, [])
        yield child
        yield from runtime_nodes(child)


def imports(tree: ast.AST, module: str, known: set[str]) -> set[str]:
    """The modules of xbench that a module imports, when it is loaded or later; a bare folder such as xbench.methods is none."""
    found: set[str] = set()
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module if module in PACKAGES else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            for alias in node.names:
                name = xbench._PUBLIC.get(alias.name, alias.name) if base == "xbench" else alias.name
                found.add(f"{base}.{name}" if f"{base}.{name}" in known else base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found & known


GRAPH = {module: imports(tree, module, set(TREES)) for module, tree in TREES.items()}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that break the order of the layers."""
    wrong = []
    for source, targets in graph.items():
        height, group = PLACE[part_of(source)]
        for target in targets:
            other_height, other_group = PLACE[part_of(target)]
            if other_height > height or (other_height == height and other_group != group):
                wrong.append(f"{source} imports {target}")
    return sorted(wrong)


def test_every_part_has_a_layer():
    assert {part_of(module) for module in TREES} <= set(PLACE)


def test_imports_run_one_way():
    assert upward(GRAPH) == []


def test_no_import_cycle():
    list(graphlib.TopologicalSorter(GRAPH).static_order())  # raises CycleError naming the circle


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_the_harness_imports_no_particular_entry(folder):
    importing = {module for module, targets in GRAPH.items() if any(part_of(target) == folder for target in targets)}
    assert {module for module in importing if part_of(module) != folder} == set()


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_folders_joined_to_the_package_have_no_init(folder):
    assert not list(ROOT.glob(f"{folder}/**/__init__.py"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\nfrom xbench.ops import blur", {"xbench.ops.blur"}),
        ("from xbench.ops.blur import gaussian_blur as g", {"xbench.ops.blur"}),
        ("from xbench import METHODS, __version__", {"xbench.method", "xbench"}),
        ("from .store import Store\nfrom . import rng", {"xbench.store", "xbench.rng"}),
        ("def f():\n    import xbench.method", {"xbench.method"}),
        ("import importlib\nimportlib.import_module('xbench.store')", {"xbench.store"}),
        ("if TYPE_CHECKING:\n    import xbench.store\nelse:\n    import xbench.rng", {"xbench.rng"}),
        ("import xbenchmark, xbench.methods", set()),
    ],
)
def test_every_kind_of_import_is_seen(source, expected):
    assert imports(ast.parse(source), "xbench.example", set(TREES)) == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("xbench.ops.blur", "xbench.method"),
        ("xbench.board", "xbench.run"),
        ("xbench.run.plan", "xbench.board"),
        ("xbench.methods.rise", "xbench.store"),
        ("xbench.metrics.area", "xbench.methods.rise"),
        ("xbench.store", "xbench.cli"),
    ],
)
def test_a_wrong_import_is_found(source, target):
    assert upward({source: {target}}) == [f"{source} imports {target}"]


@pytest.mark.parametrize("path", [*PATHS, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_no_longer_than_300_lines(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 300


@pytest.mark.parametrize("module", TREES)
def test_public_names_have_docstrings(module):
    tree = TREES[module]
    definitions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    without = [node.name for node in definitions if not ast.get_docstring(node)]
    assert ast.get_docstring(tree)
    assert without == []


def unpickling(tree: ast.AST) -> list[str]:
    """Calls that would run code from the file that they read."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        owner, _, name = function.rpartition(".")
        if (
            (owner in ("pickle", "cPickle", "dill", "cloudpickle", "joblib") and name in ("load", "loads", "Unpickler"))
            or name == "read_pickle"
            or (function == "torch.load" and options.get("weights_only") != "True")
            or options.get("allow_pickle") == "True"
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", [*PATHS, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    assert unpickling(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("pickle.loads(data)", True),
        ("np.load(path, allow_pickle=True)", True),
        ("pd.read_pickle(path)", True),
        ("json.loads(text)", False),
    ],
)
def test_unpickling_is_found(source, bad):
    assert bool(unpickling(ast.parse(source))) == bad


LU = {f"torch.linalg.{name}" for name in ("solve", "inv", "det", "slogdet", "lu", "lu_factor")}
ALONE = {"xbench.ops.prior"}
"""Modules that decompose one matrix, not several."""


@pytest.mark.parametrize("module", sorted(set(TREES) - ALONE))
def test_no_batch_of_matrices_is_lu_decomposed(module):
    # It hangs on several threads of a CPU from 150 unknowns on: https://github.com/pytorch/pytorch/issues/141358
    assert not LU & {ast.unparse(node.func) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
