"""What a fresh linear reader finds in activations: fitted on some examples, scored on others."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.erasure.erasers import columns, rounding

_PENALTIES = np.logspace(-6, 2, 9)  # ridge, in units of a whitened feature's variance times examples


def decodability(
    x: Float[Tensor, "n d"],
    z: Shaped[Tensor, " m *k"],
    groups: Int[Tensor, " g"] | None = None,
    seed: int = 0,
) -> float:
    """How well a linear reader, fitted on half of the examples, reads z from x in the other half.

    Both halves take turns. Numbers: R² of ridge regression, its penalty chosen by leave-one-out within
    the fitting half, summed over the columns of z; 0 is a constant's, and below 0 is worse than one.
    Classes: the accuracy of logistic regression; the share of the most frequent class is a constant's.
    The reader sees whitened activations, so that the scale of a direction does not hide it.

    Args:
        x, z: as in ``leace``.
        groups: rows with the same number, such as positions of one sequence, stay in the same half.

    Raises:
        ValueError: fewer than 4 groups, lengths that differ, or a half in which z does not vary.
    """
    of_row = torch.arange(len(x)) if groups is None else groups
    if not len(x) == len(z) == len(of_row):
        raise ValueError(
            f"expected as many rows of x, z and groups, got {len(x)}, {len(z)} and {len(of_row)}"
        )
    halves = [torch.isin(of_row, half) for half in halve(of_row.unique(), seed)]
    scores = [_score(x, z, fit, held) for fit, held in (halves, halves[::-1])]
    return float(np.mean(scores))


def halve(rows: Int[Tensor, " n"], seed: int) -> tuple[Int[Tensor, " first"], Int[Tensor, " second"]]:
    """Two random halves.

    Raises:
        ValueError: fewer than 4 rows.
    """
    if len(rows) < 4:
        raise ValueError(f"expected at least 4 examples to fit and to score on, got {len(rows)}; give more")
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return order[: len(rows) // 2], order[len(rows) // 2 :]


def _score(x: Tensor, z: Tensor, fit: Tensor, held: Tensor) -> float:
    for half in (fit, held):
        if bool((z[half] == z[half][:1]).all()):
            raise ValueError("expected z to vary in both halves of the examples, got one value; give more")
    seen, unseen = _whitened(x, fit, held)
    if seen.shape[1] == 0:  # nothing varies: a constant is all that can be answered
        seen, unseen = np.zeros((len(seen), 1)), np.zeros((len(unseen), 1))
    if not z.is_floating_point():
        from sklearn.linear_model import LogisticRegression

        labels = z.cpu().numpy()
        reader = LogisticRegression(max_iter=500).fit(seen, labels[fit.numpy()])
        return float(reader.score(unseen, labels[held.numpy()]))
    from sklearn.linear_model import RidgeCV

    truth = columns(z).numpy()
    reader = RidgeCV(alphas=_PENALTIES * len(seen)).fit(seen, truth[fit.numpy()])
    target = truth[held.numpy()]
    wrong = ((target - reader.predict(unseen).reshape(target.shape)) ** 2).sum()
    return float(1 - wrong / ((target - target.mean(0)) ** 2).sum())


def _whitened(x: Tensor, fit: Tensor, held: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both parts in the principal axes of the first, each scaled to variance 1 there."""
    vectors = x.double().cpu()
    mean = vectors[fit].mean(0)
    _, sizes, axes = torch.linalg.svd(vectors[fit] - mean, full_matrices=False)
    there = sizes > rounding(x[fit])
    into = axes[there].mT / sizes[there] * int(fit.sum()) ** 0.5
    return ((vectors[fit] - mean) @ into).numpy(), ((vectors[held] - mean) @ into).numpy()
