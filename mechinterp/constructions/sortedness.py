"""A network without positions that tells sorted sequences of any length, its weights written down by hand.

The first layer's head 0 looks at the largest token so far, which it finds by its size alone, and writes it
down as the prefix maximum. The MLP compares: where the token is below that, there is a fall. The second
layer's head 0, at the last token, looks at falls, wherever they are, and the readout asks whether it saw one.
Heads 1 are spare: they look everywhere alike and write nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.factories import sortedness as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.sortedness import Sortedness

TOKEN, MAXIMUM, FALL, SEEN = range(4)
"""Directions of the stream: the token, the largest so far, whether it is a fall, whether one was seen."""
SHARP = 20.0
"""Scores a unit: of a token that is one smaller the weight is e^-20, of thousands of them still little."""
SURE = 20.0
"""Logits of what is certain."""


@torch.no_grad()
@cpu_default
def sortedness(task: Sortedness, **changes: Any) -> HookedTransformer:
    """Two causal layers of two heads; ``blocks.0`` head 0 is the prefix-maximum head.

    Args:
        task: whose sequences it answers, of any length up to ``n_ctx``.
        changes: fields of ``TransformerConfig`` that leave the computation as it is, such as ``dtype`` or
            ``n_ctx``.

    Raises:
        ValueError: a network that sees what comes later.
    """
    if changes.get("attention_dir", "causal") != "causal":
        raise ValueError(
            "expected a causal network, got a bidirectional one: without positions it cannot know what came "
            "before; leave attention_dir out"
        )
    fields = {
        "n_layers": 2, "n_heads": 2, "d_head": 1, "d_model": 4, "d_mlp": 2, "attn_scale": 1.0,
        "normalization_type": None,
    }  # fmt: skip
    model = build(task, **fields | changes)
    for weight in model.parameters():
        weight.zero_()
    model.embed.W_E[: task.vocabulary, TOKEN] = torch.arange(task.vocabulary, dtype=model.cfg.dtype)
    for block, reads, writes in zip(model.blocks, (TOKEN, FALL), (MAXIMUM, SEEN)):
        attn = block.attn
        attn.b_Q[0] = SHARP
        attn.W_K[0, reads] = attn.W_V[0, reads] = 1.0
        attn.W_O[0, 0, writes] = 1.0
    mlp = model.blocks[0].mlp  # clip(2 (maximum - token) - 1/2, 0, 1)
    mlp.W_in[MAXIMUM], mlp.W_in[TOKEN] = 2.0, -2.0
    mlp.b_in.copy_(torch.tensor([-0.5, -1.5]))
    mlp.W_out[:, FALL] = torch.tensor([1.0, -1.0])
    model.unembed.W_U[SEEN] = torch.tensor([SURE, -SURE])
    model.unembed.b_U.copy_(torch.tensor([-SURE / 2, SURE / 2]))
    return model
