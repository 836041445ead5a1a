"""How a change travels by the residual stream alone, past heads that are held as they were."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.models.attention import project
from mechinterp.models.entering import Change


class Paths:
    """The direct paths of a ``Rerun``, which has the intact run."""

    model: Any
    cfg: Any
    base: Any
    _stream_after: Any
    _at: Any
    read_out: Any
    standing: Any

    def carry(self, change: Change, to_layer: int, through_mlps: bool) -> Change:
        """What reaches the stream entering a layer, or the readout at ``n_layers``, with all heads frozen.

        Args:
            through_mlps: MLPs on the way answer to the change; otherwise they are frozen too.
        """
        at, delta = change.positions, change.delta
        first = change.layer if change.stage != "post" else change.layer + 1
        for layer in range(first, to_layer):
            if through_mlps and not self.cfg.attn_only:
                block = self.model.blocks[layer]
                mid = self._at(self.base(layer, "hook_resid_mid"), at)
                delta = delta + block.mlp(block.ln2(mid + delta)) - block.mlp(block.ln2(mid))
        return Change(to_layer, "pre", at, delta)

    @torch.no_grad()
    def direct_outputs(self, change: Change, through_mlps: bool) -> Float[Tensor, "patch batch read out"]:
        """The outputs when only the direct path to the readout carries the change."""
        last = self.cfg.n_layers
        arrived = self.carry(change, last, through_mlps)
        return self.read_out(
            arrived.positions, self._stream_after(last - 1, arrived.positions) + arrived.delta
        )

    @torch.no_grad()
    def received(
        self, change: Change, layer: int, head: int, activation: str, through_mlps: bool
    ) -> Float[Tensor, "patch batch pos head d_head"]:
        """A head's ``q``, ``k`` or ``v`` (after rotation) when only direct paths carry the change to it.

        The other heads' are those of the intact run, as an entrance takes them.
        """
        arrived, block = self.carry(change, layer, through_mlps), self.model.blocks[layer]
        at, attn = arrived.positions, block.attn
        stream = self._at(self.base(layer, "hook_resid_pre"), at) + arrived.delta
        one, letter = slice(head, head + 1), activation.upper()
        weight, bias = getattr(attn, f"W_{letter}")[one], getattr(attn, f"b_{letter}")[one]
        new = project(block.ln1(stream).flatten(0, 1), weight, bias)
        if attn.rotary is not None and activation != "v":
            standing = self.standing(at[0])
            if standing.ndim > 1:
                standing = standing.repeat_interleave(stream.shape[1], 0)
            new = attn.rotary(new, standing)
        intact = self.base(layer, activation if activation != "v" else "attn.hook_v")
        values = intact[:, None].expand(-1, stream.shape[1], -1, -1, -1).clone()
        values[:, :, at[0], head] = new[:, :, 0].unflatten(0, stream.shape[:2])
        return values.transpose(0, 1)
