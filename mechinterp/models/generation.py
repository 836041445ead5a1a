"""Greedy decoding, batched, with the keys and values of what is written already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.hooks import takes_turns
from mechinterp.masks import check_mask, position_ids, real_tokens
from mechinterp.models.attention import View
from mechinterp.models.embedding import enter
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.transformer import HookedTransformer

Generator = HookedTransformer | HookedEncoderDecoder


@cpu_default
@takes_turns
@torch.no_grad()
def generate(
    model: Generator,
    prompt: Any,
    n_new: int,
    *,
    end: Any = None,
    attention_mask: Bool[Tensor, "batch prompt"] | Int[Tensor, "batch prompt"] | None = None,
    encoded: Float[Tensor, "_ _ _"] | None = None,
    cached: bool = True,
) -> Int[Tensor, "batch new"]:
    """Write on, one likeliest token after the other.

    Args:
        model: in evaluation mode.
        prompt: what is written already, ids ``[batch, prompt]``; for an encoder-decoder the source and at
            least one token of the target, as ``pack`` makes it.
        n_new: the most tokens to write.
        end: a sequence ends with this token, and is filled up with it; all stop when all have.
        attention_mask: true (or 1) at real tokens of the prompt. Rows with padding behind them are moved to
            the right, so that every row is written on behind its last real token.
        encoded: what the encoder made of the sources, if it is known.
        cached: keep keys and values. A network with hooks is run anew for every token instead, with all
            tokens so far, so that hooks see whole activations.

    Returns:
        The new tokens, ``[batch, n_new]``, or fewer if all ended before.

    Raises:
        ValueError: dropout at work, no tokens to write, more than the network has positions for, outputs
            that are no tokens, an ``end`` that is not in the vocabulary, a prompt that it cannot take,
            padding that would have to move where hooks are attached, or ``encoded`` where hooks in the
            encoder would not be heard.
        TypeError: a mask that is none.
    """
    _check_network(model, prompt)
    if attention_mask is not None:
        check_mask(attention_mask, prompt)
        prompt, attention_mask = _padded_left(model, prompt, attention_mask.bool())
    _check(model, prompt, n_new, end, attention_mask, encoded)
    if isinstance(model, HookedEncoderDecoder) and encoded is None and not model.encoder_hooked:
        n_source = model.cfg.n_ctx_source
        mask = None if attention_mask is None else attention_mask[:, :n_source]
        encoded = model.encoder(prompt[:, :n_source], mask)
    way = _Cached if cached and not model.hooked else _Anew
    writer = way(model, prompt, attention_mask, encoded)
    written: list[Tensor] = []
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    while len(written) < n_new:
        token = writer.logits().argmax(-1)
        if end is not None:
            token = torch.where(ended, end, token)
            ended = ended | (token == end)
        written.append(token)
        if len(written) == n_new or (end is not None and bool(ended.all())):
            break
        writer.append(token)
    return torch.stack(written, 1)


class _Anew:
    """Runs the whole network for every token."""

    def __init__(self, model: Generator, prompt: Tensor, mask: Tensor | None, encoded: Tensor | None) -> None:
        self.model, self.tokens, self.mask = model, prompt, mask
        self.given = {} if encoded is None else {"encoded": encoded}

    def logits(self) -> Float[Tensor, "batch d_vocab_out"]:
        masked = {} if self.mask is None else {"attention_mask": self.mask}
        return self.model(self.tokens, read=(-1,), **masked, **self.given)[:, 0]

    def append(self, token: Int[Tensor, " batch"]) -> None:
        self.tokens = torch.cat((self.tokens, token[:, None]), 1)
        if self.mask is not None:
            self.mask = torch.cat((self.mask, self.mask.new_ones(len(token), 1)), 1)


@dataclass
class _Memory:
    """A layer's keys and values: of the tokens so far, and for a decoder of the source."""

    own: list[Tensor] = field(default_factory=list)
    source: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """With those of further tokens."""
        self.own = [torch.cat((old, new), 1) for old, new in zip(self.own, (k, v))] if self.own else [k, v]
        return self.own[0], self.own[1]


class _Cached:
    """Runs the network on new tokens only."""

    def __init__(self, model: Generator, prompt: Tensor, mask: Tensor | None, encoded: Tensor | None) -> None:
        self.model, self.memory = model, [_Memory() for _ in model.blocks]
        self.mask, self.n, self.across = mask, 0, None
        if isinstance(model, HookedEncoderDecoder):
            n_source = model.cfg.n_ctx_source
            everywhere = torch.arange(n_source, device=prompt.device)
            self.across = model.across(everywhere[:1], mask)
            self.mask = None if mask is None else mask[:, n_source:]
            for block, memory in zip(model.blocks, self.memory):
                attn: Any = block.cross_attn
                memory.source = attn.key(encoded, everywhere), attn.value(encoded)
            prompt = prompt[:, n_source:]
        self.mask = real_tokens(self.mask)
        self.position_ids = position_ids(self.mask)
        self.feed(prompt)

    def feed(self, tokens: Int[Tensor, "batch new"]) -> None:
        """Run further tokens."""
        at = torch.arange(self.n, self.n + tokens.shape[1], device=tokens.device)
        self.n += tokens.shape[1]
        keys = torch.arange(self.n, device=tokens.device)
        view = View.of(at, keys, True, self.mask, self.position_ids)
        resid = enter(self.model, tokens, view.query_positions)
        for block, memory in zip(self.model.blocks, self.memory):
            resid = self._block(block, memory, resid, view)
        self.last = resid[:, -1]

    def _block(self, block: Any, memory: _Memory, resid: Tensor, view: View) -> Tensor:
        x, attn = block.ln1(resid), block.attn
        k, v = memory.extend(attn.key(x, view.query_positions), attn.value(x))
        resid = resid + block.passed("attn", attn.attend(attn.query(x, view.query_positions), k, v, view))
        if memory.source is not None:
            q = block.cross_attn.query(block.ln_cross(resid), view.queries)
            resid = resid + block.cross_attn.attend(q, *memory.source, self.across)
        return block.add_mlp(resid)

    def logits(self) -> Float[Tensor, "batch d_vocab_out"]:
        return self.model.unembed(self.model.ln_final(self.last))

    def append(self, token: Int[Tensor, " batch"]) -> None:
        if self.mask is not None:
            self.mask = torch.cat((self.mask, self.mask.new_ones(len(token), 1)), 1)
        if self.position_ids is not None:
            self.position_ids = torch.cat((self.position_ids, self.position_ids[:, -1:] + 1), 1)
        self.feed(token[:, None])


def _padded_left(
    model: Generator, prompt: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"]
) -> tuple[Tensor, Tensor]:
    """A prompt whose rows end in a real token, those with padding behind it moved to the right."""
    n_source = model.cfg.n_ctx_source if isinstance(model, HookedEncoderDecoder) else 0
    real = mask[:, n_source:]
    if prompt.shape[1] > n_source and not bool(real.any(1).all()):
        empty = (~real.any(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"expected a real token in every row to write on from, got only padding in rows {empty[:5]}; "
            "drop them"
        )
    if bool(real[:, -1:].all()):
        return prompt, mask
    if model.hooked:
        raise ValueError(
            "expected prompts padded on the left where hooks are attached, which would see tokens at other "
            "positions, got padding behind real tokens; pad on the left, or call reset_hooks()"
        )
    # What is padding in every row is left out: what would be its place is free to be written to.
    order = real.int().argsort(dim=1, stable=True)[:, int((~real).sum(1).min()) :]
    moved = [torch.cat((x[:, :n_source], x[:, n_source:].gather(1, order)), 1) for x in (prompt, mask)]
    return moved[0], moved[1]


def _check_network(model: Generator, prompt: Any) -> None:
    cfg = model.cfg
    if not isinstance(prompt, Tensor) or prompt.ndim != 2:
        got = f"shape {tuple(prompt.shape)}" if isinstance(prompt, Tensor) else type(prompt).__name__
        raise ValueError(
            f"expected a prompt of ids [batch, prompt], got {got}; a task's prompts() reads texts, and "
            "[None] makes one sequence a batch"
        )
    if model.training and (cfg.dropout > 0 or cfg.codebook_noise):
        raise ValueError(
            "expected a network in evaluation mode, got one with dropout or noise; call model.eval()"
        )
    if cfg.readout != "tokens" or cfg.d_vocab_out != cfg.d_vocab or cfg.d_input is not None:
        raise ValueError(
            f"expected a network that answers the tokens it takes, got {cfg.d_vocab_out} {cfg.readout} for "
            f"{cfg.d_vocab} tokens; only such a network can read what it wrote"
        )
    if cfg.randomised_positions:
        raise ValueError(
            "expected positions that stay as a sequence grows, got drawn ones; run the network on each length"
        )
    if getattr(cfg, "attention_dir", "causal") != "causal":
        raise ValueError("expected a causal network, got a bidirectional one; it cannot write on")


def _check(
    model: Generator,
    prompt: Tensor,
    n_new: int,
    end: Any,
    mask: Tensor | None,
    encoded: Tensor | None,
) -> None:
    cfg = model.cfg
    room = cfg.n_ctx - prompt.shape[1] + getattr(cfg, "n_ctx_source", 0)
    if not 1 <= n_new <= room + 1:
        raise ValueError(
            f"expected a prompt that leaves room, and up to {max(room + 1, 0)} new tokens after "
            f"{prompt.shape[1]}, got {n_new}; the network has n_ctx={cfg.n_ctx}"
        )
    if end is not None and not (isinstance(end, int) and 0 <= end < cfg.d_vocab):
        raise ValueError(f"expected an end token within [0, {cfg.d_vocab}), got {end}")
    model.check(prompt, mask)
    if encoded is None:
        return
    if not isinstance(model, HookedEncoderDecoder) or model.encoder_hooked or len(encoded) != len(prompt):
        raise ValueError(
            f"expected what an encoder without hooks made of each of {len(prompt)} sources, got "
            f"{len(encoded)} and {type(model).__name__}; leave encoded out, and the encoder is run"
        )
