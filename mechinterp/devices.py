"""Where tensors are made: on the CPU, unless a device is named, whatever torch's default device is.

``torch.set_default_device("cuda")`` moves every tensor that names no device, also inside a library, away from
the seeded generators and the networks that it belongs to. What carries ``cpu_default`` is not moved: the
device is a choice of the network (``TransformerConfig.device``), and inputs go where the network is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Wrapped = TypeVar("Wrapped", bound=Callable | type)

_OUTSIDE: ContextVar[torch.device | None] = ContextVar("_OUTSIDE", default=None)
"""The caller's default device, while ours is another."""

_modes = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
"""Count what stands around torch's functions: a default device does, and reading which costs far more."""


def cpu_default(wrapped: Wrapped) -> Wrapped:
    """Make the tensors that a function, or a class's methods, create without a device on the CPU.

    Costs less than a microsecond a call where no default device is set.

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


def callers_default() -> AbstractContextManager:
    """Return the caller's default device as a context, for what is not ours: metrics, edits, networks."""
    device = _OUTSIDE.get()
    return nullcontext() if device is None else torch.device(device)


def _around(function: Callable) -> Callable:
    @functools.wraps(function)
    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _modes() or torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        token = _OUTSIDE.set(torch.get_default_device())
        try:
            with torch.device("cpu"):
                return function(*args, **kwargs)
        finally:
            _OUTSIDE.reset(token)

    return on_cpu
