"""Activation patching: which activations carry the answer from a clean run into a corrupted one?

Source: Meng et al. (2022), "Locating and editing factual associations in GPT", section 2; on its
two directions Heimersheim & Nanda (2024), "How to use and interpret activation patching".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.checks import (
    check_direction,
    check_groups,
    check_inputs,
    check_model,
    check_pair,
    check_tokens,
    chosen,
)
from mechinterp.analysis.effects import derangement, distinct, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patches import HEADS, NEURONS, STREAMS, donor_names, extent, patches_of
from mechinterp.analysis.setting import MEMORY, Metric, Progress, Setting
from mechinterp.analysis.sweeps import sweep
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
    groups: Mapping[Any, Sequence[int] | Tensor] | None = None,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    control: bool = True,
    stack: str = "",
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
        control: sweep also with the activations of another example, drawn at random, as donor. What every
            donor brings alike, such as an answer that all of them share, is in the control too.
        stack: of an encoder-decoder, ``"encoder"``, ``"decoder"`` or, for heads, ``"cross"``; positions are
            then those of the source or of the target, counted from 0.
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
    check_tokens(model, clean)
    if activation not in AXES:
        raise ValueError(f"expected an activation of {sorted(AXES)}, got {activation!r}; choose one of them")
    check_direction(direction)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    n_layers, n_pos = extent(model, clean, stack)
    names = donor_names(model, activation, chosen("layers", layers, n_layers), stack)
    axes = _axes(model, activation, by, layers, positions, heads, groups, n_layers, n_pos)
    setting = Setting(model, base, metric, read, attention_mask, memory)
    donors = Setting(model, source, metric, read, attention_mask)
    before = setting.intact()
    runs = donors.outputs()
    other_end = setting.measure(runs, "the donor's run")
    cache = donors.activations(names)
    patches = patches_of(axes, n_pos, groups, stack)
    shape = [len(values) for values in axes.values()]
    todo = len(patches) * (1 + control)

    def swept(donor: Mapping[str, Tensor], done: int) -> Tensor:
        report = None if progress is None else lambda i, _: progress(done + i, todo)
        found = sweep(setting, activation, patches, donor, fast=fast, progress=report)
        return found.unflatten(0, shape)

    after = swept(cache, 0)
    pairs = distinct(base, source, mask=attention_mask)
    others = derangement(len(base), seed, attention_mask, pairs)
    shuffled = {name: cache[name][others] for name in names} if control else {}
    other = swept(shuffled, len(patches)) if control else None
    ends = (other_end, setting.measure(runs[others], "another donor's run")) if control else None
    gap = (other_end.mean() - before.mean()).item()
    effect = after.mean(-1) - before.mean()
    rounding = 1e-6 * torch.maximum(other_end.abs(), before.abs()).mean().item()
    recovered = effect / gap if abs(gap) > rounding else torch.full_like(effect, torch.nan)
    provenance = {"activation": activation, "direction": direction, "seed": seed, "teacher forced": True}
    provenance |= {"stack": stack} if stack else {}
    return effects_result(
        "activation_patching",
        after,
        before,
        axes,
        gated(gate, provenance),
        other=other,
        sample=setting.sample(before, pairs, ends, seed),
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
    groups: Mapping[Any, Sequence[int] | Tensor] | None,
    n_layers: int,
    n_pos: int,
) -> dict[str, list[Any]]:
    """The swept axes and their coordinates."""
    wanted = AXES[activation] if by is None else tuple(by)
    if not set(wanted) <= set(AXES[activation]) or "layer" not in wanted:
        raise ValueError(
            f"expected axes of {activation!r} to sweep, layer and any of {AXES[activation]}, got {wanted}; "
            "choose from those"
        )
    if "group" in wanted:
        if not groups:
            raise ValueError(
                'expected groups of neurons to patch, got none; give groups={"name": [0, 1, ...]}'
            )
        check_groups(groups, model.cfg.d_mlp)
    narrowed = {"position": positions, "head": heads, "group": groups}
    for axis, some in narrowed.items():
        if axis not in wanted and some is not None:
            raise ValueError(
                f"expected {axis} among the axes to sweep, since some were chosen, got by={wanted} of "
                f"{activation!r}; sweep it, or choose none"
            )
    n_heads = model.cfg.n_heads
    if activation in ("k", "v"):  # queries may share them
        n_heads = getattr(model.cfg, "n_key_value_heads", None) or n_heads
    every = {
        "layer": chosen("layers", layers, n_layers),
        "position": chosen("positions", positions, n_pos),
        "head": chosen("heads", heads, n_heads),
        "group": list(groups or ()),
    }
    return {axis: every[axis] for axis in AXES[activation] if axis in wanted}
