"""Ridge regression of many cells, targets and penalties from one eigendecomposition a cell.

With centred activations X = U diag(s) V', every penalty's fit, and what it says of each example
when that example is left out, are sums over the same U, s and V. The penalty is chosen by the
exact leave-one-out error (Allen 1974; Hastie, Tibshirani & Friedman 2009, section 7.10), as
scikit-learn's ``RidgeCV`` chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10.0**k for k in range(-3, 4))
_MOST = 2**22  # numbers that an intermediate tensor may hold


def fit_ridge(
    train_x: Float[Tensor, "#cell n d"],
    train_y: Float[Tensor, "#cell n column"],
    test_x: Float[Tensor, "#cell m d"],
    penalties: Sequence[float | int] = PENALTIES,
    *,
    together: int = 1,
    standardise: bool = False,
) -> tuple[Float[Tensor, "cell m column"], Float[Tensor, "cell column"]]:
    """Fit every column of ``train_y`` in every cell, and predict ``test_x``.

    Intercepts are not penalised. A first axis of size 1 serves every cell. The fit is in float64; the
    penalty is chosen on training data alone, in the precision of the activations if n > 2 d.
    Cells are worked on side by side, as many at a time as torch has threads.

    Args:
        penalties: what is added to the Gram matrix's diagonal, ``alphas`` in scikit-learn.
        together: so many columns in a row share a penalty. With 1, each has its own
            (``alpha_per_target=True``); with as many as there are columns, one serves them all.
        standardise: count penalties in units of the activations' mean variance, so that the same
            activations on another scale have the same fit. ``False``: as they are, as scikit-learn does.

    Returns:
        Predictions, and the penalty chosen for each column.

    Raises:
        ValueError: a penalty that is not positive, or columns that are not a multiple of ``together``.
    """
    found, penalty, _ = fit_cells(train_x, train_y, test_x, penalties, together, standardise)
    return found, penalty


def fit_cells(
    train_x: Float[Tensor, "#cell n d"],
    train_y: Float[Tensor, "#cell n column"],
    test_x: Float[Tensor, "#cell m d"],
    penalties: Sequence[float | int],
    together: int,
    standardise: bool,
    alike: Int[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, "cell m column"], Float[Tensor, "cell column"], Float[Tensor, "cell column"]]:
    """What ``fit_ridge`` returns, and by how much R² still rises at the end of the grid; 0 inside of it.

    The last is looked at for standardised activations alone.

    Args:
        alike: the input of each training row: all rows of one, which must be equal, are left out together.
    """
    if not penalties or not all(0 < alpha < float("inf") for alpha in penalties):
        raise ValueError(
            f"expected positive penalties, got {list(penalties)}; without one a fit may not be unique"
        )
    if train_y.shape[-1] % together:
        raise ValueError(
            f"expected columns that share penalties in runs of {together}, got {train_y.shape[-1]} columns"
        )
    alphas = torch.tensor(sorted(penalties), dtype=torch.float64, device=train_x.device)

    return _side_by_side(partial(_fit, alphas, together, standardise, alike), train_x, train_y, test_x)


def _fit(
    alphas: Float[Tensor, " alpha"],
    together: int,
    standardise: bool,
    alike: Int[Tensor, " n"] | None,
    x: Float[Tensor, "*#cell n d"],
    y: Float[Tensor, "*#cell n column"],
    new: Float[Tensor, "*#cell m d"],
) -> tuple[Float[Tensor, "*cell m column"], Float[Tensor, "*cell column"], Float[Tensor, "*cell column"]]:
    rounding = 2 * torch.finfo(x.dtype).eps
    if x.shape[-2] <= 2 * x.shape[-1]:
        x = x.double()  # fits are near exact, and left-out errors ratios of small differences
    centre, middle = x.mean(-2, keepdim=True), y.double().mean(-2, keepdim=True)
    x, y = x - centre, y - middle
    scores, size, axes, onto = _decompose(x, y)
    grid, near, total = alphas, onto, None
    if standardise:
        variance = size.sum(-1, keepdim=True) / (x.shape[-2] * x.shape[-1])
        still = variance <= (rounding * centre.double()).square().mean(-1)
        onto = onto.masked_fill(still[..., None], 0.0)  # rounding of a constant, which says nothing
        grid = alphas * torch.where(still, 1.0, variance)
        # Squares of single precision overflow or vanish far from 1; powers of 2 scale without rounding.
        total = y.square().sum(-2).unflatten(-1, (-1, together)).sum(-1)
        unit_x, unit_y = _power_of_two(variance), _power_of_two(total / x.shape[-2] / together)
        unit_y = unit_y.repeat_interleave(together, -1)[..., None, :]
        scores, y = scores.mul_(1 / unit_x[..., None].to(scores)), y / unit_y
        total = total / unit_y[..., 0, ::together] ** 2
        size, grid = size / unit_x**2, grid / unit_x**2
        onto, near = onto / unit_x[..., None], onto / (unit_x[..., None] * unit_y)
        axes = axes / unit_x[..., None]
    shrunk = 1 / (size[..., None] + grid[..., None, :])
    at_once = _MOST // (len(alphas) * y[..., 0].numel())
    run = max(1, at_once // together) * together
    each = [
        _left_out_error(scores, shrunk, *some, alike).unflatten(-2, (-1, together)).sum(-2)
        for some in zip(y.split(run, -1), near.split(run, -1))
    ]
    errors = torch.cat(each, -2) if len(each) > 1 else each[0]
    best = errors.argmin(-1)
    penalty = grid.expand(*best.shape[:-1], -1).gather(-1, best).repeat_interleave(together, -1)
    weights = axes @ (onto / (size[..., None] + penalty[..., None, :]))
    rise = torch.zeros_like(penalty)
    if total is not None:
        rise = _rise_at_end(errors / total[..., None], best).repeat_interleave(together, -1)
    found = new.double() @ weights + (middle - centre.double() @ weights)
    return found, alphas[best].repeat_interleave(together, -1), rise


def _power_of_two(square: Float[Tensor, "*at"]) -> Float[Tensor, "*at"]:
    """That above the root; 1 for 0."""
    root = square.sqrt()
    return torch.ldexp(torch.ones_like(root), torch.frexp(root).exponent)


def _rise_at_end(
    error: Float[Tensor, "*cell run alpha"], best: Int[Tensor, "*cell run"]
) -> Float[Tensor, "*cell run"]:
    """By how much the end of the grid, if that is the best, has less error than its neighbour.

    Beyond the largest penalty lies the mean as the answer, so that what is left to gain is no more than that.
    """
    rise = torch.zeros_like(error[..., 0])
    if error.shape[-1] > 1:
        low, high = error[..., 1] - error[..., 0], error[..., -2] - error[..., -1]
        high = torch.minimum(high, 1 - error[..., -1])
        rise = torch.where(best == 0, low, torch.where(best == error.shape[-1] - 1, high, rise))
    return rise.nan_to_num(0.0).clamp(min=0)


def _decompose(x: Float[Tensor, "*#cell n d"], y: Float[Tensor, "*#cell n column"]) -> tuple[Tensor, ...]:
    """Scores U diag(s), squared sizes s ** 2, axes V and V' X' y, through the smaller Gram matrix."""
    exact = x.double()
    if x.shape[-2] > x.shape[-1] + 1:
        size, axes = torch.linalg.eigh(_gram(exact))
        scores, size = x @ axes.to(x.dtype), size.clamp(min=0)
    else:
        size, left = torch.linalg.eigh(_gram(exact.mT))
        there = size > 1e-13 * size[..., -1:]  # the rest, such as what centring took away, is rounding
        root = torch.where(there, size, 0).sqrt()
        axes = exact.mT @ (left * torch.where(there, 1 / root, 0)[..., None, :])
        scores, size = left * root[..., None, :], root**2
    return scores, size, axes, axes.mT @ (exact.mT @ y)


def _gram(x: Float[Tensor, "*cell n d"]) -> Float[Tensor, "*cell d d"]:
    """The lower triangle of X' X, in strips; ``eigh`` reads no more than that."""
    found, strip = x.new_zeros(*x.shape[:-2], x.shape[-1], x.shape[-1]), max(32, x.shape[-1] // 4)
    for start in range(0, x.shape[-1], strip):
        stop = start + strip
        found[..., start:stop, :stop] = x[..., start:stop].mT @ x[..., :stop]
    return found


def _left_out_error(
    scores: Float[Tensor, "*#cell n rank"],
    shrunk: Float[Tensor, "*#cell rank alpha"],
    y: Float[Tensor, "*#cell n column"],
    onto: Float[Tensor, "*#cell rank column"],
    alike: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "*cell column alpha"]:
    """Summed squares of what is missed of each example by the fit to all the others, or all unlike it."""
    shrunk = shrunk.to(scores)
    fits = onto.to(scores)[..., None] * shrunk[..., None, :]
    left = y.to(scores)[..., None] - (scores @ fits.flatten(-2)).unflatten(-1, fits.shape[-2:])
    # A prediction follows its own target by the diagonal of the hat matrix; 1 / n of it is the intercept.
    own = scores**2 @ shrunk + 1 / scores.shape[-2]
    if alike is None:
        return (left / (1 - own)[..., None, :]).square().sum(-3)
    # Of m equal rows left out together, I - H is 1 - own on the diagonal and -own off it.
    times = alike.bincount().to(own)[alike][:, None]
    whole = torch.zeros_like(left).index_add(-3, alike, left)[..., alike, :, :]
    return (left + (own / (1 - times * own))[..., None, :] * whole).square().sum(-3)


def _side_by_side(fit: Callable, *each: Tensor) -> tuple[Tensor, ...]:
    """What ``fit`` makes of runs of cells, each run on one core.

    Even on one core it pays to leave the main thread, whose allocator hands pages back after every product.
    """
    cells = max(len(x) for x in each)
    size = max(1, _MOST // 16 // max(x[0].numel() for x in each))
    if size >= cells or len(each[0]) == 1:  # activations that serve all cells are decomposed once
        return fit(*each)
    # A large cell goes alone, without its axis: single products are a little faster than batches of one.
    runs = [
        x.expand(cells, -1, -1).unbind() if size == 1 else x.expand(cells, -1, -1).split(size) for x in each
    ]
    with _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(fit, *runs))
    return tuple((torch.stack if size == 1 else torch.cat)(parts) for parts in zip(*found))


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """How many threads torch had, for cells: within products this small they mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
