"""An encoder-decoder that adds exactly, its weights written down by hand.

Least significant digit first, the carry need not be remembered: it shows in what was written. Four heads of
cross-attention read by position: for the digit o_i of column i, the digits a_i and b_i, which add up to u,
and those of the column before. Together with the o_{i-1} just written these give
``z = a_{i-1} + b_{i-1} - o_{i-1}``, which is -1 or 0 without a carry and B - 1 or B with one. The MLP turns
z into the carry c, and ``v = u + z / B`` into whether column i wraps, with two neurons each:

    c = relu(z / (B - 1)) - relu((z - B + 1) / (B - 1))
    wrap = relu((v - B + 1) / s) - relu((v - B + 1/B) / s),  s = 1 - 1/B

and ``o_i = u + c - B wrap`` is read out by the logits ``2 n o_i - n^2``. All heads of the encoder and of the
decoder's self-attention are idle.
"""

from __future__ import annotations

from typing import Any

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.factories import digit_addition as build
from mechinterp.tasks.digit_addition import DigitAddition

READ, U, Z, WRITTEN, POSITIONS = range(5)
"""Coordinates of the stream: a token's digit, the sums u and z, what the MLP adds to u, and from the last on
one for each position."""
SHARP = 40.0
"""Score of the position that a head looks at; the others have 0."""


@torch.no_grad()
@cpu_default
def digit_addition(task: DigitAddition, **changes: Any) -> HookedEncoderDecoder:
    """One layer of encoder and decoder each; heads ``decoder.0.cross.0`` to ``.3`` read a_i, b_i, a_{i-1},
    b_{i-1}.

    Args:
        changes: fields of ``EncoderDecoderConfig`` that leave the computation as it is, such as ``dtype``.

    Raises:
        ValueError: a task that writes the most significant digit first, which cannot be read off what was
            written.
    """
    if not task.reverse:
        raise ValueError(
            "expected a task that writes the least significant digit first, got reverse=False; this network "
            "takes its carries from the digits written"
        )
    n, base = task.n_digits, task.base
    fields = {
        "n_layers": 1, "n_encoder_layers": 1, "n_heads": 4, "d_head": task.n_source, "d_mlp": 4,
        "d_model": POSITIONS + max(task.n_source, task.n_target), "normalization_type": None,
        "attn_scale": 1.0,
    }  # fmt: skip
    model = build(task, **fields | changes)
    assert isinstance(model, HookedEncoderDecoder)
    for weight in model.parameters():
        weight.zero_()
    digits = torch.arange(base, dtype=model.cfg.dtype)
    for stack, length in ((model.encoder, task.n_source), (model, task.n_target)):
        stack.embed.W_E[:base, READ] = digits
        stack.pos_embed.W_pos[:, POSITIONS : POSITIONS + length] = torch.eye(length)
    block = model.blocks[0]
    _look(block.cross_attn, task)
    mlp, step, near = block.mlp, base - 1.0, 1 - 1 / base
    for neuron, (high, width) in enumerate(((0.0, step), (step, step))):
        mlp.W_in[Z, neuron], mlp.W_in[READ, neuron] = 1 / width, -1 / width
        mlp.b_in[neuron] = -high / width
    for neuron, high in ((2, base - 1), (3, base - 1 / base)):
        mlp.W_in[U, neuron], mlp.b_in[neuron] = 1 / near, -high / near
        mlp.W_in[Z, neuron], mlp.W_in[READ, neuron] = 1 / (base * near), -1 / (base * near)
    mlp.W_out[:, WRITTEN] = torch.tensor([1.0, -1.0, -float(base), float(base)])
    out = model.unembed
    out.W_U[U, :base] = out.W_U[WRITTEN, :base] = 2 * digits
    out.b_U[:] = -4.0 * base**2
    out.b_U[:base] = -digits.square()
    out.W_U[POSITIONS + n + 1, task.end] = 8.0 * base**2
    return model


def _look(attn: Any, task: DigitAddition) -> None:
    """Heads by position; where there is no such digit, at ``+``, which counts as 0."""
    n = task.n_digits
    plus = n
    for head, (number, back, to) in enumerate(((0, 0, U), (1, 0, U), (0, 1, Z), (1, 1, Z))):
        for i in range(task.n_target):
            column = i - back
            there = 0 <= column < n
            at = plus if not there else n - 1 - column + number * (n + 1)
            attn.W_Q[head, POSITIONS + i, at] = SHARP
        attn.W_K[head, POSITIONS : POSITIONS + task.n_source] = torch.eye(task.n_source)
        attn.W_V[head, READ, 0] = 1.0
        attn.W_O[head, 0, to] = 1.0
