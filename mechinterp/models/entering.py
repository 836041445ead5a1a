"""Where patches enter a network, and what they do to the residual stream there.

Each entrance takes a donor's values of one activation and returns a ``Change``: one patch a head, a
group of neurons or a direction. A patch of queries, keys, values or patterns is worked through
the attention it sits in; nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Stage = Literal["pre", "mid", "post"]
STAGES: dict[str, Stage] = {
    "resid_pre": "pre",
    "attn_out": "mid",
    "resid_mid": "mid",
    "mlp_out": "post",
    "resid_post": "post",
    "post": "post",
} | dict.fromkeys(("q", "k", "v", "z", "pattern"), "mid")
"""Where in a layer a change of each activation joins the stream, as ``Change`` has it."""


@dataclass(frozen=True)
class Change:
    """What some patches do to the residual stream of a layer, where they enter.

    Args:
        layer, stage: before the attention (``"pre"``), before the MLP (``"mid"``) or after it (``"post"``).
        positions: where the stream changes, increasing; one row for all patches, or a row for each.
        delta: what is added there, one batch a patch.
    """

    layer: int
    stage: Stage
    positions: Int[Tensor, "#patch at"]
    delta: Float[Tensor, "batch patch at d_model"]

    def __getitem__(self, patches: slice | list[int]) -> Change:
        """Some of the patches."""
        positions = self.positions if len(self.positions) == 1 else self.positions[patches]
        return Change(self.layer, self.stage, positions, self.delta[:, patches])

    def apart(self) -> Change:
        """Every position a patch of its own: all patches at the first position, then all at the next."""
        positions = self.positions[0].repeat_interleave(self.delta.shape[1])[:, None]
        positions = positions[:1] if self.positions.shape[1] == 1 else positions
        return Change(self.layer, self.stage, positions, self.delta.transpose(1, 2).flatten(1, 2)[:, :, None])


class Entrances:
    """The entrances of a ``Rerun``, which has the intact run and knows what can be reached."""

    model: Any
    base: Any
    reach: Any
    pattern: Any
    everywhere: Tensor

    def enter_stream(
        self,
        layer: int,
        activation: str,
        at: Int[Tensor, " at"],
        donor: Float[Tensor, "batch patch pos d_model"],
    ) -> Change:
        """Patches of ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out`` or ``resid_post``."""
        delta = donor[:, :, at] - self.base(layer, f"hook_{activation}")[:, None, at]
        return Change(layer, STAGES[activation], at[None], delta)

    def enter_neurons(
        self,
        layer: int,
        groups: Sequence[Int[Tensor, " _"]],
        at: Int[Tensor, " at"],
        donor: Float[Tensor, "some pos d_mlp"],
    ) -> Change:
        """Patches of ``mlp.hook_post``, a group of neurons each."""
        change = donor[:, at] - self.base(layer, "mlp.hook_post")[:, at]
        W_out = self.model.blocks[layer].mlp.W_out
        return Change(layer, "post", at[None], torch.stack([change[..., g] @ W_out[g] for g in groups], 1))

    def enter_heads(
        self,
        layer: int,
        activation: str,
        at: Int[Tensor, " at"],
        donor: Tensor,
        joint: bool = False,
    ) -> Change:
        """Patches of ``q``, ``k``, ``v``, ``z`` or ``pattern``, a head each, or one of all heads.

        Args:
            at: the positions patched; of a pattern, those that ask.
            donor: the activation's values, of a batch of 1 or of all; ``q`` and ``k`` after rotation.
        """
        to, dz = self._changed_z(layer, activation, at, donor)
        written = torch.einsum("bthe,hed->bhtd", dz, self.model.blocks[layer].attn.W_O)
        return Change(layer, "mid", to[None], written.sum(1, keepdim=True) if joint else written)

    def _changed_z(self, layer: int, activation: str, at: Tensor, donor: Tensor) -> tuple[Tensor, Tensor]:
        """Where and by how much ``z`` changes, ``[batch, at, head, d_head]``."""
        if activation == "z":
            return at, donor[:, at] - self.base(layer, "attn.hook_z")[:, at]
        v = self.base(layer, "attn.hook_v").transpose(1, 2)
        intact = self.base(layer, "attn.hook_pattern")
        if activation == "pattern":
            return at, ((donor[:, :, at] - intact[:, :, at]) @ v).transpose(1, 2)
        to = at if activation == "q" else self.reach(layer, at)
        if activation == "v":
            dv = (donor[:, at] - self.base(layer, "attn.hook_v")[:, at]).transpose(1, 2)
            return to, (intact[:, :, to][..., at] @ dv).transpose(1, 2)
        if not len(to):
            return to, self.base(layer, "attn.hook_z")[:, to]
        q, k = self.base(layer, "q")[:, to], self.base(layer, "k")
        if activation == "q":
            q = donor[:, at]
        else:
            k = k.index_copy(1, at, donor[:, at].expand(len(k), -1, -1, -1))
        scores = q.transpose(1, 2)[:, :, None] @ k.permute(0, 2, 3, 1)[:, :, None]
        pattern = self.pattern(layer, scores, to, len(self.everywhere))[:, :, 0]
        return to, ((pattern - intact[:, :, to]) @ v).transpose(1, 2)
