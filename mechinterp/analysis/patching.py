"""Activation patching: which activations carry the answer from a clean run into a corrupted one?

Source: Meng et al. (2022), "Locating and editing factual associations in GPT", section 2; on its
two directions Heimersheim & Nanda (2024), "How to use and interpret activation patching".
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import (
    check_direction,
    check_groups,
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
from mechinterp.hooks import Site, axes_of, resolve
from mechinterp.result import Result

AXES = (
    dict.fromkeys(HEADS, ("layer", "position", "head"))
    | dict.fromkeys(STREAMS, ("layer", "position"))
    | dict.fromkeys(NEURONS, ("layer", "position", "group"))
)

_FIELDS = ("n_layers", "n_heads", "d_model")


@checked
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
            ``resid_mid``, ``mlp_out``, ``resid_post`` (of the stream); ``post`` (of groups of neurons). Of
            any other model a hook point's own name, or a pattern of several.
        by: the axes to sweep, of ``AXES[activation]``, all by default; along the others all is patched
            at once. The position of a pattern is the one that asks. At hook points' own names: ``hook``, and
            of ``position``, ``head`` and ``group`` those that they have.
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
    check_pair(clean, corrupted, attention_mask)
    short = activation in AXES
    check_model(model, f"patching {activation}", _FIELDS if short else ())
    check_tokens(model, clean)
    check_direction(direction)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    donors = Setting(model, source, metric, read, attention_mask)
    narrowed = {"layer": layers, "position": positions, "head": heads, "group": groups}
    if short:
        n_layers, n_pos = extent(model, clean, stack)
        names = donor_names(model, activation, chosen("layers", layers, n_layers), stack)
        axes = _axes(model, activation, by, narrowed, n_layers, n_pos)
        cache = donors.activations(names)
    else:
        cache = _at_hooks(donors, activation)
        names, n_pos = list(cache), 0
        axes = _hook_axes(cache, activation, by, narrowed, stack)
    setting = Setting(model, base, metric, read, attention_mask, memory)
    before = setting.intact()
    runs = donors.outputs()
    other_end = setting.measure(runs, "the donor's run")
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
        "activation_patching" if short else "hook_patching",
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


def _at_hooks(donors: Setting, pattern: str) -> dict[str, Tensor]:
    """The donors' activations at all hook points of a name that their run reaches."""
    model = donors.model
    if not any(fnmatch.fnmatchcase(name, pattern) for name in model.hook_dict):
        near = difflib.get_close_matches(pattern, model.hook_dict, n=3, cutoff=0.3) or list(model.hook_dict)
        raise ValueError(
            f"expected an activation of {sorted(AXES)}, got {pattern!r}; choose one of them, or a hook point "
            f"of this model, such as {near[:3]}"
        )
    with torch.no_grad():
        _, cache = model.run_with_cache(donors.inputs, names_filter=lambda name: True, **donors.masked())
    found = {name: cache[name] for name in resolve(model, Site(pattern)) if name in cache}
    wrong = [name for name, x in found.items() if x.ndim < 2 or len(x) != len(donors.inputs)]
    if wrong or not found:
        raise ValueError(
            f"expected hook points that the run reaches, with the batch first, got {wrong or pattern!r}; "
            "patch others"
        )
    return found


def _hook_axes(
    cache: Mapping[str, Tensor],
    pattern: str,
    by: Sequence[str] | None,
    narrowed: Mapping[str, Any],
    stack: str,
) -> dict[str, list[Any]]:
    """The swept axes of hook points by their own names, and their coordinates."""
    sizes = [_sizes(name, x) for name, x in cache.items()]
    alike = [axis for axis in sizes[0] if len({each.get(axis) for each in sizes}) == 1]
    there = ["hook", *(axis for axis in ("position", "head", "group") if axis in alike)]
    wanted = tuple(a for a in there if a != "group" or narrowed["group"]) if by is None else tuple(by)
    if not set(wanted) <= set(there) or "hook" not in wanted or narrowed["layer"] is not None or stack:
        raise ValueError(
            f"expected axes of the hook points {pattern!r} to sweep, hook and any of {there}, got {wanted}, "
            f"layers={narrowed['layer']} and stack={stack!r}; name the hook points, and choose from those"
        )
    every: dict[str, list[Any]] = {"hook": list(cache)}
    for axis in wanted:
        if axis in ("position", "head"):
            every[axis] = chosen(f"{axis}s", narrowed[axis], sizes[0][axis])
    if "group" in wanted:
        check_groups(_some_groups(narrowed["group"]), sizes[0]["group"])
        every["group"] = list(narrowed["group"])
    _swept(narrowed, wanted, pattern)
    return {axis: every[axis] for axis in there if axis in wanted}


def _sizes(name: str, x: Tensor) -> dict[str, int]:
    """Sizes of a hook point's axes, by the names that a sweep gives them; none if its axes are not known."""
    axes = axes_of(name, x.ndim)
    swept = {"query": "position", "neuron": "group"}
    return {swept.get(axis, axis): size for axis, size in zip(axes, x.shape)} if len(axes) == x.ndim else {}


def _axes(
    model: Any,
    activation: str,
    by: Sequence[str] | None,
    narrowed: Mapping[str, Any],
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
        check_model(model, "patching neurons", ("d_mlp",))
        check_groups(_some_groups(narrowed["group"]), model.cfg.d_mlp)
    _swept(narrowed, wanted, activation)
    n_heads = model.cfg.n_heads
    if activation in ("k", "v"):  # queries may share them
        n_heads = getattr(model.cfg, "n_key_value_heads", None) or n_heads
    every = {
        "layer": chosen("layers", narrowed["layer"], n_layers),
        "position": chosen("positions", narrowed["position"], n_pos),
        "head": chosen("heads", narrowed["head"], n_heads),
        "group": list(narrowed["group"] or ()),
    }
    return {axis: every[axis] for axis in AXES[activation] if axis in wanted}


def _some_groups(groups: Mapping[Any, Any] | None) -> Mapping[Any, Any]:
    if not groups:
        raise ValueError('expected groups of neurons to patch, got none; give groups={"name": [0, 1, ...]}')
    return groups


def _swept(narrowed: Mapping[str, Any], wanted: Sequence[str], activation: str) -> None:
    """Refuse a choice along an axis that is not swept."""
    for axis, some in narrowed.items():
        if axis not in ("layer", *wanted) and some is not None:
            raise ValueError(
                f"expected {axis} among the axes to sweep, since some were chosen, got by={wanted} of "
                f"{activation!r}; sweep it, or choose none"
            )
