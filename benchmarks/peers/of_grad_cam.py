"""pytorch-grad-cam: ROAD."""

from __future__ import annotations

from pairs import Pair, Subject
from pytorch_grad_cam.metrics.road import ROADCombined


def pairs(of: Subject) -> list[Pair]:
    """ROAD in both directions."""
    targets = [lambda logits, y=y: logits.softmax(-1)[y] for y in of.batch.target.tolist()]
    return [
        Pair(
            "`game`, 20 points",
            "pytorch-grad-cam `ROADCombined`, 18 points",
            of.metric("game"),
            lambda: ROADCombined()(of.batch.x, of.maps.numpy(), targets, of.network),
        )
    ]
