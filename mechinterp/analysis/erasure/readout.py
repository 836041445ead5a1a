"""What a fresh linear reader finds in activations: fitted on some examples, scored on others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.erasure.concepts import ReadAs, as_concept
from mechinterp.analysis.erasure.erasers import check_concept, columns, rounding
from mechinterp.analysis.probes.ridge import fit_cells
from mechinterp.analysis.randomness import global_generators_kept
from mechinterp.analysis.repeats import repeated_rows
from mechinterp.analysis.tensors import tensor_of, vectors_of
from mechinterp.devices import cpu_default

LEAST = 5
"""Different inputs in each half; with fewer, no score means anything."""

_PENALTIES = np.logspace(-6, 2, 9)  # ridge, in units of a whitened feature's variance times examples


@cpu_default
def decodability(
    x: Float[Tensor, "n d"],
    z: Shaped[Tensor, " m *k"],
    groups: Int[Tensor, " g"] | None = None,
    seed: int = 0,
    *,
    z_as: ReadAs | None = None,
) -> float:
    """How well a linear reader, fitted on half of the examples, reads z from x in the other half.

    Both halves take turns. Numbers: R² of ridge regression, its penalty chosen by leave-one-out within
    the fitting half, summed over the columns of z; 0 is a constant's, and below 0 is worse than one.
    Classes: the accuracy of logistic regression; the share of the most frequent class is a constant's.
    The reader sees whitened activations, so that the scale of a direction does not hide it.

    Args:
        x, z, z_as: as in ``leace``.
        groups: rows with the same number, such as positions of one sequence, stay in the same half.
            ``None``: rows with the same activations; ``torch.arange(n)``: every row is one of its own.

    Raises:
        ValueError: fewer than 4 groups, lengths that differ, a half in which z does not vary, or a z attached
            to fewer different activations than can be held out.
    """
    x, z = tensor_of(x, "activations"), tensor_of(z, "a concept")
    of_row = torch.arange(len(x) if x.ndim else 0) if groups is None else tensor_of(groups, "groups").cpu()
    if not (x.ndim and z.ndim and of_row.ndim == 1 and len(x) == len(z) == len(of_row)):
        raise ValueError(
            f"expected as many rows of x, z and groups, got {list(x.shape)}, {list(z.shape)} and "
            f"{list(of_row.shape)}"
        )
    if len(x) < 4:
        halve(of_row, seed)
    x, z = vectors_of(x), as_concept(z, z_as)
    check_concept(z)
    if groups is None and (found := distinct_inputs(x, z)).of_row is not None:
        if found.mixed:
            raise ValueError(
                f"expected at least {2 * LEAST} different activations, some to be held out, as z is attached "
                f"to them, got {found.said}; give more, or groups=torch.arange({len(x)}), which takes each "
                "row for a new one"
            )
        of_row = found.of_row if found.apart else of_row
    halves = [torch.isin(of_row, half) for half in halve(of_row.unique(), seed)]
    scores = [_score(x, z, fit, held) for fit, held in (halves, halves[::-1])]
    return float(np.mean(scores))


class Distinct(NamedTuple):
    """Which rows are one input, whether they can be kept apart, and whether a concept is attached to them.

    Args:
        of_row: the input of each row; ``None`` where none repeats, or all are one.
        apart: whether there are enough of them to hold some out.
        attached: whether all rows of one input have one concept.
        said: how many there are.
    """

    of_row: Int[Tensor, " n"] | None = None
    apart: bool = False
    attached: bool = False
    said: str = ""

    @property
    def mixed(self) -> bool:
        """Whether a concept is attached to inputs of which there are too few to hold some out."""
        return self.attached and not self.apart


def distinct_inputs(x: Shaped[Tensor, " n *at"], z: Shaped[Tensor, " n *k"]) -> Distinct:
    """Which rows of activations are of one input."""
    of_row = repeated_rows(x)
    count = int(of_row.max()) + 1
    if count in (1, len(x)):  # if all rows are one, there is nothing to leak
        return Distinct()
    first = torch.full((count,), len(x)).scatter_reduce(0, of_row, torch.arange(len(x)), "amin")
    attached = bool((z == z[first[of_row]]).all())
    return Distinct(of_row, count >= 2 * LEAST, attached, f"{count} distinct inputs among {len(x)} rows")


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
        with global_generators_kept():
            from sklearn.linear_model import LogisticRegression

        labels = z.cpu().numpy()
        reader = LogisticRegression(max_iter=500, random_state=0).fit(seen, labels[fit.numpy()])
        return float(reader.score(unseen, labels[held.numpy()]))
    truth = columns(z)
    penalties, alike = (_PENALTIES * len(seen)).tolist(), repeated_rows(x[fit])
    given = (torch.from_numpy(seen)[None], truth[fit][None], torch.from_numpy(unseen)[None])
    answers = fit_cells(*given, penalties, truth.shape[1], False, alike)[0][0]
    target = truth[held]
    return float(1 - (target - answers).square().sum() / (target - target.mean(0)).square().sum())


def _whitened(x: Tensor, fit: Tensor, held: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both parts in the principal axes of the first, each scaled to variance 1 there."""
    vectors = x.double().cpu()
    mean = vectors[fit].mean(0)
    _, sizes, axes = torch.linalg.svd(vectors[fit] - mean, full_matrices=False)
    there = sizes > rounding(x[fit])
    into = axes[there].mT / sizes[there] * int(fit.sum()) ** 0.5
    return ((vectors[fit] - mean) @ into).numpy(), ((vectors[held] - mean) @ into).numpy()
