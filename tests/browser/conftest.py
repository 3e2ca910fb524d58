"""A headless Chromium with an empty profile, and boards to look at."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from board_results import HOSTILE, result, robustness

from xbench.board import Board, make_board, write
from xbench.board.gallery import Gallery, image_uri, map_uri, shades

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.fail("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield started
    started.quit()


def pictures(board: Board) -> Gallery:
    random = np.random.default_rng(0)
    images = tuple((f"{i:04d}", image_uri(random.random((1, 28, 28), dtype=np.float32))) for i in range(3))
    maps = {m: tuple(map_uri(shades(random.random((28, 28), dtype=np.float32))) for _ in range(3)) for m in board.ordered}
    return Gallery(images, maps, {board.ordered[0]: maps[board.ordered[0]]})


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with holes, NaN, controls, curves and a gallery."""
    board = make_board(robustness(curves=True), "Robustness", reproduce="xbench run --suite robustness")
    folder = tmp_path_factory.mktemp("board")
    write(board, folder, "b", pictures(board))
    return folder / "b.html"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board whose every text tries to be markup."""
    results = [
        result(f"{HOSTILE}{i}", [0.1 * i, 0.5, math.nan], label=HOSTILE, subset=HOSTILE, metric=HOSTILE, curve=HOSTILE)
        for i in range(3)
    ]
    results.append(result("failed", status="failed", reason=HOSTILE, subset=HOSTILE, metric=HOSTILE))
    for one in results:
        one.record["machine"] = {"device": HOSTILE}
        one.ids[:] = [f"{HOSTILE}{i}" for i in range(len(one.ids))]
    board = make_board(results, HOSTILE, HOSTILE, HOSTILE)
    folder = tmp_path_factory.mktemp("hostile")
    write(board, folder, "b")
    return folder / "b.html"
