"""Changing a suite from the command line: every key by its path, validated, and told by the board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from xbench.errors import XbenchError
from xbench.run.settings import NAME, changed, split_outside
from xbench.run.suite import Suite, load_suite

Cli = Callable[..., Outcome]
SUITE = """
title = "t"
description = "d"
dataset = "mnist"
classifier = "mnist-cnn"
methods = ["gradient", "random"]
[[metrics]]
spec = "deletion"
images = 10
draws = { count = 2, size = 5 }
[[metrics]]
spec = "area"
[[metrics]]
spec = 'area(fill="zero")'
[[metrics]]
spec = "stability(random_calls=2)"
[[metrics]]
spec = "consistency"
[[metrics]]
spec = "infidelity"
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return load_suite(str(path))


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("seed=3", lambda s: s.seed, 3),
        ("title=Other words", lambda s: s.title, "Other words"),
        ('title="12"', lambda s: s.title, "12"),
        ("max_passes=50", lambda s: s.max_passes, 50),
        ("methods=all", lambda s: s.methods, "all"),
        ('methods=["edges", "rise(masks=3)"]', lambda s: s.methods, ["edges", "rise(masks=3)"]),
        ("methods.1=edges", lambda s: s.methods, ["gradient", "edges"]),
        ("metrics.0.images=4", lambda s: [m.images for m in s.metrics[:3]], [4, None, None]),
        ("metrics.deletion.images=4", lambda s: [m.images for m in s.metrics[:3]], [4, None, None]),
        ("metrics.area.images=4", lambda s: [m.images for m in s.metrics[:3]], [10, 4, 4]),
        ('metrics.area(fill="zero").images=4', lambda s: [m.images for m in s.metrics[:3]], [10, None, 4]),
        ('metrics.1.spec=area(fill="blur")', lambda s: s.metrics[1].spec, 'area(fill="blur")'),
        ("metrics.1.spec=saliency-metric(alpha=0.5)", lambda s: s.metrics[1].spec, "saliency-metric(alpha=0.5)"),
        ("metrics.deletion.draws.count=7", lambda s: (s.metrics[0].draws.count, s.metrics[0].draws.size), (7, 5)),
        ("metrics.1.fill=blur", lambda s: s.metrics[1].spec, 'area(fill="blur")'),
        ('metrics.area(fill="zero").fill=mean', lambda s: s.metrics[2].spec, 'area(fill="mean")'),
        ("metrics.3.calls=10", lambda s: s.metrics[3].spec, "stability(random_calls=2)"),
        ("metrics.stability.calls=2", lambda s: s.metrics[3].spec, "stability(random_calls=2, calls=2)"),
        ("metrics.stability.random_search=true", lambda s: s.metrics[3].spec, "stability(random_calls=2, random_search=True)"),
        ("metrics.consistency.sizes=[1, 2]", lambda s: s.metrics[4].spec, "consistency(sizes=(1, 2))"),
        ("metrics.infidelity.draws=7", lambda s: (s.metrics[5].spec, s.metrics[5].draws), ("infidelity(draws=7)", None)),
        (
            "metrics.infidelity.draws={count=3, size=2}",
            lambda s: (s.metrics[5].spec, s.metrics[5].draws.count),
            ("infidelity", 3),
        ),
        ("metrics.1.draws={count=3, size=2}", lambda s: (s.metrics[1].draws.count, s.metrics[1].draws.size), (3, 2)),
    ],
)
def test_every_key_can_be_set_by_its_path(suite: Suite, setting: str, read: Callable[[Suite], object], value: object) -> None:
    other = changed(suite, [setting])
    assert read(other) == value
    assert other.name.startswith("mine-")
    assert suite == changed(suite)
    untouched = {"name", setting.partition("=")[0].partition(".")[0]}
    assert other.model_dump(exclude=untouched) == suite.model_dump(exclude=untouched)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sead=3", "--set sead=3: unknown key 'sead': did you mean 'seed'? valid: classifier, dataset"),
        ("sead.x=3", "--set sead.x=3: unknown key 'sead': did you mean 'seed'?"),
        ("metrics.deletion.imagse=3", "unknown key of deletion 'imagse': did you mean 'images'? valid: draws, images, spec"),
        (
            "metrics.stability.cals=3",
            "--set metrics.stability.cals=3: unknown key of stability 'cals': did you mean 'calls'? valid: calls, ",
        ),
        ("metrics.stability.calls=many", "stability(calls=...): given 'many': Input should be a valid integer"),
        ("metrics.stability.calls=-1", "calls must be at least 0, got -1"),
        ("metrics.stability.calls.x=1", "unknown key 'calls': valid: draws, images, spec"),
        ("metrics.area.fill=mean", "metrics: Value error, 'area(fill=\"mean\")' is listed twice"),
        ("metrics.deletion.draws=3", "metrics.0.draws: Input should be a valid dictionary"),
        ("metrics.deletoin.images=3", "unknown key 'deletoin': did you mean 'deletion'? valid: 0, 1, 2, 3, 4, 5, area"),
        ("metrics.6.images=3", "unknown key '6'"),
        ("metrics.deletion.draws.sizes=3", "unknown key 'metrics.0.draws.sizes': did you mean 'size'? valid: count, size"),
        ("metrics.area.draws.size=3", "metrics.1.draws.count: Field required"),
        ("metrics.deletion.images=0", "metrics.0.images: Input should be greater than 0"),
        ("metrics.2.spec=area", "metrics: Value error, 'area' is listed twice"),
        ("seed=many", "--set seed=many: seed: Input should be a valid integer"),
        ("seed.x=3", "--set seed.x=3: there is no key 'x' in 0"),
        ("seed", "--set seed: write path=value"),
    ],
)
def test_a_wrong_setting_is_shown_with_the_valid_keys(suite: Suite, setting: str, message: str) -> None:
    with pytest.raises(XbenchError) as error:
        changed(suite, [setting])
    assert message in str(error.value)
    assert f"--set {setting}" in str(error.value)


def test_images_are_set_before_the_settings_and_names_stay_short(suite: Suite) -> None:
    other = changed(suite, ["metrics.area.images=4"], images=6)
    assert [run.images for run in other.metrics] == [6, 4, 4, 6, 6, 6]
    assert other.name == "mine-images=6-metrics.area.images=4"
    long = [changed(suite, [f"description={'words ' * 30}{end}", "seed=1"]).name for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) <= len("mine-") + NAME


def test_separators_within_brackets_and_quotes_do_not_split() -> None:
    assert split_outside("gradient,rise(masks=3, seed=1),x", ",") == ["gradient", "rise(masks=3, seed=1)", "x"]
    assert split_outside('lime(fill=",)"),(a,(b,c)),d', ",") == ['lime(fill=",)")', "(a,(b,c))", "d"]
    assert split_outside("a=b=c", "=", 2) == ["a", "b=c"]
    assert split_outside("a", "=", 2) == ["a"]


def test_the_board_says_how_it_was_changed_and_repeats_itself(xbench: Cli, tmp_path: Path) -> None:
    path, store = tmp_path / "mine.toml", tmp_path / "store"
    path.write_text(SUITE)
    options = (
        "--suite",
        path,
        "--store",
        store,
        "--images",
        "3",
        "--set",
        "seed=1",
        "--set",
        'metrics.1.spec=area(fill="blur")',
    )
    methods = ("--methods", "edges, rise(masks=5, seed=2)", "-m", "gradient")
    done = xbench("run", *options, *methods)
    assert done.status == 0, done.err
    page = store / "boards" / "mine-images=3-seed=1-metrics.1.spec=area_fill=_blur.md"
    text = page.read_text()
    command = f"xbench run --suite {path} -m gradient -m edges -m 'rise(masks=5, seed=2)' "
    assert command + "--set seed=1 --set 'metrics.1.spec=area(fill=\"blur\")' --images 3" in text
    assert "deletion: 3 images, 2 draws of 1" in text
    again = xbench("board", *options, *methods, "--out", tmp_path / "again")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / page.name).read_text() == text
    assert "0 to compute" in xbench("plan", *options, *methods).out
    compared = xbench("compare", "edges", "gradient", *options)
    assert compared.status == 0, compared.err
    other = xbench("compare", "edges", "gradient", *options[:-2])
    assert other.status == 2
    assert "--set seed=1 --images 3" in other.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "500"), "subset 'mnist' has 200 images, 500 were asked for"),
        (("--set", "metrics.stabilty.images=3"), "unknown key 'stabilty': did you mean 'stability'?"),
        (("--set", "metrics.0.spec=deletoin"), "unknown metric 'deletoin': did you mean 'deletion'?"),
        (("--methods", "gradient,rize(masks=2)"), "unknown method 'rize': did you mean 'rise'?"),
        (("--methods", "gradient,,edges"), "malformed method ''"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(xbench: Cli, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = xbench("run", "--suite", "smoke", "--store", tmp_path / "store", *words)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
