"""The network of each task, with the sizes of the study it comes from."""

from __future__ import annotations

import math
from typing import Any

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.config import EncoderDecoderConfig, TransformerConfig
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.digit_addition import DigitAddition
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.tasks.sortedness import Sortedness
from mechinterp.tasks.state_machine import StateMachine
from mechinterp.tasks.texts import TextArithmetic


@cpu_default
def modular_addition(task: ModularAddition, **changes: Any) -> HookedTransformer:
    """The one-layer network of Nanda et al. (2023): no LayerNorm, no trained biases, untied.

    Args:
        task: gives the vocabulary: p numbers and ``=`` in, p numbers out.
        changes: any other field of ``TransformerConfig``, such as ``seed`` or ``d_mlp``.
    """
    fields = {
        "n_layers": 1,
        "d_model": 128,
        "n_heads": 4,
        "d_head": 32,
        "d_mlp": 512,
        "act_fn": "relu",
        "n_ctx": 3,
        "d_vocab": task.p + 1,
        "d_vocab_out": task.p,
        "use_biases": False,
        "readout": "classes",
    }
    return HookedTransformer(TransformerConfig(**fields | changes))


@cpu_default
def regex_language(task: RegexLanguage, **changes: Any) -> HookedTransformer:
    """One causal layer with dropout and fixed sinusoidal positions, which answers symbol and class.

    It takes words of up to twice the task's longest, so that longer ones can be tried.

    Args:
        task: gives the vocabulary, the same for inputs and outputs.
        changes: any other field of ``TransformerConfig``, such as ``n_layers``, ``n_heads`` (heads share
            d_model evenly), ``tie_embeddings`` or ``positional_embedding_type``.

    Raises:
        ValueError: d_model that the heads cannot share evenly.
    """
    fields = {
        "n_layers": 1,
        "d_model": 64,
        "n_heads": 4,
        "d_mlp": 256,
        "act_fn": "relu",
        "dropout": 0.1,
        "n_ctx": 2 * task.max_len + 1,
        "d_vocab": task.d_vocab,
        "positional_embedding_type": "sinusoidal",
        "readout": "classes",
    } | changes
    return HookedTransformer(TransformerConfig(**_shared(fields)))


@cpu_default
def linear_regression(task: LinearRegression, **changes: Any) -> HookedTransformer:
    """Layers of attention alone that work on the tokens themselves (von Oswald et al. 2023).

    One layer of one head of linear attention by default, the mean over the examples: the network whose
    optimum is one step of gradient descent (Zhang, Frei & Bartlett 2024). ``n_layers=3`` can take three
    steps, and ``attention="softmax"`` is a smoother with an exponential kernel.

    Args:
        task: gives the width of a token and the longest prompt. Its tokens must be joint: a layer
            cannot tell to which x a y on its own belongs.
        changes: any other field of ``TransformerConfig``, such as ``n_heads`` or ``seed``. A ``d_model``
            other than the width of a token brings a trained embedding and readout.

    Raises:
        ValueError: separate tokens.
    """
    if task.tokens != "joint":
        raise ValueError(
            f"expected joint tokens, got {task.tokens}; build models.deep_linear_regression, or ask for joint"
        )
    raw = changes.get("d_model", task.d_input) == task.d_input
    fields = {
        "n_layers": 1,
        "d_model": task.d_input,
        "n_heads": 1,
        "d_head": task.d_input,
        "attn_only": True,
        "attention": "linear",
        "use_attn_scale": False,
        "raw_tokens": raw,
        "use_biases": False,
        "positional_embedding_type": "none",
    } | changes
    return _regression(task, {"average_keys": fields["attention"] == "linear"} | fields)


@cpu_default
def deep_linear_regression(task: LinearRegression, **changes: Any) -> HookedTransformer:
    """Six layers of softmax attention and MLPs, with LayerNorm, that regress in context (Garg et al. 2022).

    Joint tokens need no positions; separate ones are read in order, with trained positions.

    Args:
        task: gives the width of a token and the longest prompt.
        changes: any other field of ``TransformerConfig``; heads share ``d_model`` evenly.
    """
    fields = {
        "n_layers": 6,
        "d_model": 32,
        "n_heads": 4,
        "d_mlp": 128,
        "act_fn": "relu",
        "normalization_type": "LN",
        "positional_embedding_type": "none" if task.tokens == "joint" else "standard",
    } | changes
    return _regression(task, _shared(fields))


def _regression(task: LinearRegression, fields: dict[str, Any]) -> HookedTransformer:
    own = {
        "d_input": task.d_input,
        "d_vocab": 1,
        "d_vocab_out": 1,
        "n_ctx": task.n_ctx,
        "readout": "values",
        "attention_dir": "bidirectional",
        "act_fn": "relu",
    }
    return HookedTransformer(TransformerConfig(**own | fields))


@cpu_default
def digit_addition(
    task: DigitAddition, decoder_only: bool = False, **changes: Any
) -> HookedEncoderDecoder | HookedTransformer:
    """Two encoder and two decoder layers of four heads each, 24 heads in three modules.

    Args:
        task: gives the vocabulary and the lengths of source and target.
        decoder_only: four causal layers that read source and target as one sequence, with as many heads
            but eight.
        changes: any other field of ``EncoderDecoderConfig``, or of ``TransformerConfig`` for a decoder alone;
            heads share ``d_model`` evenly.
    """
    fields = {
        "n_layers": 4 if decoder_only else 2,
        "d_model": 64,
        "n_heads": 4,
        "d_mlp": 256,
        "act_fn": "relu",
        "normalization_type": "LN",
        "d_vocab": task.d_vocab,
    } | changes
    fields = _shared(fields)
    if decoder_only:
        return HookedTransformer(TransformerConfig(**{"n_ctx": task.n_source + task.n_target} | fields))
    own = {"n_ctx": task.n_target, "n_ctx_source": task.n_source, "n_encoder_layers": 2}
    return HookedEncoderDecoder(EncoderDecoderConfig(**own | fields))


@cpu_default
def text_arithmetic(task: TextArithmetic, decoder_only: bool = False, **changes: Any) -> HookedTransformer:
    """Two bidirectional layers that read a problem as characters and answer once, at the last one.

    Args:
        task: gives the vocabulary, the longest text, and what is answered: a number, a class or circles.
        decoder_only: causal layers instead.
        changes: any other field of ``TransformerConfig``; heads share ``d_model`` evenly.
    """
    fields = {
        "n_layers": 2,
        "d_model": 128,
        "n_heads": 4,
        "d_mlp": 512,
        "act_fn": "relu",
        "normalization_type": "LN",
        "attention_dir": "causal" if decoder_only else "bidirectional",
        "n_ctx": task.n_ctx,
        "d_vocab": task.d_vocab,
        "d_vocab_out": task.d_answer,
        "readout": "classes" if task.classes else "values",
    } | changes
    return HookedTransformer(TransformerConfig(**_shared(fields)))


ENCODINGS = ("none", "sinusoidal", "learned", "rotary", "alibi", "randomised")
"""Ways in which the network of ``sortedness`` can know where a token stands."""
SMALL = 0.25
"""What its vectors of tokens and learned positions are multiplied by to begin with."""


@cpu_default
def sortedness(task: Sortedness, encoding: str = "none", **changes: Any) -> HookedTransformer:
    """Two layers of four heads that answer at the last token; ``attention_dir`` is causal by default.

    Args:
        task: gives the vocabulary and the lengths.
        encoding: one of ``ENCODINGS``. ``learned`` has vectors up to the longest length of training, and
            takes the last one beyond; with ``learned_positions=-1, n_ctx=task.train_lengths[1]`` longer
            sequences are an error instead. ``randomised`` draws sinusoidal positions from those of the
            longest length, at which nothing is left to draw; from twice as many they are learned more slowly.
        changes: any other field of ``TransformerConfig``; heads share ``d_model`` evenly.

    Asked about sequences beyond ``n_ctx`` it is an error: give a larger one here (weights fit both, but for
    ``randomised``, whose positions would be others).

    Vectors of tokens begin about as large as sinusoidal positions, where there are such (Vaswani et al. 2017,
    section 3.4), and otherwise small, as do learned positions: steps of the optimiser then move them sooner.

    Raises:
        ValueError: no such encoding.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"expected an encoding of {ENCODINGS}, got {encoding!r}; choose one")
    kinds: dict[str, dict[str, Any]] = {
        "learned": {
            "positional_embedding_type": "standard",
            "learned_positions": task.train_lengths[1],
        },
        "randomised": {
            "positional_embedding_type": "sinusoidal",
            "randomised_positions": max(task.longest, changes.get("n_ctx", 0)),
        },
    }
    fields = {
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 4,
        "d_mlp": 256,
        "act_fn": "relu",
        "normalization_type": "LN",
        "n_ctx": task.longest,
        "d_vocab": task.d_vocab,
        "d_vocab_out": 2,
        "readout": "classes",
        **kinds.get(encoding, {"positional_embedding_type": encoding}),
    } | changes
    model = HookedTransformer(TransformerConfig(**_shared(fields)))
    fixed = model.cfg.positional_embedding_type == "sinusoidal"
    with torch.no_grad():
        model.embed.W_E *= math.sqrt(model.cfg.d_model) if fixed else SMALL
        if model.cfg.positional_embedding_type == "standard":
            model.pos_embed.W_pos *= SMALL
    return model


@cpu_default
def state_machine(task: StateMachine, codebooks: bool = True, **changes: Any) -> HookedTransformer:
    """Three causal layers that predict the next token, with a codebook of 32 behind every sublayer.

    The temperature is low from the start: with one code at a time, codes then align better with states than
    where it falls (``mechinterp study state-machine``).

    Args:
        task: gives the vocabulary and the length.
        codebooks: without them the network is the same but for these, and for what is drawn after them: its
            initial weights are others from the second layer on.
        changes: any other field of ``TransformerConfig``, such as ``codebook_top_k``; heads share ``d_model``
            evenly.
    """
    fields = {
        "n_layers": 3,
        "d_model": 128,
        "n_heads": 4,
        "d_mlp": 512,
        "act_fn": "relu",
        "normalization_type": "LN",
        "n_ctx": task.length,
        "d_vocab": task.d_vocab,
        "codebook_size": 32,
        "codebook_temperature": 0.1,
    } | changes
    if not codebooks:
        fields["codebook_size"] = 0
    if not fields["codebook_size"] and "codebook_temperature" not in changes:
        del fields["codebook_temperature"]
    return HookedTransformer(TransformerConfig(**_shared(fields)))


def _shared(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with a d_head by which heads share d_model evenly, if there is none."""
    if "d_head" in fields:
        return fields
    if fields["n_heads"] < 1 or fields["d_model"] % fields["n_heads"]:
        raise ValueError(
            f"expected a d_model that {fields['n_heads']} heads share evenly, got {fields['d_model']}; "
            "change one"
        )
    return fields | {"d_head": fields["d_model"] // fields["n_heads"]}
