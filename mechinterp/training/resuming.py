"""A saved training, checked in every part before any of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechinterp.training.checkpoint import check_like
from mechinterp.training.step import Stepper

MOMENTS = {"optimizer": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum",)}
"""What an optimiser keeps of each weight, in its shape but for the number of steps."""

STOPPED = ("", "steps", "score", "patience", "callback", "interrupted")
"""Why a training may have stopped."""


def largest_state(stepper: Stepper) -> int:
    """Bytes that no state of this training exceeds: weights, moments, the best ones, and the history."""
    weights = sum(x.nbytes for x in stepper.state()["model"].values() if isinstance(x, Tensor))
    return 5 * weights + 8 * (len(stepper.train) + 8 * stepper.recipe.steps) + 2**27


def check_state(
    state: Mapping[str, Any], path: str | Path, stepper: Stepper, history: dict[str, Any]
) -> None:
    """Refuse a state that is not of this training: other keys, types, shapes, or numbers that cannot be.

    Args:
        path: the file that it is of, for messages.
        stepper: as it is before the state is loaded.
        history: one of ``to_json``, for its names.

    Raises:
        ValueError: the state is not, and why.
    """
    check_like(dict.fromkeys(("stepper", "history", "loop", "best")), _only_keys(state), path)
    _check_stepper(state["stepper"], path, stepper)
    steps = state["stepper"]["steps"]
    _check_history(state["history"], path, history, steps)
    stopped, end, *_ = state["loop"] if isinstance(state["loop"], list) and state["loop"] else [None, 0]
    check_like(["", 0, 0.0, 0], state["loop"], path, "loop")
    if stopped not in STOPPED or type(end) is not int:
        raise ValueError(f"in {path}: expected why training stopped, one of {STOPPED}, got {stopped!r}")
    if state["best"] != {}:
        check_like(stepper.state()["model"], state["best"], path, "best")


def _only_keys(state: Mapping[str, Any]) -> dict[str, None]:
    return {name: None for name in state if name in ("stepper", "history", "loop", "best")}


def _check_stepper(state: Any, path: str | Path, stepper: Stepper) -> None:
    expected, found = stepper.state(), state if isinstance(state, Mapping) else {}
    for name, optimizer in stepper.optimizers.items():
        expected[name]["state"] = _moments(name, optimizer, found.get(name))
    order, generators = found.get("order"), found.get("cuda_generators")
    if isinstance(order, Tensor) and order.ndim == 1 and order.dtype == torch.long:
        expected["order"] = order  # of any length
    if isinstance(generators, list):  # of as many devices as it was trained on
        shapes = [getattr(each, "shape", ()) for each in generators]
        expected["cuda_generators"] = [
            torch.empty(shape, dtype=torch.uint8, device="cpu") for shape in shapes
        ]
    check_like(expected, state, path, "stepper")
    if not 0 <= state["steps"] <= stepper.recipe.steps:
        raise ValueError(f"in {path}: expected steps of 0 to {stepper.recipe.steps}, got {state['steps']}")
    if len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(stepper.train):
        raise ValueError(f"in {path}: expected rows of {len(stepper.train)} examples, got others")
    tried = [("cpu", state[name]) for name in ("generator", "torch_generator")]
    tried += [(f"cuda:{device}", one) for device, one in zip(stepper.cuda, generators)]
    for device, one in tried:
        try:
            torch.Generator(device).set_state(one)
        except RuntimeError as error:
            raise ValueError(f"in {path}: expected the state of a generator, got another ({error})") from None


def _moments(name: str, optimizer: torch.optim.Optimizer, found: Any) -> dict[int, dict[str, Tensor]]:
    """What the state of an optimiser must be, of those weights of which ``found`` has it."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    held = found.get("state") if isinstance(found, Mapping) else None
    count = torch.zeros((), dtype=torch.float32, device="cpu")
    return {
        index: {key: count if key == "step" else weights[index] for key in MOMENTS[name]}
        for index in (held if isinstance(held, Mapping) else ())
        if type(index) is int and 0 <= index < len(weights)
    }


def _check_history(found: Any, path: str | Path, history: dict[str, Any], steps: int) -> None:
    check_like(
        dict.fromkeys(history), dict.fromkeys(found) if isinstance(found, dict) else found, path, "history"
    )
    tracked = found["tracked"]
    if not isinstance(tracked, dict) or not all(isinstance(values, list) for values in tracked.values()):
        raise ValueError(f"in {path}: expected history.tracked to be lists by name, got something else")
    lists = {name: found[name] for name, value in history.items() if isinstance(value, list)}
    for name, values in lists.items():
        kinds = set(map(type, values)) if isinstance(values, list) else {type(values)}
        if not isinstance(values, list) or not kinds <= ({int} if name == "steps" else {int, float}):
            raise ValueError(f"in {path}: expected history.{name} to be numbers, got something else")
        length = steps if name == "train_loss" else len(lists["steps"])
        if len(values) != length:
            raise ValueError(f"in {path}: expected history.{name} to be {length} numbers, got {len(values)}")
    check_like(0.0, found["seconds"], path, "history.seconds")
