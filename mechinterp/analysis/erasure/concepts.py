"""A concept as it is to be read: as classes, or as values."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

from mechinterp.analysis.tensors import said, tensor_of

ReadAs = Literal["classes", "values"]
FEW = 20
"""So many different whole numbers are taken for classes by most who see them."""


def as_concept(z: Any, z_as: ReadAs | None = None) -> Shaped[Tensor, " *at"]:
    """A concept as whole numbers, if it is of classes, or as float64, if it is of values.

    Of classes erasers take what tells any two of them apart, of values what varies in line with them. So
    booleans and whole numbers with several examples of each are classes, and fractions are values; what may
    be either is not guessed at.

    Args:
        z_as: which of the two it is.

    Raises:
        TypeError: no tensor or array of numbers.
        ValueError: floats that are all whole with few different values, or whole numbers that hardly repeat,
            without ``z_as``; complex numbers; classes that are fractions; an empty one.
    """
    z = tensor_of(z, "a concept")
    if z_as is not None and not (isinstance(z_as, str) and z_as in ("classes", "values")):
        raise ValueError(f"expected z_as 'classes' or 'values', got {said(z_as)}")
    if z.is_complex() or z.ndim == 0 or not z.numel():
        raise ValueError(
            f"expected classes [n], or real numbers [n] or [n, k], got {z.dtype} of shape {tuple(z.shape)}; "
            "give classes as one integer a row, or make the numbers real"
        )
    z = z.cpu()
    if z_as == "values":
        return z.double()
    if z_as == "classes":
        if z.is_floating_point() and bool((z != z.round()).any()):
            raise ValueError(
                "expected classes as whole numbers, got fractions; number them, or z_as='values'"
            )
        return z.long()
    if z.dtype == torch.bool:
        return z.long()
    kinds, n = len(z.unique()), z.numel()
    if z.is_floating_point():
        whole = bool((z == z.round()).all())
        if whole and 2 < kinds <= min(FEW, n // 5):  # two classes and two values are the same concept
            raise ValueError(
                f"expected classes as integers, or values that are not a few whole numbers, got {kinds} "
                f"different ones as {z.dtype}; give z.long() for classes, or z_as='values'"
            )
        return z.double()
    if z.ndim == 1 and kinds > max(8, n / 4):
        raise ValueError(
            f"expected more examples of each class, got {kinds} different integers among {n}; give "
            "z.double() for values, or z_as='classes'"
        )
    return z.long()


def kind_of(z: Tensor) -> ReadAs:
    """How a concept that ``as_concept`` has made is read."""
    return "values" if z.is_floating_point() else "classes"
