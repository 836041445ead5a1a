"""Activation patching: which activations carry the answer from a clean run into a corrupted one?

Source: Meng et al. (2022), "Locating and editing factual associations in GPT", section 2; on its
two directions Heimersheim & Nanda (2024), "How to use and interpret activation patching".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.checks import check_inputs, check_model, check_pair, chosen
from mechinterp.analysis.effects import derangement, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.sweeps import (
    HEADS,
    MEMORY,
    NEURONS,
    STREAMS,
    Metric,
    Patch,
    Progress,
    Setting,
    donor_names,
    sweep,
)
from mechinterp.hooks import run_with_cache
from mechinterp.result import Result

AXES = (
    dict.fromkeys(HEADS, ("layer", "position", "head"))
    | dict.fromkeys(STREAMS, ("layer", "position"))
    | dict.fromkeys(NEURONS, ("layer", "position", "group"))
)


def activation_patching(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    metric: Metric,
    activation: str = "z",
    *,
    by: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    groups: Mapping[Any, Sequence[int]] | None = None,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    control: bool = True,
    fast: bool = True,
    memory: int = MEMORY,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Patch every activation of a kind, one at a time, and measure what it does.

    Args:
        clean, corrupted: paired inputs, ``[batch, pos]`` ids or ``[batch, pos, d_input]`` vectors.
        metric: takes outputs ``[batch, read, d_out]``, gives one number for each example ``[batch]``.
        activation: ``q``, ``k``, ``v``, ``z``, ``pattern`` (of heads); ``resid_pre``, ``attn_out``,
            ``resid_mid``, ``mlp_out``, ``resid_post`` (of the stream); ``post`` (of groups of neurons).
        by: the axes to sweep, of ``AXES[activation]``, all by default; along the others all is patched
            at once. The position of a pattern is the one that asks.
        layers, positions, heads: which; all by default.
        groups: named groups of neurons, each to be patched together, the same for all layers.
        read: positions whose outputs the metric takes.
        attention_mask: true at real tokens, ``[batch, pos]``, for both runs.
        direction: ``"denoise"`` patches clean activations into the corrupted run, which shows what suffices;
            ``"noise"`` patches corrupted ones into the clean run, which shows what is necessary.
        control: sweep also with the activations of another example, drawn at random, as donor.
        fast: compute only what a patch can reach, where the model can; otherwise whole forward passes.
        memory: bytes for the activations of one batch of patches.
        progress: called with the number of patches done, and of all.
        gate: whether the network learned its task.

    Returns:
        As ``effects_result``, with the swept axes; ``extra["recovered"]`` is the effect as a share of the
        difference between both intact runs, and ``extra["donor"]`` their other end, by example.

    Raises:
        ValueError: shapes that do not match, dropout at work, fewer than two examples, an empty mask, a
            metric that is not one finite number an example, an axis or activation that is not there.
    """
    check_pair(clean, corrupted)
    check_inputs(clean, attention_mask)
    check_model(model)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    axes = _axes(model, activation, by, layers, positions, heads, groups, clean.shape[1])
    setting = Setting(model, base, metric, read, attention_mask, memory)
    donors = Setting(model, source, metric, read, attention_mask)
    names = donor_names(
        model, activation, list(axes["layer"]) if "layer" in axes else range(model.cfg.n_layers)
    )
    before = setting.measure(setting.outputs(), "the intact run")
    other_end = setting.measure(donors.outputs(), "the donor's run")
    with torch.no_grad():
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        _, cache = run_with_cache(model, source, names=names, **masked)
    patches = _patches(axes, clean.shape[1], groups)
    shape = [len(values) for values in axes.values()]
    todo = len(patches) * (1 + control)

    def swept(donor: Mapping[str, Tensor], done: int) -> Tensor:
        report = None if progress is None else lambda i, _: progress(done + i, todo)
        found = sweep(setting, activation, patches, donor, fast=fast, progress=report)
        return found.unflatten(0, shape)

    after = swept(cache.cache_dict, 0)
    others = derangement(len(base), seed)
    shuffled = {name: cache[name][others] for name in names} if control else {}
    other = swept(shuffled, len(patches)) if control else None
    gap = (other_end.mean() - before.mean()).item()
    effect = after.mean(-1) - before.mean()
    recovered = effect / gap if abs(gap) > 1e-12 else torch.full_like(effect, torch.nan)
    provenance = {"activation": activation, "direction": direction, "seed": seed, "teacher forced": True}
    return effects_result(
        "activation_patching",
        after,
        before,
        axes,
        gated(gate, provenance),
        other=other,
        control_kind="the same activation of another example, drawn at random",
        extra={
            "recovered": xr.DataArray(recovered.numpy(), dims=list(axes), coords=dict(axes)),
            "donor": xr.DataArray(other_end.numpy(), dims=["example"]),
        },
        seed=seed,
    )


def _axes(
    model: Any,
    activation: str,
    by: Sequence[str] | None,
    layers: Sequence[int] | None,
    positions: Sequence[int] | None,
    heads: Sequence[int] | None,
    groups: Mapping[Any, Sequence[int]] | None,
    n_pos: int,
) -> dict[str, list[Any]]:
    """The swept axes and their coordinates."""
    if activation not in AXES:
        raise ValueError(f"expected an activation of {sorted(AXES)}, got {activation!r}")
    wanted = AXES[activation] if by is None else tuple(by)
    if not set(wanted) <= set(AXES[activation]) or "layer" not in wanted:
        raise ValueError(
            f"expected axes of {activation!r} to sweep, layer and any of {AXES[activation]}, got {wanted}"
        )
    if activation in NEURONS and "group" in wanted and not groups:
        raise ValueError('expected groups of neurons to patch, got none; give groups={"name": [0, 1, ...]}')
    every = {
        "layer": chosen("layers", layers, model.cfg.n_layers),
        "position": chosen("positions", positions, n_pos),
        "head": chosen("heads", heads, model.cfg.n_heads),
        "group": list(groups or ()),
    }
    narrowed = {"position": positions, "head": heads, "group": groups}
    for axis in AXES[activation]:
        if axis not in wanted and narrowed.get(axis) is not None:
            raise ValueError(
                f"expected {axis} among the axes to sweep, since some were chosen, got by={wanted}"
            )
    return {axis: every[axis] for axis in AXES[activation] if axis in wanted}


def _patches(
    axes: Mapping[str, list[Any]], n_pos: int, groups: Mapping[Any, Sequence[int]] | None
) -> list[Patch]:
    """One patch for each cell, in the order of the axes."""
    cells = (dict(zip(axes, cell)) for cell in product(*axes.values()))
    return [
        Patch(
            cell["layer"],
            (cell["position"],) if "position" in cell else tuple(range(n_pos)),
            cell.get("head"),
            tuple(map(int, (groups or {})[cell["group"]])) if "group" in cell else None,
        )
        for cell in cells
    ]
