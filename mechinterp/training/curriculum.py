"""One network, trained on one task after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mechinterp.tasks.base import Task
from mechinterp.training.checks import check_folder, check_given
from mechinterp.training.fit import Fit, fit, return_to
from mechinterp.training.recipe import Recipe


def curriculum(
    model: nn.Module,
    stages: Sequence[tuple[Task, Recipe]],
    *,
    folder: str | Path | None = None,
    **settings: Any,
) -> list[Fit]:
    """Train a model on each task in turn; each stage begins with the weights that the last one ended with.

    Args:
        model: trained in place; it must take the inputs of all tasks and have outputs for all.
        stages: tasks and how to train on each.
        folder: each stage keeps its state in a folder of its own below, ``stage_0`` and so on, so that
            the whole resumes where it was interrupted.
        settings: what else ``fit`` takes.

    Returns:
        A ``Fit`` for each stage begun; an interruption, or a callback that stops, ends with that stage.

    Raises:
        ValueError: no stages; as ``fit``.
    """
    if not stages:
        raise ValueError("expected at least one task to train on, got none")
    if not all(isinstance(each, tuple) and len(each) == 2 for each in stages):
        raise TypeError("expected stages as pairs of a task and a recipe, got something else; pair them")
    whole, jobs = check_folder(folder), []
    places = [None if whole is None else whole / f"stage_{number}" for number in range(len(stages))]
    given = [settings.get("callbacks", ()), settings.get("penalty")]
    for place, (task, recipe) in [*zip(places, stages)][1:]:  # before the first is trained on
        check_given(model, task, recipe, place, *given)
    if whole is not None:
        return_to(whole / "stage_0", places[1:], model)
    for place, (task, recipe) in zip(places, stages):
        jobs.append(fit(model, task, recipe, folder=place, **settings))
        if jobs[-1].stopped in ("interrupted", "callback"):
            break
    return jobs
