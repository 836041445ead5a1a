"""Intervals and nulls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def bootstrap_interval(
    values: ArrayLike, statistic: Callable = np.mean, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of a statistic of independent values (Efron 1979).

    Args:
        values: ``[n]``.
        statistic: takes an array and ``axis``.

    Raises:
        ValueError: fewer than two values.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if len(sample) < 2:
        raise ValueError(f"expected at least 2 values to resample, got {len(sample)}; measure more")
    rng = np.random.default_rng(seed)
    estimates = statistic(sample[rng.integers(len(sample), size=(draws, len(sample)))], axis=1)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def proportion_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson 1934).

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"expected 0 <= hits <= n and n > 0, got hits={hits}, n={n}")
    found = stats.binomtest(hits, n).proportion_ci(confidence_level=level, method="exact")
    return float(found.low), float(found.high)


def null_interval(null: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Where the middle ``level`` of a null distribution lies, ``[low, high]``."""
    return np.quantile(np.asarray(null, dtype=float), [(1 - level) / 2, (1 + level) / 2])
