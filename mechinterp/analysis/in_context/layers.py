"""The step that each layer of linear attention on raw tokens takes, read off its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.result import Result

MEASURES = ("rate", "curvature", "share of GD++")


@checked
@torch.no_grad()
def layer_steps(
    model: nn.Module,
    d: int,
    *,
    untrained: nn.Module | None = None,
    name: str = "layer_steps",
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The step of GD++ nearest to each layer: its rate, its curvature, and how much of the layer it is.

    A layer multiplies scores ``t_i' M t_j`` and values ``t_j P``, of which only the product matters. A step
    of GD++ (von Oswald et al. 2023) has ``M = diag(I, 0)`` and ``P = -diag(curvature I, rate)`` up to a
    factor that moves between the two; the nearest such M and P are the means along the diagonals. What can
    reach no answer is left out: what the last layer writes to x, and of a single layer how the query's y,
    which is 0, is scored. So the last layer has no curvature.

    Args:
        model: layers of linear attention of one head on raw tokens, as ``models.linear_regression`` makes.
        d: entries of x.
        untrained: the network before training, the control.

    Returns:
        Dims ``layer``, ``measure``: ``rate``, ``curvature``, and ``share of GD++``, the squared cosine of M
        and of P with those of the step, multiplied. Trivial is 0, a share of nothing. There is no interval:
        one network has one set of weights.

    Raises:
        ValueError: another kind of network, or d that its tokens cannot have.
    """
    check_model(model, "layers' steps", ("n_layers", "d_model"))
    cfg = model.cfg
    needed = {
        "raw_tokens": True, "attention": "linear", "n_heads": 1, "attn_only": True, "average_keys": True,
        "normalization_type": None, "positional_embedding_type": "none", "use_biases": False,
    }  # fmt: skip
    wrong = {
        key: getattr(cfg, key, None) for key, value in needed.items() if getattr(cfg, key, None) != value
    }
    if wrong or not 1 <= d < cfg.d_model:
        raise ValueError(
            f"expected layers with {needed} and tokens wider than d, got {wrong}, d={d} and tokens of "
            f"{cfg.d_model}; compare answers instead, by method_agreement"
        )
    values = _steps(model, d)
    names = {"layer": list(range(cfg.n_layers)), "measure": list(MEASURES)}

    def array(x: Tensor) -> xr.DataArray:
        return xr.DataArray(x.numpy(), dims=list(names), coords=names, attrs={"units": "as the measure"})

    return Result(
        name=name,
        values=array(values),
        trivial=0.0,
        control=None if untrained is None else array(_steps(untrained, d)),
        control_kind="" if untrained is None else "untrained network",
        provenance=gated(gate, {**(provenance or {}), "layers": cfg.n_layers, "d": d}),
    )


def _steps(model: nn.Module, d: int) -> Float[Tensor, "layer measure"]:
    last = len(model.blocks) - 1
    return torch.stack([_step(block.attn, d, i == last, last == 0) for i, block in enumerate(model.blocks)])


def _step(attn: nn.Module, d: int, last: bool, only: bool) -> Float[Tensor, " measure"]:
    q, k, v, o = (weight[0].double().cpu() for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O))
    scores, values = q @ k.mT / attn.attn_scale, v @ o
    if last:
        values[:, :-1] = 0.0
    if only:
        scores[-1] = 0.0
    alike = scores[:d, :d].diagonal().mean()
    bend, rate = -values[:d, :d].diagonal().mean(), -values[-1, -1]
    step = d * alike**2, d * bend**2 + rate**2
    sizes = scores.square().sum().clamp_min(1e-30), values.square().sum().clamp_min(1e-30)
    return torch.stack((alike * rate, alike * bend, step[0] / sizes[0] * step[1] / sizes[1]))
