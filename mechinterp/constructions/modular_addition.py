"""A ReLU transformer that adds mod p, built by hand.

Each number is a point on one circle for each frequency. Attention averages the two numbers'
points; neurons look at the average from R directions; the readout turns what they see by twice
the angle. This is the "pizza" of Zhong et al. (2023): with x = a + b and R odd, the sum over
directions of ReLU(r cos(u - phi)) exp(2 i phi) is nearly proportional to r exp(2 i u), where u is half
the angle of the sum and r = |cos(w (a - b) / 2)|: the harmonics 2 R - 2, 2 R + 2, 4 R - 2 and so on of the
ReLU turn it by a little, which R directions enough make less than half the angle from one number to the
next. Several frequencies leave no pair with every r small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from mechinterp.devices import cpu_default
from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.modular_addition import ModularAddition


@cpu_default
def default_frequencies(p: int, n: int = 5) -> tuple[int, ...]:
    """Up to n frequencies spread over 1 .. (p - 1) / 2, the same for every call."""
    most = (p - 1) // 2
    spread = torch.linspace(1, most, min(n, most)).round().long()
    return tuple(spread.unique().tolist())


@cpu_default
def turned(directions: int, p: int) -> float:
    """By how much neurons that look from so many directions turn an angle at most, in radians."""
    phi = 2 * torch.pi * torch.arange(directions, dtype=torch.float64) / directions
    half = torch.pi * torch.arange(2 * p, dtype=torch.float64) / p
    seen = ((half[:, None] - phi).cos().relu() * torch.exp(2j * phi)).sum(1)
    return float((seen * torch.exp(-2j * half)).angle().abs().max())


@cpu_default
def modular_addition(
    task: ModularAddition,
    frequencies: Sequence[int] | None = None,
    directions: int | None = None,
    scale: float = 100.0,
) -> HookedTransformer:
    """A network that answers every pair rightly, with the frequencies it is told to use.

    Args:
        task: addition with an odd p.
        frequencies: in 1 .. (p - 1) / 2, without a divisor that all of them and p have in common, so that
            together they tell all residues apart. ``None``: ``default_frequencies(p)``.
        directions: R, odd and at least 5; neurons a frequency. ``None``: the fewest that tell sums apart, 5
            up to p = 113.
        scale: multiplies the logits, hence the margins.

    Returns:
        A ``HookedTransformer`` of ``4 * len(frequencies)`` dimensions (points read, points found), one
        head of uniform attention, and ``directions * len(frequencies)`` neurons, neuron ``f * R + j`` being
        direction j of frequency f.

    Raises:
        ValueError: an even p, another operation, frequencies out of range or that do not tell residues
            apart, or R even, below 5 or too small for p.
    """
    p = task.p
    chosen = default_frequencies(p) if frequencies is None else tuple(frequencies)
    if task.operation != "add" or p % 2 == 0 or p < 3:
        raise ValueError(
            f"expected addition with an odd p >= 3, got {task.operation} mod {p}; halving an angle "
            "needs an inverse of 2"
        )
    if not chosen or len(set(chosen)) < len(chosen) or not all(1 <= k <= (p - 1) // 2 for k in chosen):
        raise ValueError(
            f"expected distinct frequencies in 1..{(p - 1) // 2}, got {chosen}; choose from those"
        )
    if (common := math.gcd(p, *chosen)) > 1:
        raise ValueError(
            f"expected frequencies that tell all residues apart, got {chosen}, which with p={p} are "
            f"multiples of {common}; add one that is not"
        )
    enough = next(R for R in itertools.count(5, 2) if turned(R, p) < torch.pi / p)
    n, R = len(chosen), enough if directions is None else directions
    if R < 5 or R % 2 == 0 or turned(R, p) >= torch.pi / p:
        raise ValueError(
            f"expected an odd number of at least 5 directions, enough to tell sums mod {p} apart, got {R}; "
            f"{enough} will do"
        )
    model = HookedTransformer(
        TransformerConfig(
            d_model=4 * n, n_heads=1, d_head=2 * n, n_layers=1, d_mlp=n * R, act_fn="relu", n_ctx=3,
            d_vocab=p + 1, d_vocab_out=p, positional_embedding_type="none", readout="classes",
            use_biases=False, init_mode="fan_in", dtype=torch.float32,
        )
    )  # fmt: skip
    w = 2 * torch.pi * torch.tensor(chosen, dtype=torch.float64) / p
    angle = torch.arange(p)[:, None] * w
    phi = 2 * torch.pi * torch.arange(R, dtype=torch.float64) / R
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        # "=" is the zero vector, so that only the two numbers are summed.
        model.embed.W_E[:p, 0 : 2 * n : 2] = angle.cos().float()
        model.embed.W_E[:p, 1 : 2 * n : 2] = angle.sin().float()
        attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
        # Zero queries and keys attend evenly to a, b and "=": 3 / 2 makes the mean of two points.
        attn.W_V[0, : 2 * n] = torch.eye(2 * n)
        attn.W_O[0, :, : 2 * n] = 1.5 * torch.eye(2 * n)
        for f in range(n):
            rows, found = slice(f * R, (f + 1) * R), 2 * n + 2 * f
            mlp.W_in[2 * f, rows], mlp.W_in[2 * f + 1, rows] = phi.cos().float(), phi.sin().float()
            mlp.W_out[rows, found] = (2 * phi).cos().float()
            mlp.W_out[rows, found + 1] = (2 * phi).sin().float()
        model.unembed.W_U[2 * n :: 2] = scale * angle.T.cos().float()
        model.unembed.W_U[2 * n + 1 :: 2] = scale * angle.T.sin().float()
    return model
