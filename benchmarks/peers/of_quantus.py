"""Quantus: pixel flipping, the local Lipschitz estimate, MPRT and ROAD."""

from __future__ import annotations

from typing import Any

import numpy as np
import quantus
import torch
from pairs import DRAWS, STEPS, Pair, Subject

QUIET = {"abs": False, "normalise": False, "return_aggregate": False, "disable_warnings": True, "display_progressbar": False}


def pairs(of: Subject) -> list[Pair]:
    """All of them."""
    x, size = of.batch.x, of.batch.x.shape[2]
    given = {
        "model": of.network,
        "x_batch": x.numpy(),
        "y_batch": of.batch.target.numpy(),
        "a_batch": of.maps[:, None].numpy(),
        "channel_first": True,
        "softmax": True,
        "device": "cpu",
    }
    flipping = quantus.PixelFlipping(features_in_step=size * size // STEPS, perturb_baseline=0.5, **QUIET)
    lipschitz = quantus.LocalLipschitzEstimate(nr_samples=DRAWS, **QUIET)
    mprt = quantus.MPRT(layer_order="top_down", **QUIET)
    road = quantus.ROAD(percentages=list(range(10, 100, 10)), **QUIET)
    reverse = given | {"a_batch": 1 - of.maps[:, None].numpy()}  # it removes from one end only, `game` from both
    layers = sum(hasattr(layer, "reset_parameters") for layer in of.network.modules())
    stages = len(of.classifier.stages)
    return [
        Pair("`deletion`", "Quantus `PixelFlipping`", of.metric("deletion"), lambda: flipping(**given)),
        Pair(
            f"`stability`, {DRAWS} random points",
            "Quantus `LocalLipschitzEstimate`",
            of.metric(f"stability(random_calls={DRAWS}, calls=0)"),
            lambda: lipschitz(**given, explain_func=gradient),
        ),
        Pair(
            "`randomisation`, a stage",
            f"Quantus `MPRT`, a stage of {layers}",
            of.metric("randomisation"),
            lambda: mprt(**given, explain_func=gradient),
            more=(layers + 1) / (stages + 1),
        ),
        Pair("`game`, 20 points", "Quantus `ROAD`, both ends", of.metric("game"), lambda: [road(**given), road(**reverse)]),
    ]


def gradient(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
    """The map of the method `gradient`."""
    x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    logits = model(x).gather(1, torch.as_tensor(targets).view(-1, 1)).sum()
    return torch.autograd.grad(logits, x)[0].abs().amax(1, keepdim=True).numpy()
