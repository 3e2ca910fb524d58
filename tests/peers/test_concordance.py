"""The concordance table: equal where it says so, and kept in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pytorch_grad_cam")
pytest.importorskip("quantus")
pytest.importorskip("torchcam")

from concordance import rows
from concordance_rows import TOLERANCE

from xbench import METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concordance.md"


def test_peers_that_compute_the_same_thing_agree() -> None:
    found = rows()
    kept = PAGE.read_text()
    compared = {metric for metric in METRICS.names() if any(row.ours.startswith(f"`{metric}`") for row in found)}
    expected = {"consistency", "deletion", "game", "infidelity", "insertion", "randomisation", "sensitivity-max", "stability"}
    assert compared == expected & set(METRICS.names())
    for row in found:
        print(" | ".join(row.cells()))
        assert row.a.shape == row.b.shape, row
        assert row.a.std() > 1e-3, "values that do not vary show nothing"
        assert (row.difference < TOLERANCE) == row.same, row
        assert all(cell in kept for cell in (row.ours, row.peer, row.note)), "run: tox -e concordance > docs/concordance.md"
