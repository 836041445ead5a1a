"""Which positions are read, and which outputs are asked for: checked before a network runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Read = Sequence[int] | Tensor


def read_positions(read: int | Read, batch: int, length: int) -> Int[Tensor, "batch read"]:
    """Positions given for all examples, ``[read]``, or for each, ``[batch, read]``, as those of each.

    Raises:
        ValueError: they are not such, or the inputs have no such position.
    """
    try:
        at = torch.as_tensor(read).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"expected positions as whole numbers, [read] or [batch, read], got {type(read).__name__}; for "
            "the last one give (-1,)"
        ) from None
    at = at[None] if at.ndim == 0 else at
    whole = not at.is_floating_point() and at.dtype != torch.bool and at.numel() > 0
    if not whole or at.ndim > 2 or (at.ndim == 2 and len(at) != batch):
        raise ValueError(
            f"expected positions as whole numbers, [read] or [batch, read] with {batch} examples, got "
            f"{at.dtype} {tuple(at.shape)}; for the last one give (-1,)"
        )
    if int(at.min()) < -length or int(at.max()) >= length:
        raise ValueError(
            f"expected positions in [{-length}, {length}), got {int(at.min())} to {int(at.max())}; choose "
            "some that the inputs have"
        )
    return (at.long() % length).expand(batch, -1)


def at_read(
    x: Float[Tensor, "batch pos out"], at: Int[Tensor, "batch read"]
) -> Float[Tensor, "batch read out"]:
    """The outputs at each example's positions."""
    return x.gather(1, at.to(x.device)[..., None].expand(-1, -1, x.shape[-1]))


def require_outputs(name: str, x: Int[Tensor, " batch *read"], batch: int, n_outputs: int) -> None:
    """Refuse answers that the network cannot give, or of another number of examples.

    Raises:
        ValueError: so it is.
    """
    if len(x) != batch or x.numel() == 0 or int(x.min()) < 0 or int(x.max()) >= n_outputs:
        raise ValueError(
            f"expected {name} in [0, {n_outputs}) for {batch} examples, got {tuple(x.shape)}"
            + (f" from {int(x.min())} to {int(x.max())}" if x.numel() else "")
            + "; give outputs of the network"
        )
