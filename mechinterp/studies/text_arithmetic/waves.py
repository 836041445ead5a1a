"""Whole numbers as points on circles, as concepts to be erased."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

WAVES = 12
"""Circles that are erased one after another."""


def circle(number: Int[Tensor, " n"], frequency: int, p: int) -> Float[Tensor, "n 2"]:
    """Cosine and sine of ``2 pi frequency number / p``."""
    angle = 2 * torch.pi * (number * frequency % p).double() / p
    return torch.stack((angle.cos(), angle.sin()), 1)
