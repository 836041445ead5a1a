"""What the network needs: width, heads, words, depth, positions, length and symbols, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from mechinterp.result import Result
from mechinterp.studies.base import Watch
from mechinterp.studies.regex_language.anatomy import longer_words
from mechinterp.studies.regex_language.options import RegexLanguageOptions
from mechinterp.studies.regex_language.training import Trained, train
from mechinterp.tasks.base import Batch
from mechinterp.tasks.regex_language import RegexLanguage

AXES: Mapping[str, Sequence[Any]] = {
    "d_model": (8, 16, 32, 64),
    "n_heads": (1, 2, 4, 8),
    "n_samples": (500, 1500, 5000),
    "n_layers": (1, 2, 4),
    "positional_type": ("none", "sinusoidal", "standard", "rotary", "alibi"),
    "max_len": (20, 50, 100),
    "alphabet": ("ab", "abc", "abcde"),
}
"""What is changed, and to what; the rest stays as asked."""

MEASURES = ("class_acc", "string_acc", "token_share", "class_acc, longer")


def sweep(base: Trained, out: Path, watch: Watch, axes: Mapping[str, Sequence[Any]] = AXES) -> Result:
    """Train once for each value on each axis, in folders below ``out``, but for what the base has.

    Returns:
        Dims ``setting`` (such as ``d_model=16``) and ``measure``; NaN where a language has no longer words.
        Trivial is the share of the most frequent class of the base. Control: the class accuracy of the
        untrained network in each setting. ``extra``: ``axis``, ``trivial`` of each setting. Settings that
        cannot be, such as an odd width for sinusoidal positions, are in ``provenance["left out"]``.
    """
    asked = [(axis, value) for axis, values in axes.items() for value in values]
    possible = [pair for pair in asked if _possible(base.options, *pair)]
    rows, controls, trivial = [], [], []
    for axis, value in possible:
        changed = replace(base.options, **{axis: value})
        same = _spelt(changed) == _spelt(base.options)
        trained = base if same else train(changed, out / f"{axis}-{value}", watch)
        row, control = _measures(trained)
        rows.append(row)
        controls.append(control)
        trivial.append(trained.task.trivial)
    labels = [f"{axis}={value}" for axis, value in possible]
    coords = {"setting": labels, "measure": list(MEASURES)}
    return Result(
        name="language_sweep",
        values=xr.DataArray(rows, dims=("setting", "measure"), coords=coords, attrs={"units": "share right"}),
        trivial=base.task.trivial,
        control=xr.DataArray(controls, dims=("setting",), coords={"setting": labels}),
        control_kind="class accuracy of the untrained network",
        provenance={
            "pattern": base.options.pattern,
            "seed": base.options.seed,
            "left out": [f"{axis}={value}" for axis, value in asked if (axis, value) not in possible],
        },
        extra={
            "axis": xr.DataArray([axis for axis, _ in possible], dims=("setting",)),
            "trivial": xr.DataArray(trivial, dims=("setting",)),
        },
    )


def _alphabet(options: RegexLanguageOptions) -> str:
    return options.task.dfa.alphabet


def _spelt(options: RegexLanguageOptions) -> RegexLanguageOptions:
    """The same with the alphabet that is meant where none is given."""
    return replace(options, alphabet=_alphabet(options))


def _possible(options: RegexLanguageOptions, axis: str, value: Any) -> bool:
    """Whether task and network can be built, with all the symbols that there are now."""
    if axis == "alphabet" and not set(_alphabet(options)) <= set(value):
        return False
    try:
        changed = replace(options, **{axis: value})
        changed.network(changed.task)
    except ValueError:
        return False
    return True


@torch.no_grad()
def _measures(trained: Trained) -> tuple[list[float], float]:
    """Scores by ``MEASURES``, and the class accuracy of the untrained network."""
    task, model, untrained = trained.task, trained.model(), trained.untrained()
    test, longer = task.dataset("test"), _longer(task)
    far = float("nan") if longer is None else task.score(task.outputs(model, longer), longer)
    scores = trained.run.numbers(*MEASURES[:-1])
    return [*scores, far], task.score(task.outputs(untrained, test), test)


def _longer(task: RegexLanguage) -> Batch | None:
    try:
        return longer_words(task)
    except ValueError:
        return None
