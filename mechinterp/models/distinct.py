"""The first layer sees few distinct inputs: compute those once and gather.

A token at a position enters layer 0 as one vector, whichever sequence it is in. With a small
vocabulary a batch holds far fewer distinct (token, position) pairs than places, so keys,
values and scores are computed once a pair (once a pair of pairs) and looked up. The numbers are
those of the plain computation, up to rounding; activations per place never exist, so this
way is only taken while no hook asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mechinterp.models.attention import Attention, View, project
from mechinterp.models.positions import alibi_bias


@dataclass(frozen=True)
class Distinct:
    """The distinct (token, position) pairs of a batch.

    Args:
        tokens, positions: the pairs, ``[pair]``.
        rows: which pair stands where, ``[batch, key]``.
        asking: the pairs that stand at asking positions, as indices of pairs, ``[asker]``.
        ask_rows: which of those asks where, ``[batch, query]``.
        lone: for each key, the pair that stands there in every example, or ``None``.
    """

    tokens: Int[Tensor, " pair"]
    positions: Int[Tensor, " pair"]
    rows: Int[Tensor, "batch key"]
    asking: Int[Tensor, " asker"]
    ask_rows: Int[Tensor, "batch query"]
    lone: tuple[int | None, ...]

    @classmethod
    def of(cls, tokens: Int[Tensor, "batch key"], queries: Int[Tensor, "*batch query"]) -> Distinct:
        """Find the pairs of a batch whose positions ``queries`` ask."""
        n_keys = tokens.shape[1]
        code = tokens * n_keys + torch.arange(n_keys, device=tokens.device)
        codes, rows = code.unique(return_inverse=True)
        at = queries.expand(len(tokens), -1)
        asking, ask_rows = rows.gather(1, at).unique(return_inverse=True)
        same = (rows == rows[:1]).all(0).tolist()
        lone = tuple(row if alike else None for row, alike in zip(rows[:1].flatten().tolist(), same))
        return cls(codes // n_keys, codes % n_keys, rows, asking, ask_rows, lone)

    @property
    def pays(self) -> bool:
        """Whether the tables are smaller than what they stand for, keys and scores both."""
        places = self.rows.numel()
        table = len(self.asking) * len(self.tokens)
        return 0 < 4 * len(self.tokens) <= places and table <= places * self.ask_rows.shape[1]

    def asking_rows_of(self, table: Float[Tensor, "pair d"]) -> Float[Tensor, "batch query d"]:
        """The vectors that stand where questions are asked."""
        askers = table[self.asking]
        if len(askers) == 1:  # one token for all, such as "=": nothing to look up or to sum back
            return askers.expand(*self.ask_rows.shape, -1)
        return F.embedding(self.ask_rows, askers)


def attend(
    attn: Attention,
    normed: Float[Tensor, "pair d_model"],
    distinct: Distinct,
    view: View,
) -> Float[Tensor, "batch query d_model"]:
    """What ``attn`` writes, from the normalised inputs of the distinct pairs alone."""
    q = project(normed[distinct.asking], attn.W_Q, attn.b_Q)
    k = project(normed, attn.W_K, attn.b_K)
    v = project(normed, attn.W_V, attn.b_V)
    ask_at = distinct.positions[distinct.asking]
    if attn.rotary is not None:
        q, k = attn.rotary(q, ask_at), attn.rotary(k, distinct.positions)
    table = torch.einsum("qhe,khe->hqk", q, k) / attn.attn_scale
    if attn.cfg.positional_embedding_type == "alibi":
        table = table + alibi_bias(attn.cfg.n_heads, ask_at, distinct.positions).to(table.dtype)
    # Batch last from here to the pattern: rows of a few keys each would waste the processor.
    cell = distinct.ask_rows.T[:, None] * len(k) + distinct.rows.T
    scores = table.flatten(1).index_select(1, cell.flatten()).unflatten(1, cell.shape)
    allowed = None if view.allowed is None else view.allowed.permute(1, 2, 3, 0)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, attn.masked)
    pattern = attn.normalise(scores, allowed, dim=2)
    return attn.out(GatheredSum.apply(pattern, v, distinct))


class GatheredSum(torch.autograd.Function):
    """``z[b,q,h] = sum_k pattern[h,q,k,b] table[rows[b,k],h]``, never storing what is gathered."""

    @staticmethod
    def forward(
        ctx: Any,
        pattern: Float[Tensor, "head query key batch"],
        table: Float[Tensor, "pair head d_head"],
        distinct: Distinct,
    ) -> Float[Tensor, "batch query head d_head"]:
        """The weighted sums of the looked-up values."""
        rows = distinct.rows
        heads, queries, keys, batch = pattern.shape
        head = torch.arange(heads, device=rows.device)
        index = (rows[:, None, None, :] * heads + head[:, None]).expand(-1, queries, -1, -1)
        z = F.embedding_bag(
            index.reshape(-1, keys),
            table.flatten(0, 1),
            mode="sum",
            per_sample_weights=pattern.permute(3, 1, 0, 2).reshape(-1, keys),
        )
        ctx.save_for_backward(pattern, table)
        ctx.distinct = distinct
        return z.unflatten(0, (batch, queries, heads))

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "batch query head d_head"]) -> tuple[Tensor, Tensor, None]:
        """The gradients of the pattern and of the table."""
        pattern, table = ctx.saved_tensors
        rows, flat = ctx.distinct.rows, table.flatten(1)
        grad_table, grad_pattern = torch.zeros_like(flat), torch.empty_like(pattern)
        # Key by key and query by query, so that what is held at once stays in the cache.
        for key, lone in enumerate(ctx.distinct.lone):
            values = (
                table[lone]
                if lone is not None
                else F.embedding(rows[:, key], flat).view(-1, *table.shape[1:])
            )
            for query in range(pattern.shape[1]):
                here, weights = grad[:, query], pattern[:, query, key]
                grad_pattern[:, query, key] = (values * here).sum(-1).T
                if lone is not None:
                    crossed = (weights @ here.flatten(1)).view(len(weights), *table.shape[1:])
                    grad_table[lone] += crossed.diagonal().T.flatten()
                else:
                    weighted = weights.T.contiguous().unsqueeze(-1) * here
                    grad_table.index_add_(0, rows[:, key], weighted.flatten(1))
        return grad_pattern, grad_table.view_as(table), None


_SEEN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def distinct_pairs(tokens: Int[Tensor, "batch key"], queries: Int[Tensor, "*batch query"]) -> Distinct:
    """``Distinct.of``, remembered for as long as the tensor of tokens lives and holds the same ids.

    Full-batch training asks for the same batch at every step.
    """
    held, asked, found = _SEEN.get(tokens, (None, None, None))
    if found is None or not (torch.equal(held, tokens) and torch.equal(asked, queries)):
        found = Distinct.of(tokens, queries)
        if not torch.is_inference_mode_enabled():  # what is made there can never be trained with
            _SEEN[tokens] = (tokens.clone(), queries, found)
    return found
