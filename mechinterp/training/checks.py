"""What a training is given, checked before work starts, so that nothing is trained and then lost."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.tasks.base import Batch, Task
from mechinterp.tasks.checks import check_task
from mechinterp.training.recipe import Recipe

TRAINABLE = (torch.float32, torch.float64, torch.bfloat16)
"""Dtypes in which AdamW's steps are right: in float16 its ``eps`` and small squared gradients round to 0."""


def check_given(
    model: Any, task: Any, recipe: Any, folder: Any, callbacks: Any, penalty: Any
) -> tuple[Path | None, tuple[Callable, ...], dict[str, Batch]]:
    """Check what ``fit`` is given.

    Returns:
        The folder, the callbacks, and the batches of the task by split.

    Raises:
        TypeError, ValueError: something that cannot be trained, or trained with.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"expected a Recipe, got {_named(recipe)}; make one, such as Recipe(steps=1000)")
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model that is a torch.nn.Module, got {_named(model)}; pass the network")
    every = check_callbacks(callbacks)
    if penalty is not None and not callable(penalty):
        raise TypeError(
            f"expected a penalty as a function of the model, or None, got {_named(penalty)}; pass a function"
        )
    place = check_folder(folder)
    check_weights(model, recipe)
    batches = check_task(task, judged=False)
    if task.samples:
        _check_sample(task, recipe.batch_size or len(batches["train"]))
    return place, every, batches


def check_callbacks(callbacks: Any) -> tuple[Callable, ...]:
    """The callbacks, as often as they are asked for."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise TypeError(
            f"expected callbacks as a list of functions, got {_named(callbacks)}; put them in a list: [...]"
        )
    wrong = [each for each in callbacks if not callable(each)]
    if wrong:
        raise TypeError(f"expected callbacks that are functions, got {_named(wrong[0])}; leave it out")
    return tuple(callbacks)


def check_folder(folder: Any) -> Path | None:
    """The folder as a path; it need not be there yet."""
    if folder is None:
        return None
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise TypeError(f"expected a folder as a path, or None, got {_named(folder)}; name a folder")
    place = Path(folder)
    there = next(each for each in (place, *place.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise ValueError(f"expected a folder at {place}, got a file at {there}; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"expected a folder at {place} to write to, got one that is closed; choose another")
    return place


def check_weights(model: nn.Module, recipe: Recipe) -> None:
    """Whether a model's weights can be trained by the recipe."""
    if torch.is_inference_mode_enabled():
        raise ValueError("expected gradients, got torch.inference_mode(); train outside it")
    if not list(model.parameters()):
        raise ValueError(f"expected a model with weights, got a {type(model).__name__} without; pass another")
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not trained:
        raise ValueError(
            f"expected a model with weights to train, got a {type(model).__name__} whose weights are all "
            "frozen; call model.requires_grad_(True)"
        )
    for name, weight in model.named_parameters():
        if weight.is_meta or isinstance(weight, nn.parameter.UninitializedTensorMixin):
            raise ValueError(f"expected weights with values, got {name} without; initialise the model first")
        if not bool(weight.detach().isfinite().all()):
            raise ValueError(
                f"expected finite weights, got NaN or infinity in {name}; build the model anew, or load "
                "other weights"
            )
    for name, weight in trained:
        if weight.dtype not in TRAINABLE:
            raise ValueError(
                f"expected weights in float32, bfloat16 or float64, got {name} in {weight.dtype}, in which "
                "AdamW's small numbers round to 0;\ntrain model.float() and convert it afterwards, or train "
                "in torch.autocast(device, torch.bfloat16)"
            )
        if weight.is_inference():
            raise ValueError(
                f"expected weights that can change, got {name} of torch.inference_mode(); build the model "
                "outside it"
            )
        for field in ("eps", "cleanup_eps"):
            value, least = getattr(recipe, field), torch.finfo(weight.dtype).tiny
            if value is not None and value < least:
                raise ValueError(
                    f"expected {field} of at least {least:.3g}, the least that {weight.dtype} holds, got "
                    f"{value}; raise it"
                )
    kind = next(model.parameters()).device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
        raise ValueError(
            "expected autocast in bfloat16, got float16, in which small gradients round to 0; "
            f"use torch.autocast({kind!r}, torch.bfloat16)"
        )


def check_step(model: nn.Module, task: Task, batch: Batch, dtype: torch.dtype) -> bool:
    """Whether the loss of a few examples can be trained on, and their score kept.

    Returns:
        Whether outputs are a tensor with a row for each example, so that those of parts make a whole.

    Raises:
        TypeError, ValueError: a loss or a score of another form.
    """
    kind = type(task).__name__
    with torch.enable_grad():
        outputs = task.outputs(model, batch)
        loss = task.loss(outputs, batch, dtype)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        raise TypeError(
            f"expected {kind}.loss to return a tensor of one number, got {_named(loss)}; return the mean"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"expected a loss that depends on the weights, got one without a gradient; let neither the model "
            f"nor {kind}.loss detach"
        )
    score_of(task, outputs, batch)
    return isinstance(outputs, Tensor) and outputs.ndim > 0 and len(outputs) == len(batch)


def score_of(task: Task, outputs: Any, batch: Batch) -> float:
    """The task's score as a plain number.

    Raises:
        TypeError: it is none.
    """
    with torch.no_grad():
        score = task.score(outputs, batch)
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"expected {type(task).__name__}.score to return a number, got {_named(score)}; return the mean"
        ) from None


def _check_sample(task: Task, n: int) -> None:
    """Whether a task that trains on new examples draws them."""
    call = f"{type(task).__name__}.sample({n}, generator)"
    try:
        found = task.sample(n, torch.Generator(), variables=False)
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) and str(error).startswith("expected"):
            raise
        raise ValueError(
            f"expected {call} to give a Batch, got {type(error).__name__}: {error}; define it, or set "
            "samples to False"
        ) from error
    if not hasattr(found, "inputs"):
        raise TypeError(f"expected {call} to give a Batch, got {_named(found)}; return one")


def _named(value: Any) -> str:
    """A value as an error names it."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return f"{reprlib.repr(value)} of type {type(value).__name__}"
