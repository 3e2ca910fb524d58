"""`xbench.run` gives in Python what the command gives, for objects too, and leaves these as they were."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from board_results import HOSTILE, board, result, robustness
from PIL import Image
from scratch import scratch_registries
from test_foreign_methods import run_cell
from torch import nn

import xbench
from xbench import DATASETS, METHODS, Method, XbenchError, from_module
from xbench.board.curves import mean_curves
from xbench.board.figures import Picture
from xbench.board.pictures import curves_figure, maps_figure
from xbench.board.snippet import html

METHODS_RUN = ["gradient", "random"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def test_it_computes_what_the_command_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = xbench.run("smoke", METHODS_RUN, limit=2, store=tmp_path)
    assert "area x gradient: done" in capsys.readouterr().out
    assert [result.status for result in run.results].count("n/a") == 2
    assert not run.failed
    frame = run.frame()
    parts = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").rglob("part-*.json"))]
    stored = {
        (part["metric"], part["method"], column, image): value
        for part in parts
        for column, values in part["scores"].items()
        for image, value in zip(part["ids"], values, strict=True)
    }
    shown = {(r.metric, r.method, r.column, r.image): r.value for r in frame.itertuples()}
    assert shown.keys() == stored.keys()
    assert all(shown[key] == pytest.approx(float(stored[key]), rel=1e-6, nan_ok=True) for key in shown)
    assert list(run.board().ranks.mean.index) == ["gradient"]
    again = xbench.run("smoke", METHODS_RUN, limit=2, store=str(tmp_path), quiet=True)
    assert again.frame().equals(frame)
    assert capsys.readouterr().out == ""
    assert repr(run) == "<xbench.Run 'smoke': mnist x mnist-cnn, 8 cells, 0 failed, 2 not applicable>"
    page = run._repr_html_()
    assert page.count("<tr>") == 3
    command = "xbench run --suite smoke -m gradient -m random --limit 2"
    assert (run.reproduce, run.board().reproduce) == (command, command)
    assert f"<code>{command}</code>" in page
    assert "<script" not in page
    for picture, panels in ((run.plot_ranks(), 1), (run.plot_curves(), 8), (run.plot_maps(2), 7)):
        assert len(picture.axes) == panels
        with Image.open(io.BytesIO(picture._repr_png_())) as image:
            assert image.format == "PNG"


def test_the_package_of_that_name_stays_a_package() -> None:
    import xbench.run.plan

    assert isinstance(xbench.run, types.ModuleType)
    assert callable(xbench.run)
    assert xbench.run.plan.make_plan
    with pytest.raises(XbenchError, match="unknown suite 'smokee': did you mean 'smoke'"):
        xbench.run("smokee")


def test_a_network_and_a_subset_are_taken_as_they_are(tmp_path: Path) -> None:
    mine = network()
    before = copy.deepcopy(mine.state_dict())
    few = dataclasses.replace(DATASETS.make("mnist").load("heldout"), name="few", ids=("0001", "0002"))
    about = {"dataset": few, "store": tmp_path, "quiet": True}
    run = xbench.run("smoke", [METHODS.make("gradient"), "vp"], classifier=mine, **about)
    assert mine.training
    assert run.reproduce == ""
    assert all(parameter.requires_grad for parameter in mine.parameters())
    assert all(before[name].equal(value) for name, value in mine.state_dict().items())
    assert {(r.classifier, r.subset) for r in run.results} == {("Sequential", "few")}
    reasons = {r.reason for r in run.results if r.method == "vp"}
    assert all(
        "'few' was given as a Subset, without a part 'train': give the spec of a dataset" in reason for reason in reasons
    )
    made = from_module(mine, name="named", size=28, label_space="digits-10")
    other = xbench.run("smoke", ["gradient"], classifier=made, **about)
    assert {r.classifier for r in other.results} == {"named"}
    assert made.passes.forward == 0
    mean = [r.scores for r in run.results if r.method == "gradient" and r.status == "ok"]
    assert mean == [r.scores for r in other.results if r.status == "ok"]


class Unregistered(Method):
    pass


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([Unregistered()], "Unregistered is not registered: write @METHODS.register"),
        ([Unregistered], "is a type; give specs such as 'rise' or methods .a method's class has to be called"),
        ([lambda x: x], "is a function; give specs such as 'rise' or methods .see xbench.from_callable"),
        (["rize"], "unknown method 'rize': did you mean 'rise'"),
    ],
)
def test_what_is_no_method_is_named(tmp_path: Path, methods: list[object], message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        xbench.run("smoke", methods, store=tmp_path)


def test_what_takes_too_long_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = xbench.run("smoke", ["gradient", "rise"], limit=2, store=tmp_path, timeout=1e-4, quiet=True)
    assert {result.reason for result in run.failed} == {"TooLong: took longer than 0.0001 s"}
    assert len(run.failed) == len([result for result in run.results if result.status != "n/a"])


def test_a_notebooks_own_method_has_no_command(tmp_path: Path) -> None:
    with scratch_registries():
        run_cell(CELL, 200, types.ModuleType("cells"))
        assert xbench.run("smoke", ["cell"], limit=2, store=tmp_path, quiet=True).reproduce == ""


def test_other_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(XbenchError, match="limit=0: must be at least 1 image"):
        xbench.run("smoke", limit=0, store=tmp_path)
    with pytest.raises(XbenchError, match="timeout=0: must be above 0 seconds"):
        xbench.run("smoke", timeout=0, store=tmp_path)
    with pytest.raises(XbenchError, match=r"classifier 'Linear' does not take images \(3, 28, 28\)"):
        xbench.run("smoke", classifier=nn.Linear(3, 10), store=tmp_path)
    with pytest.raises(XbenchError, match="device 'gpu' cannot be used"):
        xbench.run("smoke", device="gpu", store=tmp_path)
    with pytest.raises(XbenchError, match="device 'gpu' cannot be used"):
        xbench.run("smoke", classifier=network(), device="gpu", store=tmp_path)


CELL = '''
from dataclasses import dataclass
from xbench import METHODS, Method
from xbench.classifier import Passes

@METHODS.register("cell")
@dataclass(frozen=True)
class Cell(Method):
    """An example."""
    power: int = 1

    def __call__(self, classifier, x, y, rng):
        return x.mean(1) ** self.power

    def cost(self, shape):
        return Passes()
'''


def test_a_method_of_a_cell_is_another_one_when_its_code_changes() -> None:
    module = types.ModuleType("cells")
    with scratch_registries():
        identities = []
        for number, code in enumerate([CELL, CELL, CELL.replace("x.mean(1)", "x.amax(1)")]):
            run_cell(code, number + 100, module)
            identities.append(METHODS.make("cell").identity)
    assert identities[0] == identities[1] != identities[2]


def test_the_snippet_escapes_and_names_holes() -> None:
    results = [*robustness(3), result(HOSTILE, [0.1, 0.2], label=HOSTILE), result("x", status="failed", reason=HOSTILE)]
    page = html(board(results, title=HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "failed: stability x method-2: RuntimeError: a | b" in page
    assert "no mask grid" in page


def test_curves_are_means_over_finite_points() -> None:
    curves = [[[1.0, float("nan")], [3.0, 4.0]], [[1.0, 1.0], [0.0, 0.0]]]
    made = [
        dataclasses.replace(result(name, [0.1, 0.2], curve="y"), curves={"y": lists}, curve_axis=("step", 1, None))
        for name, lists in zip("ab", curves, strict=True)
    ]
    (found,) = mean_curves(board(made))
    assert found.ends == (1, 2)
    np.testing.assert_allclose(found.means["a"], [2.0, 4.0])
    (panel,) = curves_figure(board(made)).axes
    assert {line.get_label(): line.get_ydata().tolist() for line in panel.lines} == {"a": [2.0, 4.0], "b": [0.5, 0.5]}
    with pytest.raises(XbenchError, match="no metric of it has curves"):
        curves_figure(board([result("a", [0.1, 0.2])]))


@pytest.mark.parametrize(("images", "methods", "panels"), [(1, 1, 2), (1, 7, 10), (2, 4, 10), (2, 5, 20)])
def test_maps_have_a_panel_each(images: int, methods: int, panels: int) -> None:
    maps = {f"$m_{i}$": torch.rand(images, 6, 6) for i in range(methods)}
    figure = maps_figure(torch.rand(images, 3, 6, 6), ["t"] * images, maps)
    assert isinstance(figure, Picture)
    *drawn, bar = figure.axes
    assert len(drawn) == panels
    assert bar.get_ylabel() == "attribution, least to most"
    assert sum(len(panel.images) for panel in drawn) == images * (1 + 2 * methods)
    shown = [panel.images[1].get_array() for panel in drawn if len(panel.images) == 2]
    assert all((values.min(), values.max()) == (0, 1) for values in shown)
