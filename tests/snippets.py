"""Runs every command and Python block of the documents in one process, made small by `small`: python tests/snippets.py FOLDER.

A fenced block is left out only where ``<!-- not run: reason -->`` stands on the line above it, a command without a fence only
where it has an ellipsis or a placeholder in capitals. Prints one JSON line per snippet; the exit status is 1 if one failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import linecache
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`(xbench [a-z-]+ [^`\n]+)`")
ELSEWHERE = {
    "pip install": "tests/test_packaging.py installs the package",
    "mkdocs": "tox -e docs builds the site",
    "tox": "this is a part of it",
    "ray start": "tests/test_ray.py starts a cluster",
}
"""Commands that are not xbench's, by their beginning, and what runs them."""


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A block or a command: where it stands, its language, its text, and why it is not run ("" if it is)."""

    document: str
    line: int
    language: str
    text: str
    why: str


def snippets(document: str) -> Iterator[Snippet]:
    """All fenced blocks of shell and Python, and all commands in running text and tables."""
    text = (ROOT / document).read_text()
    for found in FENCE.finditer(text):
        line = text[: found.start("text")].count("\n")
        yield Snippet(document, line, found["language"], found["text"], found["why"] or "")
    rest = FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in INLINE.finditer(rest):
        why = "a placeholder" if re.search(r"\.\.\.|…|(?<![\w\"'/])[A-Z]+(?![\w\"'/])", found[1]) else ""
        yield Snippet(document, rest[: found.start()].count("\n") + 1, "bash", found[1].replace("\\|", "|"), why)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; ``export A=B`` is set at once."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s", line):
            words = [os.path.expandvars(word) for word in shlex.split(part.removesuffix("&"), comments=True)]
            if words[:1] == ["export"]:
                continue  # the driver has a folder of its own on XBENCH_PATH
            if words:
                yield words


def small(words: list[str]) -> Iterator[list[str]]:
    """What stands for a command of xbench: two images, at most three methods, short trainings, no GPU, no Ray."""
    name, *options = words[1:]
    options = [
        re.sub(r'^torchvision\(arch="(\w+)"\)$', r'torchvision(arch="\1", weights=None, label_space="imagenet-1k")', option)
        for option in options
    ]
    options = ["cpu" if option == "cuda" else "local" if option == "ray" else option for option in options]
    if "--address" in options:
        at = options.index("--address")
        options[at : at + 2] = []
    methods = [] if {"-m", "--method", "--methods"} & set(options) else ["-m", "gradient", "-m", "random"]
    if name == "run":
        for _ in range(options.count("-m") - 3):
            at = len(options) - 1 - options[::-1].index("-m")
            del options[at : at + 2]
        options += ["--limit", "2", *methods]
        if any("photos" in option or "imagefolder" in option for option in options):  # 224 px take seconds per metric
            options += ["--set", 'metrics=[{spec="deletion"}]']
    elif name == "fit":
        options[0] = _changed(options[0], epochs=1, batch=256, width=4)
    elif name == "fit-inpainter":
        options += ["--epochs", "1", "--width", "2"]
    elif name == "compare":
        yield ["run", *_suite(options), "--limit", "4", "-m", options[0], "-m", options[1]]
        options += ["--limit", "4"]
    elif name in ("board", "papers", "export", "publish"):
        yield ["run", *_suite(options), "--limit", "2", "-m", "gradient", "-m", "random"]
        options += ["--limit", "2"] if name == "board" else []
    elif name == "subset":
        options += ["--heldout", "4"]
    elif name == "explain" and not methods:
        options += ["--out", "explanation.png"]
    yield [name, *options]


def _suite(options: list[str]) -> list[str]:
    """The options that choose suite and store."""
    kept = [("-s", "--suite"), ("--store",), ("--dataset",), ("-c", "--classifier")]
    return [word for names in kept for key, value in itertools.pairwise(options) if key in names for word in (key, value)]


def _changed(spec: str, **values: int) -> str:
    name, _, arguments = spec.rstrip(")").partition("(")
    kept = [part for part in re.split(r",\s*", arguments) if part and part.partition("=")[0] not in values]
    return f"{name}({', '.join([*kept, *(f'{key}={value}' for key, value in values.items())])})"


def run(snippet: Snippet, names: dict[str, Any]) -> None:
    """Raises if the snippet fails; ``names`` are the variables of its document's Python blocks."""
    if snippet.language == "python":
        if not own_file(snippet):  # such a file is imported by the first command
            file = f"{snippet.document}:{snippet.line}"
            linecache.cache[file] = (
                len(snippet.text),
                None,
                snippet.text.splitlines(keepends=True),
                file,
            )  # as a notebook's cell
            exec(compile(snippet.text, file, "exec"), names)
        return
    for words in commands(snippet.text):
        if words[0] == "xbench":
            for smaller in small(words):
                _call(smaller)
        elif not any(shlex.join(words).startswith(start) for start in ELSEWHERE):
            raise ValueError(f"{shlex.join(words)}: not run here; mark the block with <!-- not run: reason -->")


def _call(words: list[str]) -> None:
    from xbench.cli import main

    sys.argv = ["xbench", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{shlex.join(sys.argv)}: status {end.code}") from None


def own_file(snippet: Snippet) -> str:
    """The name in the first line of a block that is a file of the reader's own folder, else ""."""
    found = re.match(r"# ((?:methods|metrics|datasets|models|suites)/\w+\.(?:py|toml))\n", snippet.text)
    return found[1] if found else ""


def prepare(folder: Path) -> None:
    """The files that the documents' reader has: the files of the blocks, a photo, a folder of images."""
    from PIL import Image

    for document in DOCUMENTS:
        for snippet in snippets(document):
            name = own_file(snippet)
            if name and not snippet.why:
                (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / "mine" / name).write_text(snippet.text)
                if name.endswith(".toml"):
                    (folder / Path(name).name).write_text(snippet.text)
    os.environ |= {"XBENCH_PATH": str(folder / "mine"), "XBENCH_CACHE": str(folder / "cache"), "NO_COLOR": "1"}
    Image.linear_gradient("L").convert("RGB").save(folder / "photo.jpg")
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.effect_noise((40, 40), 80).convert("RGB").save(folder / "images" / name / f"{number}.png")
    shutil.copytree(ROOT / "leaderboards", folder / "leaderboards")  # commands write into it
    os.chdir(folder)


def main() -> int:
    """Runs all, or those of the documents named behind the folder."""
    folder = Path(sys.argv[1])
    chosen = sys.argv[2:] or DOCUMENTS
    prepare(folder)
    failed = False
    for document in chosen:
        names: dict[str, Any] = {"__name__": document}
        for snippet in snippets(document):
            if snippet.language not in ("bash", "python") or snippet.why:
                continue
            error, shown = "", io.StringIO()
            try:
                with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                    run(snippet, names)
            except Exception:
                error, failed = f"{shown.getvalue()[-2000:]}{traceback.format_exc(limit=-2)}", True
            print(json.dumps({"document": document, "line": snippet.line, "error": error}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
