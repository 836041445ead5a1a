"""The same network in another basis of the residual stream.

The stream has no axes of its own: turn what is written to it and turn back what is read from it, and
every output stays as it was, while all weights change. Whatever a measure of weights says before and
not after is said about the basis.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.models.codebook import Codebook
from mechinterp.models.folding import fold_ln
from mechinterp.models.transformer import HookedTransformer


@cpu_default
def rotate_stream(model: HookedTransformer, seed: int = 0) -> HookedTransformer:
    """A new network that computes the same in a stream turned by a random rotation.

    Scales of ``LN`` and ``RMS`` are folded first, since they belong to axes. LayerNorm's mean is
    along one direction, which is left alone. The given network stays as it was; tied embeddings stay
    tied, unless a scale was folded. A turned table of sinusoidal positions is no longer that of the config,
    so that it becomes a learned one, frozen, which is saved with the weights.

    Args:
        seed: of the rotation.
    """
    folds = model.cfg.normalization_type in ("LN", "RMS")
    turned = fold_ln(model) if folds else copy.deepcopy(model)
    if turned.cfg.positional_embedding_type == "sinusoidal":
        turned = _with_a_table(turned)
    cfg, dtype = turned.cfg, torch.promote_types(turned.embed.W_E.dtype, torch.float32)
    turn = _rotation(cfg.d_model, str(cfg.normalization_type).startswith("LN"), seed)
    turn = turn.to(turned.embed.W_E.device, dtype)
    with torch.no_grad():
        turned.embed.W_E.copy_(turned.embed.W_E.to(dtype) @ turn)
        if hasattr(turned, "pos_embed"):
            turned.pos_embed.W_pos.copy_(turned.pos_embed.W_pos.to(dtype) @ turn)
        for block in turned.blocks:
            parts = [(block.attn, ("W_Q", "W_K", "W_V"), ("W_O", "b_O"))]
            parts += [] if cfg.attn_only else [(block.mlp, ("W_in",), ("W_out", "b_out"))]
            for part, reads, writes in parts:
                for name in reads:
                    getattr(part, name).copy_(turn.mT @ getattr(part, name).to(dtype))
                for name in writes:
                    getattr(part, name).copy_(getattr(part, name).to(dtype) @ turn)
            for book in (part for part in block.children() if isinstance(part, Codebook)):
                book.codes.copy_(book.codes.to(dtype) @ turn)
        if not cfg.tie_embeddings:
            turned.unembed.W_U.copy_(turn.mT @ turned.unembed.W_U.to(dtype))
    return turned


def _with_a_table(model: HookedTransformer) -> HookedTransformer:
    """The same network, whose fixed positions are weights."""
    made = type(model)(replace(model.cfg, positional_embedding_type="standard"))
    made.load_state_dict(model.state_dict() | {"pos_embed.W_pos": model.W_pos})
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for name, weight in made.named_parameters():
        weight.requires_grad_(name in trained)
    return made.train(model.training)


def _rotation(d: int, keeps_mean: bool, seed: int) -> Float[Tensor, "d d"]:
    """Orthogonal and random (Haar); where it keeps the mean, it maps the vector of ones to itself."""
    generator = torch.Generator().manual_seed(seed)
    free = d - keeps_mean
    q, r = torch.linalg.qr(torch.randn(free, free, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    if not keeps_mean:
        return q
    ones = torch.ones(d, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat((ones, torch.eye(d, dtype=torch.float64)[:, 1:]), 1))[0]
    inner = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), q)
    return basis @ inner @ basis.mT
