"""Multi-head attention, softmax or linear, and who may look at whom."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.autograd import is_readable
from mechinterp.hooks import FactoredMatrix, HookPoint
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import affine, init_normal
from mechinterp.models.positions import Rotary, alibi_bias


@dataclass(frozen=True)
class View:
    """Which positions ask, which answer, and which of them may meet.

    Args:
        queries: positions that ask, ``[query]``, or ``[batch, query]`` if examples differ;
            ``keys`` itself if all do, in order.
        keys: positions that answer, ``[key]``.
        allowed: ``[1 or batch, 1, query, key]``, or ``None`` if every pair may meet.
        query_positions, key_positions: where these stand in their sequences: the same, unless padding is
            before or between real tokens.
    """

    queries: Int[Tensor, "*batch query"]
    keys: Int[Tensor, " key"]
    allowed: Bool[Tensor, "some 1 query key"] | None
    query_positions: Int[Tensor, "*asking query"]
    key_positions: Int[Tensor, "*answering key"]

    @classmethod
    def of(
        cls,
        queries: Int[Tensor, "*batch query"],
        keys: Int[Tensor, " key"],
        causal: bool,
        mask: Bool[Tensor, "batch key"] | None,
        position_ids: Int[Tensor, "batch key"] | None = None,
    ) -> View:
        """The view of a causal or bidirectional network.

        Args:
            mask: true at real tokens; ``None`` if all are.
            position_ids: where the keys stand, if not where they are; see ``masks.position_ids``.
        """
        allowed = None
        unknown = not is_readable(queries)
        if causal and (unknown or (queries.numel() and int(queries.min()) < len(keys) - 1)):
            allowed = (keys <= queries[..., None]).reshape(-1, 1, queries.shape[-1], len(keys))
        if mask is not None:
            real = mask[:, None, None, :].expand(-1, 1, queries.shape[-1], -1)
            allowed = real if allowed is None else allowed & real
        if position_ids is None:
            return cls(queries, keys, allowed, queries, keys)
        asking = position_ids
        if queries is not keys:
            asking = position_ids.gather(1, queries.expand(len(position_ids), -1))
        return cls(queries, keys, allowed, asking, position_ids)


class Attention(nn.Module):
    """One layer's heads, with TransformerLens's weights and hook points.

    ``W_Q``, ``W_K``, ``W_V`` are ``[head, d_model, d_head]`` and ``W_O`` is
    ``[head, d_head, d_model]``. With ``cfg.attention == "linear"`` the pattern is the masked
    scores themselves, or these over the number of keys (von Oswald et al. 2023).
    """

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        into, out = (cfg.n_heads, cfg.d_model, cfg.d_head), (cfg.n_heads, cfg.d_head, cfg.d_model)
        self.W_Q = nn.Parameter(torch.empty(into))
        self.W_K = nn.Parameter(torch.empty(into))
        self.W_V = nn.Parameter(torch.empty(into))
        self.W_O = nn.Parameter(torch.empty(out))
        self.b_Q = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_K = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_V = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.attn_scale = float(cfg.attn_scale) if cfg.use_attn_scale else 1.0
        for name in ("q_input", "k_input", "v_input", "q", "k", "v", "z", "result"):
            setattr(self, f"hook_{name}", HookPoint())
        self.hook_attn_in, self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint(), HookPoint()
        self.rotary = None
        if cfg.positional_embedding_type == "rotary":
            self.rotary, self.hook_rot_q, self.hook_rot_k = Rotary(cfg), HookPoint(), HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the matrices anew; the biases are zero."""
        heads = self.cfg.n_heads * self.cfg.d_head
        out_fan_in = self.cfg.d_model if self.cfg.init_mode == "nanda" else heads
        for weight in (self.W_Q, self.W_K, self.W_V):
            init_normal(weight, self.cfg, self.cfg.d_model, generator)
        init_normal(self.W_O, self.cfg, out_fan_in, generator)
        if self.cfg.init_mode == "identity":
            with torch.no_grad():
                same = torch.eye(self.cfg.d_model).to(self.W_Q)
                for weight, size in ((self.W_Q, 0.5), (self.W_K, 0.5), (self.W_V, 1.0)):
                    weight += size * same
                self.W_O.zero_()
        for bias in (self.b_Q, self.b_K, self.b_V, self.b_O):
            nn.init.zeros_(bias)

    @property
    def OV(self) -> FactoredMatrix:
        """What each head writes for what it reads, ``[head, d_model, d_model]``, factored."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """What each head's queries seek in keys, ``[head, d_model, d_model]``, factored."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    def forward(
        self,
        query_input: Float[Tensor, "batch query *head d_model"],
        key_input: Float[Tensor, "batch key *head d_model"],
        value_input: Float[Tensor, "batch key *head d_model"],
        view: View,
    ) -> Float[Tensor, "batch query d_model"]:
        """What the heads add to the residual stream at the asking positions.

        The inputs may carry an axis of heads after their position, one copy a head.
        """
        q, k = self.query(query_input, view.query_positions), self.key(key_input, view.key_positions)
        return self.attend(q, k, self.value(value_input), view)

    def query(
        self, x: Float[Tensor, "batch query *head d_model"], at: Int[Tensor, "*batch query"]
    ) -> Float[Tensor, "batch query head d_head"]:
        """What each head seeks from the asking tokens, which stand ``at``."""
        q = self.hook_q(project(x, self.W_Q, self.b_Q))
        return q if self.rotary is None else self.hook_rot_q(self.rotary(q, at))

    def key(
        self, x: Float[Tensor, "batch key *head d_model"], at: Int[Tensor, "*batch key"]
    ) -> Float[Tensor, "batch key head d_head"]:
        """What each head finds at the answering tokens, which stand ``at``."""
        k = self.hook_k(project(x, self.W_K, self.b_K))
        return k if self.rotary is None else self.hook_rot_k(self.rotary(k, at))

    def value(self, x: Float[Tensor, "batch key *head d_model"]) -> Float[Tensor, "batch key head d_head"]:
        """What each head takes along from there."""
        return self.hook_v(project(x, self.W_V, self.b_V))

    def attend(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        v: Float[Tensor, "batch key head d_head"],
        view: View,
    ) -> Float[Tensor, "batch query d_model"]:
        """From queries, keys and values to what the heads add to the stream."""
        scores = rearrange(q, "b q h e -> b h q e") @ rearrange(k, "b k h e -> b h e k")
        scores = scores / self.attn_scale
        if self.cfg.positional_embedding_type == "alibi":
            bias = alibi_bias(self.cfg.n_heads, view.query_positions, view.key_positions)
            scores = scores + bias.to(scores.dtype)
        if view.allowed is not None:
            scores = scores.masked_fill(~view.allowed, self.masked)
        scores = self.hook_attn_scores(scores)
        pattern = self.hook_pattern(self.normalise(scores, view.allowed, dim=-1))
        z = rearrange(pattern @ rearrange(v, "b k h e -> b h k e"), "b h q e -> b q h e")
        return self.out(self.hook_z(z))

    @property
    def masked(self) -> float:
        """The score of a key that must not be looked at."""
        return float("-inf") if self.cfg.attention == "softmax" else 0.0

    def normalise(self, scores: Tensor, allowed: Tensor | None, dim: int) -> Tensor:
        """Masked scores to the pattern, keys along ``dim``; who may look at nothing gets zeros."""
        if self.cfg.attention == "linear":
            if not self.cfg.average_keys:
                return scores
            n_keys = scores.shape[dim] if allowed is None else allowed.sum(dim, keepdim=True).clamp_min(1)
            return scores / n_keys
        if self.cfg.attn_log_n:
            n_keys = torch.tensor(scores.shape[dim]) if allowed is None else allowed.sum(dim, keepdim=True)
            n_keys = n_keys.clamp_min(self.cfg.attn_log_n).to(
                torch.promote_types(scores.dtype, torch.float32)
            )
            sharper = n_keys.log() / math.log(self.cfg.attn_log_n)
            scores = scores * sharper.to(scores)
        pattern = scores.softmax(dim)
        if allowed is None:
            return pattern
        return pattern.masked_fill(~allowed.any(dim, keepdim=True), 0.0)

    def out(
        self, z: Float[Tensor, "*at head d_head"], stream: Float[Tensor, " d_model"] | None = None
    ) -> Float[Tensor, "*at d_model"]:
        """Sum the heads' outputs; their terms pass ``hook_result`` if ``use_attn_result``.

        A ``stream`` that is the same at every place is added on the way, at no cost.
        """
        bias = self.b_O if stream is None else self.b_O + stream
        if self.cfg.use_attn_result:
            terms = einsum(z, self.W_O, "... head d_head, head d_head d_model -> ... head d_model")
            return self.hook_result(terms).sum(-2) + bias
        return affine(z.flatten(-2), self.W_O.flatten(0, 1), bias)


def project(
    x: Float[Tensor, "*at d_model"],
    weight: Float[Tensor, "head d_model d_head"],
    bias: Float[Tensor, "head d_head"],
) -> Float[Tensor, "*at_head d_head"]:
    """Multiply by each head's matrix; ``x`` may already have one copy a head."""
    if x.ndim == 4:
        return einsum(x, weight, "b p head d_model, head d_model d_head -> b p head d_head") + bias
    flat = rearrange(weight, "head d_model d_head -> d_model (head d_head)")
    return affine(x, flat, bias.flatten()).unflatten(-1, bias.shape)
