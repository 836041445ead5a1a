"""What makes a training this one and no other: saved with its state, and compared before it goes on."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mechinterp.tasks.base import Batch, Task
from mechinterp.training.recipe import Recipe

FORMAT = 2
"""Format of the record; states of another one cannot be compared."""

RATES = 16
"""Steps at which the learning rate is compared."""

APPROXIMATE = ("untrained network.", "saved network.")
"""Numbers that a network computes; they agree up to rounding, which differs between machines."""

SHOWN = 6
"""Differences that a refusal names."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def bare(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` has wrapped, or the module itself: its weights keep their names."""
    return getattr(model, "_orig_mod", model)


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of named tensors: their values to the bit, shapes and dtypes; the same on every device."""
    found = hashlib.sha256()
    for name, x in tensors:
        x = x.detach().cpu()
        found.update(f"{name} {x.dtype} {tuple(x.shape)} ".encode())
        found.update(x.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A hash of a state dict, whatever its order."""
    return digest(sorted(weights.items()))


def data_digest(batches: Iterable[Batch]) -> str:
    """A hash of what a network reads of batches, and of what it should answer."""
    named: list[tuple[str, Tensor]] = []
    for batch in batches:
        named += [
            ("inputs", batch.inputs),
            ("targets", batch.targets),
            ("read", torch.as_tensor(batch.read, device="cpu")),
        ]
        named += [] if batch.mask is None else [("mask", batch.mask)]
    return digest(named)


def identity(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    callbacks: Sequence[Any],
    penalty: Any,
    data: Iterable[Batch],
) -> dict[str, Any]:
    """A record of a training that has not begun, as plain values by name.

    Callbacks count where they are dataclasses, whose fields say what they do; others, such as a progress bar,
    may differ from one call to the next.

    Args:
        data: all that is trained on and measured on, or a sample of it.
    """
    network, device = bare(model), next(model.parameters()).device
    weights = network.state_dict()
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    every = max(1, math.ceil(recipe.steps / RATES))
    return {
        **_of("task", task),
        **_of("recipe", recipe),
        "model": qualified(type(network)),
        **_of("model", getattr(network, "cfg", None), without="device"),
        "callbacks": [_settings(each) for each in callbacks if is_dataclass(each)],
        "penalty": described(penalty),
        "training data": data_digest(data),
        "initial weights": weights_digest(weights),
        "dtype": sorted({str(x.dtype) for x in weights.values()}),
        "autocast": None if autocast is None else str(autocast),
        "learning rates": [float(recipe.lr_at(step)) for step in range(0, recipe.steps, every)],
        "checkpoint steps": sorted(recipe.checkpoint_steps()),
    }


def at_default(*records: Any) -> frozenset[str]:
    """Names in ``identity`` of fields that are at their defaults; one that a saved record lacks is new."""
    found = set()
    for name, record in zip(("task", "recipe", "model"), records):
        for each in fields(record) if is_dataclass(record) else ():
            if each.default is not MISSING and each.default == getattr(record, each.name):
                found.add(f"{name}.{each.name}")
    return frozenset(found)


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], new: frozenset[str] = frozenset()
) -> list[str]:
    """What two records say differently, each with both values.

    Args:
        new: names that the saved record may lack.
    """
    names = [name for name in {**saved, **given} if name in saved or name not in new]
    if saved["initial weights"] != given["initial weights"]:  # then the numbers say nothing more
        names = [name for name in names if not name.startswith(APPROXIMATE)]
    return [
        f"{name}: {_shown(saved.get(name))} saved, {_shown(given.get(name))} given"
        for name in names
        if not _alike(name, saved.get(name), given.get(name))
    ]


def refusal(place: Any, found: Sequence[str]) -> str:
    """What to say where a folder holds another training."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"expected {place} to hold the state of this training, got another's:\n"
        f"{'; '.join(found[:SHOWN])}{more};\n"
        "choose an empty folder, or build network, task and recipe as they were"
    )


def described(value: Any) -> Any:
    """Any value as plain ones that are the same in another process."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Tensor):
        return f"tensor {digest([('', value)])}"
    if isinstance(value, (np.ndarray, np.generic)):
        return described(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(described(each)) for each in value)
    if isinstance(value, functools.partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    if is_dataclass(value) and not isinstance(value, type):
        return _of("class", value)
    if hasattr(value, "__qualname__"):
        return qualified(value)
    return qualified(type(value)) + " " + re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _settings(callback: Any) -> dict[str, Any]:
    """What a callback is set to, without the lists in which one that can change keeps what it has seen."""
    kept = {
        each.name
        for each in fields(callback)
        if isinstance(getattr(callback, each.name), (list, dict, set))
        and not callback.__dataclass_params__.frozen
    }
    return {key: x for key, x in _of("class", callback).items() if key.removeprefix("class.") not in kept}


def qualified(thing: Any) -> str:
    """The name of a class or a function, with its module's."""
    return f"{thing.__module__}.{thing.__qualname__}"


def _of(name: str, record: Any, without: str = "") -> dict[str, Any]:
    """The class and all fields of a record; of one that is no dataclass, the plain values."""
    if record is None:
        return {}
    if is_dataclass(record):
        values = {each.name: getattr(record, each.name) for each in fields(record)}
    else:
        plain = (bool, int, float, str)
        values = {key: x for key, x in getattr(record, "__dict__", {}).items() if isinstance(x, plain)}
    named = {f"{name}.{key}": described(x) for key, x in values.items() if key != without}
    return {f"{name} class": qualified(type(record)), **named}


def _alike(name: str, saved: Any, given: Any) -> bool:
    if name.startswith(APPROXIMATE):
        numbers = all(isinstance(x, (int, float)) for x in (saved, given))
        return math.isclose(saved, given, rel_tol=1e-3, abs_tol=1e-6) if numbers else saved == given
    if name == "learning rates" and isinstance(saved, list) and len(saved) == len(given):
        return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(saved, given))
    return saved == given


def _shown(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:8]
    return f"{value:.6g}" if isinstance(value, float) else _SHORT.repr(value)
