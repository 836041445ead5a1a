"""Networks without their skip connections or MLPs: edits that leave them out."""

from __future__ import annotations

import torch
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model
from mechinterp.hooks import Edit, Site, zero

VARIANTS = {
    "whole": {},
    "no MLPs": {"mlps": True},
    "no skips": {"skips": True},
    "neither": {"skips": True, "mlps": True},
}
"""Names, and what ``without`` leaves out."""


@checked
def without(model: torch.nn.Module, *, skips: bool = False, mlps: bool = False) -> list[Edit]:
    """Edits under which every block leaves out its skip connections, its MLP, or both.

    Without skips a block passes on what its attention wrote, and then what its MLP made of that; so the
    stream is no sum any more. Each list is for one run at a time.

    Args:
        model: any model with TransformerLens's hook names.
        skips: leave out both of each block.
        mlps: leave out MLPs; those of attention alone have none to leave out.
    """
    check_model(model, "leaving parts out", ("n_layers",))
    edits = []
    for layer in range(model.cfg.n_layers):
        name = f"blocks.{layer}.hook_"
        has_mlp = f"{name}mlp_out" in model.hook_dict
        if skips:
            edits += _instead(f"{name}attn_out", f"{name}resid_mid" if has_mlp else f"{name}resid_post")
        if has_mlp and mlps:
            edits += (
                _instead(f"{name}resid_mid", f"{name}resid_post") if skips else [zero(Site(f"{name}mlp_out"))]
            )
        elif has_mlp and skips:
            edits += _instead(f"{name}mlp_out", f"{name}resid_post")
    return edits


def _instead(source: str, target: str) -> list[Edit]:
    """Put what passes one hook point at another, later one."""
    held: list[Tensor] = []

    def take(old: Tensor, _: str) -> Tensor:
        held[:] = [old]
        return old

    return [Edit(Site(source), take, "take"), Edit(Site(target), lambda old, _: held[0], "put")]
