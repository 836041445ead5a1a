"""Deterministic finite automata as dense tables, and the states that words lead through.

A prefix has one of three classes: it is accepted; or it is incomplete, so that some continuation is; or
it is rejected, since none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.automata.strides import labels_along, stride

CLASSES = ("reject", "incomplete", "accept")
REJECT, INCOMPLETE, ACCEPT = range(3)
PAD = -1
"""Stands behind the end of a word in a batch of words."""


def check_ids(ids: Int[Tensor, "word length"], n_symbols: int) -> None:
    """Refuse numbers that are no symbol's.

    Raises:
        ValueError: there are such.
    """
    low, high = map(int, ids.aminmax()) if ids.numel() else (PAD, PAD)
    if low < PAD or high >= n_symbols:
        raise ValueError(
            f"expected symbols in [0, {n_symbols}) or {PAD} behind the end, got {low} to {high}; see encode"
        )


@dataclass(frozen=True, eq=False)
class DFA:
    """A complete deterministic automaton that starts in state 0.

    Args:
        alphabet: its symbols, one character each.
        table: the next state, by state and symbol.
        accepting: which states accept.

    Raises:
        ValueError: symbols that repeat, or a table that does not fit them or names a state that is not there.
    """

    alphabet: str
    table: Int[Tensor, "state symbol"]
    accepting: Bool[Tensor, " state"]

    def __post_init__(self) -> None:
        check_alphabet(self.alphabet)
        states = len(self.accepting)
        if self.table.shape != (states, len(self.alphabet)) or states == 0:
            raise ValueError(
                f"expected a table of {states} states (as accepting has) by {len(self.alphabet)} symbols, at "
                f"least one of each, got {list(self.table.shape)}"
            )
        if self.accepting.dtype != torch.bool:
            raise ValueError(
                f"expected accepting states as booleans, got {self.accepting.dtype}; compare them"
            )
        if int(self.table.min()) < 0 or int(self.table.max()) >= states:
            raise ValueError(
                f"expected next states in [0, {states}), got {int(self.table.min())} to "
                f"{int(self.table.max())}; add a state that nothing leaves for words that have failed"
            )

    def __eq__(self, other: object) -> bool:
        """Whether alphabet, table and accepting states are the same, state for state."""
        if not isinstance(other, DFA):
            return NotImplemented
        same = self.alphabet == other.alphabet and self.table.shape == other.table.shape
        return same and bool((self.table == other.table).all() & (self.accepting == other.accepting).all())

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_states(self) -> int:
        """How many states there are, those that only reject included."""
        return len(self.accepting)

    @property
    def n_symbols(self) -> int:
        """How many symbols there are."""
        return len(self.alphabet)

    @cached_property
    def classes(self) -> Int[Tensor, " state"]:
        """``REJECT``, ``INCOMPLETE`` or ``ACCEPT``: what a prefix is that leads to each state."""
        hopeful = self.accepting.clone()
        while not torch.equal(wider := hopeful | hopeful[self.table].any(1), hopeful):
            hopeful = wider
        return torch.where(self.accepting, ACCEPT, torch.where(hopeful, INCOMPLETE, REJECT))

    @cached_property
    def matrices(self) -> Float[Tensor, "symbol state next"]:
        """A matrix for each symbol with a 1 from every state to the next (rows are states)."""
        return torch.nn.functional.one_hot(self.table, self.n_states).float().transpose(0, 1)

    def encode(self, words: Sequence[str]) -> Int[Tensor, "word longest"]:
        """Symbols by number, ``PAD`` behind the end of shorter words.

        Raises:
            ValueError: a symbol that is not in the alphabet.
        """
        number = {symbol: i for i, symbol in enumerate(self.alphabet)}
        ids = torch.full((len(words), max(map(len, words), default=0)), PAD)
        for row, word in zip(ids, words):
            if strange := set(word) - number.keys():
                raise ValueError(f"expected symbols of {self.alphabet!r}, got {sorted(strange)} in {word!r}")
            row[: len(word)] = torch.tensor([number[symbol] for symbol in word], dtype=torch.long)
        return ids

    def decode(self, ids: Int[Tensor, "word length"]) -> list[str]:
        """Words of symbols by number; ``PAD`` is left out."""
        return ["".join(self.alphabet[i] for i in row if i != PAD) for row in ids.tolist()]

    def trace(self, ids: Int[Tensor, "word length"]) -> Int[Tensor, "word prefix"]:
        """The state after every prefix, the empty one included; behind the end it stays.

        Args:
            ids: symbols by number, as from ``encode``.

        Raises:
            ValueError: a number that is no symbol's.
        """
        return self._along(ids, np.arange(self.n_states))

    def classify(self, ids: Int[Tensor, "word length"]) -> Int[Tensor, "word prefix"]:
        """The class of every prefix, the empty one included."""
        return self._along(ids, self.classes.numpy())

    def _along(
        self, ids: Int[Tensor, "word length"], labels: NDArray[np.int64]
    ) -> Int[Tensor, "word prefix"]:
        """The label of the state after every prefix."""
        check_ids(ids, self.n_symbols)
        after = torch.cat((torch.arange(self.n_states)[:, None], self.table), 1).numpy()  # PAD, -1, stays
        if k := stride(self.n_states, self.n_symbols, ids):
            return labels_along(after, labels.astype(np.uint8), ids, k)
        return torch.from_numpy(labels.take(_states(after, ids.numpy()))).T

    def accepts(self, word: str) -> bool:
        """Whether a word is in the language."""
        return bool(self.accepting[self.trace(self.encode([word]))[0, -1]])

    def minimal(self) -> DFA:
        """The automaton of the same language with the fewest states, numbered by breadth from the start.

        Two automata have the same language just if their minimal ones are equal.
        """
        reached = self._breadth_first()
        place = torch.full((self.n_states,), PAD)
        place[reached] = torch.arange(len(reached))
        table = place[self.table[reached]]
        label = torch.tensor(_classes_of_states(table.tolist(), self.accepting[reached].tolist()))
        count = int(label.max()) + 1
        one = torch.empty(count, dtype=torch.long)
        one[label] = torch.arange(len(label))
        merged = DFA(self.alphabet, label[table[one]], self.accepting[reached][one])
        return merged._started_at(int(label[0]))

    def _started_at(self, state: int) -> DFA:
        """The same with states numbered by breadth from one of them; all must be in reach."""
        order = self._breadth_first(state)
        place = torch.empty(self.n_states, dtype=torch.long)
        place[order] = torch.arange(len(order))
        return DFA(self.alphabet, place[self.table[order]], self.accepting[order])

    def _breadth_first(self, start: int = 0) -> Int[Tensor, " reached"]:
        """States in reach, nearest first, in the order of the symbols."""
        rows, seen, order = self.table.tolist(), {start}, [start]
        for state in order:
            for after in rows[state]:
                if after not in seen:
                    seen.add(after)
                    order.append(after)
        return torch.tensor(order)


def _classes_of_states(table: list[list[int]], accepting: list[bool]) -> list[int]:
    """The class of each state: states are in one just if the same words are accepted from them.

    Classes are split by what leads into one of them, the smaller half of each (Hopcroft 1971).
    """
    before: list[list[list[int]]] = [[[] for _ in table] for _ in table[0]]
    for state, row in enumerate(table):
        for sources, after in zip(before, row):
            sources[after].append(state)
    halves = (
        {i for i, yes in enumerate(accepting) if yes},
        {i for i, yes in enumerate(accepting) if not yes},
    )
    classes = [half for half in halves if half]
    label = [int(not yes) if len(classes) == 2 else 0 for yes in accepting]
    waiting = set(range(len(classes)))
    while waiting:
        splitter = list(classes[waiting.pop()])
        for sources in before:
            into: dict[int, set[int]] = {}
            for after in splitter:
                for state in sources[after]:
                    into.setdefault(label[state], set()).add(state)
            for old, split in into.items():
                if len(split) == len(classes[old]):
                    continue
                classes[old] -= split
                small, large = sorted((split, classes[old]), key=len)
                new = len(classes)
                classes[old] = large
                classes.append(small)  # the new one is the smaller: if the old one waits, both do
                waiting.add(new)
                for state in small:
                    label[state] = new
    return label


def check_alphabet(alphabet: str) -> None:
    """Refuse an alphabet that is no text, without symbols, or with one twice.

    Raises:
        TypeError: the first.
        ValueError: the others.
    """
    if not isinstance(alphabet, str):
        raise TypeError(
            f"expected an alphabet as text, such as 'ab', got {type(alphabet).__name__}; write it as text"
        )
    if not alphabet or len(set(alphabet)) < len(alphabet):
        twice = sorted({symbol for symbol in alphabet if alphabet.count(symbol) > 1})
        raise ValueError(
            f"expected an alphabet of different characters, at least one, got {alphabet!r}"
            + (f" with {twice} more than once" if twice else "")
        )


def _states(after: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The state after every prefix, by prefix and word, a step a symbol."""
    steps = np.add(ids.T, 1, order="C")
    states = np.zeros((ids.shape[1] + 1, len(ids)), dtype=np.int64)
    for t, symbols in enumerate(steps):
        symbols += states[t] * after.shape[1]
        after.take(symbols, out=states[t + 1], mode="clip")
    return states
