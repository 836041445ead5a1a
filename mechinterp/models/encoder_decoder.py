"""``HookedEncoderDecoder``: a decoder with a ``HookedTransformer``'s names, and an encoder beside it."""

from __future__ import annotations

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.autograd import is_readable
from mechinterp.devices import cpu_default
from mechinterp.hooks import HookPoint, is_hooked
from mechinterp.masks import check_mask, position_ids, real_tokens
from mechinterp.models.attention import Attention, View
from mechinterp.models.config import EncoderDecoderConfig, TransformerConfig
from mechinterp.models.embedding import Embed, TiedUnembed, Unembed, enter
from mechinterp.models.hooked import Hooked, hook_tables, uncompiled_while_hooked
from mechinterp.models.normalisation import normalisation
from mechinterp.models.positions import PosEmbed
from mechinterp.models.transformer import Block, Read, check_ids, positions, select
from mechinterp.models.weights import WeightViews


class Encoder(nn.Module):
    """The source's stack: bidirectional blocks, and a normalisation at the end."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed, self.hook_embed = Embed(cfg), HookPoint()
        if cfg.positional_embedding_type != "none":
            self.pos_embed, self.hook_pos_embed = PosEmbed(cfg), HookPoint()
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final, self.hook_out = normalisation(cfg), HookPoint()

    def forward(
        self, source: Int[Tensor, "batch source"], mask: Bool[Tensor, "batch source"] | None
    ) -> Float[Tensor, "batch source d_model"]:
        """What the decoder reads."""
        check_mask(mask, source)
        real = real_tokens(mask)
        everywhere = torch.arange(source.shape[1], device=source.device)
        view = View.of(everywhere, everywhere, False, real, position_ids(real))
        resid = enter(self, source, view.key_positions)
        for block in self.blocks:
            resid = block(resid, view)
        return self.hook_out(self.ln_final(resid))


class DecoderBlock(Block):
    """Attention to the target so far, then to the encoded source, then the MLP."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__(cfg)
        self.ln_cross, self.cross_attn = normalisation(cfg), Attention(cfg)
        for name in ("resid_mid", "cross_attn_out", "resid_mid_cross"):
            setattr(self, f"hook_{name}", HookPoint())
        self.attached = hook_tables(self)

    @uncompiled_while_hooked
    def forward(  # ty: ignore[invalid-method-override]
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        view: View,
        source: Float[Tensor, "batch source d_model"],
        across: View,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after this block, at all positions of the target."""
        resid_pre = self.hook_resid_pre(resid_pre)
        q_in, k_in, v_in = self._attention_inputs(resid_pre, resid_pre)
        k = self.ln1(k_in)
        v = k if v_in is k_in else self.ln1(v_in)
        q = k if q_in is k_in else self.ln1(q_in)
        resid = self.hook_resid_mid(resid_pre + self.hook_attn_out(self.dropout(self.attn(q, k, v, view))))
        asking, keys, values = self._cross_inputs(resid, source)
        crossed = self.cross_attn(self.ln_cross(asking), keys, values, across)
        return self.add_mlp(
            self.hook_resid_mid_cross(resid + self.hook_cross_attn_out(self.dropout(crossed)))
        )

    def _cross_inputs(self, resid: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream that queries read, and what keys and values do; a copy a head where the config says."""
        attn, copies = self.cross_attn, "b p d -> b p head d"
        if not (self.cfg.use_split_qkv_input or self.cfg.use_attn_in):
            return resid, source, source
        asking, given = (repeat(x, copies, head=self.cfg.n_heads) for x in (resid, source))
        if self.cfg.use_attn_in:
            asking = attn.hook_attn_in(asking.clone())
        if not self.cfg.use_split_qkv_input:
            return asking, given, given
        keys, values = attn.hook_k_input(given.clone()), attn.hook_v_input(given.clone())
        return attn.hook_q_input(asking.clone()), keys, values


class HookedEncoderDecoder(WeightViews, Hooked):
    """An encoder and a decoder, made to be taken apart (Vaswani et al. 2017, normalised first).

    The decoder's weights and hook names are those of ``HookedTransformer``: ``blocks.L.attn...``, beside
    them ``blocks.L.cross_attn...``, ``blocks.L.hook_cross_attn_out`` and ``blocks.L.hook_resid_mid_cross``,
    the stream after attention to the source. The encoder has the same below ``encoder``, and
    ``encoder.hook_out`` is what all cross-attention reads.

    Source and target travel as one tensor ``[batch, n_ctx_source + target]``, so that everything that takes
    a network and its inputs takes this one; ``pack`` makes such a tensor. Positions to read, and masks, are
    those of that tensor. Activations of the encoder have the source's positions, those of the decoder the
    target's, both counted from 0.

    Args:
        cfg: what to build; ``cfg.seed`` fixes the initial weights.
    """

    reads_positions = True
    """``forward`` takes ``read``."""

    @cpu_default
    def __init__(self, cfg: EncoderDecoderConfig) -> None:
        super().__init__(cfg)
        cfg = self.cfg
        self.tokenizer = None
        self.encoder = Encoder(cfg.encoder)
        self.embed, self.hook_embed = Embed(cfg), HookPoint()
        if cfg.positional_embedding_type != "none":
            self.pos_embed, self.hook_pos_embed = PosEmbed(cfg), HookPoint()
        self.dropout = nn.Dropout(cfg.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(cfg) for _ in range(cfg.n_layers))
        self.ln_final = normalisation(cfg)
        self.unembed = TiedUnembed(cfg, self.embed) if cfg.tie_embeddings else Unembed(cfg)
        self.finish()

    @uncompiled_while_hooked
    def forward(
        self,
        input: Int[Tensor, "batch packed"],
        return_type: str | None = "logits",
        *,
        read: Read | None = None,
        attention_mask: Bool[Tensor, "_ _"] | Int[Tensor, "_ _"] | None = None,
        encoded: Float[Tensor, "_ _ _"] | None = None,
    ) -> Float[Tensor, "batch read d_vocab_out"] | None:
        """What the decoder answers, teacher-forced: each target position sees those before it.

        Args:
            input: source and target, ``[batch, n_ctx_source + target]``.
            read: positions of ``input`` whose outputs are wanted, ``[read]`` or ``[batch, read]``, all of
                them the target's; negative ones count from the end. ``None``: all of the target.
            attention_mask: true at real tokens of both; each is answered as it is without its padding.
            encoded: what the encoder made of the source, if it is known: the encoder is not run.

        Raises:
            ValueError, TypeError: input that this network cannot take, or another return type.
        """
        self.check(input, attention_mask)
        if return_type not in ("logits", None):
            raise ValueError(
                f"expected return_type 'logits' or None, got {return_type!r}; work out losses from the logits"
            )
        if encoded is not None and len(encoded) != len(input):
            raise ValueError(
                f"expected what the encoder made of each of {len(input)} sources, got {len(encoded)}"
            )
        n_source = self.cfg.n_ctx_source
        target = input[:, n_source:]
        wanted = None if read is None else self._wanted(read, input, target)
        mask = None if attention_mask is None else attention_mask.bool()
        if encoded is None:
            encoded = self.encoder(input[:, :n_source], None if mask is None else mask[:, :n_source])
        everywhere = torch.arange(target.shape[1], device=input.device)
        real = None if mask is None else real_tokens(mask[:, n_source:])
        view = View.of(everywhere, everywhere, True, real, position_ids(real))
        across = self.across(everywhere, mask)
        resid = enter(self, target, view.key_positions)
        for block in self.blocks:
            resid = block(resid, view, encoded, across)
        if wanted is not None and not self.hooked:
            resid, wanted = select(resid, wanted), None
        if return_type is None:
            return None
        logits = self.unembed(self.ln_final(resid))
        return logits if wanted is None else select(logits, wanted)

    @property
    def encoder_hooked(self) -> bool:
        """Whether a hook is attached within the encoder."""
        return is_hooked(self.encoder.modules())

    def across(self, queries: Int[Tensor, " query"], mask: Bool[Tensor, "batch packed"] | None) -> View:
        """Who may look at whom between target and source: all at the source's real tokens."""
        n_source = self.cfg.n_ctx_source
        keys = torch.arange(n_source, device=queries.device)
        return View.of(queries, keys, False, None if mask is None else real_tokens(mask[:, :n_source]))

    def pack(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"], padding: int = 0
    ) -> tuple[Int[Tensor, "batch packed"], Bool[Tensor, "batch packed"]]:
        """Source and target as one tensor, and the mask of what is real in it.

        Args:
            padding: the id that fills up a source shorter than ``n_ctx_source``.

        Raises:
            ValueError: a source that is longer, or batches that differ.
        """
        room = self.cfg.n_ctx_source - source.shape[1]
        if room < 0 or len(source) != len(target):
            raise ValueError(
                f"expected a source of at most n_ctx_source={self.cfg.n_ctx_source} tokens and a target for "
                f"each, got {tuple(source.shape)} and {tuple(target.shape)}; shorten the source, or build "
                "the network with a larger n_ctx_source"
            )
        filled = torch.nn.functional.pad(source, (0, room), value=padding)
        packed = torch.cat((filled, target), 1)
        real = torch.ones_like(packed, dtype=torch.bool)
        real[:, source.shape[1] : self.cfg.n_ctx_source] = False
        return packed, real

    def _wanted(self, read: Read, inputs: Tensor, target: Tensor) -> Int[Tensor, "*batch read"] | None:
        everywhere = torch.arange(inputs.shape[1], device=inputs.device)
        at = positions(read, inputs, everywhere) - self.cfg.n_ctx_source
        if is_readable(at) and at.numel() and int(at.min()) < 0:
            raise ValueError(
                f"expected positions of the target to read, {self.cfg.n_ctx_source} and more, got "
                f"{int(at.min()) + self.cfg.n_ctx_source}; the source has no outputs"
            )
        return at

    def check(self, inputs: Tensor, mask: Tensor | None) -> None:
        """Refuse input that this network cannot take.

        Raises:
            ValueError, TypeError: as said.
        """
        check_ids(inputs, self.cfg.d_vocab)
        n_target = inputs.shape[1] - self.cfg.n_ctx_source
        if not 0 < n_target <= self.cfg.n_ctx:
            raise ValueError(
                f"expected a source of {self.cfg.n_ctx_source} tokens and then 1 to n_ctx={self.cfg.n_ctx} "
                f"of the target, got {inputs.shape[1]} in all; pack(source, target) puts them together"
            )
        check_mask(mask, inputs)
