"""Intervals and nulls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor


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
    ends = [(1 - level) / 2, (1 + level) / 2]
    # Weibull's quantiles: so that a further draw of the null lies there just as often.
    return np.quantile(np.asarray(null, dtype=float), ends, method="weibull")


def bootstrap_means(
    values: Float[Tensor, " example *cell"],
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    sizes: Int[Tensor, " example"] | None = None,
) -> tuple[Float[Tensor, "*cell"], Float[Tensor, "*cell"]]:
    """Percentile bootstrap intervals of the means over examples of many cells, drawn alike for all.

    Args:
        sizes: how many numbers each of the values is the sum of, if it is one.

    Returns:
        Lower and upper ends.

    Raises:
        ValueError: fewer than two examples.
    """
    n = _at_least_two(values)
    weights = bootstrap_weights(n, draws, seed)
    each = weights / n if sizes is None else weights / (weights @ sizes.double())[:, None]
    means = each @ values.flatten(1).double().cpu()
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails, dim=0)
    return low.view(values.shape[1:]), high.view(values.shape[1:])


def bootstrap_defined(
    values: Float[Tensor, " example *cell"], *, seed: int = 0
) -> Float[Tensor, " end *cell"]:
    """``bootstrap_means`` of each cell over the examples that have it; NaN where fewer than two do."""
    flat = values.flatten(1)
    kinds, which = (~flat.isnan()).unique(dim=1, return_inverse=True)
    ends = torch.full((2, flat.shape[1]), torch.nan, dtype=torch.float64)
    for kind, rows in enumerate(kinds.T):
        if rows.sum() > 1:
            cells = which == kind
            ends[:, cells] = torch.stack(bootstrap_means(flat[rows][:, cells], seed=seed))
    return ends.view(2, *values.shape[1:])


def bootstrap_weights(n: int, draws: int, seed: int = 0) -> Float[Tensor, "draw n"]:
    """How often each of n examples is in each of some samples with replacement."""
    draw = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(draws, n, dtype=torch.float64)
    return weights.scatter_add_(1, draw, torch.ones(1, 1, dtype=torch.float64).expand(draws, n))


def sign_flip_p_values(
    effects: Float[Tensor, " example *cell"], *, draws: int = 2000, seed: int = 0
) -> Float[Tensor, "*cell"]:
    """Two-sided p-values that paired effects are symmetric about 0, cell by cell (Fisher's sign-flip test).

    Exact, over all sign patterns, for up to 11 examples. An effect that is 0 in every example has p = 1.

    Raises:
        ValueError: fewer than two examples.
    """
    n = _at_least_two(effects)
    flat = effects.flatten(1).double().cpu()
    if n <= 11:
        signs = 1 - 2 * ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double()
    else:
        drawn = torch.randint(2, (draws, n), generator=torch.Generator().manual_seed(seed))
        signs = torch.cat((torch.ones(1, n), 1 - 2 * drawn)).double()  # what was measured is one of the draws
    flipped, observed = (signs @ flat).abs(), flat.sum(0).abs()
    rounding = 1e-9 * flat.abs().sum(0)
    return (flipped >= observed - rounding).double().mean(0).view(effects.shape[1:])


def permutation_p_value(observed: float, null: ArrayLike, alternative: str = "greater") -> float:
    """The share of a null at least as extreme, what was observed counted in (Phipson & Smyth 2010).

    Args:
        alternative: ``"greater"``, ``"less"`` or ``"two-sided"``.

    Raises:
        ValueError: an empty null, or another alternative.
    """
    draws = np.asarray(null, dtype=float).ravel()
    if len(draws) == 0 or alternative not in ("greater", "less", "two-sided"):
        raise ValueError(
            f"expected a null of at least one draw and alternative greater, less or two-sided, got "
            f"{len(draws)} draws and {alternative!r}"
        )
    above, below = (1 + (draws >= observed).sum()), (1 + (draws <= observed).sum())
    tail = {"greater": above, "less": below, "two-sided": 2 * min(above, below)}[alternative]
    return min(1.0, float(tail / (len(draws) + 1)))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for how many were looked at; below 0.05, a false discovery rate of at most 5 %.

    NaN stays NaN and does not count (Benjamini & Hochberg 1995).
    """
    p = np.asarray(p_values, dtype=float)
    adjusted, there = np.full(p.shape, np.nan), ~np.isnan(p)
    if there.any():
        adjusted[there] = stats.false_discovery_control(p[there])
    return adjusted


def seeds_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over seeds, of which there are few.

    Raises:
        ValueError: fewer than two seeds.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if len(sample) < 2:
        raise ValueError(f"expected at least 2 seeds, got {len(sample)}; train more")
    half = stats.t.ppf((1 + level) / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def _at_least_two(values: Tensor) -> int:
    if len(values) < 2:
        raise ValueError(f"expected at least 2 examples, got {len(values)}; one says nothing about spread")
    return len(values)
