"""Where heads look: their patterns, how spread out these are and how far they reach.

Everything stands beside an even gaze: what a head would show that attends alike to every key it may look
at. Works on every model with TransformerLens's hook names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patterns import Patterns, over_examples
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.result import Result

EVEN = "even attention over the keys allowed"
UNTRAINED = "untrained network"


@checked
def attention_patterns(
    model: nn.Module,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    stack: str = "",
    examples: int = 4,
    gate: Gate | None = None,
) -> Result:
    """Each head's pattern, averaged over the examples in which the query is a real token.

    Args:
        untrained: a network before training, for the control; without one the control is even attention.
        stack: of an encoder-decoder, ``"encoder"``, ``"decoder"`` or ``"cross"``; inputs, mask are of both.
        examples: how many examples' own patterns to keep in the extra ``by_example``.

    Returns:
        Dims ``layer``, ``head``, ``query``, ``key``; NaN at queries that are padding throughout. Trivial is
        the mean even weight. ``even`` has the even pattern.

    Raises:
        ValueError: as ``Patterns.of``.
    """
    seen = Patterns.of(model, inputs, mask, stack)
    before = seen.untrained(untrained, inputs, mask, stack)
    dims = ("layer", "head", "query", "key")
    units = "attention weight" + ("" if seen.normalised else " (linear: rows do not sum to 1)")
    even = seen.array(over_examples(seen.even, seen.asking[..., None]), *dims[2:], units=units)

    def mean(patterns: Patterns) -> xr.DataArray:
        counts = patterns.asking[:, None, None, :, None]
        return patterns.array(over_examples(patterns.weights, counts), *dims, units=units)

    own = seen.array(seen.weights[:examples], "example", *dims, units=units)
    return Result(
        name="attention_patterns",
        values=mean(seen),
        trivial=float((1 / seen.allowed.sum(-1)[seen.asking].double()).mean()),
        control=even if before is None else mean(before),
        control_kind=EVEN if before is None else UNTRAINED,
        provenance=gated(gate, seen.provenance()),
        extra={"even": even, "by_example": own},
    )


@checked
def attention_entropy(
    model: nn.Module,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    stack: str = "",
    gate: Gate | None = None,
) -> Result:
    """The entropy of each head's pattern, in bits, at each query.

    Returns:
        Dims ``layer``, ``head``, ``query``. The control is the entropy of even attention, log2 of the number
        of keys allowed, or the untrained network's. ``by_head``, ``low`` and ``high`` are means over the
        queries that can choose, with 95 % bootstrap intervals over examples; ``relative`` is ``by_head`` over
        that of even attention, 0 for one key and 1 for even. The interval is that of the head whose
        ``relative`` is furthest from 1, which provenance names.

    Raises:
        ValueError: linear attention, fewer than two examples, or as ``Patterns.of``.
    """
    check_inputs(inputs, mask)
    seen = Patterns.of(model, inputs, mask, stack)
    before = seen.untrained(untrained, inputs, mask, stack)
    for patterns in (seen, before):
        if patterns is not None and not patterns.normalised:
            raise ValueError(
                "expected patterns that sum to 1 for an entropy, got others, as linear attention gives; use "
                "attention_scores, which takes shares of their sizes"
            )

    def bits(shares: Tensor) -> Tensor:
        return torch.special.entr(shares).sum(-1) / math.log(2)

    return _spread("attention_entropy", "bits", bits, seen, before, gated(gate, seen.provenance()))


@checked
def attention_distance(
    model: nn.Module,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    stack: str = "",
    gate: Gate | None = None,
) -> Result:
    """How far back or ahead each head looks: the mean of ``|query - key|`` under its pattern, in tokens.

    Of linear attention, the mean under the sizes of the weights. Returns and raises as
    ``attention_entropy``, which alone refuses linear attention.
    """
    check_inputs(inputs, mask)
    if stack == "cross":
        raise ValueError(
            "expected queries and keys of one sequence, got cross; use alignment.column_alignment"
        )
    seen = Patterns.of(model, inputs, mask, stack)
    before = seen.untrained(untrained, inputs, mask, stack)
    n_queries, n_keys = seen.allowed.shape[1:]
    at = torch.arange(n_keys - n_queries, n_keys)[:, None]
    apart = (at - torch.arange(n_keys)).abs().double()

    def tokens(shares: Tensor) -> Tensor:
        return (shares * apart).sum(-1)

    units = "tokens" if seen.normalised else f"tokens, by {seen.share_units}"
    return _spread("attention_distance", units, tokens, seen, before, gated(gate, seen.provenance()))


def _spread(
    name: str,
    units: str,
    measure: Callable[[Tensor], Tensor],
    seen: Patterns,
    before: Patterns | None,
    provenance: Mapping[str, Any],
) -> Result:
    """A measure ``[..., query, key] -> [..., query]`` of every head's pattern, beside even attention's."""
    dims = ("layer", "head", "query")
    own, even = measure(seen.shares), measure(seen.even)
    kept = seen.free.any(1)
    if int(kept.sum()) < 2:
        raise ValueError("expected two examples with a query that has two keys, got fewer; give longer ones")
    free = (seen.free.double() / seen.free.sum(1, keepdim=True).clamp_min(1))[kept]
    heads = torch.einsum("blhq,bq->blh", own[kept], free)
    even_mean = (even[kept] * free).sum(1).mean()
    relative = heads.mean(0) / even_mean
    ends = bootstrap_means(heads)
    layer, head = map(int, np.unravel_index(int((relative - 1).abs().argmax()), relative.shape))
    cells = {"by_head": heads.mean(0), "low": ends[0], "high": ends[1]}
    extra = {key: seen.array(x, *dims[:2], units=units) for key, x in cells.items()}
    extra["relative"] = seen.array(relative, *dims[:2], units="share of even attention's")
    extra["even"] = seen.array(over_examples(even, seen.asking), "query", units=units)

    def mean(x: Tensor) -> xr.DataArray:
        return seen.array(over_examples(x, seen.asking[:, None, None]), *dims, units=units)

    return Result(
        name=name,
        values=mean(own),
        trivial=float(even_mean),
        control=extra["even"] if before is None else mean(measure(before.shares)),
        control_kind=EVEN if before is None else UNTRAINED,
        interval=(float(ends[0][layer, head]), float(ends[1][layer, head])),
        provenance={**provenance, "furthest from even": f"L{seen.layers[layer]}H{head}"},
        extra=extra,
    )
