"""Distributions over states as points of a simplex."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.tensors import tensor_of


def project_to_simplex(x: Float[Tensor, "*row state"]) -> Float[Tensor, "*row state"]:
    """The nearest distribution to each row: numbers >= 0 that sum to 1.

    All numbers are lowered alike, and what falls below 0 is cut off; sorting finds how far to lower
    them (Held, Wolfe & Crowder 1974).

    Raises:
        ValueError: no states, not floating-point, or NaN and infinity.
    """
    x = tensor_of(x, "numbers")
    if not x.ndim or not x.is_floating_point() or not x.shape[-1] or not bool(x.isfinite().all()):
        raise ValueError(
            f"expected finite floating-point numbers [..., state], got {x.dtype} {list(x.shape)}, or NaN or "
            "infinity in them"
        )
    x = x if x.dtype == torch.float64 else x.float()
    x = x - x.amax(-1, keepdim=True)  # what all are lowered by does not matter, and large numbers hide it
    falling = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    lowered_by = (falling.cumsum(-1) - 1) / count
    kept = (falling > lowered_by).sum(-1, keepdim=True)
    return (x - lowered_by.gather(-1, kept - 1)).clamp(min=0)
