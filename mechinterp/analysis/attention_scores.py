"""What heads look for: the share of their attention on keys in a given relation with the query.

Relations of position (the token itself, the one before, the first), of tokens (the same token before,
the token that followed it: induction) and of a task's own variables. A query counts if some of its keys are
related and some are not, so a head that attends evenly has a score between 0 and 1, which stands beside.
Of linear attention, whose rows do not sum to 1, shares are of the sizes of the weights; units say so.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.attention import EVEN, UNTRAINED
from mechinterp.analysis.checks import check_inputs
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patterns import Patterns
from mechinterp.analysis.statistics import bootstrap_defined
from mechinterp.result import Result


@checked
def repeated_tokens(
    n: int, length: int, d_vocab: int, *, times: int = 2, seed: int = 0
) -> Int[Tensor, "n pos"]:
    """Random tokens said again: the inputs on which induction shows (Olsson et al. 2022, section "Data").

    Args:
        n: how many examples.
        length: tokens before they repeat; all different if the vocabulary has as many.
        times: how often they are said in all.

    Raises:
        ValueError: nothing would repeat.
    """
    if n < 1 or length < 2 or times < 2 or d_vocab < 2:
        raise ValueError(
            f"expected n >= 1 and at least 2 tokens of a vocabulary of 2, twice, got n={n}, length={length}, "
            f"d_vocab={d_vocab}, times={times}; raise them"
        )
    generator = torch.Generator().manual_seed(seed)
    if length <= d_vocab:
        once = torch.rand(n, d_vocab, generator=generator).argsort(1)[:, :length]
    else:
        once = torch.randint(d_vocab, (n, length), generator=generator)
    return once.repeat(1, times)


def relations(inputs: Tensor, asking: Bool[Tensor, "batch pos"]) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """Which keys are the query's own token, the one before, the first, a duplicate or an induction key.

    ``duplicate``: the same token, earlier. ``induction``: the token after an earlier occurrence of the
    query's, and before the query. Inputs that are vectors have neither.
    """
    batch, length = inputs.shape[:2]
    at = torch.arange(length)
    query, key = at[:, None], at[None, :]
    first = asking.int().argmax(1)[:, None, None]
    found = {
        "diagonal": (key == query).expand(batch, -1, -1),
        "previous": (key == query - 1).expand(batch, -1, -1),
        "first": (key == first).expand(batch, length, -1),
    }
    if inputs.ndim == 2:
        tokens = inputs.cpu()
        same = (tokens[:, :, None] == tokens[:, None, :]) & (key < query)
        after = torch.zeros_like(same)
        after[:, :, 1:] = same[:, :, :-1]
        found |= {"duplicate": same, "induction": after & (key < query)}
    return found


def share_on(
    seen: Patterns, related: Bool[Tensor, "batch query key"]
) -> tuple[Float[Tensor, "batch layer head"], Float[Tensor, " batch"]]:
    """The share of attention on related keys, by example, and even attention's; NaN if no query counts."""
    weight = counting(seen, related)
    return torch.einsum("blhqk,bqk->blh", seen.shares, weight), (seen.even * weight).sum((1, 2))


def counting(
    seen: Patterns, related: Bool[Tensor, "*draw batch query key"], queries: Tensor | None = None
) -> Float[Tensor, "*draw batch query key"]:
    """1 over the number of queries that count, at related keys of those; NaN if there is none.

    Args:
        queries: True at the queries that may count, ``[batch, query]``.
    """
    asking = seen.asking if queries is None else seen.asking & queries
    related = related & seen.allowed
    counts = asking & related.any(-1) & (seen.allowed & ~related).any(-1)
    return (related & counts[..., None]).double() / counts.sum(-1)[..., None, None].double()


@checked
def attention_scores(
    model: nn.Module,
    inputs: Tensor,
    *,
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    stack: str = "",
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """How much each head attends to the token itself, the one before, the first, and to what repeats.

    For induction give ``repeated_tokens``. Source: Olsson et al. (2022), "In-context Learning and
    Induction Heads", section "Prefix matching".

    Returns:
        Dims ``score``, ``layer``, ``head``; shares, 0 to 1, means over examples. NaN where no query has such
        a key. Control: even attention's, by score, or the untrained network's. ``low`` and ``high``:
        95 % bootstrap intervals over examples. Interval and trivial (even attention's) are those of the
        highest score above even attention's, which provenance names.

    Raises:
        ValueError: fewer than two examples, fewer than two positions, cross-attention, or as ``Patterns.of``.
    """
    check_inputs(inputs, mask)
    if stack == "cross":
        raise ValueError(
            "expected the stack encoder or decoder, got cross, whose queries and keys are of two sequences; "
            "for those see alignment.column_alignment"
        )
    seen = Patterns.of(model, inputs, mask, stack)
    before = seen.untrained(untrained, inputs, mask, stack)
    n_source = getattr(model.cfg, "n_ctx_source", 0)
    own_tokens = {"encoder": inputs[:, :n_source], "decoder": inputs[:, n_source:]}
    found = relations(own_tokens.get(stack, inputs), seen.asking)
    names = list(found)
    own = {name: share_on(seen, related) for name, related in found.items()}
    if all(bool(even.isnan().all()) for _, even in own.values()):
        raise ValueError("expected sequences of two tokens or more, got no query with a choice of keys")
    values = torch.stack([heads.nanmean(0) for heads, _ in own.values()])
    even = torch.stack([each.nanmean() for _, each in own.values()])
    ends = torch.stack([bootstrap_defined(heads, seed=seed) for heads, _ in own.values()], dim=1)
    best = (values - even[:, None, None]).nan_to_num(-torch.inf)
    score, layer, head = map(int, np.unravel_index(int(best.argmax()), best.shape))
    dims, units = ("score", "layer", "head"), f"share of {seen.share_units}"

    def array(x: Tensor, *axes: str) -> object:
        return seen.array(x, *axes, units=units).assign_coords(score=names)

    control = array(even, "score")
    if before is not None:
        control = array(torch.stack([share_on(before, r)[0].nanmean(0) for r in found.values()]), *dims)
    return Result(
        name="attention_scores",
        values=array(values, *dims),
        trivial=float(even[score]),
        control=control,
        control_kind=EVEN if before is None else UNTRAINED,
        interval=(float(ends[0, score, layer, head]), float(ends[1, score, layer, head])),
        provenance=gated(gate, seen.provenance() | {
            "seed": seed, "highest above even": f"{names[score]} L{seen.layers[layer]}H{head}",
        }),
        extra={"even": array(even, "score"), "low": array(ends[0], *dims), "high": array(ends[1], *dims)},
    )  # fmt: skip
