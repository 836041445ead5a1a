"""Move a normalisation's scale and shift into the matrices that read it.

``(x̂ w + b) W + c = x̂ (w W) + (b W + c)``: a network whose normalisation only centres and divides
computes the same, and what a component adds to the logits is then its term of a sum, which is what
direct logit attribution takes it to be (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). Centring and the division stay in the network, so the matrices that
write to the stream need not be centred for that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer


@cpu_default
def fold_ln(model: Any) -> HookedTransformer:
    """A new network that computes the same, with ``LNPre`` or ``RMSPre`` for ``LN`` or ``RMS``.

    Scales and shifts go into ``W_Q``, ``W_K``, ``W_V``, ``W_in``, ``W_U`` and their biases. Every
    activation stays as it was, up to rounding. The given network is left alone.

    Tied embeddings come out untied, since ``W_U`` takes the last scale and ``W_E`` does not. The
    shift of ``LN`` ends in the biases, so they are trained from then on (``use_biases`` is true)
    even if the given network had none; ``RMS`` has no shift and leaves ``use_biases`` as it is.
    Parameters frozen by hand are not frozen in the new network.

    Raises:
        ValueError: the network has no scale and shift to fold.
    """
    cfg = model.cfg
    if not isinstance(model, HookedTransformer):
        raise ValueError(
            f"expected a network of one stack, got {type(model).__name__}; its cross-attention has a "
            "normalisation of its own, which is not folded"
        )
    if cfg.normalization_type not in ("LN", "RMS"):
        raise ValueError(
            f"expected a network with normalization_type 'LN' or 'RMS', got "
            f"{cfg.normalization_type!r}, which has no scale to fold; use the network as it is"
        )
    weights = model.state_dict() | {"unembed.W_U": model.W_U.detach()}
    for norm, readers in _readers(cfg).items():
        _fold(weights, norm, readers)
    folded = type(model)(
        replace(
            cfg,
            normalization_type=f"{cfg.normalization_type}Pre",
            tie_embeddings=False,
            use_biases=cfg.use_biases or cfg.normalization_type == "LN",
            device=str(model.W_E.device),
            dtype=model.W_E.dtype,
        )
    )
    folded.load_state_dict(weights)
    return folded.train(model.training)


def _readers(cfg: TransformerConfig) -> dict[str, list[tuple[str, str]]]:
    """For each normalisation, the weight and bias of each matrix that reads it."""
    readers = {"ln_final": [("unembed.W_U", "unembed.b_U")]}
    for block in (f"blocks.{layer}" for layer in range(cfg.n_layers)):
        readers[f"{block}.ln1"] = [(f"{block}.attn.W_{x}", f"{block}.attn.b_{x}") for x in "QKV"]
        if not cfg.attn_only:
            readers[f"{block}.ln2"] = [(f"{block}.mlp.W_in", f"{block}.mlp.b_in")]
    return readers


def _fold(weights: dict[str, Tensor], norm: str, readers: list[tuple[str, str]]) -> None:
    """Take a normalisation's scale and shift out of the weights and into those of its readers.

    A reader's weight is ``[*head, d_model, out]`` and its bias ``[*head, out]``.
    """
    scale, shift = weights.pop(f"{norm}.w"), weights.pop(f"{norm}.b", None)
    for weight, bias in readers:
        if shift is not None:
            weights[bias] = weights[bias] + shift @ weights[weight]
        weights[weight] = scale[:, None] * weights[weight]
