"""What a tool said about one random network, beside the truth that was planted there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_interval, proportion_interval

LEVEL = 0.05


@dataclass(frozen=True)
class Trial:
    """One network or data set, all cells in a row.

    Args:
        flagged: the cells that the tool calls an effect, after its own correction for many cells.
        alone: the cells that it would call one if it had looked at no other.
        planted: the cells in which there is one.
    """

    flagged: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    planted: NDArray[np.bool_]

    @classmethod
    def of(cls, p: ArrayLike, raw: ArrayLike | None = None, planted: ArrayLike = ()) -> Trial:
        """From p-values, adjusted and not; cells whose p is NaN are left out. ``planted``: none if empty."""
        adjusted = np.ravel(np.asarray(p, dtype=float))
        unadjusted = adjusted if raw is None else np.ravel(np.asarray(raw, dtype=float))
        truth = np.ravel(planted).astype(bool) if np.size(planted) else np.zeros(adjusted.shape, bool)
        there = ~np.isnan(adjusted)
        return cls(adjusted[there] <= LEVEL, unadjusted[there] <= LEVEL, truth[there])


@dataclass(frozen=True)
class Case:
    """A kind of trial, repeated with one seed after another.

    Args:
        tool: whose answers these are.
        what: which null is true, or what was planted, in a few words.
        trial: takes a seed.
        kind: ``"null"``: false positives must be rare. ``"planted"``. ``"open"``: nothing is planted, and the
            tool says something often, for a reason that docs/calibration.md gives.
    """

    tool: str
    what: str
    trial: Callable[[int], Trial]
    kind: Literal["null", "planted", "open"] = "null"

    def run(self, seeds: Iterable[int]) -> list[Trial]:
        """A trial for each seed."""
        return [self.trial(seed) for seed in seeds]


def rates(trials: Sequence[Trial], level: float = 0.95) -> dict[str, Any]:
    """What went wrong: means over networks with intervals, and over how many networks.

    ``crying``: whether there is a false positive after correction. ``alone``: the share of the cells without
    an effect that are called one before correction. ``missed``: that of the cells with an effect that are
    not called one after correction. ``false``: of the cells called an effect after correction, the share
    without one (0 if none is called), which Benjamini and Hochberg keep below 5 % on average. ``None`` where
    there is nothing to count.
    """
    crying = [bool((each.flagged & ~each.planted).any()) for each in trials if not each.planted.all()]
    both = bool(crying) and any(each.planted.any() for each in trials)
    counted = {
        "crying": crying,
        "alone": [each.alone[~each.planted].mean() for each in trials if not each.planted.all()],
        "missed": [1 - each.flagged[each.planted].mean() for each in trials if each.planted.any()],
        "false": [
            (each.flagged & ~each.planted).sum() / max(1, each.flagged.sum()) for each in trials if both
        ],
    }
    return {name: _mean(np.array(shares, dtype=float), level) for name, shares in counted.items()}


def _mean(shares: NDArray[np.float64], level: float) -> dict[str, Any] | None:
    """The mean over networks, each of which gives a share: cells of one network are not independent."""
    n, hits = len(shares), shares.sum()
    if n == 0:
        return None
    exact = np.isin(shares, (0.0, 1.0)).all()
    if exact:
        low, high = proportion_interval(round(hits), n, level)
    else:
        low, high = bootstrap_interval(shares, level=level)
    return {"rate": float(hits / n), "n": n, "low": low, "high": high}


@contextmanager
def before_correction(module: ModuleType) -> Iterator[list[NDArray[np.float64]]]:
    """The p-values that a module hands to Benjamini and Hochberg meanwhile, as they were before."""
    seen: list[NDArray[np.float64]] = []

    def watch(p_values: ArrayLike) -> NDArray[np.float64]:
        seen.append(np.array(p_values, dtype=float))
        return benjamini_hochberg(p_values)

    with mock.patch.object(module, "benjamini_hochberg", watch):
        yield seen
