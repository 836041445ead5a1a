"""The first layer sees few distinct inputs: compute those once and gather.

A token at a position enters layer 0 as one vector, whichever sequence it is in. With a small
vocabulary a batch holds far fewer distinct (token, position) pairs than places, so keys,
values and scores are computed once a pair (once a pair of pairs) and looked up. The numbers are
those of the plain computation, up to rounding; activations per place never exist, so this
way is only taken while no hook asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mechinterp.autograd import is_readable, may_overwrite, runs_eagerly
from mechinterp.models.attention import Attention, View, project
from mechinterp.models.positions import alibi_bias


@dataclass(eq=False)
class Distinct:
    """The distinct (token, position) pairs of a batch.

    Args:
        tokens, positions: the pairs, ``[pair]``.
        rows: which pair stands where, ``[batch, key]``.
        asking: the pairs that stand at asking positions, as indices of pairs, ``[asker]``.
        ask_rows: which of those asks where, ``[batch, query]``.
        lengths: of the pairs' sequences, where positions hang on them, ``[pair]``.

    Attributes:
        nbytes: of all that is held, what is worked out later too.
    """

    tokens: Int[Tensor, " pair"]
    positions: Int[Tensor, " pair"]
    rows: Int[Tensor, "batch key"]
    asking: Int[Tensor, " asker"]
    ask_rows: Int[Tensor, "batch query"]
    lengths: Int[Tensor, " pair"] | None = None
    nbytes: int = field(init=False)
    _plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        own = (self.tokens, self.positions, self.rows, self.asking, self.ask_rows, self.lengths)
        self.nbytes = _bytes_of(own)

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "batch key"],
        queries: Int[Tensor, "*batch query"],
        standing: Int[Tensor, "batch key"] | None = None,
        lengths: Int[Tensor, "batch 1"] | None = None,
    ) -> Distinct:
        """Find the pairs of a batch.

        Args:
            queries: the positions that ask.
            standing: where tokens stand, if not where they are.
            lengths: real tokens of each sequence, if tokens at one position are others in longer ones.
        """
        n_keys = tokens.shape[1]
        code = torch.arange(n_keys, device=tokens.device) if standing is None else standing
        n_codes = n_keys if lengths is None else n_keys * (n_keys + 1)
        code = tokens * n_codes + (code if lengths is None else lengths * n_keys + code)
        codes, rows = code.unique(return_inverse=True)
        at = queries.expand(len(tokens), -1)
        asking, ask_rows = rows.gather(1, at).unique(return_inverse=True)
        of_pairs = None if lengths is None else codes % n_codes // n_keys
        return cls(codes // n_codes, codes % n_keys, rows, asking, ask_rows, of_pairs)

    @property
    def pays(self) -> bool:
        """Whether the tables are smaller than what they stand for, keys and scores both."""
        places = self.rows.numel()
        table = len(self.asking) * len(self.tokens)
        return 0 < 4 * len(self.tokens) <= places and table <= places * self.ask_rows.shape[1]

    @property
    def cells(self) -> Int[Tensor, "query key batch"]:
        """Where the score of each (example, query, key) stands in a flat table ``[asker pair]``."""

        def plan() -> Tensor:
            return (self.ask_rows.T[:, None] * len(self.tokens) + self.rows.T).contiguous()

        return self._planned("cells", plan)

    def lookups(self, heads: int, queries: int) -> Int[Tensor, "asked key"]:
        """For each (example, query, head), the rows of a table ``[pair head]`` that it sums, a key each."""

        def plan() -> Tensor:
            head = torch.arange(heads, device=self.rows.device)[:, None]
            index = self.rows[:, None, None, :] * heads + head
            return index.expand(-1, queries, -1, -1).reshape(-1, self.rows.shape[1])

        return self._planned(("lookups", heads, queries), plan)

    def bags(self, heads: int, queries: int) -> tuple[Int[Tensor, " bag"], Int[Tensor, " entry"]]:
        """Where each bag of ``lookups`` starts, and the bag of each of its entries."""

        def plan() -> tuple[Tensor, Tensor]:
            keys, n = self.rows.shape[1], len(self.rows) * queries * heads
            bag = torch.arange(n, device=self.rows.device)
            return bag * keys, bag.repeat_interleave(keys)

        return self._planned(("bags", heads, queries), plan)

    def occurrences(
        self, heads: int, queries: int
    ) -> tuple[Int[Tensor, " place"], Int[Tensor, " entry"], Int[Tensor, " bag"]]:
        """Where each pair stands: the transpose of ``lookups``.

        Returns:
            The places ``key * batch + example`` sorted by pair; for each (head, place, query) the row of
            a table ``[example query head]``; and where in that list each (head, pair) starts.
        """

        def plan() -> tuple[Tensor, Tensor, Tensor]:
            batch, device = len(self.rows), self.rows.device
            standing = self.rows.T.flatten()
            places = standing.argsort(stable=True)
            query, head = torch.arange(queries, device=device), torch.arange(heads, device=device)
            asked = (places % batch)[:, None] * queries + query
            sources = asked * heads + head[:, None, None]
            counts = standing.bincount(minlength=len(self.tokens)).repeat(heads) * queries
            return places, sources.flatten(), counts.cumsum(0) - counts

        return self._planned(("occurrences", heads, queries), plan)

    def _planned(self, key: Any, plan: Callable[[], Any]) -> Any:
        """What a plan gives, worked out once."""
        found = self._plans.get(key)
        if found is None:
            with torch.inference_mode(False):  # a plan made while evaluating serves training too
                found = self._plans[key] = plan()
            self.nbytes += _bytes_of(found)
            SEEN.bound()
        return found


def gathered_heads(
    attn: Attention, normed: Float[Tensor, "pair d_model"], distinct: Distinct, view: View
) -> Float[Tensor, "batch query head d_head"]:
    """What each head of ``attn`` gathers, ``z``, from the normalised inputs of the distinct pairs alone."""
    # One product for all three: the tables are small, and each product has its price.
    weight = torch.cat((attn.W_Q, attn.W_K, attn.W_V))
    bias = torch.cat((attn.b_Q, attn.b_K, attn.b_V))
    q, k, v = project(normed, weight, bias).chunk(3, dim=1)
    q, ask_at = q[distinct.asking], distinct.positions[distinct.asking]
    if attn.rotary is not None:
        q, k = attn.rotary(q, ask_at), attn.rotary(k, distinct.positions)
    table = (q.transpose(0, 1) @ k.permute(1, 2, 0)) / attn.attn_scale
    if attn.cfg.positional_embedding_type == "alibi":
        table = table + alibi_bias(attn.cfg.n_heads, ask_at, distinct.positions).to(table.dtype)
    # Batch last from here to the pattern: rows of a few keys each would waste the processor.
    cell = distinct.cells
    scores = table.flatten(1).index_select(1, cell.flatten()).unflatten(1, cell.shape)
    allowed = None if view.allowed is None else view.allowed.permute(1, 2, 3, 0)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, attn.masked)
    pattern = attn.normalise(scores, allowed, dim=2)
    return GatheredSum.apply(pattern, v, distinct)


class GatheredSum(torch.autograd.Function):
    """``z[b,q,h] = sum_k pattern[h,q,k,b] table[rows[b,k],h]``, never storing what is gathered.

    Its gradient by the table is such a sum too, over the places where each pair stands.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pattern: Float[Tensor, "head query key batch"],
        table: Float[Tensor, "pair head d_head"],
        distinct: Distinct,
    ) -> Float[Tensor, "batch query head d_head"]:
        """The weighted sums of the looked-up values."""
        heads, queries, keys, batch = pattern.shape
        weights = pattern.permute(3, 1, 0, 2).reshape(-1, keys)
        z = _weighted_sums(table.flatten(0, 1), weights, distinct.lookups(heads, queries))
        ctx.save_for_backward(pattern, table)
        ctx.distinct = distinct
        return z.unflatten(0, (batch, queries, heads))

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "batch query head d_head"]) -> tuple[Tensor, Tensor, None]:
        """The gradients of the pattern and of the table."""
        pattern, table = ctx.saved_tensors
        distinct: Distinct = ctx.distinct
        if not may_overwrite(grad):  # plain operations have a second derivative
            values = table[distinct.rows]
            by_pattern = torch.einsum("bqhe,bkhe->hqkb", grad, values)
            terms = torch.einsum("hqkb,bqhe->bkhe", pattern, grad).flatten(0, 1)
            return by_pattern, torch.zeros_like(table).index_add(0, distinct.rows.flatten(), terms), None
        heads, queries, keys, batch = pattern.shape
        rows = grad.flatten(0, 2)
        index = distinct.lookups(heads, queries)
        # What autograd itself would call for the weights of an embedding_bag.
        by_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            rows, table.flatten(0, 1), index.flatten(), *distinct.bags(heads, queries), 0
        )
        by_pattern = by_weights.view(batch, queries, heads, keys).permute(2, 1, 3, 0)
        places, sources, starts = distinct.occurrences(heads, queries)
        by_place = pattern.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, places)
        by_table = _weighted_sums(rows, by_place.flatten(), sources, starts)
        return by_pattern, by_table.view(heads, len(table), -1).transpose(0, 1), None


def _weighted_sums(
    table: Float[Tensor, "row d"],
    weights: Float[Tensor, "*index"],
    index: Int[Tensor, "*index"],
    starts: Int[Tensor, " bag"] | None = None,
) -> Float[Tensor, "bag d"]:
    """Rows of a table summed with weights, a bag for each row of ``index`` or from start to start."""
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights)


def finds_pairs(tokens: Int[Tensor, "batch key"]) -> bool:
    """Whether pairs can be found here, and gathered: not while torch transforms or traces operations."""
    return runs_eagerly() and is_readable(tokens)


def _bytes_of(tensors: Tensor | tuple[Tensor | None, ...]) -> int:
    each = tensors if isinstance(tensors, tuple) else (tensors,)
    return sum(tensor.nbytes for tensor in each if tensor is not None)


@dataclass(eq=False)
class _Known:
    """What was asked about a batch, ids and all, and what was found."""

    asked: tuple[Tensor | None, ...]
    found: Distinct
    used: int
    own: int = field(init=False)

    def __post_init__(self) -> None:
        self.own = _bytes_of(self.asked)

    @property
    def nbytes(self) -> int:
        return self.own + self.found.nbytes


class Seen:
    """The pairs of batches that are alive, as long as there is room.

    The least recently used are given up first, but for a few small ones: in training with the whole batch,
    those of the parts in which another split is evaluated.

    Args:
        most: bytes in all.
        batches: how many in all.
        small, few: so many of the last ones stay, if they take no more than so many bytes each.
    """

    def __init__(self, most: int, batches: int, small: int, few: int) -> None:
        self.most, self.batches, self.small, self.few = most, batches, small, few
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._clock, self._lock = count(), Lock()

    def get(self, tokens: Tensor, asked: tuple[Tensor | None, ...]) -> Distinct | None:
        """What is known of a batch, if it has the same ids and the same is asked."""
        known = self._known.get(tokens)
        if known is None or not all(map(_same, known.asked, (tokens, *asked))):
            return None
        known.used = next(self._clock)
        return known.found

    def put(self, tokens: Tensor, asked: tuple[Tensor | None, ...], found: Distinct) -> None:
        """Remember what is known of a batch."""
        with self._lock:
            self._known[tokens] = _Known((tokens.clone(), *asked), found, next(self._clock))
        self.bound()

    @property
    def nbytes(self) -> int:
        """What is held in all."""
        return sum(known.nbytes for known in list(self._known.values()))

    def bound(self) -> None:
        """Give up what is too much."""
        with self._lock:
            held = list(self._known.items())
            excess, surplus = sum(known.nbytes for _, known in held) - self.most, len(held) - self.batches
            if excess <= 0 and surplus <= 0:
                return
            held.sort(key=lambda each: each[1].used)
            others = held[: -self.few] + [each for each in held[-self.few :] if each[1].nbytes > self.small]
            # One that is too large alone goes before others go for it.
            for tokens, known in sorted(others, key=lambda each: each[1].nbytes <= self.most):
                if excess <= 0 and surplus <= 0:
                    break
                self._known.pop(tokens, None)
                excess, surplus = excess - known.nbytes, surplus - 1


def _same(held: Tensor | None, asked: Tensor | None) -> bool:
    return held is asked if held is None or asked is None else torch.equal(held, asked)


SEEN = Seen(most=2**27, batches=256, small=2**20, few=16)


def distinct_pairs(
    tokens: Int[Tensor, "batch key"],
    queries: Int[Tensor, "*batch query"],
    standing: Int[Tensor, "batch key"] | None = None,
    lengths: Int[Tensor, "batch 1"] | None = None,
) -> Distinct:
    """``Distinct.of``, remembered while the tensor of tokens lives and holds the same ids, and there is room.

    Full-batch training asks for the same batch at every step.
    """
    asked = (queries, standing, lengths)
    found = SEEN.get(tokens, asked)
    if found is None:
        with torch.inference_mode(False):  # what is made there could never be trained with
            found = Distinct.of(tokens, queries, standing, lengths)
            SEEN.put(tokens, asked, found)
    return found
