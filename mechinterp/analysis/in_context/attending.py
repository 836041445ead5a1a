"""Whether queries look at examples by how alike their x is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.attention_match import permutations
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.in_context.prompts import Prompts
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means, sign_flip_p_values
from mechinterp.hooks import run_with_cache
from mechinterp.result import Result
from mechinterp.tasks.base import Batch


@checked
@torch.no_grad()
def attention_similarity(
    model: nn.Module,
    batch: Batch,
    *,
    untrained: nn.Module | None = None,
    name: str = "attention_similarity",
    draws: int = 200,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The correlation, over the examples of a prompt, of a query's attention scores with ``x_j . x``.

    Scores are those before the softmax, in which attention by similarity is linear. The null permutes the
    similarities among the examples of each prompt, and shows what chance within prompts comes to. A head
    that looks by y is not that chance: within a prompt y goes with x along w, and it averages out over
    prompts only. So p-values are from the signs of prompts, not from this null.

    Args:
        batch: prompts of joint tokens, of at least 3 examples each.
        name: of the result.
        draws: permutations for the null's band.

    Returns:
        Dims ``layer``, ``head``: mean correlations, in [-1, 1]; negative where a head's values are turned
        too. Trivial is 0. The control is the untrained network's, or without one the null's mean. ``extra``:
        ``low`` and ``high`` (95 %, bootstrap over prompts), ``null_low`` and ``null_high``, ``p_adjusted``
        (sign flips of prompts, Benjamini & Hochberg over heads), and of a query of the longest
        prompt ``pattern``
        (layer, head, example) and ``similarity`` (example). The interval is that of the largest in size.

    Raises:
        ValueError: a prompt of fewer than 3 examples, no draws, or as ``Prompts.of``.
    """
    check_model(model)
    check_inputs(batch.inputs)
    prompts = Prompts.of(batch)
    if int(prompts.there.sum(1).min()) < 3 or draws < 1:
        raise ValueError(
            f"expected prompts of at least 3 examples and at least 1 draw, got "
            f"{int(prompts.there.sum(1).min())} and {draws}; two points always lie on a line"
        )
    near = _standard(prompts.similarity, prompts.there)
    layers, looking, patterns = _looking(model, batch, prompts)
    each = (looking * near[:, None, None]).sum(-1).mean(-1)  # [n, layer, head]
    value, (low, high) = each.mean(0), bootstrap_means(each, seed=seed)
    null = _null(looking, near, prompts.there, draws, seed)
    p = sign_flip_p_values(each, seed=seed)
    ends = null.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    coords = {"layer": layers, "head": list(range(value.shape[1]))}

    def array(x: Tensor, units: str = "correlation") -> xr.DataArray:
        return xr.DataArray(x.numpy(), dims=list(coords), coords=coords, attrs={"units": units})

    control, kind = null.mean(0), f"similarities permuted among examples, mean of {draws} draws"
    if untrained is not None:
        control = (_looking(untrained, batch, prompts)[1] * near[:, None, None]).sum(-1).mean((0, -1))
        kind = "untrained network"
    at = divmod(int(value.abs().argmax()), value.shape[1])
    return Result(
        name=name,
        values=array(value),
        trivial=0.0,
        control=array(control),
        control_kind=kind,
        interval=(low[at].item(), high[at].item()),
        provenance=gated(
            gate,
            {**(provenance or {}), "n": len(batch), "seed": seed, "interval of": f"L{layers[at[0]]}H{at[1]}"},
        ),
        extra={
            "low": array(low),
            "high": array(high),
            "null_low": array(ends[0]),
            "null_high": array(ends[1]),
            "pattern": xr.DataArray(patterns.numpy(), dims=("layer", "head", "example"), coords=coords),
            "similarity": xr.DataArray(
                _of_longest(prompts.similarity[:, 0], prompts).numpy(), dims="example"
            ),
            "p_adjusted": array(
                torch.from_numpy(benjamini_hochberg(p.numpy())), "p-value, Benjamini-Hochberg"
            ),
        },
    )


def _looking(
    model: nn.Module, batch: Batch, prompts: Prompts
) -> tuple[list[int], Float[Tensor, "n layer head q k"], Float[Tensor, "layer head example"]]:
    """Queries' scores of examples, standardised over them, and the pattern of one query."""
    extra = {} if batch.mask is None else {"attention_mask": batch.mask}
    hooks = {kind: f"attn.hook_{kind}" for kind in ("attn_scores", "pattern")}
    _, cache = run_with_cache(model, batch.inputs, names=[f"*.{hook}" for hook in hooks.values()], **extra)
    layers = sorted(int(name.split(".")[1]) for name in cache.keys() if name.endswith("pattern"))  # noqa: SIM118
    q, k = prompts.at.shape[1], prompts.there.shape[1]
    found = {
        kind: torch.stack([cache[f"blocks.{layer}.{hook}"][:, :, -q:, :k] for layer in layers], 1)
        for kind, hook in hooks.items()
    }
    scores = _standard(found["attn_scores"].double().cpu(), prompts.there[:, None, None])
    return layers, scores, _of_longest(found["pattern"].double().cpu()[:, :, :, 0], prompts)


def _of_longest(x: Float[Tensor, "n *some k"], prompts: Prompts) -> Float[Tensor, "*some example"]:
    """Of the prompt with the most examples, at those."""
    at = int(prompts.there.sum(1).argmax())
    return x[at][..., prompts.there[at]]


def _standard(
    x: Float[Tensor, "n *some q k"], there: Bool[Tensor, "n *one k"]
) -> Float[Tensor, "n *some q k"]:
    """Centred and of size 1 over the examples that are there, 0 elsewhere."""
    real = there.unsqueeze(-2)
    kept = torch.where(real, x, 0.0)
    centred = torch.where(real, kept - kept.sum(-1, keepdim=True) / real.sum(-1, keepdim=True), 0.0)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _null(
    looking: Float[Tensor, "n layer head q k"],
    near: Float[Tensor, "n q k"],
    there: Bool[Tensor, "n k"],
    draws: int,
    seed: int,
) -> Float[Tensor, "draw layer head"]:
    found = []
    for order in permutations(there, draws, torch.Generator().manual_seed(seed)):
        moved = near.gather(2, order[:, None].expand_as(near))
        found.append(torch.einsum("nlhqk,nqk->lh", looking, moved) / (len(near) * near.shape[1]))
    return torch.stack(found)
