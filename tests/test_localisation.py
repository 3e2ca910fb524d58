"""Localisation, against the definition image by image and maps whose boxes are known; the threshold's choice, also in a run."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from scratch import findings, register, scratch_registries
from torch import Tensor

from xbench import DATASETS, METRICS, Batch, Explainer, Method, NotApplicable, XbenchError
from xbench.classifier import Passes
from xbench.metric import Scored
from xbench.metrics.localisation import ALPHAS, Localisation
from xbench.run.cells import Plan
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import make_batch, run
from xbench.run.suite import load_suite
from xbench.store import Store
from xbench.testing import check_metric, tiny_classifier

SIZE = 20


def batch_of(boxes: list[list[list[float]]]) -> Batch:
    n = len(boxes)
    labels = torch.zeros(n, dtype=torch.int64)
    true = [torch.tensor(each).view(-1, 4).float() for each in boxes]
    return Batch([f"image-{i}" for i in range(n)], torch.zeros(n, 1, SIZE, SIZE), labels, labels, true)


def explainer() -> Explainer:
    return Explainer(Method(), tiny_classifier((1, SIZE, SIZE)))


def score(batch: Batch, maps: Tensor, alpha: float | None = 0.0) -> Scored:
    return Localisation(alpha=alpha)(explainer(), batch, maps)


def map_of(*levels: tuple[float, tuple[int, int, int, int]]) -> Tensor:
    """A map of boxes of constant values, the later over the earlier ones."""
    values = torch.zeros(SIZE, SIZE)
    for value, (x0, y0, x1, y1) in levels:
        values[y0:y1, x0:x1] = value
    return values


def slow(values: Tensor, truths: list[list[float]], alpha: float) -> float:
    """The largest IoU of one map's box, counted in pixels."""
    hit = (values.clamp_min(0) > alpha * values.clamp_min(0).max()).nonzero()
    if not len(hit):
        return 0.0
    (y0, x0), (y1, x1) = hit.min(0).values.tolist(), hit.max(0).values.tolist()
    mine = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mine[y0 : y1 + 1, x0 : x1 + 1] = True
    best = 0.0
    for a, b, c, d in truths:
        true = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        true[int(b) : int(d), int(a) : int(c)] = True
        best = max(best, int((mine & true).sum()) / int((mine | true).sum()))
    return best


def random_case(n: int, seed: int = 0) -> tuple[Batch, Tensor]:
    """Maps of one blob each, partly negative, with a box of some size around it and in half of the images another."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(SIZE).double()
    maps, boxes = [], []
    for i in range(n):
        x, y, side = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((6, 14), (6, 14), (2, 7)))
        width = 2 + 2 * float(torch.rand((), generator=generator))
        blob = torch.exp(-((grid - x) ** 2 + (grid[:, None] - y) ** 2) / (2 * width**2))
        maps.append(blob - 0.15 + 0.03 * torch.randn(SIZE, SIZE, generator=generator).double())
        box = [max(0, x - side), max(0, y - side), min(SIZE, x + side), min(SIZE, y + side)]
        boxes.append([[*map(float, box)], [0.0, 0.0, 6.0, 4.0]][: 1 + i % 2])
    return batch_of(boxes), torch.stack(maps)


@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.9])
def test_equals_the_definition(alpha: float) -> None:
    batch, maps = random_case(30)
    scored = score(batch, maps, alpha)
    assert batch.boxes is not None
    expected = torch.tensor([slow(m, b.tolist(), alpha) for m, b in zip(maps, batch.boxes, strict=True)]).double()
    torch.testing.assert_close(scored.scores["iou"], expected)
    assert scored.scores["error"].tolist() == (expected < 0.5).double().tolist()
    assert 0 < scored.scores["error"].mean() < 1
    whole = torch.tensor([slow(torch.ones(SIZE, SIZE), b.tolist(), 0) for b in batch.boxes])
    assert scored.scores["whole"].tolist() == (whole < 0.5).double().tolist()
    curve = torch.stack([score(batch, maps, a).scores["iou"] for a in ALPHAS], 1)
    assert torch.equal(scored.curves["iou"], curve)


def test_a_map_that_is_the_box_has_no_error_at_any_threshold() -> None:
    box = (3, 5, 11, 15)
    scored = score(batch_of([[[*map(float, box)]]]), map_of((2.0, box))[None])
    assert scored.scores["iou"].tolist() == [1]
    assert scored.curves["iou"].eq(1).all()
    assert (scored.scores["error"].tolist(), scored.scores["whole"].tolist()) == ([0], [1])


def test_an_iou_of_one_half_is_no_error() -> None:
    """A box of 10 x 10 against its left half: 50 / 100; one column less: 40 / 100. The best of several boxes counts."""
    truths = [[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0]], [[15.0, 15.0, 20.0, 20.0], [0.0, 0.0, 4.0, 10.0]]]
    maps = torch.stack([map_of((1, (0, 0, 5, 10))), map_of((1, (0, 0, 4, 10))), map_of((1, (0, 0, 4, 10)))])
    scored = score(batch_of(truths), maps)
    torch.testing.assert_close(scored.scores["iou"], torch.tensor([0.5, 0.4, 1.0]))
    assert scored.scores["error"].tolist() == [0, 1, 0]


def test_constant_negative_and_one_hot_maps() -> None:
    one_hot = torch.zeros(SIZE, SIZE)
    one_hot[7, 7] = 1
    maps = torch.stack([torch.ones(SIZE, SIZE), torch.zeros(SIZE, SIZE), -torch.ones(SIZE, SIZE), one_hot])
    big, pixel = [[0.0, 0.0, 20.0, 15.0]], [[7.0, 7.0, 8.0, 8.0]]
    scored = score(batch_of([big, big, big, pixel]), maps, 0.5)
    assert scored.scores["iou"].tolist() == [0.75, 0, 0, 1]
    assert scored.scores["error"].tolist() == [0, 1, 1, 0]
    assert scored.scores["whole"].tolist() == [0, 0, 0, 1]


def test_an_image_without_a_true_box_has_no_score() -> None:
    scored = score(batch_of([[], [[0.0, 0.0, 20.0, 20.0]]]), torch.ones(2, SIZE, SIZE))
    for name in ("error", "iou", "whole"):
        assert scored.scores[name].isnan().tolist() == [True, False]
        assert scored.reasons[name] == {0: "no true box"}


def test_the_threshold_is_the_smallest_with_the_lowest_error() -> None:
    """Of a wide box of 0.4 around a narrow one of 1, the narrow one is true: right from 0.4 on, wrong from 1."""
    narrow, wide = (8, 8, 12, 12), (2, 2, 18, 18)
    right = map_of((0.4, wide), (1.0, narrow))
    batch = batch_of([[[*map(float, narrow)]]] * 3)
    chosen = Localisation().calibrate(explainer(), batch, torch.stack([right, right, torch.zeros(SIZE, SIZE)]))
    assert chosen == Localisation(alpha=0.4)
    assert chosen.spec == "localisation(alpha=0.4)"
    assert chosen.calibration_images == 0
    hopeless = Localisation().calibrate(explainer(), batch, torch.zeros(3, SIZE, SIZE))
    assert hopeless.alpha == 0, "all errors are equal"


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_what_a_loop_over_images_and_thresholds_finds(seed: int) -> None:
    batch, maps = random_case(12, seed)
    assert batch.boxes is not None
    errors = [sum(slow(m, b.tolist(), a) < 0.5 for m, b in zip(maps, batch.boxes, strict=True)) for a in ALPHAS]
    assert len(set(errors)) > 2
    assert Localisation().calibrate(explainer(), batch, maps).alpha == ALPHAS[errors.index(min(errors))]
    assert Localisation().calibrate(explainer(), batch, 8 * maps).alpha == ALPHAS[errors.index(min(errors))]


def test_images_without_a_true_box_do_not_choose() -> None:
    batch, maps = random_case(12)
    assert batch.boxes is not None
    more = batch_of([*(b.tolist() for b in batch.boxes), [], []])
    chosen = Localisation().calibrate(explainer(), more, torch.cat([maps, maps[:2]]))
    assert chosen == Localisation().calibrate(explainer(), batch, maps)
    with pytest.raises(NotApplicable, match=r"no held-out image has a true box.*localisation\(alpha=\.\.\.\)"):
        Localisation().calibrate(explainer(), batch_of([[], []]), maps[:2])


def test_batches_change_nothing_and_no_pass_is_made() -> None:
    batch, maps = random_case(9)
    bound = explainer()
    whole = Localisation(alpha=0.3)(bound, batch, maps)
    for i in range(9):
        one = dataclasses.replace(batch, ids=batch.ids[i : i + 1], x=batch.x[i : i + 1], boxes=batch.boxes[i : i + 1])  # type: ignore[index]
        single = Localisation(alpha=0.3)(bound, one, maps[i : i + 1])
        assert all(torch.equal(single.scores[name], values[i : i + 1]) for name, values in whole.scores.items())
    assert bound.classifier.passes == Passes() == Localisation().cost(Method(), bound.classifier)


def test_parameters_are_checked() -> None:
    assert METRICS.make("localisation(alpha=0.2, heldout=5)") == Localisation(alpha=0.2, heldout=5)
    assert Localisation(heldout=7).calibration_images == 7
    for spec, message in (("alpha=1.0", r"alpha=1.0: must be in \[0, 1\)"), ("heldout=0", "heldout=0: must be at least 1")):
        with pytest.raises(XbenchError, match=message):
            METRICS.make(f"localisation({spec})")
    with pytest.raises(ValueError, match="localisation has no threshold: calibrate it on held-out images, or give alpha="):
        score(batch_of([[]]), torch.ones(1, SIZE, SIZE), None)


def calibrated_plan(folder: Path, specs: tuple[str, ...], limit: int | None = None) -> Plan:
    """Gradient on 60 digits under metrics that calibrate themselves."""
    head = 'title = "t"\ndescription = "d"\ndataset = "mnist"\nclassifier = "mnist-cnn"\nmethods = ["gradient"]\n'
    (folder / "mine.toml").write_text(head + "".join(f'[[metrics]]\nspec = "{spec}"\nimages = 60\n' for spec in specs))
    return make_plan(load_suite(str(folder / "mine.toml")), Store(folder / "store"), limit=limit)


def quiet(plan: Plan) -> Progress:
    return Progress(plan, Speed(1e-4, 1e-4), Console(file=io.StringIO()))


def test_a_calibration_is_made_once_and_a_killed_run_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    calibrate, write = Localisation.calibrate, Store.write_part

    def killed(store: Store, folder: Path, index: int, content: dict[str, object]) -> None:
        if index == 1:
            raise KeyboardInterrupt
        write(store, folder, index, content)

    def counted(metric: Localisation, explainer: Explainer, heldout: Batch, maps: Tensor) -> Localisation:
        seen.append(heldout.ids)
        return calibrate(metric, explainer, heldout, maps)

    monkeypatch.setattr(Localisation, "calibrate", counted)
    specs = ("localisation(heldout=60)", "saliency-metric(heldout=3)")
    plan = calibrated_plan(tmp_path, specs)
    planned = sum([*map(plan.passes, plan.cells), *plan.map_passes(plan.cells)], Passes())
    monkeypatch.setattr(Store, "write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        run(plan, quiet(plan))
    monkeypatch.setattr(Store, "write_part", write)
    again = calibrated_plan(tmp_path, specs)
    assert [(cell.calibrated, cell.heldout_left, cell.missing) for cell in again.cells] == [(True, 0, (1,))] * 2
    results = run(again, quiet(again))
    assert [len(ids) for ids in seen] == [60]
    assert set(seen[0]).isdisjoint(plan.subset.ids)
    (tmp_path / "whole").mkdir()
    whole = calibrated_plan(tmp_path / "whole", specs)
    for result, other in zip(results, run(whole, quiet(whole)), strict=True):
        assert (result.key, result.scores) == (other.key, other.scores)
        assert result.record["calibration"]["metric"] == other.record["calibration"]["metric"]
    about = results[0].record["calibration"]
    assert (about["images"], about["metric"].startswith("localisation(alpha=0.")) == (60, True)
    assert whole.classifier.passes == planned == Passes(forward=60 + 60 + 3 * 20 + 60, backward=60 + 60)
    assert not calibrated_plan(tmp_path, specs).todo


def test_what_a_metric_is_calibrated_on_is_part_of_the_key(tmp_path: Path) -> None:
    def cells(limit: int | None = None) -> dict[str, int]:
        specs = ("saliency-metric", "saliency-metric(alpha=0.5)")
        return {cell.key: len(cell.heldout) for cell in calibrated_plan(tmp_path, specs, limit).cells}

    every, limited = cells(), cells(80)
    assert (list(every.values()), list(limited.values())) == ([100, 0], [80, 0]), "a limit is one of held-out images too"
    assert len(every | limited) == 3, "the 60 images that are scored are the same"


def test_without_boxes_or_held_out_images_a_metric_does_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist = DATASETS.get("mnist")
    whole = mnist().load()
    bare = dataclasses.replace(whole, read=lambda ids: (*whole.read(ids)[:2], None))
    held = [XbenchError("no such part"), whole, dataclasses.replace(whole, ids=())]
    reasons = ("no such part", "'mnist' and 'mnist' share 200 images", "'mnist' is empty")
    for heldout, reason in zip(held, reasons, strict=True):

        def load(self: object, part: str = "evaluation", heldout: object = heldout) -> object:
            if part == "heldout" and isinstance(heldout, XbenchError):
                raise heldout
            return heldout if part == "heldout" else bare

        monkeypatch.setattr(mnist, "load", load)
        cells = calibrated_plan(tmp_path, ("localisation", "saliency-metric", "saliency-metric(alpha=0.5)")).cells
        hint = f"no held-out images to calibrate on ({reason}): give saliency-metric(alpha=...)"
        assert [cell.not_applicable for cell in cells] == ["mnist has no boxes", hint, ""]


def test_a_batch_explains_the_label_where_the_metric_says_so(tmp_path: Path) -> None:
    plan = calibrated_plan(tmp_path, ("localisation",))
    plan = dataclasses.replace(plan, subset=DATASETS.make("mnist").load("test"), cells=())
    label, predicted = (make_batch(plan, "evaluation", plan.subset.ids, rule) for rule in ("label", "predicted"))
    assert torch.equal(label.target, label.label)
    assert torch.equal(predicted.target, plan.classifier.probabilities(predicted.x).argmax(1))
    assert not torch.equal(label.target, predicted.target)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"calibrate": lambda self, explainer, heldout, maps: self}, "calibrate() leaves something to choose: made"),
        ({"calibration_cost": lambda self, classifier: Passes(forward=1)}, "4 held-out images, calibration_cost() says"),
        ({"calibrate": lambda self, e, h, m: self.replace(alpha=float(torch.rand(())))}, "two calibrations with the same seed"),
        ({"needs_boxes": False}, "the images have no boxes"),
    ],
)
def test_the_conformance_check_finds_a_broken_calibration(changes: dict[str, object], expected: str) -> None:
    with scratch_registries():
        register(METRICS, Localisation, __doc__="Localisation, broken (own decision).", **changes)
        assert expected in findings(check_metric, "made")
