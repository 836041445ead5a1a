"""Weights of any model with TransformerLens's names, as those who read the stream see them.

They do only where normalisation has no scale and shift of its own left: these are folded into the
weights, or the weights alone tell something else than the network computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def require_folded(model: nn.Module, what: str) -> None:
    """Refuse a network whose normalisation scales and shifts: the weights that read it leave that out.

    Args:
        what: what is asked for, for the message.

    Raises:
        ValueError: so it is.
    """
    cfg: Any = model.cfg
    kind = cfg.normalization_type
    if kind in ("LN", "RMS") and not (getattr(model, "compatibility_mode", False) and _scales_by_one(model)):
        raise ValueError(
            f"expected folded normalisation for {what}, got {kind}, whose scale and shift would silently be "
            "left out; give models.folding.fold_ln(model), load with fold_ln=True in TransformerLens 3, or "
            "call enable_compatibility_mode() on a bridge"
        )


def weight_of(model: nn.Module, name: str, draw: int | None = None, seed: int = 0) -> Tensor:
    """A weight in float64; given a draw, random matrices of the same norms, head by head.

    Raises:
        ValueError: the model has no weight of that name.
    """
    weight = getattr(model, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"expected a model with TransformerLens's weight {name}, got none; convert it first")
    weight = weight.detach().double().cpu()
    if draw is None:
        return weight
    generator = torch.Generator().manual_seed(10**6 * seed + 1000 * draw + ord(name[-1]))
    random = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return random * (weight.norm(dim=(-2, -1), keepdim=True) / random.norm(dim=(-2, -1), keepdim=True))


def rows_of(model: nn.Module, name: str, chosen: Sequence[int] | None) -> Float[Tensor, "row d_model"]:
    """Some rows of ``W_E`` or ``W_pos`` as heads read them; ``None``: all.

    Raises:
        ValueError: rows that it does not have.
    """
    matrix = weight_of(model, name)
    if chosen is not None and (len(chosen) == 0 or min(chosen) < 0 or max(chosen) >= len(matrix)):
        raise ValueError(
            f"expected some of the {len(matrix)} rows of {name}, got {list(chosen)[:8]}; choose from those"
        )
    return centred(model, matrix if chosen is None else matrix[list(chosen)])


def centred(model: nn.Module, matrix: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_model"]:
    """What LayerNorm leaves of vectors in the stream, up to their size."""
    cfg: Any = model.cfg
    centres = str(cfg.normalization_type).startswith("LN")
    return matrix - matrix.mean(-1, keepdim=True) if centres else matrix


def score_scale(model: nn.Module, d_head: int) -> float:
    """What the model divides its scores by."""
    cfg: Any = model.cfg
    if not getattr(cfg, "use_attn_scale", True):
        return 1.0
    given = float(getattr(cfg, "attn_scale", None) or -1.0)
    return given if given > 0 else math.sqrt(d_head)


def _scales_by_one(model: nn.Module) -> bool:
    """Whether the norms of a bridge in compatibility mode have nothing left to fold."""
    cfg: Any = model.cfg
    one = 0.0 if getattr(cfg, "rmsnorm_uses_offset", False) else 1.0
    norms = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in ("ln1", "ln2", "ln_final")]
    parts = [(getattr(norm, "weight", None), one) for norm in norms]
    parts += [(getattr(norm, "bias", None), 0.0) for norm in norms]
    return all(bool((x == to).all()) for x, to in parts if isinstance(x, Tensor))
