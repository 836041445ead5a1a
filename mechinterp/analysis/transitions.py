"""Whether heads carry an automaton's transition matrices, in the basis of the stream or in that of states.

The published comparison sets head h's matrix beside that of symbol h, entry by entry, in whatever
basis training left. ``analysis.state_basis`` gives one that means something. In both, a random matrix
comes out near 0 only on average: the fewer states, the more by chance, so every comparison stands
beside its nulls. Of two states and two symbols there are only 16 automata, and not even a perfect
match is rare: ``least_p`` says what can be shown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import null_interval, permutation_p_value
from mechinterp.result import Result

MEASURES = ("cosine", "pearson", "frobenius", "relative error")
NULLS = ("relabelled states", "random automata")
_LARGER = {"cosine": True, "pearson": True, "frobenius": False, "relative error": False}


@checked
def leading_blocks(
    W_V: Float[Tensor, "head d e"], W_O: Float[Tensor, "head e d"], n_states: int
) -> Float[Tensor, "head state next"]:
    """The leading blocks of OV circuits, where the published comparison looks for the states.

    Raises:
        ValueError: fewer dimensions than states.
    """
    if W_V.shape[1] < n_states:
        raise ValueError(
            f"expected d_model >= {n_states} states, got {W_V.shape[1]}; raise d_model, or take a smaller "
            "automaton"
        )
    return W_V.detach().double().cpu()[:, :n_states] @ W_O.detach().double().cpu()[:, :, :n_states]


@checked
def compare_transitions(
    matrices: Float[Tensor, "head state next"],
    transitions: Float[Tensor, "symbol s t"],
    *,
    name: str = "transitions",
    match: bool = True,
    untrained: Float[Tensor, "head state next"] | None = None,
    draws: int = 500,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """How alike heads' matrices are to symbols' transition matrices, head by head and all together.

    Args:
        matrices: of heads, in a basis of states (``state_basis``) or in what stands for one
            (``leading_blocks``).
        transitions: 1 from every state to the next, as ``DFA.matrices``.
        name: of the result.
        match: give each head the symbol with which all together are most alike, by the cosine
            (Kuhn 1955); in the nulls as well. Otherwise head h is symbol h.
        untrained: the same matrices of the untrained network.
        draws: of each null. Where there are fewer relabellings, or automata, than that, all are taken.

    Returns:
        Dim ``head``, the last ``all``: cosines; heads without a symbol are NaN. Trivial is what is
        expected of a matrix that knows nothing, 0. Control: the mean over random automata of the same size.
        ``extra``: ``measures`` (measure, head), the cosine, Pearson's r, the Frobenius distance, and that
        over the size of what is expected; the same of ``untrained``; ``null_low`` and ``null_high`` (null,
        measure, head), the middle 95 % of states relabelled and of random automata; ``p`` of both, and
        ``least_p`` (null), the p that the transitions themselves would have, which for small machines is
        not small; ``symbol`` of each head (-1 for none); ``matrices`` and ``transitions``. There is no
        interval: one network has one set of weights.

    Raises:
        ValueError: matrices that are not of the same states, not finite, or no draws.
    """
    _check(matrices, transitions, draws)
    if untrained is not None and untrained.shape != matrices.shape:
        raise ValueError(f"expected untrained like {list(matrices.shape)}, got {list(untrained.shape)}")
    found, expected = (x.detach().double().cpu().numpy() for x in (matrices, transitions))
    (values,), (symbols,) = _compared(found, expected[None], match)
    drawn = _relabelled(expected, draws, seed), _random(expected, draws, seed)
    nothing = np.full((1, *values.shape), np.nan)
    nulls = [_compared(found, some, match)[0] if len(some) else nothing for some in drawn]
    bounds = np.stack([_of_cells(null, null_interval) for null in nulls], 1)
    names = {"null": list(NULLS), "measure": list(MEASURES), "head": [*map(str, range(len(found))), "all"]}

    def label(x: Any, *dims: str) -> xr.DataArray:
        return xr.DataArray(x, dims=dims, coords={name: names[name] for name in dims if name in names})

    extra = {
        "measures": label(values, "measure", "head"),
        "null_low": label(bounds[0], *names),
        "null_high": label(bounds[1], *names),
        "p": label(np.stack([_p_values(values, null) for null in nulls]), *names),
        "least_p": label([_least_p(expected, some, match) for some in drawn], "null"),
        "symbol": label(symbols, "head_number"),
        "matrices": label(found, "head_number", "state", "next"),
        "transitions": label(expected, "symbol_number", "state", "next"),
    }
    if untrained is not None:
        beside = _compared(untrained.detach().double().cpu().numpy(), expected[None], match)[0][0]
        extra["untrained"] = label(beside, "measure", "head")
    cosines = label(values[0], "head")
    cosines.attrs["units"] = "cosine"
    return Result(
        name=name,
        values=cosines,
        trivial=0.0,
        control=label(_of_cells(nulls[1], np.mean)[0], "head"),
        control_kind=f"random automata of the same size, mean of {len(drawn[1])}",
        provenance=gated(gate, {**(provenance or {}), "matched": match, "draws": draws, "seed": seed}),
        extra=extra,
    )


def _check(matrices: Tensor, transitions: Tensor, draws: int) -> None:
    if matrices.ndim != 3 or transitions.ndim != 3 or matrices.shape[1:] != transitions.shape[1:]:
        raise ValueError(
            "expected matrices [head, state, next] and transitions [symbol, state, next] of the same "
            f"states, got {list(matrices.shape)} and {list(transitions.shape)}; bring them into one basis"
        )
    if not matrices.numel() or not transitions.numel():
        raise ValueError("expected at least one matrix of at least one state, and transitions, got none")
    if not bool(matrices.isfinite().all()) or draws < 1:
        raise ValueError(f"expected finite matrices and at least 1 draw of each null, got draws={draws}")


def _compared(
    found: Float[np.ndarray, "head state next"], expected: Float[np.ndarray, "draw symbol s t"], match: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every measure of every head and of all, ``[draw, measure, head + 1]``, and heads' symbols, by draw."""
    draws, heads = len(expected), len(found)
    symbols = np.full((draws, heads), -1)
    if match:
        alike = np.nan_to_num(_cosine(found[:, None], expected[:, None]))
        for own, row in zip(symbols, alike):
            matched, to = linear_sum_assignment(-row)
            own[matched] = to
    else:
        least = min(heads, expected.shape[1])
        symbols[:, :least] = np.arange(least)
    paired = symbols >= 0
    beside = np.take_along_axis(expected, np.maximum(symbols, 0)[..., None, None], 1)
    each = _measures(np.broadcast_to(found, beside.shape), beside)
    each[:, ~paired] = np.nan
    # All together: one long matrix of those that are beside a symbol, as many for every draw.
    kept = np.broadcast_to(paired[..., None, None], beside.shape)
    x, y = (np.broadcast_to(z, beside.shape)[kept].reshape(draws, 1, 1, -1) for z in (found, beside))
    return np.concatenate((each, _measures(x, y)), -1).swapaxes(0, 1), symbols


def _least_p(expected: NDArray, null: NDArray, match: bool) -> float:
    """The p-value of a perfect match, by the cosine of all."""
    if not len(null):
        return 1.0
    draws = _compared(expected, null, match)[0][:, 0, -1]
    return permutation_p_value(1 - 1e-9, draws)


def _measures(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    def centred(z: NDArray) -> NDArray:
        return z - z.mean((-2, -1), keepdims=True)

    distance, size = np.sqrt(((x - y) ** 2).sum((-2, -1))), np.sqrt((y**2).sum((-2, -1)))
    return np.stack([_cosine(x, y), _cosine(centred(x), centred(y)), distance, distance / size])


def _cosine(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """NaN where one of the two is 0."""
    sizes = np.sqrt((x**2).sum((-2, -1)) * (y**2).sum((-2, -1)))
    return np.divide((x * y).sum((-2, -1)), sizes, out=np.full(sizes.shape, np.nan), where=sizes > 1e-12)


def _relabelled(expected: NDArray, draws: int, seed: int) -> NDArray[np.float64]:
    """The transitions with states named otherwise: every other way there is, if they are few; else drawn.

    Ways that come to the same count once, and not at all if they come to the transitions themselves; so
    the one that was asked about is, under the null, any of them. Drawn ones are kept as they fall.
    """
    n = expected.shape[-1]
    few = math.factorial(n) - 1 <= draws
    if few:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    renamed = np.stack([expected[:, order][:, :, order] for order in orders])
    if not few:
        return renamed
    different = np.unique(renamed, axis=0)
    return different[(different != expected).any((1, 2, 3))]


def _random(expected: NDArray, draws: int, seed: int) -> NDArray[np.float64]:
    """Transitions of automata whose next states are drawn independently; of few automata, all others."""
    symbols, n = expected.shape[:2]
    if n ** (symbols * n) - 1 <= draws:
        after = np.array(list(itertools.product(range(n), repeat=symbols * n))).reshape(-1, symbols, n)
        others = np.eye(n)[after]
        return others[(others != expected).any((1, 2, 3))]
    after = np.random.default_rng(seed + 1).integers(n, size=(draws, symbols, n))
    return np.eye(n)[after]


def _of_cells(null: NDArray, statistic: Callable[[NDArray], Any]) -> NDArray[np.float64]:
    """A statistic of each cell's draws; a head is left out of the draws in which it has no symbol."""

    def of(draws: NDArray) -> Any:
        there = draws[~np.isnan(draws)]
        return statistic(there) if len(there) else statistic(np.full(1, np.nan))

    return np.apply_along_axis(of, 0, null)


def _p_values(values: NDArray, null: NDArray) -> NDArray[np.float64]:
    p = np.full(values.shape, np.nan)
    for (measure, head), value in np.ndenumerate(values):
        draws = null[:, measure, head]
        draws = draws[~np.isnan(draws)]
        if not np.isnan(value) and len(draws):
            side = "greater" if _LARGER[MEASURES[measure]] else "less"
            p[measure, head] = permutation_p_value(value, draws, side)
    return p
