"""A board as one self-contained HTML file: no network, nothing runs but the script whose hash the page declares."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from xbench.board.board import Board
from xbench.board.gallery import Gallery
from xbench.board.site_data import IMAGES, drill_down, facts, heads, keys, legend, matrices, rows, trust, versions
from xbench.board.site_drawings import charts, cost_against_quality, diagrams
from xbench.board.text import clean, short_names

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = {
    "scores": "Scores",
    "ranks": "Ranks",
    "differences": "Critical differences",
    "trust": "Trust",
    "curves": "Curves",
    "cost": "Cost",
    "gallery": "Gallery",
    "images": "Image by image",
    "reproduce": "Reproduce",
}


def page(board: Board, name: str, *galleries: Gallery) -> str:
    """The page of a board whose files are called ``name``, with the maps of ``galleries``.

    The same board gives the same page. All text is escaped; the content-security policy forbids every request, and every script
    and style but the two whose hashes it lists.
    """
    style, script = ((TEMPLATES / file).read_text() for file in ("board.css", "board.js"))
    drawn = charts(board)
    data = drill_down(board, galleries)
    parts: dict[str, Any] = {
        "matrices": matrices(board),
        "diagrams": diagrams(board),
        "trust": trust(board),
        "charts": drawn,
        "scatter": cost_against_quality(board),
        "galleries": [_pictures(board, one) for one in galleries if one.maps],
    }
    empty = {"ranks": "matrices", "differences": "diagrams", "trust": "trust", "curves": "charts", "cost": "scatter"}
    empty["gallery"] = "galleries"
    return template("board.html.j2").render(
        title=clean(board.title),
        description=clean(board.description),
        facts=facts(board),
        sections=[(id_, title) for id_, title in SECTIONS.items() if id_ not in empty or parts[empty[id_]]],
        metrics=list(dict.fromkeys(clean(key.metric) for key in board.columns)),
        heads=heads(board),
        rows=rows(board),
        legend=legend(board, drawn),
        images_file=f"{name}-images.csv",
        cut=IMAGES if any(len(result.ids) > IMAGES for result in board.results) else 0,
        reproduce=board.reproduce,
        versions=versions(board),
        digests=keys(board),
        # Inside a script element nothing is escaped but what could end it.
        data=Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        **parts,
    )


@functools.cache
def template(file: str) -> jinja2.Template:
    """A template of this package that escapes all that it is given."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(file)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _pictures(board: Board, gallery: Gallery) -> dict[str, Any]:
    """The gallery's rows, in the order of the board; a method's uncertainty follows its maps."""
    names = short_names(board.summary)
    pictured = []
    for method in board.ordered:
        for uncertain, maps in enumerate((gallery.maps, gallery.uncertainty)):
            if method in maps:
                pictured.append({"name": clean(names[method]), "uncertain": bool(uncertain), "maps": maps[method]})
    images = [{"id": clean(image), "src": src} for image, src in gallery.images]
    return {"title": clean(gallery.title), "images": images, "rows": pictured}
