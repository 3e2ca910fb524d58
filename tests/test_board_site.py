"""The site of a board as text: self-contained, escaped, the same in every process. `tests/browser` looks at it in a browser."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import re

import numpy as np
import pytest
from board_results import HOSTILE, board, result, robustness

from xbench.board import svg
from xbench.board.gallery import LARGEST, Gallery, image_uri, map_uri, shades
from xbench.board.site import page


class Reader(html.parser.HTMLParser):
    """Tags with attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in self.raw:
            self.raw[self._in].append(data)


def sha(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def test_the_policy_allows_exactly_the_script_and_style_of_the_page() -> None:
    read = Reader(page(board(robustness(curves=True)), "b"))
    policy = next(about["content"] for tag, about in read.tags if about.get("http-equiv") == "Content-Security-Policy")
    data, script = read.raw["script"]
    json.loads(data)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src {sha(script)};" in policy
    assert f"style-src {sha(''.join(read.raw['style']))};" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_nothing_is_fetched() -> None:
    read = Reader(page(board(robustness(curves=True)), "b"))
    addresses = [about[name] for _, about in read.tags for name in ("src", "href", "action", "data", "poster") if name in about]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|eval\(|innerHTML", "".join(read.raw["script"] + read.raw["style"])
    )
    assert not [about for _, about in read.tags if "style" in about or any(name.startswith("on") for name in about)]


def test_hostile_text_adds_no_tag() -> None:
    def made(text: str) -> Reader:
        results = [
            result(f"{text}{i}", [0.1 * i, 0.5, math.nan], label=text, subset=text, metric=text, curve=text) for i in range(3)
        ]
        results.append(result("zzz", status="failed", reason=text, subset=text, metric=text))
        for one in results:
            one.ids[:] = [f"{text}{i}" for i in range(len(one.ids))]
            one.record["machine"] = {text: text}
        return Reader(page(board(results, title=text, description=text, reproduce=text), "b"))

    hostile, harmless = made(HOSTILE), made("harmless")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(about) for _, about in hostile.tags] == [sorted(about) for _, about in harmless.tags]
    assert HOSTILE.split("\n")[0] in json.loads(hostile.raw["script"][0])["methods"][0]


def test_the_page_is_the_same_every_time_and_has_what_the_board_has() -> None:
    made = board(robustness(curves=True), reproduce="xbench run --suite robustness")
    text = page(made, "b")
    assert text == page(board(robustness(curves=True), reproduce="xbench run --suite robustness"), "b")
    assert "xbench run --suite robustness" in text
    for section in ("scores", "ranks", "differences", "trust", "curves", "cost", "images", "reproduce"):
        assert f'<section id="{section}">' in text
    assert '<section id="gallery">' not in text
    assert all(one.key in text for one in made.results if one.status == "ok")


def test_a_board_without_ranks_has_a_page() -> None:
    text = page(board([result("random", [1.0, 2.0], control=True), result("b", status="missing")]), "b")
    assert '<section id="ranks">' not in text
    assert '<section id="images">' in text


def test_the_gallery_has_the_same_images_for_all_methods() -> None:
    made = board([result("a", [1.0, 2.0]), result("b", [1.0, 2.0])])
    zero = np.zeros((28, 28), np.float32)
    images = tuple((i, image_uri(zero[None])) for i in ("0000", "0001"))
    text = page(
        made,
        "b",
        Gallery(
            images,
            {"a": (map_uri(shades(zero)),) * 2, "b": (map_uri(shades(zero + 1)),) * 2},
            {"a": (map_uri(shades(zero)),) * 2},
        ),
    )
    gallery = text.split('<section id="gallery">')[1].split("</section>")[0]
    assert gallery.count("<img") == 2 + 3 * 2
    assert gallery.count("uncertainty of a") == 2


def test_pictures_are_small() -> None:
    random = np.random.default_rng(0)
    for uri in (
        image_uri(random.random((3, 224, 224), dtype=np.float32)),
        map_uri(shades(random.random((224, 224), dtype=np.float32))),
    ):
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        assert int.from_bytes(data[16:20], "big") == LARGEST
        assert len(data) < 20_000


@pytest.mark.parametrize(
    ("ranks", "difference", "expected"),
    [
        ([1.0, 1.5, 2.0, 4.0], 1.0, [(0, 2)]),
        ([1.0, 2.0, 3.0], 1.5, [(0, 1), (1, 2)]),
        ([1.0, 3.0], 1.0, []),
        ([1.0, 1.0, 1.0], 0.5, [(0, 2)]),
    ],
)
def test_bars_join_what_lies_within_the_difference(
    ranks: list[float], difference: float, expected: list[tuple[int, int]]
) -> None:
    assert svg.cliques(np.array(ranks), difference) == expected


def test_curves_show_their_values_where_they_are() -> None:
    drawn = str(svg.curves([(0, "a", np.array([0.0, 0.5, 1.0]))], (0, 1), "share"))
    points = [
        tuple(map(float, p.split(","))) for p in re.search(r'polyline class="line c0 d0" points="([^"]*)"', drawn)[1].split()
    ]
    assert points[1] == pytest.approx(np.mean([points[0], points[2]], axis=0), abs=0.1)
    assert points[0][1] > points[2][1]


def test_names_of_points_do_not_cover_each_other() -> None:
    places = [(0.0, 10.0), (0.0, 10.0), (5.0, 14.0), (500.0, 10.0)]
    found = svg.heights(["first", "second", "third", "far"], places)
    assert found[0] == found[3] == 10
    first, second, third = sorted(found[:3])
    assert second - first >= 12
    assert third - second >= 12
