"""What the attention methods share: the attention probabilities of any vision transformer, as it computes them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xbench.classifier import Classifier
from xbench.ops.resize import resized
from xbench.types import Images, Maps

SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


class Watch(TorchFunctionMode):
    """Within the block, shows each attention's probabilities (b, heads, n, n) to ``see``; what it returns is used instead.

    It sees torch's function calls, not layers, so that no hook and no patch is needed and nothing is left behind: PyTorch's
    fused attention, ``nn.MultiheadAttention``, and a softmax over the last axis of a tensor (b, heads, n, n), which is how
    networks write attention themselves. Fused attention is computed in steps instead, equal up to rounding.
    """

    def __init__(self, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multihead(args, kwargs)
        out = func(*args, **kwargs)
        if func in SOFTMAX and out.ndim == 4 and kwargs.get("dim", args[1] if len(args) > 1 else None) in (-1, 3):
            return self.see(out)
        return out

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The definition of the fused function; dropout is 0 in a classifier, which is in eval mode."""
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            blocked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if blocked else scores + attn_mask
        return self.see(scores.softmax(-1)) @ value

    def _multihead(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The function's probabilities, and from what ``see`` makes of them its output by the weights that it is given."""
        query, _, value, width, heads, weight, bias, bias_k, _, add_zero, _, out_weight, out_bias = args
        if query.ndim != 3 or bias_k is not None or add_zero:  # no batch, or tokens that are not the image's: not for us
            plain: tuple[Tensor, Tensor | None] = F.multi_head_attention_forward(*args, **kwargs)
            return plain
        p: Any
        _, p = F.multi_head_attention_forward(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
        p = self.see(p)
        separate = kwargs.get("use_separate_proj_weight", False)
        weight = kwargs["v_proj_weight"] if separate else weight[2 * width :]
        v = F.linear(value, weight, None if bias is None else bias[2 * width :])
        mixed = p @ v.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
        out = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias)
        return out, p.mean(1) if kwargs.get("average_attn_weights", True) else p


def attention_map(row: Tensor, x: Images) -> Maps:
    """The last tokens of (b, n), those of the patches, as maps (b, h, w), enlarged bilinearly."""
    rows, columns = grid(row.shape[1], x.shape[2], x.shape[3])
    patches = row[:, row.shape[1] - rows * columns :].view(-1, rows, columns)
    return resized(patches, x)


def grid(tokens: int, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of the patches: the largest grid of the image's proportions that the tokens can fill."""
    rows = math.isqrt(tokens * h // w)
    while rows and rows * max(1, round(rows * w / h)) > tokens:
        rows -= 1
    return rows, max(1, round(rows * w / h))


def readout(mixing: Tensor, x: Images) -> Tensor:
    """The row (b, n) of (b, n, n) that the classification reads: the first token's, or the mean if every token is a patch."""
    rows, columns = grid(mixing.shape[1], x.shape[2], x.shape[3])
    return mixing.mean(1) if rows * columns == mixing.shape[1] else mixing[:, 0]


_reasons: weakref.WeakKeyDictionary[Classifier, str | None] = weakref.WeakKeyDictionary()


def no_attention(classifier: Classifier) -> str | None:
    """Why the classifier is no vision transformer, or None: it makes one pass that is not counted, once per classifier."""
    if classifier not in _reasons:
        _reasons[classifier] = _reason(classifier)
    return _reasons[classifier]


def _reason(classifier: Classifier) -> str | None:
    shapes: list[tuple[int, ...]] = []

    def see(p: Tensor) -> Tensor:
        shapes.append(tuple(p.shape))
        return p

    # Two images: attention within windows, or over all images' tokens at once, has another first axis.
    with torch.no_grad(), Watch(see):
        classifier.module(torch.zeros(2, *classifier.shape).to(classifier.mean))
    if not shapes:
        return f"classifier {classifier.name!r} has no attention: only vision transformers do"
    odd = [s for s in shapes if s[0] != 2 or s[2] != s[3] or s[2:] != shapes[0][2:]]
    if odd:
        return (
            f"classifier {classifier.name!r} has attention of shape {odd[0]}, expected (images, heads, n, n) with the same n "
            "tokens of an image in every layer"
        )
    return None
