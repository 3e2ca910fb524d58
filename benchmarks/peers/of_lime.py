"""The package lime."""

from __future__ import annotations

import numpy as np
import torch
from lime.lime_image import LimeImageExplainer
from pairs import MASKS, SEGMENTS, Pair, Subject
from torch import Tensor

from xbench.methods.lime import Lime
from xbench.ops.segments import superpixels


def pairs(of: Subject) -> list[Pair]:
    """As many samples of the same superpixels."""
    settings = Lime().resolved(of.classifier.shape)
    channels = of.batch.x.shape[1]

    @torch.no_grad()
    def predict(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images).float().movedim(3, 1)[:, :channels]
        return of.network(x).softmax(1).numpy()

    def explain(x: Tensor, y: int, _map: Tensor) -> object:
        labels = superpixels(x, SEGMENTS, settings.sigma, settings.compactness).view(x.shape[2:]).numpy()
        image = x[0].expand(3, -1, -1).movedim(0, 2).double().numpy()
        return LimeImageExplainer(random_state=0).explain_instance(
            image,
            predict,
            labels=(y,),
            hide_color=0.5,
            top_labels=None,
            num_samples=MASKS,
            batch_size=of.classifier.batch_size,
            segmentation_fn=lambda _image: labels,
        )

    method = of.method(f"lime(samples={MASKS}, segments={SEGMENTS})")
    return [Pair(f"`lime`, {MASKS} samples", "lime", method, of.each(explain))]
