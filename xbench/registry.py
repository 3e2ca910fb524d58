"""Registries of methods, metrics, datasets and classifiers, their discovery, and the one spec grammar.

A spec is a name with optional keyword parameters: ``rise``, ``rise(masks=1000)``, ``sliding-patch(fill="blur")``.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pydantic

from xbench.errors import XbenchError, unknown

SPEC = re.compile(r"\s*(?P<name>[a-z0-9][a-z0-9+-]*)\s*(?:\((?P<args>.*)\))?\s*", re.DOTALL)


class Entry:
    """Base of everything that a registry holds: a frozen dataclass of parameters only.

    Two entries with equal parameters are equal; the ``repr`` is the spec that makes the entry again.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Raised whenever the same parameters give other numbers; stored results of older versions are not reused."""
    quick: ClassVar[dict[str, Any]] = {}
    """Parameters that make the entry cheap, for the conformance checks."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters with their values, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @property
    def spec(self) -> str:
        """The shortest spec that makes this entry again: parameters at their defaults are left out."""
        changed = [
            f"{f.name}={_literal(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"({', '.join(changed)})" if changed else "")

    @property
    def identity(self) -> dict[str, Any]:
        """What a result's key holds of this entry: name, every parameter, version; of a user's own file or cell a digest."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "version": self.version,
            "source": _source_digest(type(self)),  # type: ignore[arg-type]
        }

    def replace(self, **changes: Any) -> typing.Self:
        """A copy with some parameters changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def __repr__(self) -> str:
        return self.spec


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON (sorted keys, tuples as lists): the same in every process and on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _shipped_roots() -> tuple[Path, ...]:
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return (package, checkout / "methods", checkout / "datasets") if (checkout / "pyproject.toml").exists() else (package,)


@functools.cache
def _source_digest(cls: Any) -> str | None:
    """sha256 of the file of an entry that does not ship with xbench: editing it makes its stored results stale.

    In a notebook, where there is no file, of the class's own functions: what they call is not seen.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        return hashlib.sha256(code_of(cls).encode()).hexdigest()
    path = Path(file).resolve()
    if any(path.is_relative_to(root) for root in _shipped_roots()):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_of(definition: Any) -> str:
    """The code of a function, or of the functions of a class.

    Raises XbenchError if it cannot be read, so that results of an older version of it could not be told apart.
    """
    whole = isinstance(definition, type)
    code = []
    for name, part in vars(definition).items() if whole else [("", definition)]:
        part = getattr(part, "__func__", getattr(part, "fget", part))  # of class and static methods, of properties
        if whole and not isinstance(part, types.FunctionType):
            continue
        if name in _GENERATED and part.__code__.co_filename == "<string>":
            continue
        try:
            code.append(inspect.getsource(part))
        except (OSError, TypeError) as error:
            raise XbenchError(
                f"the code of {definition.__qualname__} cannot be read, so that results of an older version of it could not be "
                "told apart; write it into a file or a notebook"
            ) from error
    return "".join(code)


_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__")
"""What @dataclass writes from the parameters."""

E_co = TypeVar("E_co", bound=Entry)


class Registry(Generic[E_co]):
    """Names to entries of one kind; files of ``xbench.<folder>`` register themselves when they are first asked for."""

    def __init__(self, kind: str, folder: str) -> None:
        """``kind`` is the singular used in messages; ``folder`` the sub-package and the entry-point group."""
        self.kind = kind
        self.folder = folder
        self._classes: dict[str, type[E_co]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[E_co]], type[E_co]]:
        """Class decorator that adds a frozen dataclass under ``name``.

        Raises XbenchError if the name is malformed or taken, or if the class is not a frozen dataclass.
        """

        def add(cls: type[E_co]) -> type[E_co]:
            match = SPEC.fullmatch(name)
            if match is None or match["args"] is not None:
                raise XbenchError(f"{self.kind} name {name!r} is malformed: use lower-case letters, digits, '-' and '+'")
            if "__dataclass_fields__" not in cls.__dict__ or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
                raise XbenchError(f"{self.kind} {name!r} ({cls.__qualname__}) must be decorated with @dataclass(frozen=True)")
            taken = self._classes.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise XbenchError(f"{self.kind} name {name!r} is used twice: {taken.__module__} and {cls.__module__}")
            cls.name = name
            cls.__repr__ = Entry.__repr__  # type: ignore[method-assign]
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[type[E_co]]:
        return iter([self._classes[name] for name in self.names()])

    def get(self, name: str) -> type[E_co]:
        """The class registered under ``name``; XbenchError naming the nearest and all valid names otherwise."""
        self._discover()
        if name not in self._classes:
            raise unknown(self.kind, name, self._classes)
        return self._classes[name]

    def make(self, spec: str) -> E_co:
        """The entry that a spec describes.

        Raises XbenchError for a malformed spec, an unknown name or parameter, a value of the wrong type or out of range.
        """
        match = SPEC.fullmatch(spec)
        if match is None:
            how = f"write name or name(parameter=value, ...); names: xbench list {self.kind}s"
            raise XbenchError(f"malformed {self.kind} {spec!r}: {how}")
        cls = self.get(match["name"])
        given = _arguments(self.kind, spec, match["args"] or "")
        fields = _fields(cls)  # type: ignore[arg-type]  # a class is hashable
        for key, value in given.items():
            if key not in fields:
                raise unknown(f"parameter of {match['name']}", key, fields)
            given[key] = _validated(f"{match['name']}({key}=...)", value, fields[key])
        try:
            return cls(**given)
        except ValueError as error:
            raise XbenchError(f"{self.kind} {spec!r}: {error}") from error

    def quick(self, name: str) -> E_co:
        """The entry with its declared ``quick`` parameters."""
        cls = self.get(name)
        return cls(**cls.quick)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        try:
            self._import_all()
        except XbenchError:
            self._discovered = False  # so that the next call fails again instead of going on with half of the names
            raise

    def _import_all(self) -> None:
        for root in sys.modules["xbench"].__path__:
            if not Path(root).is_dir():
                raise XbenchError(f"XBENCH_PATH: {root} is not a folder")
        package = importlib.import_module(f"xbench.{self.folder}")
        init = package.__file__
        if init is not None and not Path(init).resolve().is_relative_to(Path(__file__).resolve().parent):
            raise XbenchError(f"{init} hides the other {self.folder} of xbench: delete it")
        stems: dict[str, Path] = {}
        for folder in dict.fromkeys(str(Path(p).resolve()) for p in package.__path__):
            for path in sorted(Path(folder).glob("*.py")):
                if path.stem.startswith("_"):
                    continue
                if path.stem in stems:
                    raise XbenchError(f"two files are called {path.name}: {stems[path.stem]} and {path}; rename one")
                stems[path.stem] = path
        for stem, path in stems.items():
            self._import(f"xbench.{self.folder}.{stem}", str(path))
        for point in importlib.metadata.entry_points(group=f"xbench.{self.folder}"):
            self._import(point.value.partition(":")[0], f"entry point {point.name!r}")

    def _import(self, module: str, where: str) -> None:
        try:
            importlib.import_module(module)
        except XbenchError:
            raise
        except Exception as error:
            raise XbenchError(f"{where}: cannot be imported: {type(error).__name__}: {error}") from error


@functools.cache
def _fields(cls: type[Entry]) -> dict[str, pydantic.TypeAdapter[Any]]:
    """What checks the values of an entry's parameters, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: pydantic.TypeAdapter(hints[f.name]) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _arguments(kind: str, spec: str, text: str) -> dict[str, Any]:
    """Keyword arguments with literal values, parsed without evaluating anything."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise XbenchError(
            f'malformed {kind} {spec!r}: parameters are name=value with plain values, as in name(a=1, b="text", c=(1, 2))'
        ) from error


def _validated(where: str, value: Any, adapter: pydantic.TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_python(value, strict=not isinstance(value, list))
    except pydantic.ValidationError as error:
        detail = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise XbenchError(f"{where}: given {value!r}: {detail}") from error
