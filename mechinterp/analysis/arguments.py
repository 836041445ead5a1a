"""Arguments of analyses, checked against their annotations before any work begins."""

from __future__ import annotations

import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, Union

import numpy as np
from jaxtyping import AbstractArray, Bool, Float, Int
from torch import Tensor, nn

from mechinterp.analysis.checks import check_untrained, said
from mechinterp.devices import cpu_default
from mechinterp.hooks import turn

P, R = ParamSpec("P"), TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function an entry to analyses: its arguments are what its annotations say, or are refused.

    It takes its turn with other threads that call the same network, and another default device does not
    move the tensors that it makes.

    Whole numbers pass for floats, 0 and 1 for booleans in tensors, and arrays of indices for sequences.

    Raises:
        TypeError: an argument of another type.
        ValueError: a tensor of another dtype or number of axes, or a word that is none of those allowed.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        given = signature.bind(*arguments, **options).arguments
        for name, hint in hints().items():
            if name == "untrained" and _is_network(hint):
                check_untrained(given.get("model"), given.get(name))
            elif name in given and not _fits(given[name], hint):
                raise _error(name, given[name], hint, signature.parameters[name].annotation)
        with turn(given.get("model")):
            return function(*arguments, **options)

    @functools.cache
    def hints() -> dict[str, Any]:
        found = typing.get_type_hints(function)
        # What is no model at all each analysis refuses by check_model, which knows what it needs of one.
        return {name: found[name] for name in signature.parameters if name in found and name != "model"}

    return cpu_default(call)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Sequence, Collection, Iterable, list):
        return _is_sequence(value, inner[0] if inner else Any)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    if origin is not None:
        origin = Callable if origin is typing.Callable else origin
        return callable(value) if origin in (Callable, type(Callable)) else isinstance(value, origin)
    if hint is Any or not isinstance(hint, type):
        return True
    if issubclass(hint, AbstractArray):
        return _is_array(value, hint)
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, (bool, np.bool_))
    return isinstance(value, hint)


def _is_network(hint: Any) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return hint is Any or any(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds)


def _is_sequence(value: Any, of: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim == 1
    return (
        isinstance(value, Iterable)
        and not isinstance(value, (str, bytes, Mapping))
        and (not isinstance(value, Collection) or all(_fits(each, of) for each in value))
    )


def _is_array(value: Any, hint: Any) -> bool:
    """Whether it is a tensor of the kind and number of axes; sizes are for the function to check."""
    if not isinstance(value, hint.array_type):
        return False
    axes = hint.dim_str.split()
    many = sum(axis.startswith("*") or axis == "..." for axis in axes)
    if value.ndim < len(axes) - many or (not many and value.ndim > len(axes)):
        return False
    if not isinstance(value, Tensor):
        return True
    real, boolean = value.is_floating_point(), "bool" in str(value.dtype)
    kinds = {Bool: not real, Int: not real and not boolean, Float: not boolean}
    return kinds.get(hint.dtype, True) and not value.is_complex()


def _error(name: str, value: Any, hint: Any, annotation: Any) -> Exception:
    shown = str(annotation).replace("Tensor, ", "").replace('"', "")
    got = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else said(value)
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        got = f"{type(value).__name__} {str(value)[:60]}"
    remedy = "; convert it with torch.as_tensor" if isinstance(value, np.ndarray) else ""
    kind = ValueError if isinstance(value, (Tensor, str)) else TypeError
    return kind(f"expected {name} as {shown}, got {got}{remedy}")
