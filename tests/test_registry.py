"""The spec grammar, discovery, and identities that do not depend on the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xbench
from xbench import METHODS, XbenchError
from xbench.registry import Entry, Registry, digest

TOYS: Registry[Entry] = Registry("toy", "toys")


@TOYS.register("toy")
@dataclass(frozen=True)
class Toy(Entry):
    count: int = 3
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    note: str = ""

    quick: ClassVar[dict[str, Any]] = {"count": 1}

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: must be at least 1")


@TOYS.register("toy++")
@dataclass(frozen=True)
class ToyPlusPlus(Entry):
    steps: int


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder toys/ on the package's path."""
    found = tmp_path / "toys"
    found.mkdir()
    monkeypatch.setattr(xbench, "__path__", [*xbench.__path__, str(tmp_path)])
    yield found
    for name in [name for name in sys.modules if name.startswith("xbench.toys")]:
        del sys.modules[name]


def toy_file(name: str) -> str:
    return f"""
from dataclasses import dataclass
from xbench.registry import Entry
from {__name__} import LOCAL

@LOCAL.register({name!r})
@dataclass(frozen=True)
class Found(Entry):
    pass
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("toy", Toy()),
        (" toy ", Toy()),
        ("toy()", Toy()),
        ("toy(count=5)", Toy(count=5)),
        ('toy( note = "a, (b) = c" , rate=2,)', Toy(note="a, (b) = c", rate=2)),
        ("toy(sizes=(4, 5, 6), limit=None, kind='b')", Toy(sizes=(4, 5, 6), kind="b")),
        ("toy(sizes=[4, 5])", Toy(sizes=(4, 5))),
        ("toy(rate=-1e-3)", Toy(rate=-0.001)),
        ("toy++(steps=2)", ToyPlusPlus(2)),
    ],
)
def test_a_spec_makes_its_entry(spec: str, expected: Entry) -> None:
    made = TOYS.make(spec)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        (Toy(), "toy"),
        (Toy(count=7, note='say "hi"'), 'toy(count=7, note="say \\"hi\\"")'),
        (Toy(sizes=(9,)), "toy(sizes=(9,))"),
        (ToyPlusPlus(3), "toy++(steps=3)"),
    ],
)
def test_the_repr_is_the_shortest_spec(entry: Entry, spec: str) -> None:
    assert repr(entry) == entry.spec == spec
    assert TOYS.make(spec) == entry


@given(
    st.builds(
        Toy,
        count=st.integers(1),
        rate=st.floats(allow_nan=False, allow_infinity=False),
        kind=st.sampled_from("ab"),
        sizes=st.lists(st.integers()).map(tuple),
        limit=st.none() | st.integers(),
        note=st.text(),
    )
)
def test_every_entry_survives_its_spec(entry: Toy) -> None:
    assert TOYS.make(entry.spec) == entry


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tory", "unknown toy 'tory': did you mean 'toy'? valid: toy, toy++"),
        ("zzz", "unknown toy 'zzz': valid: toy, toy++"),
        (
            "toy(cuont=2)",
            "unknown parameter of toy 'cuont': did you mean 'count'? valid: count, kind, limit, note, rate, sizes",
        ),
        ("toy(count=0)", "toy 'toy(count=0)': count=0: must be at least 1"),
        ("toy(count=2.5)", "toy(count=...): given 2.5: "),
        ("toy(count=True)", "toy(count=...): given True: "),
        ("toy(count='2')", "toy(count=...): given '2': "),
        ("toy(kind='c')", "toy(kind=...): given 'c': "),
        ("toy(note=None)", "toy(note=...): given None: "),
        ("toy(sizes=(1, 'x'))", "toy(sizes=...): given (1, 'x'): "),
        ("toy(3)", "malformed toy 'toy(3)': "),
        ("toy(**{'count': 3})", "malformed toy"),
        ("toy(count=__import__('os'))", "malformed toy"),
        ("toy(count=1", "malformed toy"),
        ("toy(count=1)(2)", "malformed toy"),
        ("Toy", "malformed toy 'Toy': write name or name(parameter=value, ...)"),
        ("", "malformed toy ''"),
    ],
)
def test_a_bad_spec_is_answered_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(XbenchError) as caught:
        TOYS.make(spec)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_quick_uses_the_declared_parameters() -> None:
    assert TOYS.quick("toy") == Toy(count=1)


def test_entries_are_values() -> None:
    assert len({Toy(), Toy(count=3), Toy(count=4)}) == 2
    assert Toy().replace(count=4) == Toy(count=4)
    with pytest.raises(AttributeError):
        Toy().count = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", ["Toy", "a b", "", "-toy", "toy(count=1)", "toy_2"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(XbenchError, match="is malformed: use lower-case letters"):
        TOYS.register(name)(ToyPlusPlus)


def test_a_name_is_used_once() -> None:
    @dataclass(frozen=True)
    class Other(Entry):
        pass

    with pytest.raises(XbenchError, match=r"toy name 'toy' is used twice: .*test_registry and .*test_registry"):
        TOYS.register("toy")(Other)
    assert TOYS.get("toy") is Toy


def test_only_frozen_dataclasses_are_entries() -> None:
    class Plain(Entry):
        pass

    @dataclass
    class Mutable(Entry):
        pass

    class Inherited(Toy):
        pass

    for cls in (Plain, Mutable, Inherited):
        with pytest.raises(XbenchError, match=r"must be decorated with @dataclass\(frozen=True\)"):
            TOYS.register("new")(cls)
    assert "new" not in TOYS.names()


LOCAL: Registry[Entry] = Registry("toy", "toys")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Registry[Entry]:
    registry: Registry[Entry] = Registry("toy", "toys")
    monkeypatch.setattr(sys.modules[__name__], "LOCAL", registry)
    return registry


def test_a_file_dropped_into_the_folder_is_found(local: Registry[Entry], folder: Path) -> None:
    (folder / "one.py").write_text(toy_file("one"))
    (folder / "_helper.py").write_text("raise RuntimeError")
    assert local.names() == ["one"]
    assert [cls.name for cls in local] == ["one"]
    assert len(local.make("one").identity["source"]) == 64  # a user's own file: editing it makes its results stale


def test_a_broken_file_is_named_every_time(local: Registry[Entry], folder: Path) -> None:
    (folder / "broken.py").write_text("import nothing_of_this_name")
    for _ in range(2):
        with pytest.raises(XbenchError, match=r"broken\.py: cannot be imported: ModuleNotFoundError: .*nothing_of_this_name"):
            local.names()


def test_two_files_of_one_stem_are_refused(local: Registry[Entry], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder.parent / "other" / "toys"
    other.mkdir(parents=True)
    for place in (folder, other):
        (place / "one.py").write_text(toy_file("one"))
    monkeypatch.setattr(xbench, "__path__", [*xbench.__path__, str(other.parent)])
    with pytest.raises(XbenchError, match=r"two files are called one\.py"):
        local.names()


def test_digest_is_that_of_the_canonical_json() -> None:
    assert digest({"b": (1, 2), "a": None}) == digest({"a": None, "b": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


def test_identity_holds_every_parameter_and_the_version() -> None:
    identity = METHODS.make("integrated-gradients(steps=7)").identity
    assert identity == {
        "name": "integrated-gradients",
        "parameters": {"steps": 7, "baseline": "zero"},
        "version": METHODS.get("integrated-gradients").version,
        "source": None,  # it ships with xbench
    }


def test_identities_and_draws_are_the_same_in_another_process() -> None:
    code = """
from xbench import DATASETS, METHODS, ImageRandom
from xbench.registry import digest
print([digest(METHODS.make(name).identity) for name in METHODS.names()])
print(DATASETS.make("mnist").load().digest(), ImageRandom(3, ["a"]).normal("s", (2,), 1).tolist())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert there.returncode == 0, there.stderr
    from xbench import DATASETS, ImageRandom

    here = [
        str([digest(METHODS.make(name).identity) for name in METHODS.names()]),
        f"{DATASETS.make('mnist').load().digest()} {ImageRandom(3, ['a']).normal('s', (2,), 1).tolist()}",
    ]
    assert there.stdout.splitlines() == here
