"""Where networks look, at the fall and for the largest token so far, and what sharper attention does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.metrics import accuracy
from mechinterp.hooks import Edit, Site, run, run_with_cache, scale
from mechinterp.models.sharpened import sharpened
from mechinterp.result import Result
from mechinterp.studies.networks import Trained
from mechinterp.studies.sortedness.lengths import FURTHEST, far, grid
from mechinterp.studies.sortedness.networks import FREE, right
from mechinterp.tasks.base import Batch

ATTENDED = 100
"""Pairs of sequences in which attention is looked at."""


def dilution(networks: Mapping[str, Trained], asked: Mapping[int, Batch]) -> Result:
    """What the last token's attention in the last layer has left for the fall, by length.

    Of the head that looks there most at the longest length of training, on other sequences; the fall is the
    two neighbours that have changed places. Beside it the same with sharper attention, and even attention.
    """
    task = networks[FREE].task
    longest = task.train_lengths[1]
    head = {name: head_on_fall(one) for name, one in networks.items()}
    few = {length: batch[slice(0, 2 * ATTENDED)] for length, batch in asked.items()}

    def attended(model: Callable[[Trained], Any]) -> xr.DataArray:
        found = {
            (name, length): on_fall(model(one), batch)[:, head[name]].numpy()
            for name, one in networks.items()
            for length, batch in few.items()
        }
        return grid(np.mean, found, networks, asked).assign_attrs(units="attention")

    return Result(
        name="attention_dilution",
        values=attended(lambda one: one.model),
        trivial=2 / longest,
        control=attended(lambda one: one.untrained),
        control_kind="untrained network",
        provenance={"n": ATTENDED, "seed": task.seed, "log n from": longest},
        extra={
            "log_n": attended(lambda one: sharpened(one.model, longest)),
            "even": xr.DataArray(
                [2 / length for length in asked], dims="length", coords={"length": list(asked)}
            ),
            "head": xr.DataArray(list(head.values()), dims="network", coords={"network": list(networks)}),
        },
    )


def head_on_fall(one: Trained) -> int:
    """The last layer's head that looks most at the fall, on validation sequences."""
    batch = one.task.of_length(one.task.train_lengths[1], 2 * ATTENDED, "val")
    return int(on_fall(one.model, batch).mean(0).argmax())


@torch.no_grad()
def on_fall(model: Any, batch: Batch, edits: Sequence[Edit] = ()) -> Tensor:
    """The last token's attention on the two that have changed places, in the last layer, ``[row, head]``."""
    batch = batch[batch.targets[:, 0] == 0]
    hook, found = f"blocks.{model.cfg.n_layers - 1}.attn.hook_pattern", []
    for part in batch.split():
        seen = run_with_cache(model, part.inputs, names=[hook], edits=edits)[1][hook][:, :, -1]
        place = part.variables["place"]
        pair = torch.stack((place - 1, place), 1)
        found.append(seen.gather(2, pair[:, None].expand(-1, seen.shape[1], -1)).sum(-1))
    return torch.cat(found)


def sharpening(one: Trained, n: int) -> Result:
    """Scores of one layer that grow with log n at a long length, query by query; and at short sequences that
    are as dense, where there is nothing to dilute, all multiplied by as much as the last query's there.

    Returns:
        Dims ``layers``, ``measure``: accuracy at the longest length, attention on the fall there, accuracy on
        short dense sequences, undefined where these cannot be as dense. Trivial is the first, as trained.
    """
    task, model = one.task, one.model
    longest, asked = task.train_lengths[1], far(task, FURTHEST)
    factor, head = math.log(asked) / math.log(longest), head_on_fall(one)
    long, keys = task.of_length(asked, n), torch.arange(1, asked + 1).clamp_min(longest)
    growing = (keys.log() / math.log(longest))[:, None]  # [query, 1]; causal: a query sees itself and before
    can = task.can_be_as_dense(longest, asked)
    dense = task.of_length(longest, n, as_dense_as=asked) if can else None
    n_layers = model.cfg.n_layers
    layers = {"as trained": [], "every layer": list(range(n_layers))}
    layers |= {f"layer {layer}": [layer] for layer in range(n_layers)}

    def measured(of: Sequence[int]) -> list[float]:
        sites = [Site(f"blocks.{layer}.attn.hook_attn_scores") for layer in of]
        grown = [Edit(site, lambda scores, _: growing * scores, "log n") for site in sites]
        scaled = partial(run, model, edits=[scale(site, factor) for site in sites])
        attended = on_fall(model, long[slice(0, 2 * ATTENDED)], grown)[:, head].mean()
        of_long = right(partial(run, model, edits=grown), task, long).mean()
        of_dense = math.nan if dense is None else right(scaled, task, dense).mean()
        return [float(of_long), float(attended), float(of_dense)]

    values = np.array([measured(of) for of in layers.values()])
    measures = [
        f"accuracy at {asked}",
        f"attention on the fall at {asked}",
        f"accuracy at {longest}, as dense",
    ]
    return Result(
        name="sharpening",
        values=xr.DataArray(
            values, dims=("layers", "measure"), coords={"layers": list(layers), "measure": measures},
            attrs={"units": "accuracy, attention, accuracy"},
        ),
        trivial=float(values[0, 0]),
        provenance={
            "n": n, "seed": task.seed, "factor": round(factor, 3), "network": one.name,
            "learned": one.gate.learned,
        },
    )  # fmt: skip


def heads(one: Trained, n: int) -> Sequence[Result]:
    """Which heads of a network without positions look at the largest token so far, in random sequences and at
    the fall of its own, and which it needs."""
    generator = torch.Generator().manual_seed(one.task.seed)
    tokens = torch.randint(one.task.vocabulary, (200, one.task.train_lengths[1]), generator=generator)
    found = match_score(
        one.model, tokens, tokens.cummax(1).values, key_variable=tokens, include_self=True,
        untrained=one.untrained, draws=200, gate=one.gate, seed=one.task.seed,
    )  # fmt: skip
    batch = one.task.of_length(one.task.train_lengths[1], n)
    falls = batch[batch.targets[:, 0] == 0]
    at_fall = match_score(
        one.model, falls.inputs, falls.variables["prefix_max"], key_variable=falls.inputs, include_self=True,
        queries=falls.variables["place"][:, None], untrained=one.untrained, draws=200, gate=one.gate,
        seed=one.task.seed,
    )  # fmt: skip
    held_out = one.task.of_length(one.task.train_lengths[1], n, "val")
    lost = ablation(
        one.model, batch.inputs, accuracy(batch.targets), reference="resample", held_out=held_out.inputs,
        gate=one.gate, seed=one.task.seed,
    )  # fmt: skip
    return [
        replace(found, name="prefix_max_match"),
        replace(at_fall, name="prefix_max_at_fall"),
        replace(lost, name="prefix_max_ablation"),
    ]
