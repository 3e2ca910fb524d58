"""Hooks of the site: the documents and boards beside docs/ are pages too, under one root with those of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md", "LICENSE": "LICENSE"}
FOLDERS = ("leaderboards", "benchmarks")
LINK = re.compile(r"(?<!!)\[([^\[\]\n]*)\]\((?!\w+:)([^)#\n]+)(#[^)\n]*)?\)")
FORMULA = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
PARTS = ", \\quad "
"""Between the parts of a formula, each of which may stand on a line of its own."""
SHOWN = {".md", ".html", ".png", ".svg", ".csv", ".tex", ".toml"}


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies beside docs/ to its files."""
    found = {source: target for source, target in PAGES.items() if (ROOT / source).exists()}
    for folder in FOLDERS:
        found |= {
            f"{folder}/{path.name}": f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.suffix in SHOWN
        }
    for source, target in found.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the repository become links of the site: `docs/x` and `../x` are x there, README.md is index.md.

    A link to a source file, which the site does not have, becomes its name. Formulas become MathML.
    """
    folder = Path(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        text, target, anchor = link.groups("")
        target = target.removeprefix("docs/")
        if folder == Path():
            target = target.removeprefix("../")
        elif target.startswith("../docs/"):
            target = "../" + target.removeprefix("../docs/")
        target = re.sub(r"^((?:\.\./)*)README\.md$", r"\1index.md", target)
        wanted = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        return f"[{text}]({target}{anchor})" if files.get_file_from_path(wanted) else text

    return FORMULA.sub(drawn, LINK.sub(moved, markdown.replace("](docs/figures", "](figures")))


def drawn(block: re.Match[str]) -> str:
    """A block of LaTeX, as GitHub shows it too, as MathML, which browsers draw without any script."""
    parts = [convert(part, display="block") for part in block[1].split(PARTS)]
    if unknown := re.findall(r"\\\w+", "".join(parts)):
        raise PluginError(f"latex2mathml does not know {', '.join(unknown)} in: {block[1]}")
    return f'<div class="formula">{"".join(parts)}</div>'
