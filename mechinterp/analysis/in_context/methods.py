"""Which known method a network answers like: its answers, and how they turn with the query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model, check_takes
from mechinterp.analysis.effects import derangement
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.in_context.prompts import Prompts
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.result import Result
from mechinterp.tasks.base import Batch

MEASURES = ("preds diff", "model diff", "model cos", "explained", "slope", "correlation")


@checked
def sensitivities(
    model: nn.Module, batch: Batch, entries: int | None = None
) -> tuple[Float[Tensor, "n q"], Float[Tensor, "n q d"]]:
    """A network's answers, and their derivatives by the x of their query.

    A method that answers ``w . x`` has its w for derivative, whatever the query.

    Args:
        batch: prompts of vectors whose last places are queries.
        entries: how many entries of a token are x's; by default all but the last.

    Raises:
        ValueError: dropout is on, prompts that are not such, or queries that may see one another.
    """
    check_model(model)
    check_takes(model, "read", "build it by models, or give it read=")
    prompts = Prompts.of(batch, entries)
    places, width = prompts.query.shape[1:]
    if places > 1 and (batch.mask is None or bool(batch.mask[:, -places:].any())):
        raise ValueError(f"expected {places} queries that are masked as keys, so that each answers alone")
    found = [_turned(model, part) for part in batch.split()]
    answers, turned = (torch.cat(parts).double().cpu() for parts in zip(*found))
    return answers, prompts.at_queries(turned)[..., :width]


def _turned(model: nn.Module, batch: Batch) -> tuple[Float[Tensor, "n q"], Float[Tensor, "n pos width"]]:
    """Answers, and their derivatives by the tokens."""
    inputs = batch.inputs.detach().clone().requires_grad_()
    extra = {} if batch.mask is None else {"attention_mask": batch.mask}
    with torch.enable_grad():
        answers = model(inputs, read=batch.read, **extra)[..., 0]
        (grad,) = torch.autograd.grad(answers.sum(), inputs)
    return answers.detach(), grad


@checked
def method_agreement(
    model: nn.Module,
    batch: Batch,
    methods: Mapping[str, Float[Tensor, "_ _"]],
    *,
    untrained: nn.Module | None = None,
    name: str = "method_agreement",
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """How near a network is to methods that answer ``w . x``, in what it answers and in its sensitivities.

    Args:
        methods: the w of each for each prompt, ``[n, d]``.
        untrained: the network before training.
        name: of the result.

    Returns:
        Dims ``predictor``, ``measure``. With s the derivative of an answer by its query: ``preds diff`` is
        the mean ``|answer - w . x|``, ``model diff`` the mean ``|s - w|``, ``model cos`` the mean cosine of
        s and w (von Oswald et al. 2023, section 3); ``explained`` the share of the answers' mean square that
        the method explains, ``slope`` and ``correlation`` those of the entries of s over those of w. Trivial
        is 0, the cosine of what does not turn with the query. The control gives each prompt the w of another
        one. ``extra``: ``low`` and ``high`` (95 %, bootstrap over prompts) of the first three, and
        ``untrained``. The interval is that of the first method's ``model cos``.

    Raises:
        ValueError: no methods, weights that do not fit or are not finite, fewer than 2 prompts, or as
            ``sensitivities``.
    """
    check_inputs(batch.inputs)
    d = _width(methods, len(batch))
    weights = {each: w.double().cpu() for each, w in methods.items()}
    query = Prompts.of(batch, d).query
    answers, turned = sensitivities(model, batch, d)
    donors = derangement(len(batch), seed)
    own = {each: _measured(answers, turned, w, query) for each, w in weights.items()}
    swapped = {each: _measured(answers, turned, w[donors], query)[0] for each, w in weights.items()}
    names = list(methods)

    def table(rows: Mapping[str, Tensor]) -> xr.DataArray:
        return xr.DataArray(
            torch.stack([rows[each] for each in names]).numpy(),
            dims=("predictor", "measure"),
            coords={"predictor": names, "measure": list(MEASURES)},
            attrs={"units": "as the measure"},
        )

    ends = {each: bootstrap_means(by_prompt, seed=seed) for each, (_, by_prompt) in own.items()}
    coords = {"predictor": names, "measure": list(MEASURES[:3])}
    extra = {
        end: xr.DataArray(
            torch.stack([ends[each][i] for each in names]).numpy(), dims=list(coords), coords=coords
        )
        for i, end in enumerate(("low", "high"))
    }
    if untrained is not None:
        before = sensitivities(untrained, batch, d)
        extra["untrained"] = table({each: _measured(*before, w, query)[0] for each, w in weights.items()})
    first = ends[names[0]]
    return Result(
        name=name,
        values=table({each: mean for each, (mean, _) in own.items()}),
        trivial=0.0,
        control=table(swapped),
        control_kind="the method's w of another prompt",
        interval=(float(first[0][2]), float(first[1][2])),
        provenance=gated(
            gate,
            {**(provenance or {}), "n": len(batch), "seed": seed, "interval of": f"model cos, {names[0]}"},
        ),
        extra=extra,
    )


def _measured(
    answers: Float[Tensor, "n q"],
    turned: Float[Tensor, "n q d"],
    w: Float[Tensor, "n d"],
    query: Float[Tensor, "n q d"],
) -> tuple[Float[Tensor, " measure"], Float[Tensor, "n three"]]:
    """All measures, and by prompt those that are means over prompts."""
    theirs = (query @ w[..., None])[..., 0]
    beside = w[:, None].expand_as(turned)
    cosine = torch.nn.functional.cosine_similarity(turned, beside, dim=-1)
    each = torch.stack(
        ((answers - theirs).abs().mean(1), (turned - beside).norm(dim=-1).mean(1), cosine.mean(1)), 1
    )
    explained = 1 - (answers - theirs).square().sum() / answers.square().sum()
    slope = (turned * beside).sum() / beside.square().sum()
    both = torch.corrcoef(torch.stack((turned.flatten(), beside.flatten())))[0, 1]
    return torch.cat((each.mean(0), torch.stack((explained, slope, both)))), each


def _width(methods: Mapping[str, Tensor], n: int) -> int:
    shapes = {name: tuple(w.shape) for name, w in methods.items()}
    d = next(iter(shapes.values()))[-1] if shapes else 0
    if not shapes or any(shape != (n, d) for shape in shapes.values()):
        raise ValueError(f"expected for each method a w for each of {n} prompts, [n, d], got {shapes}")
    bad = [name for name, w in methods.items() if not bool(w.isfinite().all())]
    if bad:
        raise ValueError(f"expected finite weights, got others of {bad}; leave those prompts out")
    return d
