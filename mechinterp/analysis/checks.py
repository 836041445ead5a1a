"""What every analysis refuses before it starts to work."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def check_model(model: Any) -> None:
    """Refuse a network that drops activations at random.

    Raises:
        ValueError: a dropout layer in training mode.
    """
    dropping = (m for m in model.modules() if isinstance(m, nn.Dropout) and m.training and m.p > 0)
    if next(dropping, None) is not None:
        raise ValueError(
            "expected a network in evaluation mode, got one with dropout in training mode, whose activations "
            "differ at every run; call model.eval()"
        )


def check_inputs(inputs: Tensor, attention_mask: Tensor | None = None) -> None:
    """Refuse a batch of one, and a mask that leaves an example nothing.

    Raises:
        ValueError: fewer than two examples, or an empty mask.
    """
    if len(inputs) < 2:
        raise ValueError(
            f"expected at least 2 examples, got {len(inputs)}; one has no interval, control or test"
        )
    if attention_mask is None:
        return
    if tuple(attention_mask.shape) != tuple(inputs.shape[:2]):
        raise ValueError(
            f"expected an attention_mask of {tuple(inputs.shape[:2])}, got "
            f"{tuple(attention_mask.shape)}; give one entry for each token"
        )
    empty = (~attention_mask.bool().any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"expected a real token in every example, got an empty mask in examples {empty[:5]}; drop them"
        )


def check_pair(clean: Tensor, corrupted: Tensor) -> None:
    """Refuse clean and corrupted inputs that do not match place by place.

    Raises:
        ValueError: different shapes.
    """
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"expected clean and corrupted inputs of one shape, got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}; pair each clean example with a corrupted one of the same length"
        )


def chosen(what: str, wanted: Any, size: int) -> list[int]:
    """Indices along an axis: those wanted, negative ones from the end, or all for ``None``.

    Raises:
        ValueError: none, or one outside the axis.
    """
    if wanted is None:
        return list(range(size))
    indices = [int(index) for index in wanted]
    if not indices or any(not -size <= index < size for index in indices):
        raise ValueError(
            f"expected {what} within [{-size}, {size}), at least one, got {indices}; this axis has {size}"
        )
    return sorted({index % size for index in indices})
