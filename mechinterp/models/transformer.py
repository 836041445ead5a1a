"""``HookedTransformer``: every activation passes a live hook point with TransformerLens's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.autograd import is_readable
from mechinterp.devices import cpu_default
from mechinterp.hooks import HookPoint
from mechinterp.masks import check_mask, next_real, position_ids, real_tokens
from mechinterp.models.attention import Attention, View
from mechinterp.models.codebook import Codebook
from mechinterp.models.config import TransformerConfig
from mechinterp.models.distinct import Distinct, distinct_pairs, finds_pairs, gathered_heads
from mechinterp.models.embedding import Embed, TiedUnembed, Unembed, enter
from mechinterp.models.hooked import Hooked, hook_tables, uncompiled_while_hooked
from mechinterp.models.linear import widened
from mechinterp.models.mlp import MLP
from mechinterp.models.normalisation import normalisation
from mechinterp.models.positions import PosEmbed
from mechinterp.models.rerun import Rerun
from mechinterp.models.weights import WeightViews

Read = Sequence[int] | Int[Tensor, "*batch read"]


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream."""

    hook_out_is_single_residual_stream = True
    """TransformerLens 4's tools ask this before they patch a block's output."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.ln1, self.attn = normalisation(cfg), Attention(cfg)
        self.dropout = nn.Dropout(cfg.dropout)
        for name in ("resid_pre", "attn_out", "resid_post"):
            setattr(self, f"hook_{name}", HookPoint())
        if not cfg.attn_only:
            self.ln2, self.mlp = normalisation(cfg), MLP(cfg)
            for name in ("resid_mid", "mlp_in", "mlp_out"):
                setattr(self, f"hook_{name}", HookPoint())
        if cfg.codebook_size:
            for sublayer in cfg.codebook_sites:
                setattr(self, f"codebook_{sublayer}", Codebook(cfg))
        self.attached = hook_tables(self)

    @uncompiled_while_hooked
    def forward(
        self, resid_pre: Float[Tensor, "batch key d_model"], view: View
    ) -> Float[Tensor, "batch query d_model"]:
        """The stream after this block, at the view's asking positions."""
        resid_pre = self.hook_resid_pre(resid_pre)
        asking = resid_pre if view.queries is view.keys else select(resid_pre, view.queries)
        q_in, k_in, v_in = self._attention_inputs(asking, resid_pre)
        k = self.ln1(k_in)
        v = k if v_in is k_in else self.ln1(v_in)
        q = k if q_in is k_in else self.ln1(q_in)
        out = self.passed("attn", self.attn(q, k, v, view))
        return self.feed_forward(asking + self.hook_attn_out(self.dropout(out)))

    def passed(self, sublayer: str, out: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_model"]:
        """What the codebook behind a sublayer, ``attn`` or ``mlp``, lets through; without one all."""
        book = getattr(self, f"codebook_{sublayer}", None)
        return out if book is None else book(out)

    def forward_distinct(
        self, table: Float[Tensor, "pair d_model"], distinct: Distinct, view: View
    ) -> Float[Tensor, "batch query d_model"]:
        """As ``forward`` for the first block, from the distinct pairs' residual vectors."""
        z, askers = gathered_heads(self.attn, self.ln1(table), distinct, view), table[distinct.asking]
        if len(askers) == 1:  # one token for all, such as "=": a bias
            resid = self.attn.out(z, askers[0])
        else:
            resid = F.embedding(distinct.ask_rows, askers) + self.attn.out(z)
        return self.feed_forward(resid)

    def feed_forward(
        self, resid: Float[Tensor, "batch query d_model"]
    ) -> Float[Tensor, "batch query d_model"]:
        """Add the MLP's output to the stream that the attention has left."""
        return self.add_mlp(resid if self.cfg.attn_only else self.hook_resid_mid(resid))

    def add_mlp(self, resid: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch query d_model"]:
        """The stream after the MLP, if there is one."""
        if not self.cfg.attn_only:
            mlp_in = self.hook_mlp_in(resid.clone()) if self.cfg.use_hook_mlp_in else resid
            out = self.passed("mlp", self.mlp(self.ln2(mlp_in)))
            resid = resid + self.hook_mlp_out(self.dropout(out))
        return self.hook_resid_post(resid)

    def _attention_inputs(self, asking: Tensor, resid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream that queries, keys and values read; a copy a head where the config says."""
        split, attn = self.cfg.use_split_qkv_input, self.attn
        if asking is not resid or not (split or self.cfg.use_attn_in):
            return asking, resid, resid
        # A repeat is a view, and a hook may write in place: each gets memory of its own.
        copies = repeat(resid, "b p d -> b p head d", head=self.cfg.n_heads)
        if self.cfg.use_attn_in:
            copies = attn.hook_attn_in(copies.clone())
        if not split:
            return copies, copies, copies
        hooks = (attn.hook_q_input, attn.hook_k_input, attn.hook_v_input)
        q, k, v = (hook(copies.clone()) for hook in hooks)
        return q, k, v


class HookedTransformer(WeightViews, Hooked):
    """A transformer made to be taken apart.

    Weights have the names and shapes, and activations the hook names, of TransformerLens's
    class of the same name (version 3), so its tools and notebooks carry over. Beyond it:
    linear attention, sinusoidal and absent positions, dropout, codebooks, real-valued inputs and outputs,
    and outputs at chosen positions only.

    While no hook is attached it computes less, to the same numbers up to rounding: the last
    block asks only at the positions read, and the first computes each distinct (token,
    position) pair once.

    Args:
        cfg: what to build; ``cfg.seed`` fixes the initial weights.
    """

    reads_positions = True
    """``forward`` takes ``read``."""

    @cpu_default
    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg)
        cfg = self.cfg
        self.tokenizer = None
        self.embed, self.hook_embed = Embed(cfg), HookPoint()
        if cfg.positional_embedding_type in ("standard", "sinusoidal"):
            self.pos_embed, self.hook_pos_embed = PosEmbed(cfg), HookPoint()
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final = normalisation(cfg)
        self.unembed = TiedUnembed(cfg, self.embed) if cfg.tie_embeddings else Unembed(cfg)
        self.finish()

    @uncompiled_while_hooked
    def forward(
        self,
        input: Tensor,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        *,
        read: Read | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        loss_per_token: bool = False,
    ) -> Any:
        """Run the network.

        Args:
            input: token ids ``[batch, pos]``, or vectors ``[batch, pos, d_input]``; with
                ``start_at_layer`` the residual stream ``[batch, pos, d_model]``.
            return_type: ``"logits"``; ``"loss"``, of the next token; ``"both"``; or ``None``.
            read: positions whose outputs are wanted, for all examples ``[read]`` or for each
                ``[batch, read]``; negative ones count from the end. ``None``: all positions.
            attention_mask: true (or 1) at real tokens; padding is never attended to, nor
                does it count in the loss or in positions: a sequence is answered as it is alone.
            start_at_layer: take ``input`` as the stream entering this block; negative counts
                from the end, and ``n_layers`` leaves only the readout.
            stop_at_layer: return the stream entering this block, counted in the same way.
            loss_per_token: keep the loss of each position, ``[batch, pos - 1]``, 0 at padding.

        Returns:
            Outputs ``[batch, read, d_vocab_out]``, a loss, both, ``None``, or with
            ``stop_at_layer`` a residual stream.

        Raises:
            ValueError, TypeError: input that this network cannot take.
        """
        first = 0 if start_at_layer is None else self._layer(start_at_layer, "start_at_layer")
        last = self.cfg.n_layers if stop_at_layer is None else self._layer(stop_at_layer, "stop_at_layer")
        self.check(input, attention_mask, embedded=start_at_layer is not None)
        n_pos = input.shape[1]
        everywhere = torch.arange(n_pos, device=input.device)
        wanted = everywhere if read is None else positions(read, input, everywhere)
        mask = real_tokens(attention_mask)
        standing = position_ids(mask)
        lengths = None if mask is None or not self.cfg.randomised_positions else mask.sum(1, keepdim=True)
        causal = self.cfg.attention_dir == "causal"

        hooked = self.hooked
        # With hooks attached, or a stream to return, every activation must exist in full.
        narrow = wanted is not everywhere and not hooked and stop_at_layer is None and first < last
        full_view = View.of(everywhere, everywhere, causal, mask, standing)
        last_view = View.of(wanted, everywhere, causal, mask, standing) if narrow else full_view

        resid = input.to(self.embed.W_E.dtype) if start_at_layer is not None else None
        plain = self.cfg.d_input is None and not self.cfg.codebook_size and not self._drops()
        if resid is None and not hooked and first < last and plain and finds_pairs(input):
            view = last_view if last == 1 else full_view
            distinct = distinct_pairs(input, view.queries, standing, lengths)
            if distinct.pays:
                resid = self.blocks[0].forward_distinct(self._pair_table(distinct), distinct, view)
                first = 1
        if resid is None:
            resid = enter(self, input, full_view.key_positions, lengths)
        for layer in range(first, last):
            resid = self.blocks[layer](resid, last_view if layer == self.cfg.n_layers - 1 else full_view)
        if stop_at_layer is not None:
            return resid
        resid = self.ln_final(resid)
        if return_type is None:
            return None
        logits = self.unembed(resid)
        if wanted is not everywhere and not narrow:
            logits = select(logits, wanted)
        if return_type == "logits":
            return logits
        loss = self._next_token_loss(logits, input, read, mask, loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def rerun(
        self,
        inputs: Tensor,
        *,
        read: Read | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        keep: Sequence[str] = (),
    ) -> Rerun:
        """The intact run, from which the outputs of patched ones follow at a fraction of their cost.

        Raises:
            ValueError: a network with codebooks, which choose anew after every change.
        """
        if self.cfg.codebook_size:
            raise ValueError(
                "expected a network without codebooks to rerun, got one whose codes are chosen anew after "
                "every change; run it with edits, or see analysis.codes"
            )
        return Rerun(self, inputs, read, attention_mask, keep)

    def _drops(self) -> bool:
        return self.training and self.cfg.dropout > 0

    def _layer(self, index: int, argument: str) -> int:
        n_layers = self.cfg.n_layers
        if not -n_layers <= index <= n_layers:
            raise ValueError(
                f"expected {argument} in [{-n_layers}, {n_layers}], got {index}; this network has "
                f"{n_layers} blocks"
            )
        return index if index >= 0 else index + n_layers

    def _pair_table(self, distinct: Distinct) -> Float[Tensor, "pair d_model"]:
        table = self.embed(distinct.tokens)
        if not hasattr(self, "pos_embed"):
            return table
        return table + self.pos_embed(distinct.positions, distinct.lengths)

    def _next_token_loss(
        self, logits: Tensor, tokens: Tensor, read: Read | None, mask: Tensor | None, per_token: bool
    ) -> Tensor:
        if self.cfg.readout != "tokens" or read is not None or tokens.is_floating_point():
            raise ValueError(
                f"expected token ids, and outputs of tokens at every position, for a next-token loss, "
                f"got {tokens.dtype}, readout={self.cfg.readout!r}, read={read}; compute the loss from "
                "the outputs instead"
            )
        following, real = tokens[:, 1:].long(), None
        if mask is not None:
            place = next_real(mask)[:, :-1]
            real = mask[:, :-1] & (place < tokens.shape[1])
            following = tokens.long().gather(1, place.clamp(max=tokens.shape[1] - 1))
        readable = is_readable(following) and (real is None or is_readable(real))
        if readable and not per_token and not (following.numel() if real is None else bool(real.any())):
            raise ValueError(
                f"expected a real token with one behind it, for a loss, got inputs {tuple(tokens.shape)} "
                "without; give longer sequences"
            )
        wide = widened(logits[:, :-1])  # losses of many tokens add up to more than float16 holds
        losses = F.cross_entropy(wide.mT, following, reduction="none")
        if real is None:
            return losses if per_token else losses.mean()
        losses = losses.masked_fill(~real, 0.0)
        return losses if per_token else losses.sum() / real.sum()

    def check(self, inputs: Tensor, mask: Tensor | None, embedded: bool = False) -> None:
        """Refuse input that this network cannot take.

        Args:
            embedded: the input is a residual stream.

        Raises:
            ValueError, TypeError: as said.
        """
        cfg = self.cfg
        width = cfg.d_model if embedded else cfg.d_input
        if width is None:
            check_ids(inputs, cfg.d_vocab)
        elif inputs.ndim != 3 or inputs.shape[-1] != width or not inputs.is_floating_point():
            raise TypeError(
                f"expected real vectors [batch, pos, {width}], got {inputs.dtype} "
                f"{tuple(inputs.shape)}; give floats of that width"
            )
        if not 0 < inputs.shape[1] <= cfg.n_ctx:
            raise ValueError(
                f"expected 1 to n_ctx={cfg.n_ctx} positions, got {inputs.shape[1]}; shorten the "
                "input, or build the network with a larger n_ctx"
            )
        check_mask(mask, inputs)


def check_ids(inputs: Tensor, d_vocab: int) -> None:
    """Refuse what are no ids of a vocabulary, ``[batch, pos]``.

    Raises:
        TypeError, ValueError: another type or shape, or an id that there is not.
    """
    if inputs.dtype not in (torch.int64, torch.int32) or inputs.ndim != 2:
        raise TypeError(
            f"expected token ids, int64 [batch, pos], got {inputs.dtype} "
            f"{tuple(inputs.shape)}; convert them with .long(), or set d_input for vectors"
        )
    if not inputs.numel() or not is_readable(inputs):
        return
    if int(inputs.min()) < 0 or int(inputs.max()) >= d_vocab:
        raise ValueError(
            f"expected token ids in [0, {d_vocab}), got {int(inputs.min())} to "
            f"{int(inputs.max())}; check the encoding, or raise d_vocab"
        )


def select(
    x: Float[Tensor, "batch pos d"], positions: Int[Tensor, "*batch read"]
) -> Float[Tensor, "batch read d"]:
    """The vectors at the given positions, the same for all examples or one list for each."""
    if positions.ndim == 1:
        return x[:, positions]
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def positions(read: Read, inputs: Tensor, everywhere: Int[Tensor, " pos"]) -> Int[Tensor, "*batch read"]:
    """Check positions and make them non-negative; ``everywhere`` itself if they are all, in order."""
    n_pos = inputs.shape[1]
    at = torch.as_tensor(read, device=inputs.device)
    if at.is_floating_point() or at.dtype == torch.bool or at.ndim not in (1, 2) or at.shape[-1] == 0:
        raise ValueError(
            f"expected positions to read as integers [read] or [batch, read], got {at.dtype} "
            f"{tuple(at.shape)}; for the last position give read=(-1,)"
        )
    if at.ndim == 2 and len(at) != len(inputs):
        raise ValueError(
            f"expected a list of positions for each of {len(inputs)} examples, got {len(at)}; "
            "give [batch, read], or one list [read] for all"
        )
    if not is_readable(at):
        return at.long() % n_pos
    if at.numel() and (int(at.min()) < -n_pos or int(at.max()) >= n_pos):
        raise ValueError(
            f"expected positions in [{-n_pos}, {n_pos}), got {int(at.min())} to {int(at.max())}; "
            "read positions that the input has"
        )
    at = at.long() % n_pos
    return everywhere if torch.equal(at, everywhere) else at
