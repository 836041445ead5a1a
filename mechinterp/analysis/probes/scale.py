"""Activations on one scale, whatever the network's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def one_scale(
    train: Float[Tensor, "n d"], new: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Both moved and scaled so that the first has mean 0 and a mean variance of 1 over its features.

    One scale serves all features, since a stream has no axes of its own: a rotation is no change. Vectors
    that are alike but for rounding become 0. The result is in single precision, of doubles in double.
    """
    exact = train.double()
    centre = exact.mean(0)
    moved = exact - centre
    scale = moved.square().mean().sqrt()
    rounding = 2 * torch.finfo(train.dtype).eps * centre.square().mean().sqrt()
    factor = 0.0 if scale <= rounding else 1 / scale
    kept = torch.float64 if train.dtype == torch.float64 else torch.float32
    return (moved * factor).to(kept), ((new.double() - centre) * factor).to(kept)
