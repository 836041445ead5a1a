"""Intervals for statistics of a whole cloud of vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.statistics import seeds_interval


def jackknife_interval(
    statistic: Callable[[Int[Tensor, " rows"]], float],
    n: int,
    *,
    groups: int = 20,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval, or another, of a statistic of n examples, from its ``pseudo_values``.

    Its middle is the statistic corrected for a bias that falls as 1/n. Participation ratios, CKA and
    squared correlations have one, and a bootstrap, which repeats examples, doubles it: with 200 examples
    of 20 dimensions its intervals nearly always miss the truth, these about as often as they say. With
    fewer examples than a few times the dimensions these miss too.

    The arguments are those of ``pseudo_values``, and so are the errors.
    """
    return seeds_interval(pseudo_values(statistic, n, groups=groups, seed=seed), level)


def pseudo_values(
    statistic: Callable[[Int[Tensor, " rows"]], float], n: int, *, groups: int = 20, seed: int = 0
) -> NDArray[np.float64]:
    """As many values of a statistic, nearly independent, as there are groups left out in turn (Tukey 1958).

    Args:
        statistic: of the rows that it is given as indices into the examples.
        groups: into how many random groups the examples are divided.

    Raises:
        ValueError: fewer than three examples, or fewer than two groups.
    """
    if n < 3 or groups < 2:
        raise ValueError(
            f"expected at least 3 examples to leave some out, and 2 groups, got {n} examples and "
            f"{groups} groups"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split(min(groups, n))
    whole = statistic(torch.arange(n))
    without = [statistic(torch.cat(parts[:i] + parts[i + 1 :]).sort().values) for i in range(len(parts))]
    return len(parts) * whole - (len(parts) - 1) * np.array(without)
