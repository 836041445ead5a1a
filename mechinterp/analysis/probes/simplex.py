"""Distributions over states as points of a simplex."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def project_to_simplex(x: Float[Tensor, "*row state"]) -> Float[Tensor, "*row state"]:
    """The nearest distribution to each row: numbers >= 0 that sum to 1.

    All numbers are lowered alike, and what falls below 0 is cut off; sorting finds how far to lower
    them (Held, Wolfe & Crowder 1974).
    """
    falling = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    lowered_by = (falling.cumsum(-1) - 1) / count
    kept = (falling > lowered_by).sum(-1, keepdim=True)
    return (x - lowered_by.gather(-1, kept - 1)).clamp(min=0)
