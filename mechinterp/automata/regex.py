"""From a regular expression in Python's syntax to the minimal automaton of the words that fully match.

Python's own parser reads the pattern; each place in it that reads a symbol becomes a position, and which
position may follow which makes an automaton without empty moves (Glushkov 1961), whose sets of
positions are then the states.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import torch

from mechinterp.automata.dfa import DFA, check_alphabet
from mechinterp.automata.machines import NAMED

BUDGET = 4096
"""How many states an automaton may have before it is minimised."""

_REFUSED = {
    op.ASSERT: "lookaround", op.ASSERT_NOT: "negative lookaround", op.GROUPREF: "a backreference",
    op.GROUPREF_EXISTS: "a conditional group", op.ATOMIC_GROUP: "an atomic group",
    op.POSSESSIVE_REPEAT: "a possessive repeat",
}  # fmt: skip
_PLACES = {
    op.AT_BEGINNING: "^", op.AT_BEGINNING_STRING: r"\A", op.AT_END: "$", op.AT_END_STRING: r"\Z",
    op.AT_BOUNDARY: r"\b", op.AT_NON_BOUNDARY: r"\B",
}  # fmt: skip
_STARTS, _ENDS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING), (op.AT_END, op.AT_END_STRING)


def compile_regex(pattern: str, alphabet: str, budget: int = BUDGET) -> DFA:
    """The minimal complete automaton of the words over an alphabet that a pattern matches from end to end.

    Args:
        pattern: in the syntax of ``re``, as far as it describes a regular language: classes, ranges,
            categories such as ``\\d``, ``.``, repeats with and without bounds, alternation, groups,
            escapes, ``(?i)`` and ``(?s)``; ``^`` and ``$`` at the ends say nothing that is not meant anyway.
        alphabet: the symbols that words are made of, one character each.
        budget: the most states that it may have before it is minimised.

    Raises:
        ValueError: a pattern that is no pattern, that is not regular (lookaround, backreferences, ``\\b``),
            or that reads a symbol which the alphabet lacks; more states than the budget.
    """
    check_alphabet(alphabet)
    try:
        parsed = _parser.parse(pattern)
        reader = _Reader(pattern, alphabet, parsed.state.flags, budget)
        whole = reader.sequence(_without_ends(list(parsed)))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"expected a regular expression in Python's syntax, got {pattern!r}: {error}"
        ) from None
    if parsed.state.flags & re.IGNORECASE and not alphabet.isascii():
        raise ValueError(
            f"expected symbols of ASCII beside (?i), got {alphabet!r}; write out the cases that you mean"
        )
    return _determinise(reader, whole, alphabet, pattern, budget).minimal()


def language(pattern: str, alphabet: str | None = None) -> DFA:
    """The minimal automaton of a regular expression, or of a machine by its name in ``NAMED``.

    Args:
        pattern: such as ``"a*b*"`` or ``"S3"``; ``"(?:S3)"`` is the expression that spells a name.
        alphabet: ``None``: the machine's own, and ``"ab"`` for an expression.

    Raises:
        ValueError: as ``compile_regex``, or another alphabet than the machine's.
    """
    if pattern not in NAMED:
        if alphabet is None and pattern.casefold() in map(str.casefold, NAMED):
            raise ValueError(f"expected a machine of {sorted(NAMED)}, got {pattern!r}; mind the case")
        return compile_regex(pattern, "ab" if alphabet is None else alphabet)
    machine = NAMED[pattern]()
    if alphabet not in (None, machine.alphabet):
        raise ValueError(
            f"expected the alphabet {machine.alphabet!r} of the machine {pattern!r}, got {alphabet!r}; "
            f"leave it out, or write the expression (?:{pattern})"
        )
    return machine.minimal()


@dataclass(frozen=True)
class _Part:
    """A piece of a pattern: whether it matches nothing, and where it may begin and end, as bits."""

    empty: bool
    first: int
    last: int


class _Reader:
    """Walks through a parsed pattern, numbering the positions and noting what follows what."""

    def __init__(self, pattern: str, alphabet: str, flags: int, budget: int) -> None:
        self.pattern, self.alphabet, self.most = pattern, alphabet, 2 * budget
        self.folds, self.dots = bool(flags & re.IGNORECASE), bool(flags & re.DOTALL)
        self.ascii = bool(flags & re.ASCII)
        self.reads: list[int] = []  # by position, the symbols that it reads, as bits
        self.follow: list[int] = []

    def sequence(self, items: Any) -> _Part:
        """One piece after the other."""
        whole = _Part(True, 0, 0)
        for kind, value in items:
            whole = self.then(whole, self.item(kind, value))
        return whole

    def item(self, kind: Any, value: Any) -> _Part:
        """A single piece.

        Raises:
            ValueError: one that is not regular.
        """
        if kind in (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN):
            return self.symbol(kind, value)
        if kind is op.BRANCH:
            return self.either([self.sequence(items) for items in value[1]])
        if kind is op.SUBPATTERN:
            _, added, removed, items = value
            if added or removed:
                raise self.refuse("flags for a part of the pattern")
            return self.sequence(items)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):  # lazy or not: the same words
            return self.repeat(*value)
        raise self.refuse(_PLACES[value] if kind is op.AT else _REFUSED.get(kind, str(kind)))

    def refuse(self, what: str) -> ValueError:
        return ValueError(
            f"expected a pattern of literals, classes, groups, alternation and repeats, got {what} in "
            f"{self.pattern!r}, which is not supported; write it with those"
        )

    def symbol(self, kind: Any, value: Any) -> _Part:
        """A new position, and what it reads."""
        fits = self.test(kind, value)
        reads = sum(1 << i for i, symbol in enumerate(self.alphabet) if fits(symbol))
        named = [(kind, value)] if kind is op.LITERAL else value if kind is op.IN else []
        if not named or named[0][0] is not op.NEGATE:  # x|y is a class, too
            for item in named:
                if item[0] is op.LITERAL and not any(self.among([item], symbol) for symbol in self.alphabet):
                    raise ValueError(
                        f"expected symbols of the alphabet {self.alphabet!r}, got {chr(item[1])!r} in "
                        f"{self.pattern!r}; add it"
                    )
        if len(self.reads) >= self.most:
            raise _too_many(self.pattern, self.most, "places that read a symbol")
        self.reads.append(reads)
        self.follow.append(0)
        bit = 1 << (len(self.reads) - 1)
        return _Part(False, bit, bit)

    def test(self, kind: Any, value: Any) -> Callable[[str], bool]:
        """Whether a symbol fits."""
        if kind is op.ANY:
            return lambda symbol: self.dots or symbol != "\n"
        if kind is op.NOT_LITERAL:
            return lambda symbol: not self.among([(op.LITERAL, value)], symbol)
        items = [(kind, value)] if kind is op.LITERAL else list(value)
        negated = items[0][0] is op.NEGATE
        return lambda symbol: self.among(items[negated:], symbol) != negated

    def among(self, items: list[tuple[Any, Any]], symbol: str) -> bool:
        """Whether a class has a symbol."""
        cases = {symbol, symbol.lower(), symbol.upper()} if self.folds else {symbol}
        for kind, value in items:
            for case in cases:
                if kind is op.LITERAL and ord(case) == value:
                    return True
                if kind is op.RANGE and value[0] <= ord(case) <= value[1]:
                    return True
                if kind is op.CATEGORY and self.category(value, case):
                    return True
        return False

    def category(self, which: Any, symbol: str) -> bool:
        letter = str(which).rsplit("_", 1)[-1][0].lower()  # CATEGORY_NOT_DIGIT: d
        letter = letter.upper() if "_NOT_" in str(which) else letter
        return re.match(f"\\{letter}", symbol, re.ASCII if self.ascii else 0) is not None

    def repeat(self, least: int, most: Any, items: Any) -> _Part:
        """So many times at least, and at most."""
        whole = _Part(True, 0, 0)
        for _ in range(least):
            whole = self.then(whole, self.sequence(items))
        if most is op.MAXREPEAT:
            again = self.sequence(items)
            self.link(again.last, again.first)
            return self.then(whole, _Part(True, again.first, again.last))
        tail = _Part(True, 0, 0)
        for _ in range(most - least):  # x{0,2} as x?x?: where x is ambiguous, fewer states than (x(x)?)?
            one = self.sequence(items)
            tail = self.then(tail, _Part(True, one.first, one.last))
        return self.then(whole, tail)

    def either(self, parts: list[_Part]) -> _Part:
        """Any of some."""
        first = last = 0
        for part in parts:
            first, last = first | part.first, last | part.last
        return _Part(any(part.empty for part in parts), first, last)

    def then(self, one: _Part, other: _Part) -> _Part:
        """One, then the other."""
        self.link(one.last, other.first)
        return _Part(
            one.empty and other.empty,
            one.first | (other.first if one.empty else 0),
            other.last | (one.last if other.empty else 0),
        )

    def link(self, last: int, first: int) -> None:
        for position in _bits(last):
            self.follow[position] |= first


def _without_ends(items: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    while items and items[0][0] is op.AT and items[0][1] in _STARTS:
        items = items[1:]
    while items and items[-1][0] is op.AT and items[-1][1] in _ENDS:
        items = items[:-1]
    return items


def _determinise(reader: _Reader, whole: _Part, alphabet: str, pattern: str, budget: int) -> DFA:
    """Sets of positions as states: those that may have read the last symbol. The start is a position too."""
    start = 1 << len(reader.reads)
    kinds: dict[tuple[int, ...], list[int]] = {}  # symbols that the same positions read go the same way
    for symbol in range(len(alphabet)):
        readers = tuple(i for i, reads in enumerate(reader.reads) if reads >> symbol & 1)
        kinds.setdefault(readers, []).append(symbol)
    masks = [sum(1 << i for i in readers) for readers in kinds]
    numbers, order, rows = {start: 0}, [start], []
    for state in order:
        after = whole.first if state == start else 0
        for position in _bits(state & ~start):
            after |= reader.follow[position]
        row = [0] * len(alphabet)
        for mask, symbols in zip(masks, kinds.values()):
            place = numbers.setdefault(after & mask, len(numbers))
            if place == len(order):
                order.append(after & mask)
                if len(order) > budget:
                    raise _too_many(pattern, budget, "states")
            for symbol in symbols:
                row[symbol] = place
        rows.append(row)
    accepting = [bool(state & whole.last) or (state == start and whole.empty) for state in order]
    return DFA(alphabet, torch.tensor(rows), torch.tensor(accepting))


def _too_many(pattern: str, budget: int, what: str) -> ValueError:
    return ValueError(
        f"expected an automaton of at most {budget} {what}, got more for {pattern!r}; simplify the pattern "
        "(bounded repeats after a choice double the states), or give compile_regex a larger budget="
    )


def _bits(number: int) -> list[int]:
    """The places of a number's ones."""
    found = []
    while number:
        low = number & -number
        found.append(low.bit_length() - 1)
        number ^= low
    return found
