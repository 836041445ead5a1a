"""A network that predicts a machine's next token through one code a state, its weights written down by hand.

Every token belongs to one state. The embedding is a token's state, one-hot; the MLP copies it; the codebook
behind the MLP has one code for each state, and the readout reads that code only: the logarithms of the next
token's distribution. So what is predicted is what the code says, and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.factories import state_machine as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.state_machine import StateMachine

NEVER = -30.0
"""Logit of tokens that cannot come."""


@torch.no_grad()
@cpu_default
def state_machine(task: StateMachine, **changes: Any) -> HookedTransformer:
    """One layer, whose attention writes nothing, with codebooks behind both sublayers.

    Code s of ``blocks.0.codebook_mlp`` is state s; the others, and those behind the attention, are spare.

    Args:
        task: whose tokens say which state the machine is in.
        changes: fields of ``TransformerConfig`` that leave the computation as it is, such as ``dtype`` or
            ``codebook_size``, of at least one more code than there are states.

    Raises:
        ValueError: a task whose tokens do not tell, too few codes, several at a time, or none behind the MLP.
    """
    machine = task.machine
    n, arrives = machine.n_states, machine.matrices.sum(1) > 0
    if bool((arrives.sum(1) != 1).any()):
        raise ValueError(
            "expected a machine whose tokens tell its state, got tokens after which it may be in several; "
            "take emission='disjoint'"
        )
    size = changes.get("codebook_size", n + 1)
    if size <= n:
        raise ValueError(f"expected at least {n + 1} codes for {n} states, got {size}; raise codebook_size")
    if changes.get("codebook_top_k", 1) != 1 or "mlp" not in changes.get("codebook_sites", ("mlp",)):
        raise ValueError(
            "expected one code at a time, and a codebook behind the MLP, got others; leave them out"
        )
    fields = {
        "n_layers": 1, "n_heads": 1, "d_head": 1, "d_mlp": n, "d_model": 2 * n, "normalization_type": None,
        "positional_embedding_type": "none", "codebook_size": size,
    }  # fmt: skip
    model = build(task, **fields | changes)
    for weight in model.parameters():
        weight.zero_()
    block, eye = model.blocks[0], torch.eye(n, dtype=model.cfg.dtype)
    model.embed.W_E[:, :n] = arrives.to(model.cfg.dtype)
    block.mlp.W_in[:n] = eye
    block.mlp.W_out[:, n:] = eye
    block.codebook_mlp.codes[:n, n:] = eye
    model.unembed.W_U[n:] = machine.emission.log().clamp_min(NEVER).to(model.cfg.dtype)
    return model
