"""How many words of a length end in each class, exactly, and words drawn evenly from among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechinterp.automata.dfa import CLASSES, DFA


def count_words(dfa: DFA, length: int, ends: Sequence[int]) -> list[list[int]]:
    """By number of symbols left and state, how many ways lead to states of some classes: exact integers.

    Args:
        ends: classes of the state at the end.
    """
    table = dfa.table.tolist()
    counts = [[int(kind in ends) for kind in dfa.classes.tolist()]]
    for _ in range(length):
        ahead = counts[-1]
        counts.append([sum(ahead[after] for after in row) for row in table])
    return counts


class WordSampler:
    """Draws words of any length up to a longest one, counting their ways once.

    Args:
        ends: classes of the state at the end, such as ``[ACCEPT]``.
    """

    def __init__(self, dfa: DFA, longest: int, ends: Sequence[int]) -> None:
        self.dfa, self.ends, self.counts = dfa, list(ends), count_words(dfa, longest, ends)
        self.table = dfa.table.numpy()
        self.below: dict[int, np.ndarray] = {}

    def draw(self, n: int, length: int, seed: int = 0) -> Int[Tensor, "n length"]:
        """Words of a length, each as likely as any other.

        Raises:
            ValueError: there is no such word, or it is longer than the longest.
        """
        if not 0 <= length < len(self.counts):
            raise ValueError(f"expected a length of 0 to {len(self.counts) - 1}, got {length}; raise longest")
        if self.counts[length][0] == 0:
            wanted = [CLASSES[kind] for kind in self.ends]
            raise ValueError(
                f"expected words of length {length} that end in {wanted}, got none in this language"
            )
        draws = np.random.default_rng(seed).random((length, n))
        state, words = np.zeros(n, dtype=np.int64), np.empty((length, n), dtype=np.int64)
        for step, draw in enumerate(draws):
            words[step] = (draw[:, None] >= self._below(length - step - 1)[state]).sum(1)
            state = self.table[state, words[step]]
        return torch.from_numpy(words.T.copy())

    def _below(self, left: int) -> np.ndarray:
        if left not in self.below:
            self.below[left] = _cumulative(self.table, self.counts[left])
        return self.below[left]


def sample_words(
    dfa: DFA, n: int, length: int, ends: Sequence[int], seed: int = 0
) -> Int[Tensor, "n length"]:
    """Words of a length, each as likely as any other, of those that end in some classes.

    Args:
        ends: classes, such as ``[ACCEPT]``.

    Raises:
        ValueError: there is no such word.
    """
    return WordSampler(dfa, length, ends).draw(n, length, seed)


def _cumulative(table: np.ndarray, ahead: list[int]) -> np.ndarray:
    """By state, the share of words that begin with a symbol or an earlier one; without the last symbol."""
    shares = np.zeros(table.shape)
    for state, row in enumerate(table.tolist()):
        ways = [ahead[after] for after in row]
        if whole := sum(ways):
            shares[state] = [way / whole for way in ways]  # integers of any size: exact to the last bit
    cumulative = shares.cumsum(1)
    # Behind the last symbol that can come, nothing can be drawn, whatever the sum's rounding.
    last = table.shape[1] - 1 - (shares[:, ::-1] > 0).argmax(1)
    cumulative[np.arange(table.shape[1]) >= last[:, None]] = np.inf
    return cumulative[:, :-1]
