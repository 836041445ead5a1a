"""Which examples each fit uses: positions, padding, and the split into training and held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.analysis.tensors import tensor_of
from mechinterp.hooks import ActivationCache

LEAST = 5  # examples of each split; with fewer, no score means anything


@dataclass(frozen=True, kw_only=True)
class Part:
    """Positions whose fits use the same examples, so that they are cells of one call.

    Splits are called ``"train"`` and ``"test"`` where examples are held out.

    Args:
        at: their places in the result.
        columns: the positions read.
        real: real tokens, ``[batch, 1]`` as all columns have the same, or ``[batch, column]`` if pooled.
        rows: the sequences of each split.
        pooled: whether all columns' tokens make up a single cell.
        together: the group of each sequence, where groups are dealt out whole.
        within: whether labels are dealt out within groups instead.
        hooks: those that it is about; ``None``: all.
        found: whether groups are rows found equal, not given.
    """

    at: list[int]
    columns: Int[Tensor, " column"]
    real: Bool[Tensor, "batch _"]
    rows: Mapping[str, Int[Tensor, " row"]]
    pooled: bool = False
    together: Int[Tensor, " batch"] | None = None
    within: bool = False
    hooks: frozenset[str] | None = None
    found: bool = False

    def take(self, x: Tensor, split: str) -> Tensor:
        """The tokens of ``x [batch, pos, ...]`` in a split, ``[cell, n, ...]``; one position serves all."""
        rows = self.rows[split]
        columns = self.columns if x.shape[1] > 1 else self.columns[:1] * 0
        if self.pooled:
            x = x[rows][:, columns].expand(-1, len(self.columns), *x.shape[2:])
            return x[self.real[rows]][None]
        return x[rows[self.real[rows, 0]]][:, columns].movedim(1, 0)

    def sequences(self, split: str) -> Int[Tensor, " n"]:
        """Which sequence of the split each token is from."""
        return self.real[self.rows[split]].nonzero()[:, 0]

    def units(self, split: str) -> Int[Tensor, " n"]:
        """What each token hangs together with: its group, or its sequence."""
        rows = self.rows[split][self.sequences(split)]
        return rows if self.together is None else self.together[rows]

    def groups(self, split: str) -> int:
        """How many groups have real tokens in a split."""
        rows = self.rows[split][self.real[self.rows[split]].any(1)]
        return len(rows if self.together is None else self.together[rows].unique())

    def shuffles(self, split: str, draws: int, seed: int) -> Int[Tensor, "draw n"]:
        """Orders in which each token takes the label of another sequence's token at the same position.

        A draw deals out whole sequences, so that labels of one sequence stay together; where padding
        leaves a sequence no partner, the next takes its place. Groups are dealt out whole too: all of one
        take labels of one other; or their members change places, if labels are dealt out within them.
        """
        real = self.real[self.rows[split]]
        generator = torch.Generator().manual_seed(seed)
        if self.together is not None:
            return self._of_groups(self.together[self.rows[split][real[:, 0]]], draws, generator)
        number = real.flatten().cumsum(0).view_as(real) - 1
        orders = torch.empty(draws, int(real.sum()), dtype=torch.long)
        for order in orders:
            dealt = torch.randperm(len(real), generator=generator)
            for column in range(real.shape[1]):
                order[number[real[:, column], column]] = number[dealt[real[dealt, column]], column]
        return orders

    def _of_groups(
        self, together: Int[Tensor, " row"], draws: int, generator: torch.Generator
    ) -> Int[Tensor, "draw n"]:
        """The same by groups."""
        group, size = together.unique(return_inverse=True, return_counts=True)[1:]
        deal, n = _within_groups if self.within else _across_groups, self.real.shape[1]
        taken = torch.empty(draws, len(group), dtype=torch.long)
        for order in taken:
            order[:] = deal(group, size, generator)
        return (taken[:, :, None] * n + torch.arange(n)).flatten(1)


def _within_groups(group: Tensor, size: Tensor, generator: torch.Generator) -> Int[Tensor, " row"]:
    """Members of each group change places."""
    order, mixed = torch.empty_like(group), torch.randperm(len(group), generator=generator)
    order[group.argsort(stable=True)] = mixed[group[mixed].argsort(stable=True)]
    return order


def _across_groups(group: Tensor, size: Tensor, generator: torch.Generator) -> Int[Tensor, " row"]:
    """All of a group take members of one other, dealt out at random too, and again where they are too few."""
    start = size.cumsum(0) - size
    dealt = torch.randperm(len(size), generator=generator)[group]
    members = (group + torch.rand(len(group), generator=generator, dtype=torch.float64)).argsort()
    place = torch.empty_like(group)
    place[members] = torch.arange(len(group)) - start[group[members]]
    again = (group + torch.rand(len(group), generator=generator, dtype=torch.float64)).argsort()
    return again[start[dealt] + place % size[dealt]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Examples and positions of the activations, what the result calls its positions, and the parts."""

    batch: int
    length: int
    positions: list[int] | list[str]
    parts: list[Part]

    def sizes(self, split: str) -> list[int]:
        """How many examples the fits have, if they differ from least to most."""
        n = sorted({len(part.sequences(split)) for part in self.parts})
        return [n[0], n[-1]][: len(n)]


def lay_out(
    batch: int,
    length: int,
    rows: Mapping[str, Int[Tensor, " row"]],
    *,
    mask: Bool[Tensor, "batch pos"] | None = None,
    positions: Sequence[int] | None = None,
    pool: bool = False,
    together: Int[Tensor, " _"] | None = None,
    within: bool = False,
) -> Layout:
    """Gather positions into parts.

    Args:
        rows: the sequences of each split.
        together: the group of each sequence, where groups are dealt out whole.
        within: deal labels out within groups instead.

    Raises:
        ValueError: no such position, a mask of another shape, or too few real tokens.
    """
    given = torch.arange(length) if positions is None else torch.zeros(())
    if isinstance(positions, (Sequence, np.ndarray, Tensor)) and not isinstance(positions, str):
        given = tensor_of(positions, "positions")
    if given.ndim != 1 or (len(given) and (given.is_floating_point() or given.is_complex())):
        raise ValueError(
            f"expected positions as a list of whole numbers, got {type(positions).__name__}; of one give [it]"
        )
    every = given.tolist()
    chosen = [_position(at, length) for at in every]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"expected at least one position, each once, got {positions}; leave it out for all")
    if mask is not None and (mask.shape != (batch, length) or mask.dtype != torch.bool):
        raise ValueError(
            f"expected a boolean mask of shape {(batch, length)}, got {mask.dtype} {tuple(mask.shape)}; "
            "True is a real token"
        )
    if pool and mask is not None and together is not None:
        raise ValueError("expected together without a mask where positions are pooled, got both; choose one")
    if mask is not None and not mask.any():
        raise ValueError("expected a mask with real tokens (True), got none; padding is False")
    real = torch.ones(batch, len(chosen), dtype=torch.bool) if mask is None else mask[:, chosen].cpu()
    columns = torch.tensor(chosen)
    if pool:
        parts = [
            Part(at=[0], columns=columns, real=real, rows=rows, pooled=True, together=together, within=within)
        ]
    else:
        alike: dict[bytes, list[int]] = {}
        for at in range(len(chosen)):
            alike.setdefault(real[:, at].numpy().tobytes(), []).append(at)
        parts = [
            Part(
                at=at, columns=columns[at], real=real[:, at[:1]], rows=rows, together=together, within=within
            )
            for at in alike.values()
        ]
    for part in parts:
        for split in rows:
            if (n := len(part.sequences(split))) < LEAST:
                enough = [one for one in parts if min(len(one.sequences(each)) for each in rows) >= LEAST]
                kept = sorted(at for one in enough for at in one.columns.tolist())
                raise ValueError(
                    f"expected at least {LEAST} real tokens in each split, got {n} for {split} at position "
                    f"{part.columns.tolist()}; give more examples, or only positions={kept}"
                )
            if together is not None and (n := part.groups(split)) < LEAST:
                raise ValueError(
                    f"expected at least {LEAST} groups of together in each split, got {n} for {split} at "
                    f"position {part.columns.tolist()}; hold out more with test=, or give more groups"
                )
    return Layout(batch=batch, length=length, positions=["all"] if pool else chosen, parts=parts)


def split_rows(
    batch: int,
    test: float | Bool[Tensor, " batch"],
    seed: int,
    together: Int[Tensor, " batch"] | None = None,
    repeats: Int[Tensor, " batch"] | None = None,
) -> dict[str, Int[Tensor, " row"]]:
    """Training and held-out rows: those given, or a share of the rows or groups, drawn by ``seed``.

    Args:
        repeats: groups that were found, not given: at least ``LEAST`` are put on either side, if there are
            enough, and a split that is given stays as it is.

    Raises:
        ValueError: a share that is not between 0 and 1, marks of another length, or a group that is split.
    """
    if together is not None and (together.shape != (batch,) or together.is_floating_point()):
        raise ValueError(
            f"expected together to number the group of each of {batch} examples, got {together.dtype} "
            f"{list(together.shape)}"
        )
    group = torch.arange(batch) if together is None else together.unique(return_inverse=True)[1]
    if repeats is not None and not isinstance(test, Tensor):
        group = repeats.unique(return_inverse=True)[1]
    if isinstance(test, Tensor):
        if test.shape != (batch,) or test.dtype != torch.bool:
            raise ValueError(
                f"expected test to mark {batch} examples, True for held out, got {test.dtype} "
                f"{list(test.shape)}"
            )
        held_out = test.cpu()
        if len(both := group[held_out][torch.isin(group[held_out], group[~held_out])]):
            raise ValueError(
                f"expected every group of together on one side of test, got {len(both.unique())} on both"
            )
    elif isinstance(test, bool) or not isinstance(test, (int, float)) or not 0 < test < 1:
        raise ValueError(f"expected a share of held-out examples between 0 and 1, got {test}; 0.25 is usual")
    else:
        count = int(group.max()) + 1
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        most = round(test * count)
        if repeats is not None and count >= 2 * LEAST:
            most = min(max(most, LEAST), count - LEAST)
        held_out = torch.isin(group, order[:most])
    return {"train": (~held_out).nonzero().squeeze(-1), "test": held_out.nonzero().squeeze(-1)}


def read_activations(activations: ActivationCache | Mapping[str, Tensor] | Tensor) -> dict[str, Tensor]:
    """Activations by hook name, each ``[batch, pos, d]``; half precision as single, in which it is exact.

    A tensor alone is called ``"activations"``; ``[batch, d]`` counts as a single position.

    Raises:
        TypeError: neither tensors nor arrays.
        ValueError: none, not floating-point, of another number of axes, or of lengths that differ.
    """
    given = dict(activations.items()) if hasattr(activations, "items") else {"activations": activations}
    if not given:
        raise ValueError("expected activations of at least one hook point, got none; see run_with_cache")
    given = {str(name): tensor_of(x, f"activations of {name}") for name, x in given.items()}
    read = {name: x[:, None] if x.ndim == 2 else x for name, x in given.items()}
    first = next(iter(read.values()))
    for name, x in read.items():
        if x.ndim != 3 or not x.is_floating_point() or not x.numel():
            raise ValueError(
                f"expected floating-point activations [batch, pos, d] of {name}, got {x.dtype} "
                f"{list(given[name].shape)}; keep such hooks only (names=), flatten heads, give rows"
            )
        if x.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"expected {list(first.shape[:2])} examples and positions of {name}, as of the first hook, "
                f"got {list(x.shape[:2])}; all must come from one run"
            )
    return {name: x if x.dtype == torch.float64 else x.float() for name, x in read.items()}


def check_finite(name: str, x: Tensor, parts: Sequence[Part]) -> None:
    """Refuse NaN and infinity at the tokens that are used; what stands at padding does not matter.

    Raises:
        ValueError: there is one.
    """
    if x.isfinite().all():
        return
    for part in parts:
        for split in part.rows:
            if not part.take(x, split).isfinite().all():
                raise ValueError(
                    f"expected finite numbers in {name}, got NaN or infinity at position "
                    f"{part.columns.tolist()}; mask those tokens, or find where they come from"
                )


def _position(at: int, length: int) -> int:
    if isinstance(at, bool) or not isinstance(at, (int, np.integer)):
        raise ValueError(f"expected positions as whole numbers, got {at!r}; of one give [it]")
    if not -length <= at < length:
        raise ValueError(f"expected positions within [-{length}, {length}), got {at}")
    return int(at) % length
