"""Pairs of numbers, some of which are held out by a hash, so that none of them is ever trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.tasks.base import Split
from mechinterp.tasks.digits import hashed

ENUMERATED = 1 << 21
"""Up to so many problems the held-out ones are listed, so that none is drawn twice."""

Pairs = Int[Tensor, "_ 2"]
Draw = Callable[[int, torch.Generator], Pairs]
"""So many pairs, drawn with a generator."""


@dataclass(frozen=True, kw_only=True)
class Problems:
    """All pairs of numbers below ``most``, split by a hash of the pair and the seed.

    Args:
        held_out: share of all pairs that are tested on, half of it, or validated on.
        unordered: whether a pair and the same two numbers swapped are in the same split. Of ``fixed`` ones
            then only one order is given: a probe that splits them again must not meet a twin.
    """

    most: int
    held_out: float
    seed: int
    unordered: bool = False

    def __len__(self) -> int:
        return self.most**2

    @property
    def few(self) -> bool:
        """Whether all can be listed."""
        return len(self) <= ENUMERATED

    def every(self, generator: torch.Generator) -> Pairs:
        """All of them, in random order."""
        order = torch.randperm(len(self), generator=generator)
        return torch.stack((order // self.most, order % self.most), 1)

    def number(self, pairs: Pairs) -> Int[Tensor, " _"]:
        """A number for each pair; the same for a pair and its swap if these count as one."""
        first, second = (pairs.amin(1), pairs.amax(1)) if self.unordered else pairs.unbind(1)
        return first * self.most + second

    def share(self, pairs: Pairs) -> Float[Tensor, " _"]:
        """Where each pair lies in the split, from 0 to 1: test, then val, then train."""
        return hashed(self.number(pairs), self.seed)

    def once(self, pairs: Pairs) -> Pairs:
        """The first of each, in the order given."""
        if not self.unordered:
            return pairs
        _, first = np.unique(self.number(pairs).numpy(), return_index=True)
        return pairs[torch.from_numpy(np.sort(first))]

    def trains(self, pairs: Pairs) -> Bool[Tensor, " _"]:
        """Which pairs may be trained on."""
        return self.share(pairs) >= self.held_out

    def of(self, split: Split, pairs: Pairs) -> Pairs:
        """Those of the pairs that a split has.

        Raises:
            ValueError: no such split.
        """
        half = self.held_out / 2
        bounds = {"train": (self.held_out, 1.0), "val": (half, self.held_out), "test": (0.0, half)}
        if split not in bounds:
            raise ValueError(f"expected split train, val or test, got {split!r}; there is no other")
        low, high = bounds[split]
        share = self.share(pairs)
        return pairs[(share >= low) & (share < high)]

    def train(self, n: int, generator: torch.Generator, draw: Draw) -> Pairs:
        """n pairs to train on.

        Raises:
            ValueError: all of them are held out.
        """
        found: list[Tensor] = []
        while sum(map(len, found)) < n:
            found.append(self.of("train", draw(n + n // 4 + 16, generator)))
            if not len(found[-1]) and self.few and not self.trains(self.every(torch.Generator())).any():
                raise ValueError(
                    f"expected problems to train on, got none of {len(self)}; lower held_out "
                    f"({self.held_out}), or have larger numbers"
                )
        return torch.cat(found)[:n]

    def fixed(self, split: Split, n: int, draw: Draw) -> Pairs:
        """The same pairs at every call, at most n; of test and val no pair twice where all can be listed.

        Raises:
            ValueError: no such split, or it is empty.
        """
        place = {"train": 1, "val": 2, "test": 3}.get(split, 0)
        generator = torch.Generator().manual_seed(self.seed + 10**6 * place)
        if split == "train":
            return self.train(n, generator, draw)
        pairs = self.once(self.of(split, self.every(generator) if self.few else draw(20 * n, generator)))
        while not self.few and len(pairs) < n:
            pairs = self.once(torch.cat((pairs, self.of(split, draw(20 * n, generator)))))
        pairs = pairs[:n]
        if not len(pairs):
            raise ValueError(
                f"expected held-out problems, got none of {len(self)}; raise held_out, or have larger numbers"
            )
        return pairs
