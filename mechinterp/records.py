"""Labelled arrays and dataclasses from plain JSON values, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.files import plain

_NUMBERS_AND_TEXT = "biufU"


def array_to_json(array: xr.DataArray) -> dict[str, Any]:
    """An array of numbers or text with its axes: null for NaN, ``"inf"`` and ``"-inf"`` for the infinite."""
    coords = {str(name): _variable_to_json(coord) for name, coord in array.coords.items()}
    return {**_variable_to_json(array), "coords": coords}


def array_from_json(record: Mapping[str, Any]) -> xr.DataArray:
    """The same array again, dtype included.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the record is not that of an array.
    """
    coords = {name: _variable_from_json(coord) for name, coord in record["coords"].items()}
    dims, data, attrs = _variable_from_json(record)
    return xr.DataArray(data, dims=dims, coords=coords, attrs=attrs)


def _variable_to_json(x: xr.DataArray) -> dict[str, Any]:
    data = x.values
    _check_dtype(data.dtype)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        words = data.astype(object)
        for there, word in ((np.isnan, None), (np.isposinf, "inf"), (np.isneginf, "-inf")):
            words[there(data)] = word
        data = words
    return {
        "dims": list(x.dims),
        "shape": list(x.shape),
        "dtype": x.dtype.str,
        "attrs": plain(x.attrs),
        "data": data.tolist(),
    }


def _variable_from_json(record: Mapping[str, Any]) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    dtype = np.dtype(record["dtype"])
    _check_dtype(dtype)
    return record["dims"], np.array(record["data"], dtype=dtype).reshape(record["shape"]), record["attrs"]


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.kind not in _NUMBERS_AND_TEXT:
        raise ValueError(f"expected a dtype of numbers or text, got {dtype}; convert the array")


def number_from_json(value: Any) -> float | int | None:
    """A number, or none.

    Raises:
        ValueError: something else.
    """
    if value is not None and not isinstance(value, (int, float)):
        raise ValueError(f"expected a number or null, got {value!r}")
    return value


def interval_from_json(value: Any) -> tuple[float | int | None, float | int | None] | None:
    """Two numbers, or none.

    Raises:
        ValueError, TypeError: something else.
    """
    if value is None:
        return None
    low, high = map(number_from_json, value)
    return low, high


def text_from_json(value: Any) -> str:
    """Text.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def read_fields(cls: type, record: Any, readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The fields of a dataclass from its record; those without a reader are text.

    Raises:
        ValueError: fields are missing or unknown, or one cannot be read.
    """
    names = {f.name for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(record, Mapping) or not needed <= set(record) <= names:
        got = sorted(record) if isinstance(record, Mapping) else type(record).__name__
        raise ValueError(
            f"expected a {cls.__name__} with the fields {sorted(names)}, got {got}; the file is damaged or "
            "of another version"
        )
    found = {}
    for key, value in record.items():
        try:
            found[key] = readers.get(key, text_from_json)(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"expected {key} of a {cls.__name__}, got a record that cannot be read "
                f"({type(error).__name__}: {error}); the file is damaged"
            ) from None
    return found
