"""Normalisation of the residual stream, with TransformerLens's names and hook points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.hooks import HookPoint
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import widened


class Normalisation(nn.Module):
    """LayerNorm or RMSNorm, with its scale and shift or, for the ``Pre`` kinds, without.

    LN subtracts the mean (Ba et al. 2016), RMS does not (Zhang & Sennrich 2019). ``LNPre``
    and ``RMSPre`` are what is left once ``fold_ln`` has moved ``w`` and ``b`` into the weights
    that read the result.

    Half precision is normalised in float32, as torch and TransformerLens do: hooks see float32, and the
    result is in half precision again.
    """

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.kind = str(cfg.normalization_type)
        self.eps = cfg.eps
        if not self.kind.endswith("Pre"):
            self.w = nn.Parameter(torch.ones(cfg.d_model))
            if self.kind == "LN":
                self.b = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Scale 1 and shift 0."""
        with torch.no_grad():
            if hasattr(self, "w"):
                self.w.fill_(1.0)
            if hasattr(self, "b"):
                self.b.zero_()

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Normalise along the last axis."""
        dtype, x = x.dtype, widened(x)
        if self.kind.startswith("LN"):
            x = x - x.mean(-1, keepdim=True)
        size = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        x = self.hook_normalized(x / size)
        if hasattr(self, "w"):
            x = x * self.w
        return (x + self.b if hasattr(self, "b") else x).to(dtype)

    def without_hooks(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The same, up to rounding, by one operation of torch."""
        w, b = getattr(self, "w", None), getattr(self, "b", None)
        if self.kind.startswith("LN"):
            return F.layer_norm(x, x.shape[-1:], w, b, self.eps)
        return F.rms_norm(x, x.shape[-1:], w, self.eps)


def normalisation(cfg: TransformerConfig) -> nn.Module:
    """The normalisation that the config names; the identity for ``None``."""
    return nn.Identity() if cfg.normalization_type is None else Normalisation(cfg)
