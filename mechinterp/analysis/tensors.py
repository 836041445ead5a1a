"""What callers give, as tensors and numbers, or what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def tensor_of(given: Any, what: str) -> Tensor:
    """A tensor as it is, apart from its gradient; anything that is an array of numbers, or a list, as one.

    Args:
        what: its name, for the message.

    Raises:
        TypeError: nothing of the kind.
    """
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, (list, tuple, range)) or hasattr(given, "__array__"):
        try:
            return torch.from_numpy(np.array(given))  # a copy: arrays may be read-only
        except (TypeError, ValueError):
            pass
    raise TypeError(
        f"expected {what} as a tensor or an array of numbers, got {type(given).__name__}; give one row an "
        "example, such as torch.as_tensor(...), or of a cache one hook's activations"
    )


def vectors_of(given: Any, what: str = "activations") -> Float[Tensor, "n d"]:
    """Finite vectors, one a row.

    Raises:
        TypeError: no tensor or array of numbers.
        ValueError: not floating-point, other axes, no features, or NaN and infinity.
    """
    x = tensor_of(given, what)
    if x.ndim != 2 or not x.is_floating_point() or not x.shape[1]:
        raise ValueError(
            f"expected floating-point {what} [n, d], got {x.dtype} {list(x.shape)}; choose a position, "
            "x[:, -1], or put tokens in a row, x.flatten(0, 1)"
        )
    if not bool(x.isfinite().all()):
        rows = (~x.isfinite()).any(1).nonzero()[:, 0].tolist()
        raise ValueError(
            f"expected finite {what}, got infinite ones or NaN in {len(rows)} rows, such as {rows[:3]}; "
            "look where they come from"
        )
    return x


def whole_of(given: Any, what: str, least: int = 0, most: int | None = None) -> int:
    """A whole number within bounds, both included.

    Raises:
        ValueError: anything else.
    """
    one = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
    if not one or given < least or (most is not None and given > most):
        bound = f"in {least}..{most}" if most is not None else f"from {least}"
        raise ValueError(f"expected {what} as a whole number {bound}, got {said(given)}")
    return int(given)


def said(given: Any) -> str:
    """What was given, in a word."""
    return repr(given) if isinstance(given, (int, float, str, type(None))) else type(given).__name__
