"""Rows of one input on one side of a split.

A network's activations at a position are the same in all examples that it cannot tell apart there, as at the
first position in all that begin with one token. If some train and others are held out, whatever is attached
to the token is read, a random number too. So each cell holds out such groups whole, and deals labels out to
groups; cells in which no input repeats keep the split that they would have anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.probes.layout import LEAST, Layout, Part
from mechinterp.analysis.repeats import repeated_cells, repeated_rows

Rows = Callable[[int, Tensor | None], Mapping[str, Tensor]]
"""The splits' sequences, from the number of examples and the group of each, if some belong together."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A layout that keeps repeated inputs apart.

    Args:
        said: of which cells how many inputs are distinct, and what was done.
        mixed: those of them in which a variable is attached to inputs that are on both sides all the same.
    """

    layout: Layout
    said: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()


class _Alike(NamedTuple):
    """Cells in which the same rows repeat: the input of each row, and the columns by hook."""

    ids: Int[Tensor, " row"] | None
    where: dict[str, list[int]]


def keep_apart(
    layout: Layout,
    activations: Mapping[str, Float[Tensor, "batch _ _"]],
    values: Float[Tensor, "batch _ target component"],
    rows: Rows,
    *,
    must: bool = True,
) -> Apart:
    """Split each cell so that no input is on both sides.

    Of pooled tokens sequences are held out. There, and where the split is given, held-out rows whose input
    is in training too are not scored, if a variable is attached to inputs: if all rows of one have one value.

    Args:
        must: whether some cell must keep them apart.

    Raises:
        ValueError: a variable attached to inputs in every cell, and too few of them to hold any out.
    """
    parts: list[Part] = []
    said: dict[str, list[str]] = {}
    mixed, cells = [], 0
    for part in layout.parts:
        found = _pooled(part, activations) if part.pooled else _by_cell(part, activations)
        for ids, where in found:
            kept, how, both = part, "", False
            if ids is not None:
                kept, how, both = _hold_out(part, ids, where, values, rows)
            for columns, hooks in _rectangles(where):
                parts.append(_only(kept, columns, hooks) if len(found) > 1 else kept)
                if ids is None:
                    continue
                at = layout.positions if part.pooled else [layout.positions[part.at[one]] for one in columns]
                cell, few = (
                    f"position {_short(at)} of {_short(hooks)}",
                    f"{int(ids.max()) + 1} distinct inputs",
                )
                said.setdefault(f"{few} among {len(ids)} rows, {how}", []).append(cell)
                if both:
                    mixed.append(f"{few} among {len(ids)} rows at {cell}")
                    cells += len(hooks) * len(at)
    if must and cells == len(activations) * len(layout.positions):
        raise ValueError(
            f"expected at least {2 * LEAST} distinct inputs, some to hold out, as the variable is attached "
            f"to them, got {mixed[0]}; give more, or together="
            f"torch.arange({layout.batch}), which takes rows of one input for different ones"
        )
    lines = tuple(f"{what} ({'; '.join(at[:3])}{' ...' if len(at) > 3 else ''})" for what, at in said.items())
    return Apart(layout=replace(layout, parts=parts), said=lines, mixed=tuple(mixed))


def _by_cell(part: Part, activations: Mapping[str, Tensor]) -> list[_Alike]:
    """Cells by which rows repeat in them."""
    real, found = part.real[:, 0], {}
    for hook, x in activations.items():
        some = x if x.shape[1] == 1 or _all(part, x) else x[:, part.columns]
        cells = repeated_cells(some if bool(real.all()) else some[real])
        for column, ids in enumerate(cells if len(cells) == len(part.columns) else cells * len(part.columns)):
            told = ids is not None and bool(ids.any())  # if all rows are one, there is nothing to leak
            key = ids.numpy().tobytes() if told else b""
            alike = found.setdefault(key, _Alike(ids if told else None, {}))
            alike.where.setdefault(hook, []).append(column)
    return list(found.values())


def _pooled(part: Part, activations: Mapping[str, Tensor]) -> list[_Alike]:
    """The same of hooks whose positions are pooled; rows are tokens."""
    sequence, found = part.real.nonzero()[:, 0], []
    plain = _Alike(None, {})
    for hook, x in activations.items():
        ids = repeated_rows(
            x.expand(-1, part.real.shape[1], -1)[part.real]
            if x.shape[1] == 1
            else x[:, part.columns][part.real]
        )
        pairs = torch.stack((ids, sequence), 1).unique(dim=0)[:, 0]
        if bool(ids.any()) and len(pairs) > len(pairs.unique()):  # more than the tokens of one sequence
            found.append(_Alike(ids, {hook: [0]}))
        else:
            plain.where[hook] = [0]
    return [*found, plain] if plain.where else found


def _all(part: Part, x: Tensor) -> bool:
    return part.columns.tolist() == list(range(x.shape[1]))


def _hold_out(
    part: Part, ids: Int[Tensor, " row"], where: dict[str, list[int]], values: Tensor, rows: Rows
) -> tuple[Part, str, bool]:
    """The part so split, in which way, and whether inputs that tell the variable are on both sides."""
    columns = (
        part.columns
        if part.pooled
        else part.columns[sorted({one for each in where.values() for one in each})]
    )
    attached = _attached(part, ids, values, columns)
    kept, how = part, "held out whole"
    if not part.pooled:
        together = torch.full((len(part.real),), int(ids.max()) + 1)
        together[part.real[:, 0]] = ids
        kept = replace(part, rows=rows(len(part.real), together), together=together, within=False, found=True)
    real = _new_ones(kept, ids)
    if not bool((real == part.real).all()):  # pooled, or split as given
        if not attached:
            return part, "the variable differs between rows of one input", False
        kept, how = replace(kept, real=real), "held-out ones that are in training too not scored"
    enough = all(min(len(kept.sequences(split)), kept.groups(split)) >= LEAST for split in kept.rows)
    return (kept, how, False) if enough else (part, "too few to hold out whole", attached)


def _attached(part: Part, ids: Int[Tensor, " row"], values: Tensor, columns: Int[Tensor, " column"]) -> bool:
    """Whether some target is the same in all rows of each input, in some column."""
    at = values[:, columns if values.shape[1] > 1 else columns[:1] * 0]
    whole = at.expand(-1, len(columns), *at.shape[2:]) if part.pooled else at
    y = whole[part.real][:, None] if part.pooled else whole[part.real[:, 0]]
    first = torch.full((int(ids.max()) + 1,), len(ids)).scatter_reduce(0, ids, torch.arange(len(ids)), "amin")
    apart = (y - y[first[ids]]).abs().amax((0, -1))
    return bool((apart <= 1e-9 * y.abs().amax((0, -1))).any())


def _new_ones(part: Part, ids: Int[Tensor, " row"]) -> Tensor:
    """Real tokens, without those whose input the first split has; of one split, an earlier sequence."""
    number = torch.full(part.real.shape, -1)
    number[part.real] = ids
    real, splits = part.real.clone(), list(part.rows.values())
    if len(splits) > 1:
        old, new = (number[rows] for rows in splits)
        real[splits[1]] &= ~torch.isin(new, old[old >= 0])
        return real
    if not part.pooled:
        return real
    turn = torch.empty(len(real), dtype=torch.long)
    turn[splits[0]] = torch.arange(len(splits[0]))
    turn = turn[:, None].expand(number.shape)[part.real]
    first = torch.full((int(ids.max()) + 1,), len(real)).scatter_reduce(0, ids, turn, "amin")
    real[part.real] = turn == first[ids]
    return real


def _rectangles(where: dict[str, list[int]]) -> list[tuple[list[int], list[str]]]:
    """Columns, and the hooks that have just those."""
    found: dict[tuple[int, ...], list[str]] = {}
    for hook, columns in where.items():
        found.setdefault(tuple(columns), []).append(hook)
    return [(list(columns), hooks) for columns, hooks in found.items()]


def _only(part: Part, columns: list[int], hooks: list[str]) -> Part:
    if part.pooled:
        return replace(part, hooks=frozenset(hooks))
    at = [part.at[one] for one in columns]
    return replace(part, at=at, columns=part.columns[columns], hooks=frozenset(hooks))


def _short(names: list) -> str:
    said = ", ".join(map(str, names[:3]))
    return f"{said} and {len(names) - 3} more" if len(names) > 3 else said
