"""From a regular expression in Python's syntax to the minimal automaton of the words that fully match.

Python's own parser reads the pattern; each place in it that reads a symbol becomes a position, and which
position may follow which makes an automaton without empty moves (Glushkov 1961), whose sets of
positions are then the states.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import torch

from mechinterp.automata.dfa import DFA, check_alphabet
from mechinterp.automata.machines import NAMED

BUDGET = 4096
"""How many states an automaton may have before it is minimised."""
_STEPS_PER_STATE = 4096
"""How many elementary steps, of about a tenth of a microsecond, building may take for each of these."""
_LONGEST = 32
"""How many characters a pattern may have for each of these."""
_ENTRIES_PER_STATE = 4096
"""How many entries the final table may have for each of these."""

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
            or that reads a symbol which the alphabet lacks; more states than the budget, or more work.
        TypeError: a pattern or an alphabet that is no text.
    """
    check_alphabet(alphabet)
    _check_pattern(pattern)
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"expected a budget of at least 1 state, got {budget!r}; {BUDGET} is the default")
    if len(pattern) > _LONGEST * budget:
        raise _too_many(pattern, f"a pattern of at most {_LONGEST * budget} characters")
    try:
        parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise _no_pattern(pattern, error) from None
    reader = _Reader(pattern, alphabet, parsed.state, budget)
    try:
        items = _plain(_without_ends(list(parsed)))
        if reader.size(items) > reader.most:  # counted before anything is written out
            raise _too_many(pattern, f"a pattern of at most {reader.most} places that read a symbol")
        whole = reader.sequence(items)
    except RecursionError as error:
        raise _no_pattern(pattern, error) from None
    return _determinise(reader, whole, budget)


def language(pattern: str, alphabet: str | None = None) -> DFA:
    """The minimal automaton of a regular expression, or of a machine by its name in ``NAMED``.

    Args:
        pattern: such as ``"a*b*"`` or ``"S3"``; ``"(?:S3)"`` is the expression that spells a name.
        alphabet: ``None``: the machine's own, and ``"ab"`` for an expression.

    Raises:
        ValueError: as ``compile_regex``, or another alphabet than the machine's.
        TypeError: a pattern or an alphabet that is no text.
    """
    _check_pattern(pattern)
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


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str):
        given = type(pattern).__name__
        remedy = "give its .pattern" if isinstance(pattern, re.Pattern) else "write it as text"
        raise TypeError(f"expected a pattern as text, such as 'a*b*', got {given}; {remedy}")


def _no_pattern(pattern: str, error: Exception) -> ValueError:
    return ValueError(
        f"expected a regular expression in Python's syntax, got {_shown(pattern)}: {error}; mend it"
    )


@dataclass(frozen=True)
class _Part:
    """A piece of a pattern: whether it matches nothing, and where it may begin and end, as bits."""

    empty: bool
    first: int
    last: int


class _Reader:
    """Walks through a parsed pattern, numbering the positions and noting what follows what."""

    def __init__(self, pattern: str, alphabet: str, state: Any, budget: int) -> None:
        self.pattern, self.alphabet, self.state, self.most = pattern, alphabet, state, 2 * budget
        self.steps = self.left = _STEPS_PER_STATE * budget
        self.reads: list[int] = []  # by position, the symbols that it reads, as bits
        self.follow: list[int] = []
        self.fitting: dict[str, int] = {}  # by what reads, the same

    def spend(self, steps: int) -> None:
        """Count work before it is done.

        Raises:
            ValueError: it is too much.
        """
        self.left -= steps
        if self.left < 0:
            raise _too_many(self.pattern, f"an automaton that is built in at most {self.steps} steps")

    def size(self, items: Any) -> int:
        """How many positions a piece will have, with its repeats written out."""
        return sum(self._size(kind, value) for kind, value in items)

    def _size(self, kind: Any, value: Any) -> int:
        if kind is op.BRANCH:
            return sum(map(self.size, value[1]))
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, items, _ = value
            return (least + 1 if most is op.MAXREPEAT else most) * self.size(items)
        return 1  # what is no symbol is refused when it is read

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
        self.spend(100)
        if kind in (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN):
            return self.symbol(kind, value)
        if kind is op.BRANCH:
            return self.either([self.sequence(items) for items in value[1]])
        if kind is op.SUBPATTERN:
            raise self.refuse("flags for a part of the pattern")
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):  # lazy or not: the same words
            return self.repeat(*value)
        raise self.refuse(_PLACES[value] if kind is op.AT else _REFUSED.get(kind, str(kind)))

    def refuse(self, what: str) -> ValueError:
        return ValueError(
            f"expected a pattern of literals, classes, groups, alternation and repeats, got {what} in "
            f"{_shown(self.pattern)}, which is not supported; write it with those"
        )

    def symbol(self, kind: Any, value: Any) -> _Part:
        """A new position, and what it reads."""
        reads = self.fits(kind, value)
        named = [(kind, value)] if kind is op.LITERAL else value if kind is op.IN else []
        if not named or named[0][0] is not op.NEGATE:  # x|y is a class, too
            for item in named:
                if item[0] is op.LITERAL and not self.fits(*item):
                    raise ValueError(
                        f"expected symbols of the alphabet {_shown(self.alphabet)}, got {chr(item[1])!r} in "
                        f"{_shown(self.pattern)}; add it"
                    )
        self.reads.append(reads)
        self.follow.append(0)
        bit = 1 << (len(self.reads) - 1)
        return _Part(False, bit, bit)

    def fits(self, kind: Any, value: Any) -> int:
        """The symbols that a piece reads, as bits: Python's matcher itself is asked, under all flags."""
        named = repr((kind, value))
        if named not in self.fitting:
            self.spend(500 + 3 * len(self.alphabet))
            piece = _compiler.compile(_parser.SubPattern(self.state, [(kind, value)]))
            bits = "".join("1" if piece.fullmatch(symbol) else "0" for symbol in reversed(self.alphabet))
            self.fitting[named] = int(bits, 2)
        return self.fitting[named]

    def repeat(self, least: int, most: Any, items: Any, even: bool) -> _Part:
        """So many times at least, and at most; ``even``: all words of the piece are of one length."""
        whole = _Part(True, 0, 0)
        for _ in range(least):
            whole = self.then(whole, self.sequence(items))
        if most is op.MAXREPEAT:
            again = self.sequence(items)
            self.link(again.last, again.first)
            return self.then(whole, _Part(True, again.first, again.last))
        parts = [self.sequence(items) for _ in range(most - least)]
        tail = _Part(True, 0, 0)
        if even:  # (x(x)?)?: every place in it is told by the length, and little follows what
            for one in reversed(parts):
                one = self.then(one, tail)
                tail = _Part(True, one.first, one.last)
        else:  # x?x?: where x is ambiguous, fewer states
            for one in parts:
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
        self.spend(self.cost(last))
        for position in _bits(last):
            self.follow[position] |= first

    def after(self, positions: int) -> int:
        """What may follow any of some positions."""
        self.spend(self.cost(positions))
        after = 0
        for position in _bits(positions):
            after |= self.follow[position]
        return after

    def cost(self, positions: int) -> int:
        """Steps that a union for each of some positions takes; wide numbers take longer."""
        return positions.bit_count() * (1 + len(self.reads) // 2048) + len(self.reads) // 64


def _plain(items: Any) -> list[tuple[Any, Any]]:
    """The same without groups, which say nothing, and without what matches only the empty word."""
    plain: list[tuple[Any, Any]] = []
    for kind, value in items:
        if kind is op.SUBPATTERN and not (value[1] or value[2]):
            plain += _plain(value[3])
        elif kind is op.BRANCH:
            branches = [_plain(branch) for branch in value[1]]
            plain += [(kind, (value[0], branches))] if any(branches) else []
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            inner = _plain(value[2])
            plain += [(kind, (*value[:2], inner, _length(inner) is not None))] if inner and value[1] else []
        else:
            plain.append((kind, value))
    return plain


def _length(items: Any) -> int | None:
    """The length of all words of a piece without groups, where there is one."""
    whole = 0
    for kind, value in items:
        lengths = {1}
        if kind is op.BRANCH:
            lengths = {_length(branch) for branch in value[1]}
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            inner = _length(value[2])
            lengths = {value[0] * inner if value[0] == value[1] and inner is not None else None}
        if len(lengths) > 1 or None in lengths:
            return None
        whole += lengths.pop()
    return whole


def _without_ends(items: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    while items and items[0][0] is op.AT and items[0][1] in _STARTS:
        items = items[1:]
    while items and items[-1][0] is op.AT and items[-1][1] in _ENDS:
        items = items[:-1]
    return items


def _determinise(reader: _Reader, whole: _Part, budget: int) -> DFA:
    """Sets of positions as states: those that may have read the last symbol. The start is a position too."""
    kinds, masks = _kinds(reader)
    start = 1 << len(reader.reads)
    numbers, order, rows = {start: 0}, [start], []
    for state in order:
        reader.spend((8 + len(reader.reads) // 512) * len(masks))
        after = whole.first if state == start else reader.after(state)
        row = [numbers.setdefault(after & mask, len(numbers)) for mask in masks]
        order += list(numbers)[len(order) :] if len(numbers) > len(order) else []
        if len(order) > budget:
            raise _too_many(reader.pattern, f"an automaton of at most {budget} states")
        rows.append(row)
    accepting = [bool(state & whole.last) or (state == start and whole.empty) for state in order]
    one_each = "".join(reader.alphabet[kinds.index(kind)] for kind in range(len(masks)))
    least = DFA(one_each, torch.tensor(rows), torch.tensor(accepting)).minimal()
    if least.n_states * len(kinds) > _ENTRIES_PER_STATE * budget:
        raise _too_many(
            reader.pattern, f"a table of at most {_ENTRIES_PER_STATE * budget} entries, states times symbols"
        )
    return DFA(reader.alphabet, least.table[:, kinds], least.accepting)


def _kinds(reader: _Reader) -> tuple[list[int], list[int]]:
    """The kind of each symbol, and the positions that read each kind, as bits.

    Symbols which the same positions read go the same way.
    """
    readers: dict[int, int] = {}  # by symbols read, as bits, the positions
    for position, reads in enumerate(reader.reads):
        readers[reads] = readers.get(reads, 0) | 1 << position
    reader.spend(len(readers) * len(reader.alphabet))
    columns = [f"{reads:0{len(reader.alphabet)}b}"[::-1] for reads in readers]
    numbers: dict[tuple[str, ...], int] = {}
    symbols = zip(*columns) if columns else [()] * len(reader.alphabet)
    kinds = [numbers.setdefault(column, len(numbers)) for column in symbols]
    masks = []
    for column in numbers:
        mask = 0
        for there, positions in zip(column, readers.values()):
            mask |= positions if there == "1" else 0
        masks.append(mask)
    return kinds, masks


def _too_many(pattern: str, expected: str) -> ValueError:
    return ValueError(
        f"expected {expected}, got more for {_shown(pattern)}; simplify the pattern (bounded repeats after a "
        "choice double the states), or give compile_regex a larger budget="
    )


def _shown(text: str) -> str:
    """Text as Python writes it; the middle of what is long is left out."""
    return repr(text) if len(text) <= 200 else f"{text[:100]!r}...{text[-50:]!r}"


def _bits(number: int) -> list[int]:
    """The places of a number's ones."""
    if number.bit_count() > 16:
        data = np.frombuffer(number.to_bytes(-(-number.bit_length() // 8), "little"), np.uint8)
        return np.unpackbits(data, bitorder="little").nonzero()[0].tolist()
    found = []
    while number:
        low = number & -number
        found.append(low.bit_length() - 1)
        number ^= low
    return found
