"""Affine maps, and the values their weights start from."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.models.config import TransformerConfig


def init_normal(
    weight: Tensor, cfg: TransformerConfig, fan_in: int, generator: torch.Generator | None
) -> None:
    """Fill a weight in place with normal values, by ``cfg.init_mode``.

    Args:
        weight: any shape.
        fan_in: how many inputs are summed into one output; in mode ``"nanda"`` the caller
            gives d_model (d_vocab_out for the readout) in its place.
        generator: source of randomness; ``None`` takes torch's global one, as
            ``torch.nn`` does.
    """
    std = 0.02 if cfg.init_mode in ("gpt2", "identity") else 1 / math.sqrt(fan_in)
    with torch.no_grad():
        # Drawn on the CPU, so that a seed means the same weights on every device.
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float32) * std)


def widened(x: Tensor) -> Tensor:
    """A tensor in float32 where it is in half precision, whose squares and sums overflow; else itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def affine(
    x: Float[Tensor, "*at d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"]
) -> Float[Tensor, "*at d_out"]:
    """``x @ weight + bias`` in one fused product, forward and backward without a transposed copy."""
    flat = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)
    return flat.view(*x.shape[:-1], weight.shape[1])
