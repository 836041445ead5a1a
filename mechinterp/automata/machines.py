"""Automata with names: groups, counters, memories, brackets; and random ones."""

from __future__ import annotations

import string
from collections.abc import Callable

import torch

from mechinterp.automata.dfa import DFA

Permutation = tuple[int, ...]


def cyclic(n: int) -> DFA:
    """Z_n: counts ``a`` modulo n, ``b`` does nothing; accepts multiples of n. ``cyclic(2)`` is parity.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"expected a cyclic group of at least one element, got n={n}")
    state = torch.arange(n)
    return DFA("ab", torch.stack(((state + 1) % n, state), 1), state == 0)


def parity() -> DFA:
    """Accepts words with an even number of ``a``."""
    return cyclic(2)


def symmetric_group_3() -> DFA:
    """S3, whose words multiply a swap ``a`` and a turn ``b`` of three things; accepts the identity."""
    return _of_permutations([(1, 0, 2), (1, 2, 0)])


def alternating_group_5() -> DFA:
    """A5, the smallest group that is not solvable, from a 5-cycle ``a`` and a 3-cycle ``b``; 60 states.

    No circuit of constant depth simulates it, by Barrington (1989), unless TC0 = NC1.
    """
    return _of_permutations([(1, 2, 3, 4, 0), (1, 2, 0, 3, 4)])


def flip_flop() -> DFA:
    """One bit of memory: ``a`` sets it, ``b`` clears it, ``c`` leaves it; accepts when it is set."""
    return DFA("abc", torch.tensor([[1, 0, 0], [1, 0, 1]]), torch.tensor([False, True]))


def bounded_dyck(depth: int) -> DFA:
    """Balanced brackets, ``(`` and ``)``, nested no deeper than ``depth``.

    Raises:
        ValueError: depth < 1.
    """
    if depth < 1:
        raise ValueError(f"expected brackets nested at least 1 deep, got depth={depth}")
    failed = depth + 1
    rows = [[level + 1, level - 1 if level else failed] for level in range(depth)]
    table = torch.tensor([*rows, [failed, depth - 1], [failed, failed]])
    return DFA("()", table, torch.arange(depth + 2) == 0)


def random_dfa(n_states: int, n_symbols: int, seed: int = 0) -> DFA:
    """Next states and accepting states drawn independently; not all need be within reach of the start, and
    ``minimal`` drops those that are not.

    Raises:
        ValueError: fewer than one state, or symbols not in 1..26.
    """
    if n_states < 1 or not 1 <= n_symbols <= 26:
        raise ValueError(f"expected at least 1 state and 1 to 26 symbols, got {n_states} and {n_symbols}")
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(n_states, (n_states, n_symbols), generator=generator)
    accepting = torch.rand(n_states, generator=generator) < 0.5
    return DFA(string.ascii_lowercase[:n_symbols], table, accepting)


def _of_permutations(generators: list[Permutation]) -> DFA:
    """A machine whose states are the permutations that the symbols multiply to, and accepts the identity."""
    identity = tuple(range(len(generators[0])))
    numbers, order, rows = {identity: 0}, [identity], []
    for one in order:
        row = []
        for by in generators:
            after = tuple(one[i] for i in by)
            if after not in numbers:
                numbers[after] = len(order)
                order.append(after)
            row.append(numbers[after])
        rows.append(row)
    return DFA(string.ascii_lowercase[: len(generators)], torch.tensor(rows), torch.arange(len(order)) == 0)


NAMED: dict[str, Callable[[], DFA]] = {
    "parity": parity,
    "Z2": parity,
    "Z3": lambda: cyclic(3),
    "Z5": lambda: cyclic(5),
    "S3": symmetric_group_3,
    "A5": alternating_group_5,
    "flip-flop": flip_flop,
    "Dyck-3": lambda: bounded_dyck(3),
}
"""Machines that a pattern may name."""
