"""Rows that are the same input again: found, numbered, and kept on one side of a split.

Two rows of one input are one observation. On both sides of a split they make whatever is attached to the
input readable, and counted as two they make intervals too narrow and p-values too small.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

_ULPS = {torch.float16: 1, torch.bfloat16: 1}
_MANY_ULPS = 8
"""How many units in the last place an input differs from itself elsewhere in a batch: products of matrices
sum in another order there. Half precision rounds that away again, mostly."""


class RepeatedRows(UserWarning):
    """The same inputs stand on both sides of a split, and could not be kept apart."""


def repeated_rows(*given: Tensor) -> Int[Tensor, " _"]:
    """Number rows so that equal ones have one number, from 0 in the order in which they first appear.

    Whole numbers and booleans are equal if they are the same. Floating-point rows are equal if they differ
    by rounding alone: by a few units in the last place of each number, or of the row's mean size. A row with
    NaN or infinity equals none. As many numbers as rows means that nothing repeats.

    Args:
        given: one or more tensors of the same rows, such as clean and corrupted tokens: rows are equal if
            they are in every one.

    Raises:
        ValueError: no tensor, a scalar, or tensors of different lengths.
    """
    if not given or any(x.ndim == 0 for x in given) or len({len(x) for x in given}) > 1:
        raise ValueError(
            f"expected tensors of the same rows, batch first, got shapes {[list(x.shape) for x in given]}; "
            "give one row for each example"
        )
    rows = len(given[0])
    ids = torch.zeros(rows, dtype=torch.long)
    for x in given:
        ids = _refine(ids, _of_one(x.detach()))
    return ids


def repeated_cells(x: Float[Tensor, "n cell d"]) -> list[Int[Tensor, " n"] | None]:
    """``repeated_rows`` of each cell, and ``None`` where nothing repeats: one projection for all of them."""
    number, other = _projected(x)
    slack = _slack(x).to(number)
    ordered, order = number.sort(dim=0, stable=True)
    near = ordered.diff(dim=0) <= slack
    both = near & (other.gather(0, order).diff(dim=0).abs() <= slack)
    found: list[Int[Tensor, " n"] | None] = [None] * x.shape[1]
    for cell in both.any(0).nonzero()[:, 0].tolist():
        ids = _within_runs(x[:, cell], order[:, cell], near[:, cell])
        found[cell] = ids if len(ids) and int(ids.max()) + 1 < len(ids) else None
    return found


def _of_one(x: Shaped[Tensor, " n *_"]) -> Int[Tensor, " n"]:
    flat = x[:, None] if x.ndim == 1 else x.flatten(1)
    if not len(flat) or not flat.shape[1]:
        return torch.zeros(len(flat), dtype=torch.long)
    if not x.is_floating_point() and not x.is_complex():
        return _renumber(flat.unique(dim=0, return_inverse=True)[1].cpu())
    if x.is_complex():
        flat = torch.view_as_real(flat).flatten(1)
    (found,) = repeated_cells(flat[:, None])
    return torch.arange(len(flat)) if found is None else found


def _projected(x: Float[Tensor, "n cell d"]) -> Float[Tensor, "both n cell"]:
    """Every row as a number along each of two fixed random directions; equal rows are neighbours in order."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[-1], 2, generator=generator, dtype=torch.float64)
    exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return (exact @ directions.to(exact)).movedim(-1, 0).contiguous()


def _slack(x: Float[Tensor, "n cell d"]) -> Float[Tensor, " cell"]:
    """How far apart the projections of equal rows may lie; candidates are looked at one by one."""
    largest = torch.stack((x.amax((0, 2)), -x.amin((0, 2)))).amax(0).double()
    if not largest.isfinite().all():  # padding may hold anything
        largest = x.abs().nan_to_num(0.0, 0.0, 0.0).amax((0, 2)).double()
    return 4 * _ULPS.get(x.dtype, _MANY_ULPS) * torch.finfo(x.dtype).eps * largest * x.shape[-1] ** 0.5


def _within_runs(
    x: Float[Tensor, "n d"], order: Int[Tensor, " n"], near: Bool[Tensor, " less"]
) -> Int[Tensor, " n"]:
    """Compare candidates with the first of their run, then what is left with the first of that, and so on.

    All that have one number differ from one row, so that chains of near rows do not become one group.
    """
    start = torch.cat((near.new_ones(1), ~near))
    run = start.cumsum(0) - 1
    size = run.bincount()
    rows = order[size[run] > 1]  # what has a neighbour
    left_run = run[size[run] > 1]
    leader = torch.arange(len(x), device=x.device)
    eps = _ULPS.get(x.dtype, _MANY_ULPS) * torch.finfo(x.dtype).eps
    while len(rows):
        first = torch.cat((near.new_ones(1), left_run[1:] != left_run[:-1]))
        heads = rows[first][first.cumsum(0) - 1]
        mine, theirs = (x[some] if x.dtype == torch.float64 else x[some].float() for some in (rows, heads))
        size_of = theirs.abs()
        same = ((mine - theirs).abs() <= eps * (size_of + size_of.mean(1, keepdim=True))).all(1)
        leader[rows[same]] = heads[same]
        rest = ~(same | first)  # a row with NaN is not even itself
        rows, left_run = rows[rest], left_run[rest]
    return _renumber(leader.cpu())


def _refine(first: Int[Tensor, " n"], second: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Numbers of the pairs."""
    return _renumber(first * (int(second.max()) + 1 if len(second) else 1) + second)


def _renumber(ids: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The same groups, numbered in the order in which they first appear."""
    if not len(ids):
        return ids
    group = ids.unique(return_inverse=True)[1]
    first = torch.full((int(group.max()) + 1,), len(ids)).scatter_reduce(
        0, group, torch.arange(len(ids)), "amin"
    )
    return first.argsort().argsort()[group]
