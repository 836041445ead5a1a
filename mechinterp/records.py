"""Labelled arrays and dataclasses from plain JSON values, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.files import plain

_NUMBERS_AND_TEXT = "biufU"
_TYPES = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float, str, NoneType}, "U": {str}}
"""Values of JSON that an array of a kind has."""
LARGEST_ARRAYS = 2**27
"""Bytes that the arrays of one record may take: a text's array has room everywhere for its longest entry."""


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


def check_size(arrays: Iterable[Any]) -> None:
    """Refuse records of arrays that are larger together than ``LARGEST_ARRAYS``, before they are made.

    Raises:
        ValueError: they are.
    """
    maps = [array for array in arrays if isinstance(array, Mapping)]
    coords = [array["coords"] for array in maps if isinstance(array.get("coords"), Mapping)]
    total = 0
    for record in (*maps, *(coord for held in coords for coord in held.values())):
        with suppress(KeyError, TypeError, ValueError):  # it is refused when it is read
            dtype, shape = _dtype_and_shape(record)
            total += dtype.itemsize * math.prod(shape)
    if total > LARGEST_ARRAYS:
        raise ValueError(f"expected arrays of at most {LARGEST_ARRAYS:,} bytes together, got {total:,}")


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
    dtype, shape = _dtype_and_shape(record)
    check_size([record])
    dims = record["dims"]
    if not isinstance(dims, list) or not all(isinstance(dim, str) for dim in dims):
        raise ValueError(f"expected names of dims, got {dims!r}")
    values = [record["data"]]
    for size in shape:
        if not all(isinstance(each, list) and len(each) == size for each in values):
            raise ValueError(f"expected data of the shape {shape}, got other data")
        values = [value for each in values for value in each]
    kinds = set(map(type, values))
    words = {value for value in values if isinstance(value, str)} if dtype.kind == "f" else set()
    if not kinds <= _TYPES[dtype.kind] or not words <= {"inf", "-inf"}:
        raise ValueError(f"expected values of dtype {dtype}, got {sorted(kind.__name__ for kind in kinds)}")
    data = np.array(record["data"], dtype=dtype).reshape(shape)
    return dims, data, mapping_from_json(record["attrs"])


def _dtype_and_shape(record: Mapping[str, Any]) -> tuple[np.dtype, list[int]]:
    spelt, shape = record["dtype"], record["shape"]
    if not isinstance(spelt, str) or not isinstance(shape, list):
        raise ValueError(f"expected a dtype and a shape, got {spelt!r} and {shape!r}")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"expected sizes of an array, got {shape}")
    dtype = np.dtype(spelt)
    _check_dtype(dtype)
    return dtype, shape


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


def mapping_from_json(value: Any) -> dict[str, Any]:
    """Values by name.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"expected values by name, got a {type(value).__name__}")
    return dict(value)


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
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected {key} of a {cls.__name__}, got a record that cannot be read "
                f"({type(error).__name__}: {error}); the file is damaged"
            ) from None
    return found
