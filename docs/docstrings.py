"""Docstrings as markdown: code, formulas and addresses as they are, the parameters as a table."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

ARGS = "Args:\n"
FORMULA = re.compile(r"\$\$([^$]+)\$\$")
"""A paragraph of LaTeX."""
ADDRESS = re.compile(r"https?://[^\s,;)]*[^\s,;:.)]")


def as_markdown(text: str, defaults: Mapping[str, Any]) -> str:
    """An entry's docstring as markdown: its first sentence first, its parameters as a table with their ``defaults``."""
    before, _, rest = inspect.cleandoc(text).partition(ARGS)
    described, after = _split_indented(rest)
    parts = [_prose(before), _parameters(described, defaults), _prose(after)]
    return "\n\n".join(part for part in parts if part)


def sources(text: str) -> list[str]:
    """The addresses in a docstring, each once, in their order."""
    return list(dict.fromkeys(ADDRESS.findall(text)))


def _split_indented(text: str) -> tuple[str, str]:
    """The lines up to the first that is not indented, and the rest."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def _parameters(described: str, defaults: Mapping[str, Any]) -> str:
    """A row per parameter; those that the docstring describes together stay together, undescribed ones come last."""
    rows, left = [], dict(defaults)
    for names, text in re.findall(r"^(\w[\w, ]*): (.*(?:\n[ \n].*)*)", textwrap.dedent(described), re.MULTILINE):
        own = [name.strip() for name in names.split(",")]
        rows.append((own, [left.pop(name) for name in own], _escaped(" ".join(text.split())).replace("|", "\\|")))
    rows += [([name], [value], "") for name, value in left.items()]
    if not rows:
        return ""
    cells = [
        f"| {', '.join(f'`{name}`' for name in names)} | {', '.join(f'`{value!r}`' for value in values)} | {text} |"
        for names, values, text in rows
    ]
    return "\n".join(["| parameter | default | meaning |", "|---|---|---|", *cells])


def _prose(text: str) -> str:
    """Paragraphs, lists and formulas of one docstring section."""
    return "\n\n".join(_block(block.strip("\n")) for block in re.split(r"\n\s*\n", text) if block.strip())


def _block(block: str) -> str:
    if block.startswith("- "):
        return _list(block)
    text = " ".join(block.split())
    formula = FORMULA.fullmatch(text)
    return f"```math\n{formula[1].strip()}\n```" if formula else _escaped(text)


def _list(block: str) -> str:
    items = re.split(r"\n(?=- )", block)
    return "\n".join(f"- {_escaped(' '.join(item[2:].split()))}" for item in items)


def _escaped(text: str) -> str:
    """Text whose formulas are not markup: code and addresses stay, everything else shows the characters that it has."""
    text = text.replace("``", "`")
    pieces = re.split(rf"(`[^`]*`|{ADDRESS.pattern})", text)
    return "".join(_piece(piece) for piece in pieces)


def _piece(piece: str) -> str:
    if piece.startswith("`"):
        return piece
    if ADDRESS.fullmatch(piece):
        return f"<{piece}>"
    piece = piece.replace("\\", "\\\\").replace("*", "\\*").replace("<", "&lt;")
    piece = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", piece)
    return re.sub(r"\](?=[(\[])", r"\\]", piece)
