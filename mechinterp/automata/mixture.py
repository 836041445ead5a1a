"""Words of mixed length and class: how many of each, drawn evenly, and what a reader can foresee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.automata.dfa import CLASSES, DFA, PAD
from mechinterp.automata.words import WordSampler


@dataclass(frozen=True, eq=False)
class WordMixture:
    """All lengths alike, of each length the classes by their shares, and all words of both alike.

    Where a class has no word of a length, its share goes to the other classes of that length in
    proportion to theirs.

    Args:
        min_len, max_len: of the words, in symbols.
        p_class: shares of words that end rejected, incomplete and accepted, in the order of ``CLASSES``.

    Raises:
        ValueError: lengths or shares that cannot be, or no word at all in what has a share.
    """

    dfa: DFA
    min_len: int
    max_len: int
    p_class: Sequence[float | int]

    def __post_init__(self) -> None:
        if not 0 <= self.min_len <= self.max_len:
            raise ValueError(
                f"expected lengths 0 <= min_len <= max_len, got {self.min_len} and {self.max_len}; swap them?"
            )
        shares = list(self.p_class)
        if len(shares) != len(CLASSES) or not all(x >= 0 for x in shares) or not 0 < sum(shares) < math.inf:
            raise ValueError(
                f"expected a share for each of {list(CLASSES)}, none negative and not all 0, got {shares}"
            )
        if not self.shares.sum():
            wanted = [kind for kind, share in zip(CLASSES, shares) if share]
            raise ValueError(
                f"expected words of {self.min_len} to {self.max_len} symbols that end in {wanted}, got none "
                "in this language; change the lengths or p_class"
            )

    @property
    def lengths(self) -> range:
        """The lengths of the words."""
        return range(self.min_len, self.max_len + 1)

    @cached_property
    def _samplers(self) -> list[WordSampler]:
        """One for each class, which counts its words once."""
        return [WordSampler(self.dfa, self.max_len, [kind]) for kind in range(len(CLASSES))]

    @cached_property
    def portions(self) -> Float[np.ndarray, "class length state"]:
        """By class and number of symbols to come, the share of continuations that end in the class.

        Shares of all ``n_symbols ** length`` continuations, which stay in range longer than counts do.

        Raises:
            ValueError: words so rare among all of their length that their share is no number any more.
        """
        found = np.zeros((len(CLASSES), self.max_len + 1, self.dfa.n_states))
        for kind, sampler in enumerate(self._samplers):
            for length, counts in enumerate(sampler.counts):
                found[kind, length] = [count / self.dfa.n_symbols**length for count in counts]
                if any(count and share < 1e-290 for count, share in zip(counts, found[kind, length])):
                    raise ValueError(
                        f"expected words that are not rarer than 1e-290 among all of their length, got rarer "
                        f"ones of {length} symbols; lower max_len, or take a smaller alphabet"
                    )
        return found

    @cached_property
    def shares(self) -> Float[np.ndarray, "length class"]:
        """How likely a word is of each length and class; lengths without any word are left out."""
        there = self.portions[:, self.min_len :, 0].T > 0
        shares = there * np.asarray(self.p_class, dtype=float)
        totals = shares.sum(1, keepdims=True)
        return _divided(shares, totals) / max(1, (totals > 0).sum())

    @property
    def moved(self) -> list[str]:
        """Where a class has no words and its share went elsewhere, one sentence for each class."""
        notes = []
        for kind, name in enumerate(CLASSES):
            missing = [n for n, share in zip(self.lengths, self.shares[:, kind]) if not share]
            if self.p_class[kind] and missing:
                notes.append(
                    f"no word of {_ranges(missing)} symbols ends in {name}: its share went to others"
                )
        return notes

    def quotas(self, n: int) -> Int[np.ndarray, "length class"]:
        """How many of n words are of each length and class: the shares, rounded to add up to n."""
        wanted = n * self.shares
        counts = np.floor(wanted).astype(int)
        short = np.argsort((counts - wanted).ravel(), kind="stable")[: n - counts.sum()]
        counts.flat[short] += 1
        return counts

    def draw(self, n: int, seed: int = 0) -> tuple[Int[Tensor, "n max_len"], Int[Tensor, " n"]]:
        """Words in random order by symbol number, ``PAD`` behind the end, and the class each ends in.

        Raises:
            AssertionError: the automaton does not agree with itself, which would be a bug.
        """
        words, kinds = torch.full((n, self.max_len), PAD), torch.empty(n, dtype=torch.long)
        at = 0
        for (row, kind), count in np.ndenumerate(self.quotas(n)):
            if count:
                length = self.lengths[row]
                own = seed * 1_000_003 + length * len(CLASSES) + kind
                words[at : at + count, :length] = self._samplers[kind].draw(int(count), length, own)
                kinds[at : at + count] = kind
                at += count
        assert bool((self.dfa.classify(words)[:, -1] == kinds).all())
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return words[order], kinds[order]

    @cached_property
    def next_symbol(self) -> Float[Tensor, "prefix state next"]:
        """How likely each symbol comes next, or (the last entry) the end, after so many symbols in a state.

        What follows depends on nothing else of the prefix. Rows are 0 where no word of the mixture could
        go on; whether a prefix of that length leads to the state is not asked.
        """
        return torch.from_numpy(_divided(self._masses, self._masses.sum(-1, keepdims=True)))

    @cached_property
    def ceiling(self) -> float:
        """The accuracy of the best guess of the next symbol or the end, over all prefixes."""
        table = np.zeros((self.max_len + 1, self.dfa.n_states))
        step = self.dfa.matrices.double().mean(0).numpy()
        table[0, 0] = 1.0
        for t in range(self.max_len):  # the share of all words of t symbols that lead to each state
            table[t + 1] = table[t] @ step
        return float((table * self._masses.max(-1)).sum() / (table * self._masses.sum(-1)).sum())

    @cached_property
    def _masses(self) -> NDArray[np.float64]:
        """How likely a word begins with a prefix and goes on with a symbol, times n_symbols ** prefix."""
        n_states, n_symbols = self.dfa.table.shape
        after, kinds = self.dfa.table.numpy(), self.dfa.classes.numpy()
        masses = np.zeros((self.max_len + 1, n_states, n_symbols + 1))
        for (row, kind), share in np.ndenumerate(self.shares):
            if not share:
                continue
            length, ways = self.lengths[row], self.portions[kind]
            weight = share / ways[length, 0]
            masses[:length, :, :n_symbols] += weight / n_symbols * ways[:length][::-1][:, after]
            masses[length, :, n_symbols] += weight * (kinds == kind)
        return masses


def _divided(x: NDArray, by: NDArray) -> NDArray:
    return np.divide(x, by, out=np.zeros_like(x), where=by > 0)


def _ranges(numbers: list[int]) -> str:
    """Numbers as runs: ``1-3, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
