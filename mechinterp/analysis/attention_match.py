"""Whether heads look where a task's own variable says: the match score and its permutation null."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.attention_scores import counting
from mechinterp.analysis.checks import check_inputs
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patterns import Patterns
from mechinterp.analysis.readouts import Read, read_positions
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means
from mechinterp.result import Result

_AT_ONCE = 2**21  # entries of permuted relations held at one time


@checked
def match_score(
    model: nn.Module,
    inputs: Tensor,
    variable: Tensor,
    *,
    key_variable: Tensor | None = None,
    relation: Callable[[Tensor, Tensor], Tensor] = torch.eq,
    include_self: bool = False,
    defined: Bool[Tensor, "batch pos"] | None = None,
    queries: Read | None = None,
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    draws: int = 500,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """The share of each head's attention on keys whose variable equals the query's, or is in a relation.

    The null permutes the variable across the positions where it is defined, in each example by itself. It
    takes the variable's order for random: where that is regular, as in a sequence said twice, a head that
    follows positions alone matches too. A variable that is a function of the token is followed a little by
    random weights: compare ``untrained``.

    Args:
        variable: one number a position, ``[batch, pos]``, such as one of a task's ``variables``.
        key_variable: another one for the keys, and then only that one is permuted.
        relation: of the query's numbers ``[batch, pos, 1]`` and the keys' ``[batch, 1, pos]``, true where the
            key matches.
        include_self: whether a query's own position may match; else it counts as no match.
        defined: where the variable says something; elsewhere nothing matches. ``None``: at real tokens.
        queries: positions that ask, ``[read]`` or ``[batch, read]``; ``None``: all.
        draws: permutations; p-values are at least ``1 / (draws + 1)``.

    Returns:
        Dims ``layer``, ``head``: shares, means over examples. Trivial is even attention's score. The null is
        of the ratio of score to even attention's score, times the latter as observed: the control its
        mean, ``null_low``, ``null_high`` its middle 95 %, ``p`` one-sided and ``p_adjusted`` over heads
        (Benjamini & Hochberg). ``low``, ``high``: 95 % bootstrap intervals over examples; ``untrained``. The
        interval is that of the head highest above its null, which provenance names.

    Raises:
        ValueError: shapes that do not fit, real numbers compared for equality, fewer than two examples in
            which something matches and something does not, or as ``Patterns.of``.
    """
    check_inputs(inputs, mask)
    keys = variable if key_variable is None else key_variable
    _check(inputs, variable, keys, defined, relation)
    at = None if queries is None else read_positions(queries, *inputs.shape[:2])
    seen = Patterns.of(model, inputs, mask)
    before = seen.untrained(untrained, inputs, mask)
    match = _Match(
        related=relation(variable.cpu()[:, :, None], keys.cpu()[:, None, :]),
        where=seen.asking if defined is None else defined.cpu() & seen.asking,
        asked=None if at is None else torch.zeros_like(seen.asking).scatter_(1, at, True),
        include_self=include_self,
        both=key_variable is None,
    )
    weight = match.weight(seen)
    kept = ~weight.flatten(1).isnan().any(1)
    if int(kept.sum()) < 2:
        raise ValueError(
            f"expected two examples with a query that has a matching key and another, got {int(kept.sum())}; "
            "the variable is constant or never repeats, or the queries asked for cannot choose"
        )
    return _result(seen, before, match, weight, kept, draws, seed, gated(gate, seen.provenance()))


@dataclass(frozen=True, kw_only=True)
class _Match:
    """Which keys match which queries, and among which positions that is decided.

    Args:
        related: by the values there, at any two positions.
        where: the positions that have a value.
        asked: the queries that may count; ``None``: all.
        both: whether the null permutes the queries' values along with the keys'.
    """

    related: Bool[Tensor, "batch query key"]
    where: Bool[Tensor, "batch pos"]
    asked: Bool[Tensor, "batch query"] | None
    include_self: bool
    both: bool

    def weight(
        self, seen: Patterns, order: Int[Tensor, "draw batch pos"] | None = None
    ) -> Float[Tensor, "*draw batch query key"]:
        """As ``counting``; with orders, after moving the values so."""
        may = self.where[:, :, None] & self.where[:, None, :]
        length = may.shape[1]
        if not self.include_self:
            may = may & ~torch.eye(length, dtype=torch.bool)
        related = self.related
        if order is not None:
            query = order[..., :, None] if self.both else torch.arange(length)[:, None]
            related = related[torch.arange(len(may))[:, None, None], query, order[..., None, :]]
        return counting(seen, related & may, self.asked)


def _result(
    seen: Patterns,
    before: Patterns | None,
    match: _Match,
    weight: Float[Tensor, "batch query key"],
    kept: Bool[Tensor, " batch"],
    draws: int,
    seed: int,
    provenance: Mapping[str, Any],
) -> Result:
    heads, even = _scores(seen, weight)
    value, trivial, ends = heads[kept].mean(0), even[kept].mean(), bootstrap_means(heads[kept], seed=seed)
    null = _null(seen, match, draws, seed) * trivial
    p = (1 + (null >= value - 1e-12).sum(0)).double() / (draws + 1)
    reach = torch.quantile(null, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    above = value - null.mean(0)
    layer, head = map(int, np.unravel_index(int(above.argmax()), above.shape))
    units = f"share of {seen.share_units}"

    def array(x: Tensor, units: str = units) -> xr.DataArray:
        return seen.array(x, "layer", "head", units=units)

    extra = {"low": ends[0], "high": ends[1], "null_low": reach[0], "null_high": reach[1]}
    if before is not None:
        extra["untrained"] = _scores(before, weight)[0][kept].mean(0)
    adjusted = torch.from_numpy(benjamini_hochberg(p.numpy()))
    return Result(
        name="attention_match",
        values=array(value),
        trivial=float(trivial),
        control=array(null.mean(0)),
        control_kind=f"variable permuted across positions, mean of {draws} draws",
        interval=(float(ends[0][layer, head]), float(ends[1][layer, head])),
        provenance={
            **provenance, "seed": seed, "examples with a choice": int(kept.sum()),
            "highest above null": f"L{seen.layers[layer]}H{head}",
        },
        extra={name: array(x) for name, x in extra.items()}
        | {"p": array(p, "p-value"), "p_adjusted": array(adjusted, "p-value, Benjamini-Hochberg")},
    )  # fmt: skip


def permutations(
    where: Bool[Tensor, "batch pos"], draws: int, generator: torch.Generator
) -> Int[Tensor, "draw batch pos"]:
    """Random permutations of the positions that are true; the others stay."""
    noise = torch.rand(draws, *where.shape, generator=generator).masked_fill(~where, 2.0)
    order = noise.argsort(dim=-1, stable=True)  # the true positions in random order, then the others in order
    slots = torch.where(where, 0, 1).argsort(dim=-1, stable=True).expand_as(order)
    return torch.empty_like(order).scatter_(-1, slots, order)


def _scores(
    seen: Patterns, weight: Float[Tensor, "*draw batch query key"]
) -> tuple[Float[Tensor, "*draw batch layer head"], Float[Tensor, "*draw batch"]]:
    heads = torch.einsum("blhqk,...bqk->...blh", seen.shares, weight)
    return heads, (seen.even * weight).sum((-2, -1))


def _null(seen: Patterns, match: _Match, draws: int, seed: int) -> Float[Tensor, "draw layer head"]:
    """Scores over even attention's, with the values permuted.

    A permutation changes how many keys match. The ratio stays what it was for a head that attends evenly, to
    itself, or to both; the difference would not.
    """
    generator = torch.Generator().manual_seed(seed)
    found, chunk = [], max(1, _AT_ONCE // match.related.numel())
    for start in range(0, draws, chunk):
        order = permutations(match.where, min(chunk, draws - start), generator)
        heads, even = _scores(seen, match.weight(seen, order))
        found.append(heads.nanmean(1) / even.nanmean(1)[:, None, None])
    return torch.cat(found)


def _check(
    inputs: Tensor, variable: Tensor, key_values: Tensor, defined: Tensor | None, relation: Callable
) -> None:
    for name, x in (("variable", variable), ("key_variable", key_values), ("defined", defined)):
        if x is not None and x.shape != inputs.shape[:2]:
            raise ValueError(
                f"expected {name} of one number a position, {tuple(inputs.shape[:2])}, got {tuple(x.shape)}; "
                "spread a variable of the whole example over its positions, and choose where it is defined"
            )
    if relation is torch.eq and (variable.is_floating_point() or key_values.is_floating_point()):
        raise ValueError(
            "expected whole numbers or truth values to compare for equality, got real ones; give a relation, "
            "such as lambda query, key: (query - key).abs() < 0.1"
        )
