"""To and from TransformerLens 3's ``HookedTransformer``, where both can say the same thing.

Weights have the same names and shapes there and here, so converting is translating the config,
and refusing what one of the two classes does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from torch import Tensor, nn

from mechinterp.devices import cpu_default
from mechinterp.hooks import HookedRootModule, transformer_lens_3
from mechinterp.models.config import ACTIVATIONS, TransformerConfig
from mechinterp.models.transformer import HookedTransformer

_BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")

_SHARED = (
    *("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "d_mlp", "d_vocab", "d_vocab_out"),
    *("attn_only", "act_fn", "normalization_type", "eps", "attention_dir", "positional_embedding_type"),
    *("use_attn_scale", "attn_scale", "rotary_dim", "rotary_base", "rotary_adjacent_pairs"),
    *("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in", "default_prepend_bos"),
)
"""Fields of the same name and meaning in both configs."""

_THEIRS = {
    "attention": ("softmax",),
    "dropout": (0.0,),
    "d_input": (None,),
    "codebook_size": (0,),
    "positional_embedding_type": ("standard", "rotary", "alibi"),
    "learned_positions": (-1,),
    "randomised_positions": (0,),
    "attn_log_n": (0,),
}
"""Values that TransformerLens 3's class can express, of fields where ours can more."""

_OURS = {
    "act_fn": ACTIVATIONS,
    "positional_embedding_type": ("standard", "rotary", "alibi"),
    "normalization_type": (None, "LN", "LNPre", "RMS", "RMSPre"),
}
"""Values that our class can express, of shared fields where TransformerLens 3's can more."""

_WITHOUT_EFFECT = frozenset(
    (
        *("device", "dtype", "n_devices", "model_name", "original_architecture", "n_params"),
        *("init_mode", "initializer_range", "init_weights", "seed", "tie_word_embeddings"),
        *("from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),
        *("tokenizer_name", "tokenizer_prepends_bos", "decoder_start_token_id", "trust_remote_code"),
        *("use_hook_tokens", "quantization_method", "train_seq_length", "window_size", "attn_types"),
        *("uses_rms_norm", "layer_norm_folding", "final_rms"),
    )
)
"""Fields of TransformerLens 3 that do not change what a network computes from its weights (the
last three restate ``normalization_type``; the four before them act only under other flags)."""


@cpu_default
def to_transformer_lens(model: HookedTransformer) -> Any:
    """The same network as TransformerLens 3's ``HookedTransformer``, with copied weights.

    Tied embeddings come out untied, with ``W_E.T`` copied to ``W_U``. The seed, the kind of
    readout and the way of initialising are not carried over.

    Raises:
        ValueError: a config that TransformerLens 3 cannot express: linear attention, dropout,
            sinusoidal, absent, drawn or clamped positions, scores that grow with log n, real inputs, the
            square activation, or ALiBi in both directions (which it biases towards earlier keys only).
        ImportError: the installed TransformerLens is of version 4, where the class is gone.
    """
    cfg = model.cfg
    _check_theirs(cfg)
    their_class, their_config = transformer_lens_3()
    shared = {name: getattr(cfg, name) for name in _SHARED}
    place = {"device": str(model.W_E.device), "dtype": model.W_E.dtype}
    theirs = their_class(their_config(**shared, **place, init_weights=False))
    missing, unexpected = theirs.load_state_dict(
        model.state_dict() | {"unembed.W_U": model.W_U}, strict=False
    )
    left = {name for name in missing if name.rsplit(".", 1)[-1] not in _BUFFERS}
    if left - {"pos_embed.W_pos"} or unexpected:
        raise ValueError(
            f"expected TransformerLens 3's weights, got others: without a source {sorted(left)}, "
            f"without a place {sorted(unexpected)}; convert a plain HookedTransformer"
        )
    if left:  # ALiBi: a table that TransformerLens 3 makes and does not use.
        nn.init.zeros_(theirs.pos_embed.W_pos)
    _copy_training(model, theirs)
    return theirs


@cpu_default
def from_transformer_lens(hooked_transformer: HookedRootModule) -> HookedTransformer:
    """Our network with the weights of TransformerLens 3's ``HookedTransformer``, copied.

    ``cfg.readout`` is ``"tokens"`` if the network has as many outputs as inputs, else
    ``"classes"``; ``cfg.use_biases`` is false if all its biases are zero and frozen. The tokenizer
    stays behind.

    Raises:
        ImportError: the installed TransformerLens is of version 4, where the class is gone.
        TypeError: something other than a ``HookedTransformer`` of TransformerLens 3.
        ValueError: a config that ours cannot express, such as a gated MLP.
    """
    their_class, _ = transformer_lens_3()
    if not isinstance(hooked_transformer, their_class):
        raise TypeError(
            f"expected TransformerLens's HookedTransformer, got {type(hooked_transformer)}; an "
            "encoder, an encoder-decoder or a bridge has no counterpart here"
        )
    theirs: Any = hooked_transformer
    _check_ours(theirs.cfg)
    shared = {name: getattr(theirs.cfg, name) for name in _SHARED}
    shared |= {name: float(shared[name]) for name in ("attn_scale", "rotary_base")}
    if shared["attn_scale"] == math.sqrt(shared["d_head"]) or not shared["use_attn_scale"]:
        shared["attn_scale"] = -1.0  # follows from d_head
    if shared["normalization_type"] is None:
        del shared["eps"]
    if shared["positional_embedding_type"] != "rotary":
        shared = {name: value for name, value in shared.items() if not name.startswith("rotary_")}
    cfg = TransformerConfig(
        **shared,
        device=str(theirs.W_E.device),
        dtype=theirs.W_E.dtype,
        readout="tokens" if theirs.cfg.d_vocab_out == theirs.cfg.d_vocab else "classes",
        use_biases=_has_biases(theirs),
    )
    ours = HookedTransformer(cfg)
    ours.load_state_dict(weights_from_transformer_lens(theirs.state_dict(), cfg))
    _copy_training(theirs, ours)
    return ours


@cpu_default
def weights_from_transformer_lens(
    state_dict: Mapping[str, Tensor], cfg: TransformerConfig
) -> dict[str, Tensor]:
    """The weights among a TransformerLens 3 state dict, under the same names.

    What is left out is computed from the config: masks, rotary tables, and the table of position
    vectors where positions are not learned. Works under every version of TransformerLens.
    """
    unused = set() if cfg.positional_embedding_type == "standard" else {"pos_embed.W_pos"}
    return {
        name: value
        for name, value in state_dict.items()
        if name.rsplit(".", 1)[-1] not in _BUFFERS and name not in unused
    }


def _check_theirs(cfg: TransformerConfig) -> None:
    for name, allowed in _THEIRS.items():
        _check(name, getattr(cfg, name), allowed, "TransformerLens 3")
    if not cfg.attn_only:
        allowed = tuple(act_fn for act_fn in ACTIVATIONS if act_fn != "square")
        _check("act_fn", cfg.act_fn, allowed, "TransformerLens 3")
    _check_alibi(cfg)


def _check_ours(their_cfg: Any) -> None:
    for name, allowed in _OURS.items():
        if name != "act_fn" or not their_cfg.attn_only:
            _check(name, getattr(their_cfg, name), allowed, "our HookedTransformer")
    _check_alibi(their_cfg)
    norm = their_cfg.normalization_type
    if norm in ("LN", "LNPre"):
        _check("final_rms", their_cfg.final_rms, (False,), "our HookedTransformer")
    for field in fields(their_cfg):
        if field.default is MISSING or field.name in _SHARED or field.name in _WITHOUT_EFFECT:
            continue
        _check(field.name, getattr(their_cfg, field.name), (field.default,), "our HookedTransformer")


def _check_alibi(cfg: Any) -> None:
    if cfg.positional_embedding_type == "alibi":
        _check("attention_dir", cfg.attention_dir, ("causal",), "ALiBi as both classes know it")


def _check(name: str, value: Any, allowed: tuple, who: str) -> None:
    if value not in allowed:
        raise ValueError(
            f"expected {name} one of {list(allowed)}, as {who} can express, got {value!r}; "
            "keep the network in the class it has, or build one without this"
        )


def _has_biases(model: nn.Module) -> bool:
    biases = [p for name, p in model.named_parameters() if name.rsplit(".", 1)[-1].startswith("b_")]
    return any(bias.requires_grad or bool(bias.any()) for bias in biases)


def _copy_training(source: nn.Module, target: nn.Module) -> None:
    """Give a network another's mode and frozen parameters."""
    frozen = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(name not in frozen)
    target.train(source.training)
