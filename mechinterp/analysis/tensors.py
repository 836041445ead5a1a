"""What callers give as numbers, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
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
