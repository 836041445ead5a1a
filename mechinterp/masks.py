"""Which places of a batch hold real tokens, and where those stand.

A padded sequence is to be answered as it is alone. So padding is never looked at, and positions count real
tokens: the first one stands at 0, whatever comes before it (as in TransformerLens). A place of padding stands
where the next real token of its row does; behind the last one, places are counted on.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.autograd import is_readable


def check_mask(mask: Any, inputs: Tensor, name: str = "attention_mask") -> None:
    """Refuse what does not say of each token whether it is real: ``None``, or true (or 1) at real tokens.

    Of a mask of truths nothing is read but its shape.

    Args:
        inputs: what it is a mask of, ``[batch, pos, ...]``.
        name: of the mask, for the message.

    Raises:
        TypeError: no tensor, or one of real numbers, which masks that are added to scores are too.
        ValueError: another shape, another device, or whole numbers other than 0 and 1.
    """
    if mask is None:
        return
    wanted = tuple(inputs.shape[:2])
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"expected {name} as a tensor, bool {wanted}, got {type(mask).__name__}; convert it with "
            "torch.as_tensor(mask)"
        )
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(
            f"expected {name} of truths or whole numbers, true (or 1) at real tokens, got {mask.dtype}; give "
            "mask == 0 for one that is added to scores (0 and -inf), and mask == 1 for one of 1.0 and 0.0"
        )
    if tuple(mask.shape) != wanted:
        raise ValueError(
            f"expected {name} [batch, pos] of {wanted}, got {tuple(mask.shape)}; give one entry for each "
            "token"
        )
    if mask.device != inputs.device:
        raise ValueError(
            f"expected {name} on {inputs.device}, where the inputs are, got {mask.device}; move it there"
        )
    if mask.dtype != torch.bool and is_readable(mask) and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            f"expected {name} of 1 at real tokens and 0 at padding, got numbers from {int(mask.min())} to "
            f"{int(mask.max())}; give mask.bool(), if all but 0 are real"
        )


def real_tokens(mask: Tensor | None) -> Bool[Tensor, "batch pos"] | None:
    """A checked mask as truths; ``None`` where nothing is padding."""
    if mask is None or (is_readable(mask) and bool(mask.all())):
        return None
    return mask.bool()


def position_ids(mask: Bool[Tensor, "batch pos"] | None) -> Int[Tensor, "batch pos"] | None:
    """Where each token stands among the real ones of its row; ``None`` if all stand where they are.

    Args:
        mask: true at real tokens.
    """
    # Padding at the end moves nothing.
    if mask is None or (is_readable(mask) and not bool((mask[:, 1:] & ~mask[:, :-1]).any())):
        return None
    real_from_here = mask.flip(1).cumsum(1).flip(1)
    gap = ~mask & (real_from_here > 0)
    return torch.arange(mask.shape[1], device=mask.device) - gap.cumsum(1) + gap.long()


def next_real(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The place of the next real token behind each place; ``pos`` where there is none."""
    n_pos = mask.shape[1]
    place = torch.arange(n_pos, device=mask.device).where(mask, n_pos)
    following = place.flip(1).cummin(1).values.flip(1)
    return torch.nn.functional.pad(following[:, 1:], (0, 1), value=n_pos)
