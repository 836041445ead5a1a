"""Train small transformers on algorithmic tasks, take them apart, and check the story.

Public names load on first use, so that ``import mechinterp`` is quick::

    from mechinterp import constructions, models, tasks
    from mechinterp.training import fit
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

__version__ = metadata.version("mechinterp")

_ROOMS = (
    "analysis",
    "automata",
    "constructions",
    "figures",
    "hooks",
    "models",
    "result",
    "runs",
    "studies",
    "tasks",
    "training",
)
_NAMES = {
    "Claim": "mechinterp.result",
    "Edit": "mechinterp.hooks",
    "HookedTransformer": "mechinterp.models",
    "Recipe": "mechinterp.training",
    "Result": "mechinterp.result",
    "Run": "mechinterp.runs",
    "Site": "mechinterp.hooks",
    "fit": "mechinterp.training",
    "run": "mechinterp.hooks",
    "run_with_cache": "mechinterp.hooks",
}
__all__ = ["__version__", *_ROOMS, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"mechinterp.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'mechinterp' has no attribute {name!r}; it has {sorted(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
