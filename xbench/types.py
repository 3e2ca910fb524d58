"""Shape-annotated tensor types used in every signature: batch b, channels c, height h, width w, classes k."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

Images = Float[Tensor, "b c h w"]
"""Pixels in [0, 1]; the classifier normalises inside."""
Labels = Int64[Tensor, "b"]
"""Class indices in 0..k-1."""
Logits = Float[Tensor, "b k"]
"""Classifier outputs before the softmax."""
Maps = Float[Tensor, "b h w"]
"""Attribution maps: higher = more important for the explained class."""
Masks = Float[Tensor, "b 1 h w"]
"""Keep masks in [0, 1]: 1 = kept, 0 = removed, everywhere in this project."""
Scores = Float[Tensor, "b"]
"""One value per image."""
Precision = Literal["fp32", "bf16"]
"""The arithmetic of passes without gradients; bf16 is automatic mixed precision."""
