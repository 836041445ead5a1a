"""What position vectors are, and what becomes of answers when they are moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.metrics import accuracy
from mechinterp.analysis.positions import moved_positions, position_table, shift_maps
from mechinterp.models.positions import sinusoidal_table
from mechinterp.result import Result
from mechinterp.studies.networks import Trained
from mechinterp.tasks.sortedness import Sortedness

SHIFTS = (1, 2, 4)
"""Tokens that positions are mapped on by."""


def table_of(one: Trained) -> Result:
    """The learned position vectors, beside those before training."""
    found = position_table(one.model.W_pos, one.untrained.W_pos, gate=one.gate)
    return replace(found, provenance={**found.provenance, "network": one.name, "seed": one.task.seed})


def maps(learned: Trained, task: Sortedness) -> list[Result]:
    """How well a shift is a linear map, for as many positions of encodings that are added; rotary positions
    and ALiBi know nothing but shifts."""
    n = len(learned.model.W_pos)
    shifts = [k for k in SHIFTS if k <= n - 4]
    tables = {
        "sinusoidal": sinusoidal_table(n, learned.model.cfg.d_model),
        "learned": learned.model.W_pos,
        "learned, before training": learned.untrained.W_pos,
    }
    return [shift_maps(tables, shifts, seed=task.seed)] if shifts else []


def moves(networks: Mapping[str, Trained], task: Sortedness, n: int) -> list[Result]:
    """The shortest sequences at other positions of the range of training, for encodings that are added and
    not drawn; none where the range has no room."""
    length, longest = task.train_lengths
    room = longest - length
    batch, at = task.of_length(length, n), torch.arange(length)
    kinds = {f"{k} on": at + k for k in sorted({1, room // 2, room} - {0}) if k <= room}
    if 2 * length - 1 <= longest:
        kinds["two apart"] = 2 * at
    added = {
        name: one
        for name, one in networks.items()
        if hasattr(one.model, "hook_pos_embed") and not one.model.cfg.randomised_positions
    }
    if not kinds:
        return []
    found = {
        name: moved_positions(one.model, batch.inputs, accuracy(batch.targets), kinds, gate=one.gate)
        for name, one in added.items()
    }
    coords = {"network": list(found), "move": ["as trained", *kinds, "all alike", "random order"]}
    values = [[r.trivial, *r.values.values, float(r.extra["flat"]), float(r.control)] for r in found.values()]
    ends = {
        end: xr.DataArray(
            np.stack([r.extra[end].values for r in found.values()]), dims=("network", "move"),
            coords={"network": list(found), "move": list(kinds)},
        )
        for end in ("low", "high")
    }  # fmt: skip
    return [
        Result(
            name="position_moves",
            values=xr.DataArray(
                np.array(values), dims=list(coords), coords=coords, attrs={"units": "accuracy"}
            ),
            trivial=0.5,
            control=xr.DataArray(
                [float(r.control) for r in found.values()], dims="network", coords={"network": list(found)}
            ),
            control_kind="positions in a random order",
            provenance={"n": n, "length": length, "seed": task.seed},
            extra=ends,
        )
    ]
