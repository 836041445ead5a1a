"""Addition of numbers digit by digit, written as characters: ``123+456=`` and then the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task, predicted
from mechinterp.tasks.digits import (
    columns_of,
    digits_of,
    draw_digits,
    numbers_of,
    pairs_of_digits,
)
from mechinterp.tasks.problems import Problems

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@cpu_default
@dataclass(frozen=True, kw_only=True)
class DigitAddition(Task):
    """Write the sum of two numbers of n digits each, one character after the other.

    The source is ``a+b``, most significant digits first and with leading zeros; the target is ``=``, then
    n + 1 digits of the sum and an end, least significant first unless ``reverse`` is off. Both are
    one tensor, source first: an encoder-decoder parts them, and a decoder alone reads through. Ids 0 to
    base - 1 are the digits, then ``+``, ``=``, the end and the padding.

    Training draws problems anew at every step. Which problems are held out is decided by a hash of the
    problem and the seed, so that none is ever trained on; a problem with its numbers swapped is another one,
    and ``apart`` says of which that is held out too.

    Variables of a batch, column by column from the least significant: ``digit_sum``, ``carry_out`` and
    ``sum_is_9`` (base - 1, [batch, n]), ``carry_in``, ``cascade`` (over how many columns the carry that
    comes in has run, 0 without one) and ``class`` (index of ``digits.CLASSES``), with a further column for
    the top digit ([batch, n + 1]). Of the whole: ``a``, ``b``, ``sum`` and ``longest``, the longest cascade.

    Raises:
        ValueError: sizes or shares that cannot be.
    """

    name: ClassVar[str] = "digit_addition"
    samples: ClassVar[bool] = True
    score_name: ClassVar[str] = "exact_match"
    watched: ClassVar[Split] = "val"
    learned_at: ClassVar[float] = 0.95

    n_digits: int = 3
    """Digits of each number."""

    base: int = 10
    """Of the number system, 2 to 36."""

    reverse: bool = True
    """Write the least significant digit of the sum first, so that each carry comes from what is written."""

    enriched: float = 0.5
    """Share of training problems in which a column sums to base - 1 half of the time."""

    room: int | None = None
    """Digits that the source has room for; what is left over is padding."""

    held_out: float = 0.1
    """Share of all problems that are tested on, half of it, or validated on."""

    n_test: int = 10_000
    """Problems of the test split; of val a fifth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.base <= len(DIGITS):
            raise ValueError(f"expected a base of 2 to {len(DIGITS)}, got {self.base}; change it")
        if self.n_digits < 1 or self.base ** (2 * self.n_digits) >= 2**62:
            raise ValueError(
                f"expected 1 digit or more, and fewer than 2^62 problems, got n_digits={self.n_digits} in "
                f"base {self.base}; change it"
            )
        if self.wide < self.n_digits:
            raise ValueError(f"expected room for {self.n_digits} digits, got room={self.room}; raise it")
        for name in ("enriched", "held_out"):
            if not 0 <= getattr(self, name) <= 1 or (name == "held_out" and not 0 < self.held_out < 1):
                raise ValueError(f"expected {name} to be a share, got {getattr(self, name)}; change it")
        if self.n_test < 10 or self.seed < 0:
            raise ValueError(f"expected n_test >= 10 and seed >= 0, got {self.n_test}, {self.seed}; raise it")

    @property
    def wide(self) -> int:
        """Digits that the source has room for."""
        return self.n_digits if self.room is None else self.room

    @property
    def n_source(self) -> int:
        """Tokens of the source."""
        return 2 * self.wide + 1

    @property
    def n_target(self) -> int:
        """Tokens that are answered: the digits of the sum, and the end."""
        return self.n_digits + 2

    @property
    def plus(self) -> int:
        """The id of ``+``."""
        return self.base

    @property
    def equals(self) -> int:
        """The id of ``=``, with which the target starts."""
        return self.base + 1

    @property
    def end(self) -> int:
        """The id of the end."""
        return self.base + 2

    @property
    def padding(self) -> int:
        """The id of padding."""
        return self.base + 3

    @property
    def d_vocab(self) -> int:
        """How many ids there are."""
        return self.base + 4

    @property
    def read(self) -> tuple[int, ...]:
        """The positions whose answers count."""
        return tuple(range(-self.n_target, 0))

    @property
    def columns(self) -> tuple[int, ...]:
        """The column of the sum that each answer but the last is of, 0 the least significant."""
        up = range(self.n_digits + 1)
        return tuple(up if self.reverse else reversed(up))

    @property
    def column_of(self) -> dict[str, tuple[int, ...]]:
        """The column of each position, -1 where there is none: of the ``source``, of what each position of
        the target is to ``answer``, and of what is ``written`` at it."""
        down = tuple(range(self.n_digits))[::-1]
        source = (*down, -1, *down, *(-1 for _ in range(2 * (self.wide - self.n_digits))))
        return {"source": source, "answer": (*self.columns, -1), "written": (-1, *self.columns)}

    @property
    def problems(self) -> int:
        """How many problems there are."""
        return len(self._problems)

    @property
    def trivial(self) -> float:
        """The exact match of always writing the most frequent sum."""
        return self.base**-self.n_digits

    # ---- which problems -------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n problems to train on, ``enriched`` of them with many columns that sum to base - 1."""
        return self.batch(*self._problems.train(n, generator, self._enriched).unbind(1), variables)

    def dataset(self, split: Split) -> Batch:
        """Fixed problems: of test and val held-out ones, drawn evenly; of train ones that only measure.

        Raises:
            ValueError: no such split, or none that is held out.
        """
        n = self.n_test if split == "test" else self.n_test // 5
        draw = self._enriched if split == "train" else self._even
        return self.batch(*self._problems.fixed(split, n, draw).unbind(1))

    def with_cascade(self, length: int, held_out: bool = False, n: int = 10_000) -> Batch:
        """Problems whose longest cascade has that length: all of them where there are not too many.

        Args:
            held_out: only those that were not trained on.
            n: how many, at most, where they are drawn.

        Raises:
            ValueError: a length that there is not, or no such problem.
        """
        if not 0 <= length <= self.n_digits:
            raise ValueError(f"expected a cascade of 0 to {self.n_digits} columns, got {length}; change it")
        generator, every = torch.Generator().manual_seed(self.seed + 5 * 10**6), self._problems.few
        some = self._problems.every(generator) if every else self._draw(40 * n, generator, 1.0)
        kept = columns_of(*some.unbind(1), self.n_digits, self.base)["longest"] == length
        if held_out:
            kept &= ~self._problems.trains(some)
        if not bool(kept.any()):
            raise ValueError(
                f"expected problems{' held out' * held_out} whose carry runs over {length} columns, got none "
                f"for seed {self.seed}; raise n_digits or held_out, or take another seed"
            )
        return self.batch(*(some[kept] if every else some[kept][:n]).unbind(1))

    def apart(self, batch: Batch) -> Bool[Tensor, " n"]:
        """Of which held-out problems neither order of the numbers was ever trained on."""
        return ~self._problems.trains(torch.stack((batch.variables["b"], batch.variables["a"]), 1))

    def pairs(self, kind: str, column: int, n: int = 500) -> tuple[Batch, Batch]:
        """Pairs of problems whose sums differ by one in one column, by a carry into it or by its own digits.

        Args:
            kind: ``"carry"`` or ``"digit"``, as ``digits.pairs_of_digits`` says.
            column: at least 1; 0 is the least significant.

        Returns:
            The batch with the carry, or the larger digit, and that without.

        Raises:
            ValueError: another kind, or a column that there is not.
        """
        generator = torch.Generator().manual_seed(self.seed + 6 * 10**6)
        both = pairs_of_digits(kind, column, n, self.n_digits, self.base, generator)
        more, less = (self.batch(*numbers_of(digits, self.base).unbind(1)) for digits in both)
        return more, less

    @property
    def _problems(self) -> Problems:
        return Problems(most=self.base**self.n_digits, held_out=self.held_out, seed=self.seed)

    def _draw(self, n: int, generator: torch.Generator, enriched: float) -> Int[Tensor, "n two"]:
        return numbers_of(draw_digits(n, self.n_digits, self.base, enriched, generator), self.base)

    def _enriched(self, n: int, generator: torch.Generator) -> Int[Tensor, "n two"]:
        return self._draw(n, generator, self.enriched)

    def _even(self, n: int, generator: torch.Generator) -> Int[Tensor, "n two"]:
        return self._draw(n, generator, 0.0)

    # ---- as tokens ------------------------------------------------------------------------

    def batch(self, a: Tensor, b: Tensor, variables: bool = True) -> Batch:
        """Problems as tokens, with the target as it should be.

        Args:
            a, b: whole numbers, ``[n]``.

        Raises:
            ValueError: numbers that n digits do not hold, or that are not paired.
        """
        if a.is_floating_point() or b.is_floating_point() or a.shape != b.shape or a.ndim != 1:
            raise ValueError(
                f"expected whole numbers [n] for both, got {a.dtype} {list(a.shape)} and {b.dtype} "
                f"{list(b.shape)}; pair them, as integers"
            )
        most = self.base**self.n_digits
        if len(a) == 0 or min(int(a.min()), int(b.min())) < 0 or max(int(a.max()), int(b.max())) >= most:
            raise ValueError(
                f"expected numbers of {self.n_digits} digits, 0 to {most - 1}, at least one pair, got "
                f"{a.tolist()[:5]} and {b.tolist()[:5]}"
            )
        written = digits_of(a + b, self.n_digits + 1, self.base)
        written = written if self.reverse else written.flip(1)
        ends = written.new_full((len(a), 1), self.end)
        prompt, mask = self._prompt(a, b)
        return Batch(
            inputs=torch.cat((prompt, written), 1),
            targets=torch.cat((written, ends), 1),
            read=self.read,
            mask=None if mask is None else torch.cat((mask, torch.ones_like(written).bool()), 1),
            variables=columns_of(a, b, self.n_digits, self.base) if variables else {},
        )

    def _prompt(
        self, a: Int[Tensor, " n"], b: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, "n prompt"], Bool[Tensor, "n prompt"] | None]:
        """The source and ``=``, and where they are real if not everywhere."""
        tokens = a.new_full((len(a), self.n_source + 1), self.padding)
        n = self.n_digits
        tokens[:, :n], tokens[:, n] = digits_of(a, n, self.base).flip(1), self.plus
        tokens[:, n + 1 : 2 * n + 1], tokens[:, -1] = digits_of(b, n, self.base).flip(1), self.equals
        return tokens, None if self.wide == n else tokens != self.padding

    def prompts(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "n prompt"], Bool[Tensor, "n prompt"] | None]:
        """Problems such as ``"123+456="``, to be written on after ``=``; no text has a sum yet.

        Returns:
            Their tokens, and where they are real if not everywhere.

        Raises:
            ValueError: no problems, or one that is not two numbers of at most n digits of the base.
        """
        pairs = [self._parsed(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if not pairs:
            raise ValueError('expected problems such as "123+456=", got none; give at least one')
        a, b = torch.tensor(pairs).T
        return self._prompt(a, b)

    def _parsed(self, text: str) -> tuple[int, int]:
        wanted = f"two numbers of 1 to {self.n_digits} digits of {DIGITS[: self.base]}, as in '12+34='"
        parts = text.strip().removesuffix("=").split("+")
        if len(parts) != 2:
            raise ValueError(f"expected {wanted}, got {text!r}; put one + between them")
        for part in parts:
            strange = sorted(set(part.lower()) - set(DIGITS[: self.base]))
            if strange or not 1 <= len(part) <= self.n_digits:
                raise ValueError(
                    f"expected {wanted}, got {text!r}"
                    + (f" with {strange}" if strange else f" with {len(part)} digits in {part!r}")
                    + "; change it, or build a task with another base or more digits"
                )
        return int(parts[0], self.base), int(parts[1], self.base)

    def text(self, tokens: Int[Tensor, " pos"]) -> str:
        """Tokens as they are read: digits, ``+``, ``=``, ``$`` for the end and ``_`` for padding."""
        characters = [*DIGITS[: self.base], "+", "=", "$", "_"]
        return "".join(characters[int(token)] for token in tokens)

    def value(self, tokens: Int[Tensor, " pos"]) -> int | None:
        """The number that was written, up to the end; ``None`` if it is none."""
        digits = [int(token) for token in tokens]
        digits = digits[: digits.index(self.end)] if self.end in digits else digits
        if not digits or any(digit >= self.base for digit in digits):
            return None
        upward = digits if self.reverse else digits[::-1]
        return sum(digit * self.base**i for i, digit in enumerate(upward))

    # ---- scores ---------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """The share of problems of which all answers are right.

        Greedy decoding writes these problems right, and no others: up to the first wrong answer it has
        written what the targets say, and so has seen what teacher forcing shows.
        """
        return self.right(outputs, batch).all(1).double().mean().item()

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """The share of right answers, teacher-forced."""
        return {"token_accuracy": self.right(outputs, batch).double().mean().item()}

    def right(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> Bool[Tensor, "batch read"]:
        """Which answers are right."""
        return predicted(outputs) == batch.targets
