"""What the network needs: width, heads, words, depth, positions, length and symbols, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from mechinterp.automata import NAMED
from mechinterp.result import Result
from mechinterp.studies.base import Watch
from mechinterp.studies.regex_language.anatomy import longer_words
from mechinterp.studies.regex_language.options import RegexLanguageOptions, train

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


def sweep(
    options: RegexLanguageOptions, out: Path, watch: Watch, axes: Mapping[str, Sequence[Any]] = AXES
) -> Result:
    """Train once for each value on each axis, in folders below ``out``.

    Returns:
        Dims ``setting`` (such as ``d_model=16``) and ``measure``. Trivial is the share of the most frequent
        class; the control, by setting, its own: what the best constant answer has there.
    """
    settings = [
        (axis, value) for axis, values in axes.items() for value in values if _possible(options, axis, value)
    ]
    rows, trivial, labels = [], [], []
    for axis, value in settings:
        trained = train(replace(options, **{axis: value}), out / f"{axis}-{value}", watch)
        labels.append(f"{axis}={value}")
        rows.append(_measures(trained))
        trivial.append(trained.task.trivial)
    coords = {"setting": labels, "measure": list(MEASURES)}
    return Result(
        name="language_sweep",
        values=xr.DataArray(rows, dims=("setting", "measure"), coords=coords, attrs={"units": "share right"}),
        trivial=options.task.trivial,
        control=xr.DataArray(trivial, dims=("setting",), coords={"setting": labels}),
        control_kind="best constant class in the same setting",
        provenance={"pattern": options.pattern, "seed": options.seed},
        extra={"axis": xr.DataArray([axis for axis, _ in settings], dims=("setting",))},
    )


def _possible(options: RegexLanguageOptions, axis: str, value: Any) -> bool:
    """Whether an alphabet holds the symbols there are, and heads share d_model evenly."""
    if axis == "alphabet":
        own = options.task.dfa.alphabet
        return value == own if options.pattern in NAMED else set(own) <= set(value)
    width, heads = (value if axis == name else getattr(options, name) for name in ("d_model", "n_heads"))
    return width % heads == 0


@torch.no_grad()
def _measures(trained: Any) -> list[float]:
    model, longer = trained.model(), longer_words(trained.task)
    far = trained.task.score(trained.task.outputs(model, longer), longer)
    return [*(trained.run.metrics[name] for name in MEASURES[:-1]), far]
