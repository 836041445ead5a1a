"""How well held-out targets are predicted, how sure that is, and whether chance would do as well.

Predictions and truths are vectors, ``[..., example, target, component]``; scores pool components.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]


def r_squared(
    prediction: Float[Tensor, "*cell n target component"], truth: Float[Tensor, "*#cell n target component"]
) -> Float[Tensor, "*cell target"]:
    """1 - squared error over squared deviation from the examples' mean; NaN where nothing deviates."""
    missed = (prediction - truth).square().sum((-3, -1))
    total = (truth - truth.mean(-3, keepdim=True)).square().sum((-3, -1))
    return 1 - missed / torch.where(total > 0, total, torch.nan)


def accuracy(
    prediction: Float[Tensor, "*cell n target component"], truth: Float[Tensor, "*#cell n target component"]
) -> Float[Tensor, "*cell target"]:
    """The share of examples whose class, one-hot, is the one predicted."""
    return (prediction * truth).sum(-1).mean(-2)


def bootstrap(
    score: Score,
    prediction: Float[Tensor, "n 1 component"],
    truth: Float[Tensor, "n 1 component"],
    sequence: Int[Tensor, " n"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % percentile interval of one target's score, over held-out sequences, or groups of them, drawn
    with replacement.

    The fit is not repeated: this is how sure the score is of this probe, not of another training set.
    """
    rng, (_, number) = np.random.default_rng(seed), np.unique(sequence.numpy(), return_inverse=True)
    n, scores = int(number.max()) + 1, []
    for _ in range(draws):
        times = np.bincount(rng.integers(n, size=n), minlength=n)[number]
        rows = torch.from_numpy(np.repeat(np.arange(len(number)), times))
        scores.append(score(prediction[rows], truth[rows]))
    ends = torch.cat(scores).double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return ends[0].item(), ends[1].item()


def shuffle_p_values(
    prediction: Float[Tensor, "cell n target component"],
    truth: Float[Tensor, "#cell n target component"],
    orders: Int[Tensor, "draw n"],
) -> Float[Tensor, "cell target"]:
    """How often held-out labels in another order agree with the predictions at least as well.

    The predictions stay as they are. Over orders of the labels, R² and accuracy both rise with the
    inner product of predictions and labels alone, so that is what is compared. What was observed
    counts as one of the orders (Phipson & Smyth 2010).
    """
    truth = truth - truth.mean(1, keepdim=True)
    rounding = 1e-9 * (prediction.abs() * truth.abs()).sum((1, 3))
    observed = (prediction * truth).sum((1, 3)) - rounding
    hits = torch.ones_like(observed)
    at_once = max(1, 2**22 // truth[0].numel())
    for cell, labels in enumerate(truth):
        which = slice(None) if len(truth) == 1 else slice(cell, cell + 1)
        for some in orders.split(at_once):
            moved = torch.einsum("xntc,qntc->qxt", prediction[which], labels[some])
            hits[which] += (moved >= observed[which]).sum(0)
    return hits / (len(orders) + 1)
