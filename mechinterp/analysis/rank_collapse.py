"""Whether a network's positions come to hold the same vector, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_masked, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.parts import VARIANTS, without
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.hooks import HookedRootModule, Site, axes_of, resolve, run_with_cache
from mechinterp.result import Result

SHUFFLED = "each position from a random other example"


def residual_share(
    x: Float[Tensor, "*at pos d"], mask: Bool[Tensor, "*at pos"] | None = None
) -> Float[Tensor, "*at"]:
    """How far the rows of X are from being the same vector: ``|X - 1 x'| / |X|``, x their mean.

    The norm is ``sqrt(|.|_1 |.|_inf)``, of the largest column sum and the largest row sum of absolute
    values. 0: all positions alike, the matrix has rank 1 or 0. The paper takes the x that makes the residual
    smallest; the mean does so in the Frobenius norm.

    Args:
        mask: true at real tokens; the others are left out.

    Raises:
        ValueError: an example of fewer than 2 real positions, which cannot differ.

    Source: Dong et al. (2021), "Attention is not all you need: pure attention loses rank doubly
    exponentially with depth", section 2.
    """
    there = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask
    _enough(there)
    weight = there.double()[..., None]
    vectors = x.double() * weight
    mean = vectors.sum(-2, keepdim=True) / weight.sum(-2, keepdim=True)
    size = _norm(vectors)
    return torch.where(size > 0, _norm((vectors - mean) * weight) / size, 0.0)


def _norm(x: Float[Tensor, "*at pos d"]) -> Float[Tensor, "*at"]:
    absolute = x.abs()
    return (absolute.sum(-2).amax(-1) * absolute.sum(-1).amax(-1)).sqrt()


@checked
@torch.no_grad()
def rank_collapse(
    model: HookedRootModule,
    inputs: Tensor,
    names: Sequence[str] | None = None,
    *,
    mask: Tensor | None = None,
    untrained: HookedRootModule | None = None,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """``residual_share`` of the residual stream by layer, averaged over examples.

    Args:
        inputs: what the model takes, ``[n, pos]`` or ``[n, pos, d_input]``.
        names: hook points of shape ``[batch, position, d]``, in order of depth. ``None``: the stream that
            enters each block, and the one that leaves the last.
        mask: true at real tokens.
        untrained: a network before training, for the control.

    Returns:
        Dim ``layer`` with the hook names as coordinates. Trivial is 0, all positions alike. The control is
        that of the untrained network; without one, each position's vector is taken from another random
        example, and what is alike in each example but differs between them lies below it. The interval is
        that of the last layer (bootstrap over examples). ``extra``: ``interval`` (end, layer), and
        ``shuffled`` (layer), the control of random examples, in any case.

    Raises:
        ValueError: fewer than 2 examples, an example of fewer than 2 real positions, or a hook point of
            another shape.
    """
    check_inputs(inputs, mask)
    check_model(model)
    check_masked(model, mask)
    layers = _layers(model, names)
    real = torch.ones(inputs.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
    _enough(real)

    def streams(network: HookedRootModule) -> list[Float[Tensor, "n pos d"]]:
        extra = {} if mask is None else {"attention_mask": mask}
        _, cache = run_with_cache(network, inputs, names=layers, **extra)
        return [cache[name].cpu() for name in layers]

    here, donors, at = streams(model), _donors(real, seed), torch.arange(real.shape[1])
    shares = torch.stack([residual_share(x, real) for x in here], 1)
    coords, units = {"layer": layers}, {"units": "residual over whole, share of norm"}

    def array(by_example: Float[Tensor, "n layer"]) -> xr.DataArray:
        return xr.DataArray(by_example.mean(0).numpy(), dims="layer", coords=coords, attrs=units)

    shuffled = array(torch.stack([residual_share(x[donors, at], real) for x in here], 1))
    before = None
    if untrained is not None:
        before = array(torch.stack([residual_share(x, real) for x in streams(untrained)], 1))
    interval = torch.stack(bootstrap_means(shares, seed=seed)).numpy()
    own = {"n": len(inputs), "positions": real.shape[1], "seed": seed}
    return Result(
        name="rank_collapse",
        values=array(shares),
        trivial=0.0,
        control=shuffled if before is None else before,
        control_kind=SHUFFLED if before is None else "untrained network",
        interval=(float(interval[0, -1]), float(interval[1, -1])),
        provenance=gated(gate, {**(provenance or {}), **own}),
        extra={
            "interval": xr.DataArray(
                interval, dims=("end", "layer"), coords={**coords, "end": ["low", "high"]}
            ),
            "shuffled": shuffled,
        },
    )


@checked
@torch.no_grad()
def collapse_without_parts(
    model: HookedRootModule,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    untrained: HookedRootModule | None = None,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """``residual_share`` by layer of the whole network, and without its MLPs, its skips, or both.

    Attention alone, without either, takes all positions to one vector doubly exponentially fast; skips and,
    less so, MLPs work against it (Dong et al. 2021, section 2.3 and 3).

    Args:
        inputs, mask, untrained: as ``rank_collapse``.

    Returns:
        Dims ``network`` (``parts.VARIANTS``), ``layer``. Trivial is 0, all positions alike. The control is
        the untrained network's. ``extra``: ``low`` and ``high``, 95 % by bootstrap over examples. The
        interval is that of the last layer without both.

    Raises:
        ValueError: as ``rank_collapse``.
    """
    check_inputs(inputs, mask)
    check_model(model, "leaving parts out", ("n_layers",))
    check_masked(model, mask)
    layers = _layers(model, None)
    real = torch.ones(inputs.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
    _enough(real)
    extra = {} if mask is None else {"attention_mask": mask}

    def shares(network: HookedRootModule) -> Float[Tensor, "network n layer"]:
        found = []
        for kind in VARIANTS.values():
            _, cache = run_with_cache(network, inputs, edits=without(network, **kind), names=layers, **extra)
            found.append(torch.stack([residual_share(cache[name].cpu(), real) for name in layers], 1))
        return torch.stack(found)

    own = shares(model)
    coords = {"network": list(VARIANTS), "layer": layers}

    def array(x: Tensor) -> xr.DataArray:
        units = {"units": "residual over whole, share of norm"}
        return xr.DataArray(x.numpy(), dims=list(coords), coords=coords, attrs=units)

    low, high = bootstrap_means(own.movedim(1, 0))
    return Result(
        name="collapse_without_parts",
        values=array(own.mean(1)),
        trivial=0.0,
        control=None if untrained is None else array(shares(untrained).mean(1)),
        control_kind="" if untrained is None else "untrained network",
        interval=(float(low[-1, -1]), float(high[-1, -1])),
        provenance=gated(gate, {**(provenance or {}), "n": len(inputs), "positions": real.shape[1]}),
        extra={"low": array(low), "high": array(high)},
    )


def _layers(model: HookedRootModule, names: Sequence[str] | None) -> list[str]:
    if names is None:
        entering = [name for name in model.hook_dict if name.endswith("hook_resid_pre")]
        names = entering + [name for name in model.hook_dict if name.endswith("hook_resid_post")][-1:]
        if not names:
            raise ValueError(
                f"expected a model with hook_resid_pre and hook_resid_post, got {type(model).__name__}, "
                "which has none; give names of its hook points"
            )
        return names
    found = [name for each in names for name in resolve(model, Site(each))]
    bad = [name for name in found if axes_of(name)[:2] != ("batch", "position") or len(axes_of(name)) != 3]
    if bad or not found:
        raise ValueError(
            f"expected hook points of shape [batch, position, d], got {bad or 'none'}; choose, for example, "
            "blocks.*.hook_resid_post"
        )
    return found


def _enough(real: Bool[Tensor, "*at pos"]) -> None:
    if bool((real.sum(-1) < 2).any()):
        raise ValueError(
            f"expected at least 2 positions in each example, got {int(real.sum(-1).min())}, which cannot "
            "differ; give longer sequences"
        )


def _donors(real: Bool[Tensor, "n pos"], seed: int) -> Int[Tensor, "n pos"]:
    """For each position, a random order of the examples that have it."""
    generator = torch.Generator().manual_seed(seed)
    donors = torch.arange(len(real))[:, None].repeat(1, real.shape[1])
    for position in range(real.shape[1]):
        rows = real[:, position].nonzero().squeeze(-1)
        donors[rows, position] = rows[torch.randperm(len(rows), generator=generator)]
    return donors
