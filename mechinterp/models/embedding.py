"""Into the residual stream and out of it again."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.hooks import HookPoint, is_hooked
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import affine, init_normal


class Embed(nn.Module):
    """Token ids, or real vectors, to the residual stream by the matrix ``W_E``."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        rows = cfg.d_vocab if cfg.d_input is None else cfg.d_input
        self.W_E = nn.Parameter(torch.empty(rows, cfg.d_model))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw ``W_E`` anew; a token's row counts as a vector of d_model entries."""
        if self.cfg.raw_tokens:
            self.W_E.requires_grad_(False).copy_(torch.eye(len(self.W_E)))
            return
        fan_in = self.cfg.d_model if self.cfg.d_input is None else self.cfg.d_input
        init_normal(self.W_E, self.cfg, fan_in, generator)

    def forward(self, inputs: Tensor) -> Float[Tensor, "*at d_model"]:
        """Rows of ``W_E`` for ids ``[*at]``, a product for vectors ``[*at, d_input]`` of any precision."""
        if self.cfg.d_input is None:
            return F.embedding(inputs, self.W_E)
        return inputs.to(self.W_E.dtype) @ self.W_E


class Unembed(nn.Module):
    """The residual stream to outputs, by ``W_U`` and ``b_U``."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab_out))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab_out))
        self.hook_in, self.hook_out = HookPoint(), HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw ``W_U`` anew; ``b_U`` is zero."""
        nn.init.zeros_(self.b_U)
        if self.cfg.raw_tokens:
            n_out, d_model = self.cfg.d_vocab_out, self.cfg.d_model
            self.W_U.requires_grad_(False).copy_(-torch.eye(d_model)[:, d_model - n_out :])
            return
        fan_in = self.cfg.d_vocab_out if self.cfg.init_mode == "nanda" else self.cfg.d_model
        init_normal(self.W_U, self.cfg, fan_in, generator)

    def forward(self, resid: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_vocab_out"]:
        """Outputs at each position."""
        return self.hook_out(affine(self.hook_in(resid), self.W_U, self.b_U))


class TiedUnembed(nn.Module):
    """A readout by the transposed embedding (Press & Wolf 2017); only ``b_U`` is its own."""

    def __init__(self, cfg: TransformerConfig, embed: Embed) -> None:
        super().__init__()
        self.cfg = cfg
        self._embed = (embed,)  # in a tuple, so that it is not registered a second time
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab_out))
        self.hook_in, self.hook_out = HookPoint(), HookPoint()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """The transposed embedding."""
        return self._embed[0].W_E.mT

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """``b_U`` is zero."""
        nn.init.zeros_(self.b_U)

    def forward(self, resid: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_vocab_out"]:
        """Outputs at each position."""
        return self.hook_out(affine(self.hook_in(resid), self.W_U, self.b_U))


def enter(
    stack: Any,
    inputs: Tensor,
    positions: Int[Tensor, "*batch pos"],
    lengths: Int[Tensor, "batch 1"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The stream before the first block of a stack: embedding, positions where they are added, dropout.

    Args:
        positions: where the tokens stand, alike in all sequences or not.
        lengths: as ``PosEmbed`` takes them.
    """
    resid = stack.hook_embed(stack.embed(inputs))
    if hasattr(stack, "pos_embed"):
        vectors = stack.pos_embed(positions, lengths).expand(len(inputs), -1, -1)
        if is_hooked((stack.hook_pos_embed,)):
            vectors = vectors.clone()  # a hook may write in place, into one example
        resid = resid + stack.hook_pos_embed(vectors)
    return stack.dropout(resid)
