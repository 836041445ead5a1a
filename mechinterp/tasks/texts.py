"""Problems with two numbers as text: ``12 + 345 = ?`` as characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task
from mechinterp.tasks.digits import columns_of, digits_of
from mechinterp.tasks.problems import Problems
from mechinterp.tasks.text_files import hash_of, read_problems, write_problems

PADDING = 0
"""The id of padding."""


@cpu_default
@dataclass(frozen=True, kw_only=True)
class TextArithmetic(Task):
    """What sums and residues of two numbers written as text share.

    Inputs are the characters of ``template``, one token each, ``[batch, n_ctx]``; shorter ones are padded
    with id 0, and the batch has a mask. One answer is read, at the last character.

    Variables of a batch: ``x``, ``y``, ``sum`` and ``length`` (of the text), and by column from the least
    significant ``x_digits`` and ``y_digits`` [batch, n], ``carries`` (out of each column, [batch, n]) and
    ``sum_digits`` [batch, n + 1].

    Raises:
        ValueError: sizes or shares that cannot be, a template without both numbers, or a file with lines
            that are no such problems.
    """

    max_operand: int = 999
    """The largest number; they start at 0."""

    template: str = "{x} + {y} = ?"
    """How a problem is written."""

    zero_padded: bool = False
    """Write numbers with leading zeros, so that all texts have the same length."""

    padding_side: str = "left"
    """On which side shorter texts are padded: left, which leaves the last character in the last position, or
    right, as published."""

    file: str | None = None
    """A file of problems, ``text<TAB>answer`` a line, instead of all pairs of numbers; read once, in an order
    that the seed draws, and split like these."""

    file_hash: str | None = None
    """SHA-256 of the file, filled in when the task is made; a file that has another is refused."""

    n_train: int | None = None
    """So many fixed problems to train on, instead of all that are not held out."""

    held_out: float = 0.1
    """Share of all problems that are tested on, half of it, or validated on; a problem and the same with its
    numbers swapped are in the same split."""

    n_test: int = 10_000
    """Problems of the test split; of val a fifth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_operand < 2**30:
            raise ValueError(f"expected a max_operand of 1 or more, got {self.max_operand}; raise it")
        around = self.template.replace("{x}", "", 1).replace("{y}", "", 1)
        if len(around) != len(self.template) - 6 or re.search(r"[\d\t\n{}]", around) or "}{" in self.template:
            raise ValueError(
                "expected a template with {x} and {y} once each, something between them, and no digits, "
                f"tabs, lines or braces of its own, got {self.template!r}; such as {{x}} + {{y}} = ?"
            )
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"expected padding_side left or right, got {self.padding_side!r}; choose one")
        if not 0 < self.held_out < 1:
            raise ValueError(f"expected held_out to be a share, got {self.held_out}; change it")
        if self.n_test < 10 or self.seed < 0 or (self.n_train is not None and self.n_train < 1):
            raise ValueError(
                f"expected n_test >= 10, n_train >= 1 and seed >= 0, got {self.n_test}, {self.n_train} and "
                f"{self.seed}; raise it"
            )
        if self.file is not None:
            found = hash_of(self.file)
            if self.file_hash not in (None, found):
                raise ValueError(
                    f"expected the file {self.file} that the task was made of, got one of other content; "
                    "take that one, or make the task anew"
                )
            object.__setattr__(self, "file", str(Path(self.file).resolve()))
            object.__setattr__(self, "file_hash", found)
        if self._given is not None and self.n_train is not None and len(self._given) < self.n_train:
            raise ValueError(
                f"expected {self.n_train} problems to train on, got {len(self._given)} that are not held "
                "out; lower n_train"
            )

    # ---- what the answer is: subclasses say ------------------------------------------------

    classes: ClassVar[bool] = False
    """Whether the network's outputs are logits of classes."""

    @property
    def d_answer(self) -> int:
        """Outputs of the network."""
        raise NotImplementedError

    def answer(self, total: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The whole number that answers a problem with such a sum."""
        raise NotImplementedError

    def encoded(self, answer: Int[Tensor, " n"]) -> Tensor:
        """Answers as targets, ``[n, 1]`` or ``[n, 1, out]``."""
        raise NotImplementedError

    def named(self, total: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """Variables besides those that all such tasks have."""
        return {}

    # ---- characters ------------------------------------------------------------------------

    samples: ClassVar[bool] = True
    watched: ClassVar[Split] = "val"

    @property
    def n_digits(self) -> int:
        """Digits of the largest number."""
        return len(str(self.max_operand))

    @property
    def characters(self) -> tuple[str, ...]:
        """The vocabulary: padding, the digits, and what the template has besides."""
        own = set(self.template.replace("{x}", "").replace("{y}", ""))
        return ("", *"0123456789", *sorted(own))

    @property
    def d_vocab(self) -> int:
        """How many ids there are."""
        return len(self.characters)

    @property
    def n_ctx(self) -> int:
        """Characters of the longest text."""
        return len(self.written(self.max_operand, self.max_operand))

    def written(self, x: int, y: int) -> str:
        """A problem as text."""
        width = self.n_digits if self.zero_padded else 0
        return self.template.format(x=f"{x:0{width}d}", y=f"{y:0{width}d}")

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n pos"], Bool[Tensor, "n pos"] | None]:
        """Texts as tokens, and where they are real if not everywhere.

        Raises:
            ValueError: no texts, or one that is empty, too long, or has a character that there is not.
        """
        ids = {character: i for i, character in enumerate(self.characters) if i}
        if isinstance(texts, str) or not texts:
            raise ValueError("expected a list of texts, at least one, got another; put it in brackets")
        tokens = torch.full((len(texts), self.n_ctx), PADDING)
        for row, text in enumerate(texts):
            strange = sorted(set(text) - set(ids))
            if strange or not 1 <= len(text) <= self.n_ctx:
                raise ValueError(
                    f"expected 1 to {self.n_ctx} of the characters {''.join(ids)!r}, got {text!r}"
                    + (f" with {strange}" if strange else "")
                    + "; change it, or build a task with another template or larger numbers"
                )
            start = self.n_ctx - len(text) if self.padding_side == "left" else 0
            tokens[row, start : start + len(text)] = torch.tensor([ids[character] for character in text])
        real = tokens != PADDING
        return tokens, None if bool(real.all()) else real

    def text(self, tokens: Int[Tensor, " pos"]) -> str:
        """Tokens as they are read, without padding."""
        return "".join(self.characters[int(token)] for token in tokens)

    # ---- which problems --------------------------------------------------------------------

    @cached_property
    def _problems(self) -> Problems:
        return Problems(most=self.max_operand + 1, held_out=self.held_out, seed=self.seed, unordered=True)

    @cached_property
    def _of_file(self) -> Int[Tensor, "n 2"]:
        assert self.file is not None
        pairs = self.pairs_of(self.file)
        return pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(self.seed))]

    @cached_property
    def _given(self) -> Int[Tensor, "n 2"] | None:
        """The problems of the file, or the fixed ones, that may be trained on."""
        if self.file is not None:
            pairs = self._problems.of("train", self._of_file)
            if not len(pairs):
                raise ValueError(f"expected problems to train on in {self.file}, got none; add some")
            return pairs if self.n_train is None else pairs[: self.n_train]
        if self.n_train is None:
            return None
        generator = torch.Generator().manual_seed(self.seed + 7 * 10**6)
        if self._problems.few:
            return self._problems.of("train", self._problems.every(generator))[: self.n_train]
        return self._problems.train(self.n_train, generator, self._even)

    def _even(self, n: int, generator: torch.Generator) -> Int[Tensor, "n 2"]:
        return torch.randint(self.max_operand + 1, (n, 2), generator=generator)

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n problems to train on, drawn evenly."""
        if self._given is None:
            pairs = self._problems.train(n, generator, self._even)
        else:
            pairs = self._given[torch.randint(len(self._given), (n,), generator=generator)]
        return self.batch(*pairs.unbind(1), variables)

    def dataset(self, split: Split) -> Batch:
        """Fixed problems: of test and val held-out ones; of train ones that only measure.

        Raises:
            ValueError: no such split, or none that is held out.
        """
        n = self.n_test if split == "test" else max(1, self.n_test // 5)
        if self.file is not None:
            given = self._given if split == "train" else self._problems.of(split, self._of_file)
            pairs = self._problems.once(given)[:n]
            if not len(pairs):
                raise ValueError(f"expected problems of {split} in {self.file}, got none; add some")
        elif split == "train" and self._given is not None:
            pairs = self._given[:n]
        else:
            pairs = self._problems.fixed(split, n, self._even)
        return self.batch(*pairs.unbind(1))

    def batch(self, x: Int[Tensor, " n"], y: Int[Tensor, " n"], variables: bool = True) -> Batch:
        """Problems as tokens, with their answers.

        Raises:
            ValueError: none, or numbers that are not of 0 to ``max_operand``.
        """
        self._check(x, y)
        tokens, mask = self._tokens(x, y)
        if self.padding_side == "right" and mask is not None:
            read: Any = mask.sum(1, keepdim=True) - 1
        else:
            read = (-1,)
        return Batch(
            inputs=tokens, targets=self.encoded(self.answer(x + y)), read=read, mask=mask,
            variables=self._variables(x, y, mask) if variables else {},
        )  # fmt: skip

    def _check(self, x: Tensor, y: Tensor) -> None:
        if (
            len(x) == 0
            or min(int(x.min()), int(y.min())) < 0
            or max(int(x.max()), int(y.max())) > self.max_operand
        ):
            raise ValueError(f"expected numbers of 0 to {self.max_operand}, at least one pair; change them")

    def _variables(self, x: Tensor, y: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        n, columns = self.n_digits, columns_of(x, y, self.n_digits, 10)
        return {
            "x": x, "y": y, "sum": x + y,
            "length": torch.full_like(x, self.n_ctx) if mask is None else mask.sum(1),
            "x_digits": digits_of(x, n, 10), "y_digits": digits_of(y, n, 10),
            "carries": columns["carry_out"], "sum_digits": digits_of(x + y, n + 1, 10), **self.named(x + y),
        }  # fmt: skip

    def _tokens(
        self, x: Int[Tensor, " n"], y: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, "n pos"], Bool[Tensor, "n pos"] | None]:
        """As ``encode`` of ``written``, without going through text."""
        numbers, ids = {"{x}": x, "{y}": y}, {c: i for i, c in enumerate(self.characters)}
        pieces = []
        for part in re.split(r"(\{[xy]\})", self.template):
            own = torch.tensor([ids[c] for c in part]) if part not in numbers else None
            pieces.append(self._number(numbers[part]) if own is None else own.expand(len(x), -1))
        tokens = torch.cat(pieces, 1).long()
        real = tokens != PADDING
        if bool(real.all()):
            return tokens, None
        order = real.int().argsort(dim=1, stable=True, descending=self.padding_side == "right")
        return tokens.gather(1, order), real.gather(1, order)

    def _number(self, number: Int[Tensor, " n"]) -> Int[Tensor, "n digit"]:
        """Its digits' ids, padding in the place of leading zeros."""
        digits = digits_of(number, self.n_digits, 10).flip(1)
        leading = digits.cumsum(1) == 0
        leading[:, -1] = False
        return (digits + 1).masked_fill(leading & (not self.zero_padded), PADDING)

    # ---- files -----------------------------------------------------------------------------

    def write(self, path: str | Path, pairs: Int[Tensor, "n 2"]) -> None:
        """Write problems and their answers, ``text<TAB>answer`` a line.

        Raises:
            ValueError: no pairs, or numbers that are not of 0 to ``max_operand``.
        """
        self._check(pairs[:, 0], pairs[:, 1])
        write_problems(self, path, pairs)

    def pairs_of(self, path: str | Path) -> Int[Tensor, "n 2"]:
        """The numbers of a file's problems.

        Raises:
            ValueError: lines that are no problems of this task with their answers; it names the first ones.
        """
        return read_problems(self, path)
