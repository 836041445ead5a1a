"""Warnings that point at the caller's line, however deep in the library they arise."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("mechinterp", "jaxtyping", "beartype", "torch")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called the library."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
