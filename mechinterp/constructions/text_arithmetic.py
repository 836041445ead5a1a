"""A network that adds numbers in text exactly, its weights written down by hand.

One head looks from the last character at the digits, at each in proportion to its place value: its score is
the place times log 10, so that the softmax gives 10^place over their total Z. The values are the digits, and
Z times what the head writes is the sum s. A number is read off it as it is. For residues the MLP turns s into
points on circles, ``cos(2 pi f s / k)`` and ``sin(2 pi f s / k)``, joined up straight between whole numbers:
what is linear from each whole number to the next is a sum of ``relu(s - i)``, times its second differences. A
residue's logit is the product of its own points with these.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.factories import text_arithmetic as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.text_arithmetic import TextModular
from mechinterp.tasks.texts import TextArithmetic

DIGIT, SUM, CIRCLES = 0, 1, 2
"""Coordinates of the stream: a token's digit, the sum, and from the third on the circles, then positions."""
AWAY = -60.0
"""Score of characters that are no digits."""
SURE = 20.0
"""Of the logits of residues, over the products of points."""


@torch.no_grad()
@cpu_default
def text_arithmetic(task: TextArithmetic, **changes: Any) -> HookedTransformer:
    """One layer of two heads, of which ``blocks.0`` head 0 adds and head 1 is idle.

    Args:
        task: whose numbers have leading zeros, so that a character's position gives its place value; sums, or
            residues as classes or circles.
        changes: fields of ``TransformerConfig`` that leave the computation as it is, such as ``dtype``.

    Raises:
        ValueError: another task, or numbers too large to be exact.
    """
    if not task.zero_padded:
        raise ValueError(
            "expected a task with zero_padded=True, got texts of many lengths; this network takes place "
            "values from positions"
        )
    modular = isinstance(task, TextModular)
    precise = changes.get("dtype", torch.float32) == torch.float64
    most = 2000 if modular and not precise else 10**5
    if task.max_operand >= most:
        raise ValueError(
            f"expected numbers below {most:,}, got max_operand={task.max_operand}; "
            + ("in 32 bits residues of larger ones are not exact: give dtype=torch.float64" if most == 2000
               else "larger sums are not exact in 32 bits")
        )  # fmt: skip
    if modular and task.readout == "value":
        raise ValueError("expected residues as classes or circles, got values; choose another readout")
    points = task.circles.double() if modular else torch.zeros(1, 0).double()
    top, high = 2 * task.max_operand, points.shape[1]
    fields = {
        "n_layers": 1, "n_heads": 2, "d_head": 1, "d_mlp": top if modular else 1, "attn_scale": 1.0,
        "d_model": CIRCLES + high + task.n_ctx, "normalization_type": None,
    }  # fmt: skip
    model = build(task, **fields | changes)
    for weight in model.parameters():
        weight.zero_()
    model.embed.W_E[1:11, DIGIT] = torch.arange(10, dtype=model.cfg.dtype)
    model.pos_embed.W_pos[:, CIRCLES + high :] = torch.eye(task.n_ctx, dtype=model.cfg.dtype)
    _add(model, places(task), CIRCLES + high)
    if not modular:
        model.unembed.W_U[SUM, 0] = 1 / task.unit
        return model
    mlp = model.blocks[0].mlp
    mlp.W_in[SUM] = 1.0
    mlp.b_in[:] = -torch.arange(top, dtype=model.cfg.dtype)
    wanted = points[torch.arange(top + 1) % task.k]
    slopes = wanted.diff(dim=0)
    mlp.W_out[:, CIRCLES : CIRCLES + high] = torch.cat((slopes[:1], slopes.diff(dim=0))).to(mlp.W_out)
    mlp.b_out[CIRCLES : CIRCLES + high] = wanted[0].to(mlp.b_out)
    readout = SURE * points.T if task.classes else torch.eye(high)
    model.unembed.W_U[CIRCLES : CIRCLES + high] = readout.to(mlp.W_out)
    return model


@cpu_default
def places(task: TextArithmetic) -> list[int | None]:
    """The place of each character's digit, 0 for units; ``None`` where there is no digit."""
    digits = range(task.n_digits)[::-1]
    parts = re.split(r"(\{[xy]\})", task.template)
    return [place for part in parts for place in (digits if part in ("{x}", "{y}") else [None] * len(part))]


def _add(model: HookedTransformer, place: list[int | None], start: int) -> None:
    """Head 0 writes the sum."""
    attn = model.blocks[0].attn
    scores = [AWAY if p is None else p * math.log(10) for p in place]
    attn.W_Q[0, start + len(place) - 1, 0] = 1.0
    attn.W_K[0, start:, 0] = torch.tensor(scores, dtype=attn.W_K.dtype)
    attn.W_V[0, DIGIT, 0] = 1.0
    attn.W_O[0, 0, SUM] = float(sum(10**p for p in place if p is not None))
