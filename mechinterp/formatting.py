"""How numbers, intervals and arrays are printed: short, and with what is undefined counted."""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr

Number = float | int | None
Interval = tuple[Number, Number] | None
UNLIKE = ("measure", "eraser")
"""Dimensions along which numbers are not of one kind, so that their mean says nothing."""


_PLAIN = ("-", "-", "-", "^2", "^3", "+-", "*", "x", "<=", ">=", "->", "pi", "...")
_SPELLED = str.maketrans(dict(zip("–—−²³±·×≤≥→π…", _PLAIN)))
"""Signs that have a spelling in ASCII."""


def printable(text: str) -> str:
    """Text as far as the console can show it: signs it lacks are spelled out, or question marks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SPELLED).encode(encoding, "replace").decode(encoding)
    except LookupError:
        pass
    return text


def format_number(value: Number) -> str:
    """A number to four digits, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return str(int(value))
    return f"{value:.4g}"


def format_interval(interval: Interval) -> str:
    """An interval as ``[low, high]``, a dash for none."""
    return "–" if interval is None else f"[{format_number(interval[0])}, {format_number(interval[1])}]"


def format_array(array: xr.DataArray) -> str:
    """All numbers in short; unlike ones, along a dimension of ``UNLIKE``, each by itself."""
    unlike = [dim for dim in UNLIKE if dim in array.coords and dim in array.dims]
    if not unlike:
        return _summary(array)
    dim = unlike[0]
    labels = array[dim].values.tolist()
    rows = (f"{label}: {_summary(array.isel({dim: at}))}" for at, label in enumerate(labels))
    return ("\n" + " " * 11).join(rows)


def _summary(array: xr.DataArray) -> str:
    if array.dtype.kind not in "biuf":
        return f"{array.values.item()}" if array.size == 1 else f"{array.size} of type {array.dtype}"
    numbers = np.asarray(array.values, dtype=float)
    if numbers.size == 1:
        return format_number(numbers.item())
    there = numbers[~np.isnan(numbers)]
    missing = (
        f", undefined {numbers.size - there.size} of {numbers.size}" if there.size < numbers.size else ""
    )
    if there.size == 0:
        return "nothing" + missing
    return (
        f"mean {format_number(float(there.mean()))}, min {format_number(float(there.min()))}, "
        f"max {format_number(float(there.max()))}{missing}"
    )
