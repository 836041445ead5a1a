"""Losses that show a circuit form before the test loss does (Nanda et al. 2023, section 5).

Restricted loss keeps of the logits only what the key frequencies give: if they are the
mechanism, it stays low. Excluded loss takes just that away: if the rest had memorised, it
would stay low.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.fourier import project_sum_frequencies


def pair_loss(
    logits: Float[Tensor, "p p p"],
    targets: Int[Tensor, "p p"],
    rows: Int[Tensor, " row"] | None = None,
) -> float:
    """Mean cross-entropy in nats over all pairs, or over the pairs with flat indices ``rows``."""
    flat, answers = logits.double().flatten(0, 1), targets.flatten()
    if rows is not None:
        flat, answers = flat[rows], answers[rows]
    return torch.nn.functional.cross_entropy(flat, answers).item()


def restricted(logits: Float[Tensor, "p p c"], frequencies: Int[Tensor, " k"]) -> Float[Tensor, "p p c"]:
    """The logits' part of the given frequencies of a + b, and each answer's mean over pairs.

    For each answer the logits over all pairs are projected on cos w_k (a + b) and
    sin w_k (a + b); the mean of what the projection leaves out is added back.
    """
    kept = project_sum_frequencies(logits, frequencies)
    return kept + (logits - kept).mean((0, 1))


def excluded(logits: Float[Tensor, "p p c"], frequencies: Int[Tensor, " k"]) -> Float[Tensor, "p p c"]:
    """The logits without their part of the given frequencies of a + b."""
    return logits - project_sum_frequencies(logits, frequencies)


def random_frequencies(
    p: int, n: int, avoid: Sequence[int], draws: int, seed: int = 0
) -> list[Int[Tensor, " k"]]:
    """Sets of ``n`` frequencies for a null, drawn from those not in ``avoid``.

    Where fewer are left, each set has as many as there are; where none is, there are no sets.
    """
    left = torch.tensor([k for k in range(1, p // 2 + 1) if k not in set(avoid)], dtype=torch.long)
    if len(left) == 0:
        return []
    generator = torch.Generator().manual_seed(seed)
    return [left[torch.randperm(len(left), generator=generator)[:n]] for _ in range(draws)]
