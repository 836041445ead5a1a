"""The one door of every task: inputs, targets, positions, mask and outputs are checked against each other.

``Batch`` checks shapes and types when it is made, which costs microseconds. ``Task`` puts the checks below
around ``dataset``, ``sample``, ``outputs``, ``loss`` and ``score`` of every subclass, a user's too, so that
none of them can pair the wrong rows in silence. Values are read once, when a data set is made.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.masks import check_mask

IDS = (torch.int64, torch.int32)
"""Types of token ids and of classes."""


# ---- batches --------------------------------------------------------------------------------


def check_shapes(batch: Any) -> None:
    """Refuse a batch whose parts do not fit together; values are not read.

    Raises:
        TypeError: a part of another type.
        ValueError: parts of other shapes.
    """
    for name in ("inputs", "targets"):
        part = getattr(batch, name)
        if not isinstance(part, Tensor):
            raise TypeError(
                f"expected {name} of a batch as a tensor, got {type(part).__name__}; convert it by "
                "torch.as_tensor"
            )
    inputs, targets = batch.inputs, batch.targets
    if inputs.ndim < 2:
        raise ValueError(
            f"expected inputs [batch, pos] or [batch, pos, d_input], got {tuple(inputs.shape)}; make a batch "
            "of one example by inputs[None]"
        )
    n_read = _n_read(batch.read, inputs)
    if targets.ndim < 2 or targets.shape[:2] != (len(inputs), n_read):
        raise ValueError(
            f"expected targets [batch, read] of {(len(inputs), n_read)}, one for each of {n_read} positions "
            f"read, got {tuple(targets.shape)}; reshape them, or change read={_short(batch.read)}"
        )
    check_mask(batch.mask, inputs, "mask")
    if batch.mask is not None and batch.mask.dtype != torch.bool:
        object.__setattr__(batch, "mask", batch.mask.bool())  # the record is frozen
    if not isinstance(batch.variables, Mapping):
        raise TypeError(f"expected variables by name, got {type(batch.variables).__name__}; give a dict")
    for name, value in batch.variables.items():
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(inputs):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"expected variable {name!r} as a tensor with an entry for each of {len(inputs)} examples, "
                f"got {got}; give [batch] or [batch, pos]"
            )


def _n_read(read: Any, inputs: Tensor) -> int:
    """The number of positions read."""
    if isinstance(read, Tensor):
        whole = not (read.is_floating_point() or read.is_complex() or read.dtype == torch.bool)
        rows = read.ndim == 1 or (read.ndim == 2 and len(read) == len(inputs))
        if whole and rows and read.shape[-1]:
            return read.shape[-1]
        got = f"{read.dtype} {tuple(read.shape)}"
    elif isinstance(read, (tuple, list, range)):
        n_pos = inputs.shape[1]
        if read and all(type(at) is int and -n_pos <= at < n_pos for at in read):
            return len(read)
        got = _short(read)
    else:
        got = f"{read!r} of type {type(read).__name__}"
    raise ValueError(
        f"expected positions to read as integers [read] or [batch, read] within {inputs.shape[1]} positions, "
        f"got {got}; for the last position give read=(-1,)"
    )


def _short(read: Any) -> str:
    text = repr(tuple(read))
    return text if len(text) < 60 else f"{text[:57]}..."


def check_values(batch: Any, *, classes: bool) -> None:
    """Refuse values that nothing can be trained on: reads of a data set, once.

    Args:
        classes: targets are classes, and every position read is asked for one.

    Raises:
        ValueError: positions outside the sequence, numbers that are not finite, negative classes, or
            padding alone at positions that are read.
    """
    inputs, targets, read = batch.inputs, batch.targets, batch.read
    if len(inputs) == 0:
        raise ValueError("expected at least one example in a data set, got none; change the split")
    n_pos = inputs.shape[1]
    if isinstance(read, Tensor) and (int(read.min()) < -n_pos or int(read.max()) >= n_pos):
        raise ValueError(
            f"expected positions to read within [{-n_pos}, {n_pos}), got {int(read.min())} to "
            f"{int(read.max())}; read positions that the inputs have"
        )
    for name, part in (("inputs", inputs), ("targets", targets)):
        if part.is_floating_point() and not bool(part.isfinite().all()):
            raise ValueError(f"expected finite {name}, got NaN or infinity in some; leave those examples out")
    if not inputs.is_floating_point() and int(inputs.min()) < 0:
        raise ValueError(f"expected token ids >= 0, got {int(inputs.min())}; check the encoding")
    if not classes:
        return
    check_classes(targets)
    if int(targets.min()) < 0:
        raise ValueError(
            f"expected classes >= 0 for a cross-entropy, got {int(targets.min())}; read only positions that "
            "have a target, or override loss and score"
        )
    if batch.mask is not None:
        at = torch.as_tensor(read, device=inputs.device).long().expand(len(inputs), -1) % n_pos
        padded = int((~batch.mask.gather(1, at)).any(1).sum())
        if padded:
            raise ValueError(
                f"expected real tokens where outputs are read, got padding in {padded} of {len(inputs)} "
                "examples; give each example's own positions as read [batch, read]"
            )


def check_classes(targets: Tensor) -> None:
    """Refuse targets that are no classes.

    Raises:
        ValueError: numbers that are not whole, or with further axes.
    """
    if targets.dtype not in IDS or targets.ndim != 2:
        raise ValueError(
            f"expected classes, int64 [batch, read], for a cross-entropy, got {targets.dtype} "
            f"{tuple(targets.shape)}; convert them by .long(), or override loss and score"
        )


# ---- what a network returns -----------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _named_arguments(forward: Callable) -> frozenset[str]:
    """The arguments that a function names: a network that swallows any keyword does not know them all."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(each.name for each in parameters if each.kind in kinds)


def takes(model: Any, argument: str) -> bool:
    """Whether a model's forward pass names an argument, also behind ``torch.compile`` or ``DataParallel``."""
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None) or (
            model.module
            if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
            else None
        )
        if inner is None:
            return argument in _named_arguments(type(model).forward)
        model = inner
    call = model if inspect.isroutine(model) or isinstance(model, functools.partial) else type(model).__call__
    return argument in _named_arguments(call)


def outputs_at(model: Callable, batch: Any) -> Tensor:
    """What a model answers at the positions that a batch reads, ``[batch, read, out]``.

    A model whose forward pass takes ``read`` is asked for those positions; from any other all positions are
    taken, and then those chosen. ``attention_mask`` is given where the batch has padding.

    Raises:
        TypeError: a model that returns no tensor.
        ValueError: outputs of other shapes, or padding where the model takes no mask.
    """
    extra: dict[str, Any] = {}
    if batch.mask is not None:
        if takes(model, "attention_mask"):
            extra["attention_mask"] = batch.mask
        elif not bool(batch.mask.all()):
            raise ValueError(
                f"expected a model whose forward takes attention_mask, since the batch has padding, got "
                f"{type(model).__name__}; add the argument, or override the task's outputs"
            )
    if takes(model, "read"):
        return _checked(model(batch.inputs, read=batch.read, **extra), batch, "outputs")
    every = _tensor(model(batch.inputs, **extra), type(model).__name__)
    expected = batch.inputs.shape[:2]
    if every.ndim != 3 or every.shape[:2] != expected:
        raise ValueError(
            f"expected {type(model).__name__} to return outputs [batch, pos, out] of {tuple(expected)}, at "
            f"all positions, got {tuple(every.shape)}; let its forward take read=, or override outputs"
        )
    at = torch.as_tensor(batch.read, device=every.device).long() % expected[1]
    if at.ndim == 1:
        return every[:, at]
    return every.gather(1, at[..., None].expand(-1, -1, every.shape[-1]))


def _tensor(found: Any, who: str) -> Tensor:
    found = getattr(found, "logits", found)  # of the records that the transformers library returns
    if not isinstance(found, Tensor):
        raise TypeError(
            f"expected {who} to return a tensor of outputs, got {type(found).__name__}; return the outputs "
            "alone, or override the task's outputs"
        )
    return found


def _checked(found: Any, batch: Any, what: str) -> Tensor:
    """Outputs for the targets of a batch, or words."""
    outputs, expected = _tensor(found, what), batch.targets.shape[:2]
    if outputs.ndim < 3 or outputs.shape[:2] != expected:
        raise ValueError(
            f"expected {what} [batch, read, out] for targets of {tuple(expected)}, got "
            f"{tuple(outputs.shape)}; give outputs of the same examples at the positions read"
        )
    return outputs


# ---- around the methods of a task -----------------------------------------------------------


def _batch_of(args: tuple, kwargs: dict) -> Any:
    batch = kwargs.get("batch", args[1] if len(args) > 1 else None)
    if not hasattr(batch, "targets"):
        raise TypeError(f"expected a Batch, got {type(batch).__name__}; take one from task.dataset('test')")
    return batch


def _data_door(method: Callable, name: str) -> Callable:
    """Around ``dataset`` and ``sample``: a batch comes back, and the values of a data set are read once."""
    whole = name == "dataset"

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = method(self, *args, **kwargs)
        if not (hasattr(batch, "targets") and hasattr(batch, "read")):
            raise TypeError(
                f"expected {type(self).__name__}.{name} to return a Batch, got "
                f"{type(batch).__name__}; return Batch(inputs=..., targets=..., read=(-1,))"
            )
        if whole:
            check_values(batch, classes=self._plain_loss)
        return batch

    return checked


def _outputs_door(method: Callable, _: str) -> Callable:
    """Around ``outputs``: what comes back fits the targets."""

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return _checked(method(self, *args, **kwargs), _batch_of(args, kwargs), "outputs")

    return checked


def _pair_door(method: Callable, name: str) -> Callable:
    """Around ``loss`` and ``score``: what is given fits the targets; of no examples there is neither."""
    scores = name == "score"

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = _batch_of(args, kwargs)
        outputs = _checked(kwargs.get("outputs", args[0] if args else None), batch, "outputs")
        if not len(outputs):
            if scores:
                return math.nan
            raise ValueError("expected at least one example to take a loss of, got none; give some")
        return method(self, *args, **kwargs)

    return checked


DOORS = {
    "dataset": _data_door,
    "sample": _data_door,
    "outputs": _outputs_door,
    "loss": _pair_door,
    "score": _pair_door,
}
"""What stands around the methods of every task."""


def with_doors(cls: type) -> None:
    """Put the doors around the methods that a class defines itself."""
    for name, door in DOORS.items():
        if inspect.isfunction(own := vars(cls).get(name)):
            setattr(cls, name, door(own, name))
