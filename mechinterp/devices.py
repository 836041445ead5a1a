"""Where and in which precision tensors are made, whatever torch's defaults are: on the CPU, in float32.

``torch.set_default_device("cuda")`` moves every tensor that names no device, also inside a library, away from
the seeded generators and the networks that it belongs to; another default dtype draws other numbers. What
carries ``cpu_default`` is left as it is: device and dtype are choices of the network
(``TransformerConfig.device`` and ``dtype``), and inputs go where the network is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Wrapped = TypeVar("Wrapped", bound=Callable | type)

_OUTSIDE: ContextVar[tuple[torch.device, torch.dtype] | None] = ContextVar("_OUTSIDE", default=None)
"""The caller's default device and dtype, while ours are others."""

_modes = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
"""Count what stands around torch's functions: a default device does, and reading which costs far more."""


def cpu_default(wrapped: Wrapped) -> Wrapped:
    """Make the tensors that a function, or a class's methods, create without a device on the CPU, in float32.

    Costs less than a microsecond a call where torch's defaults are these.

    Example:
        >>> @cpu_default
        ... def three():
        ...     return torch.arange(3)
        >>> with torch.device("meta"):
        ...     three().device
        device(type='cpu')
    """
    if not inspect.isclass(wrapped):
        return _around(wrapped)
    for name, member in list(vars(wrapped).items()):
        if inspect.isfunction(member):
            setattr(wrapped, name, _around(member))
        elif isinstance(member, (classmethod, staticmethod)):
            setattr(wrapped, name, type(member)(_around(member.__func__)))
        elif isinstance(member, property) and member.fget is not None:
            setattr(wrapped, name, member.getter(_around(member.fget)))
        elif isinstance(member, functools.cached_property):
            member.func = _around(member.func)
    return wrapped


@contextmanager
def callers_default() -> Iterator[None]:
    """Give what is not ours its defaults back: metrics, edits and networks of the caller."""
    if (outside := _OUTSIDE.get()) is None:
        yield
        return
    with _defaults(*outside):
        yield


@contextmanager
def _defaults(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _others() -> bool:
    """Whether torch's defaults are others than the CPU and float32."""
    if torch.get_default_dtype() is not torch.float32:
        return True
    return bool(_modes()) and torch.get_default_device().type != "cpu"


def _around(function: Callable) -> Callable:
    @functools.wraps(function)
    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _others():
            return function(*args, **kwargs)
        token = _OUTSIDE.set((torch.get_default_device(), torch.get_default_dtype()))
        try:
            with _defaults(torch.device("cpu"), torch.float32):
                return function(*args, **kwargs)
        finally:
            _OUTSIDE.reset(token)

    return on_cpu
