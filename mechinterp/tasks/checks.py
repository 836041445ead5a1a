"""Whether a task has all that training and analyses ask of one."""

from __future__ import annotations

import math
import numbers
import reprlib
from typing import Any

SPLITS = ("train", "val", "test")

METHODS = ("dataset", "sample", "outputs", "loss", "score")

TEXTS = {
    "name": "name: ClassVar[str] = 'parentheses'",
    "score_name": "score_name: ClassVar[str] = 'accuracy'",
}
"""Words that a task states about itself, each with how."""

NUMBERS = {
    "trivial": "a property trivial, the score of the best constant answer",
    "learned_at": "learned_at: ClassVar[float] = 0.95",
    "ceiling": "ceiling: ClassVar[float] = 1.0",
}
"""Scores that a task states about itself, each with how."""


def check_task(task: Any, *, judged: bool = True) -> dict[str, Any]:
    """Check that a task is complete, before any work is done on it.

    Args:
        task: of any class; one derived from ``Task`` has all but ``name``, ``learned_at``, ``trivial`` and
            ``dataset``, or more where it draws new examples.
        judged: whether it must also state the scores that networks are judged by, which training does not
            need.

    Returns:
        The batches of the splits that training asks for, by name: ``"train"`` and the watched one.

    Raises:
        TypeError: no task, or one that lacks something or has it of another type.
        ValueError: a split that the task does not give, or one without examples; a score that is no number.
    """
    check_facts(task, judged=judged)
    kind = type(task).__name__
    watched, online = getattr(task, "watched", None), getattr(task, "samples", None)
    if watched not in SPLITS:
        raise ValueError(f"expected {kind}.watched one of {list(SPLITS)}, got {watched!r}; choose one")
    if not isinstance(online, bool):
        raise TypeError(f"expected {kind}.samples to be True or False, got {online!r}; choose one")
    return {split: examples(task, split) for split in dict.fromkeys(("train", watched))}


def check_facts(task: Any, *, judged: bool = True) -> dict[str, Any]:
    """What a task states about itself, by name; ``check_task`` without the splits.

    Raises:
        TypeError, ValueError: as ``check_task``.
    """
    kind = type(task).__name__
    if isinstance(task, type):
        raise TypeError(f"expected a task, got the class {task.__name__}; make one: {task.__name__}()")
    missing = [name for name in METHODS if not callable(getattr(task, name, None))]
    if missing:
        raise TypeError(
            f"expected a task, got {reprlib.repr(task)} of type {kind} without {', '.join(missing)}; derive "
            "its class from mechinterp.tasks.Task"
        )
    found = {}
    for name, how in TEXTS.items():
        found[name] = text = _fact(task, name, how)
        if not isinstance(text, str) or not text:
            raise TypeError(f"expected {kind}.{name} as text, got {reprlib.repr(text)}; state it: {how}")
    for name, how in NUMBERS.items() if judged else ():
        found[name] = number = _fact(task, name, how)
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(
                f"expected {kind}.{name} as a number, got {reprlib.repr(number)} of type "
                f"{type(number).__name__}; state it: {how}"
            )
        if not math.isfinite(number):
            raise ValueError(f"expected {kind}.{name} as a finite number, got {number}; change it")
    return found


def _fact(task: Any, name: str, how: str) -> Any:
    """What a task states under a name."""
    kind = type(task).__name__
    try:
        return getattr(task, name)
    except (AttributeError, NotImplementedError) as error:
        got = "none" if not str(error) or name in str(error) else f"{type(error).__name__} ({error})"
        raise TypeError(f"expected {kind}.{name}, got {got}; state it: {how}") from error


def examples(task: Any, split: str) -> Any:
    """A split's batch.

    Raises:
        TypeError, ValueError: the task gives none, or one without examples.
    """
    call = f"{type(task).__name__}.dataset({split!r})"
    remedy = "define it for the splits 'train' and 'test', or state watched"
    try:
        batch = task.dataset(split)
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) and str(error).startswith("expected"):
            raise  # it says itself what is wrong
        got = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"expected {call} to give a Batch, got {got}; {remedy}") from error
    if not all(hasattr(batch, name) for name in ("inputs", "targets", "read", "split", "to")):
        raise TypeError(f"expected {call} to give a Batch, got a {type(batch).__name__}; {remedy}")
    if not len(batch):
        raise ValueError(f"expected examples from {call}, got none; {remedy}")
    return batch
