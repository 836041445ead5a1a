"""Words of a regular language, read symbol by symbol: which class so far, and what comes next?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.automata import ACCEPT, CLASSES, DFA, PAD, WordMixture, language
from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task, cross_entropy, predicted

SPLITS = ("train", "val", "test")


@cpu_default
@dataclass(frozen=True, kw_only=True)
class RegexLanguage(Task):
    """After every symbol of a word: which class has the prefix, and which symbol comes next, or the end?

    One vocabulary serves inputs and outputs: the symbols 0 to n - 1, ``end`` (which also begins every
    word), ``pad``, and the three classes, which are never read, only answered. So one readout gives
    logits of the next symbol in its columns ``next_columns`` and of the class in ``class_columns``.

    Words are drawn by ``automata.WordMixture``: all lengths alike, classes by ``p_class``, words of both
    alike. Different words, not samples, are split, so that no word is in two splits; a word that was drawn
    often is in its split as often. They are dealt out class by class in the order of their lengths, so
    that no split lacks a stretch of lengths; a class with too few for every split only trains.

    Variables of a batch, ``[batch, pos]``: ``state`` and ``class`` after the symbol at that position,
    and ``symbol``.

    Raises:
        ValueError: a pattern that is not regular or does not fit the alphabet; lengths, shares or sizes
            that cannot be; a language without such words.
    """

    name: ClassVar[str] = "regex_language"
    learned_at: ClassVar[float] = 0.99
    watched: ClassVar[Split] = "val"

    pattern: str = "a*b*"
    """A regular expression in Python's syntax, matched from end to end; or a machine's name, such as S3."""

    alphabet: str | None = None
    """The symbols, one character each; by default ``ab``, or the machine's own."""

    min_len: int = 1
    """Symbols of the shortest words."""

    max_len: int = 20
    """Symbols of the longest words."""

    p_class: tuple[float | int, float | int, float | int] = (1.0, 1.0, 1.0)
    """Shares of words that end rejected, incomplete and accepted."""

    n_samples: int = 5000
    """Words drawn, over all splits; short ones may be drawn more than once."""

    split: tuple[float | int, float | int, float | int] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""

    train_classes: tuple[str, ...] = CLASSES
    """Words of these classes train; the other splits keep all."""

    lambda_class: float = 1.0
    """Weight of the loss of the class beside that of the next symbol."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train_classes or not set(self.train_classes) <= set(CLASSES):
            raise ValueError(
                f"expected train_classes among {CLASSES}, at least one, got {self.train_classes}; name some"
            )
        if len(self.split) != 3 or not all(x > 0 for x in self.split) or abs(sum(self.split) - 1) > 1e-9:
            raise ValueError(
                f"expected shares of train, val and test that add up to 1, got {self.split}; try 0.8 0.1 0.1"
            )
        if not 0 <= self.lambda_class < math.inf:
            raise ValueError(
                f"expected lambda_class >= 0, got {self.lambda_class}; 0 leaves the class untrained"
            )
        for name, least in (("n_samples", 1), ("max_len", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}; raise it")
        if ACCEPT not in self.dfa.classes:
            raise ValueError(
                f"expected a language with words, got {self.pattern!r}, of which no word that is accepted "
                f"can be made from {self.dfa.alphabet!r}; change the pattern or the alphabet"
            )
        assert self.mixture  # a wrong pattern, alphabet or length is refused here, not at the first batch
        empty = [split for split in SPLITS if not len(self._rows[split])]
        if empty:
            raise ValueError(
                f"expected words in every split, got none in {empty} of {self.n_samples} samples "
                f"({self.n_words} different words) that train on {list(self.train_classes)}; raise n_samples "
                "or max_len, or train on more classes"
            )

    @cached_property
    def dfa(self) -> DFA:
        """The minimal automaton of the language."""
        return language(self.pattern, self.alphabet)

    @cached_property
    def mixture(self) -> WordMixture:
        """Where words come from."""
        return WordMixture(self.dfa, self.min_len, self.max_len, self.p_class)

    @property
    def end(self) -> int:
        """The id that begins and ends every word."""
        return self.dfa.n_symbols

    @property
    def pad(self) -> int:
        """The id behind the end."""
        return self.dfa.n_symbols + 1

    @property
    def d_vocab(self) -> int:
        """Symbols, end, pad and classes."""
        return self.dfa.n_symbols + 2 + len(CLASSES)

    @property
    def next_columns(self) -> slice:
        """Outputs of the next symbol, the last of them the end."""
        return slice(0, self.end + 1)

    @property
    def class_columns(self) -> slice:
        """Outputs of the class."""
        return slice(self.pad + 1, self.d_vocab)

    @cached_property
    def _samples(self) -> Int[Tensor, "sample max_len"]:
        return self.mixture.draw(self.n_samples, self.seed)[0]

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        """Which samples each split has."""
        words, word_of = self._samples.unique(dim=0, return_inverse=True)
        kinds, lengths = self.dfa.classify(words)[:, -1], (words != PAD).sum(1)
        generator = torch.Generator().manual_seed(self.seed)
        of_word = torch.zeros(len(words), dtype=torch.long)
        for kind in range(len(CLASSES)):
            mine = (kinds == kind).nonzero()[:, 0]
            mine = mine[torch.randperm(len(mine), generator=generator)]
            mine = mine[lengths[mine].argsort(stable=True)]
            start = self.split[0] * torch.rand((), generator=generator)
            if len(mine) * min(self.split[1:]) >= 1:
                of_word[mine] = _dealt(len(mine), self.split, float(start))
        trains = torch.tensor([name in self.train_classes for name in CLASSES])[kinds] | (of_word > 0)
        found = torch.where(trains, of_word, PAD)[word_of]
        return {name: (found == split).nonzero()[:, 0] for split, name in enumerate(SPLITS)}

    @property
    def n_words(self) -> int:
        """How many different words were drawn."""
        return len(self._samples.unique(dim=0))

    @property
    def notes(self) -> list[str]:
        """What the words are: sizes of the splits, and shares that had to move."""
        sizes = ", ".join(f"{len(rows)} {name}" for name, rows in self._rows.items())
        return [f"{self.n_words} different words in {self.n_samples} samples: {sizes}", *self.mixture.moved]

    def dataset(self, split: str) -> Batch:
        """The words of a split.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"expected a split of {SPLITS}, got {split!r}; there is no other")
        return self.batch(self._samples[self._rows[split]])

    def batch(self, words: Int[Tensor, "word length"]) -> Batch:
        """Words by symbol number, ``PAD`` behind the end, as the network reads them."""
        words = words.cpu()
        symbols = torch.where(words == PAD, self.pad, words)
        ends = torch.full((len(words), 1), self.end)
        inputs = torch.cat((ends, symbols), 1)
        real = inputs != self.pad
        after = torch.cat((symbols, torch.full_like(ends, self.pad)), 1)
        after[torch.arange(len(words)), real.sum(1) - 1] = self.end
        states = self.dfa.trace(words)
        kinds = self.dfa.classes[states]
        return Batch(
            inputs=inputs,
            targets=torch.stack((after, kinds), -1),
            read=torch.arange(inputs.shape[1]),
            mask=real,
            variables={"state": states, "class": kinds, "symbol": inputs},
        )

    def words(self, *words: str) -> Batch:
        """Words as text, such as ``task.words("aab", "ba")``.

        Raises:
            ValueError: a symbol that is not in the alphabet.
        """
        return self.batch(self.dfa.encode(words))

    @cached_property
    def trivial(self) -> float:
        """The share of the most frequent class among the prefixes of the test words."""
        return self.most_frequent(self.dataset("test"))

    def most_frequent(self, batch: Batch) -> float:
        """The share of the most frequent class among the prefixes of some words."""
        kinds = batch.variables["class"][batch.mask]
        return kinds.bincount().max().item() / len(kinds)

    def outputs(self, model: Any, batch: Batch) -> Tensor:
        """What the model answers after every symbol, ``[batch, pos, d_vocab]``.

        Padding comes last and answers look back only, so that no mask is needed.
        """
        return super().outputs(model, replace(batch, mask=None))

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the next symbol, and ``lambda_class`` times that of the class."""
        logits, targets = outputs[batch.mask], batch.targets[batch.mask]
        following = cross_entropy(logits[:, self.next_columns], targets[:, 0], dtype)
        if not self.lambda_class:
            return following
        return following + self.lambda_class * cross_entropy(
            logits[:, self.class_columns], targets[:, 1], dtype
        )

    def right(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> Bool[Tensor, "batch read"]:
        """Whether the class is answered rightly after each symbol; padding counts as right."""
        return (predicted(outputs[..., self.class_columns]) == batch.targets[..., 1]) | ~batch.mask

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """The share of prefixes whose class is answered rightly, 0 to 1."""
        return self.right(outputs, batch)[batch.mask].double().mean().item()

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> Mapping[str, float]:
        """Shares of right answers.

        Returns:
            ``class_acc``; ``string_acc``, words whose every prefix is classified rightly; ``token_acc``, of
            the next symbol; ``token_share``, how often its guesses would be right on average, over how
            often the best possible ones would: 1 for a network that knows the true distribution; and
            ``token_ceiling``, how often the best guess is right, over all words of the task.
        """
        guess, real = outputs[..., self.next_columns].argmax(-1), batch.mask
        odds = self.next_symbol(batch)
        return {
            "class_acc": self.score(outputs, batch),
            "string_acc": self.right(outputs, batch).all(1).double().mean().item(),
            "token_acc": (guess == batch.targets[..., 0])[real].double().mean().item(),
            "token_share": (
                odds.gather(-1, guess[..., None])[..., 0][real].sum() / odds.amax(-1)[real].sum()
            ).item(),
            "token_ceiling": self.mixture.ceiling,
        }

    def next_symbol(self, batch: Batch) -> Float[Tensor, "batch pos next"]:
        """How likely each symbol, or the end, comes after each prefix; beyond ``max_len`` always the end."""
        states = batch.variables["state"].cpu()
        table, at = self.mixture.next_symbol, torch.arange(states.shape[1])
        odds = table[at.clamp(max=self.max_len), states]
        beyond = torch.zeros(table.shape[-1], dtype=table.dtype)
        beyond[-1] = 1.0
        return torch.where((at > self.max_len)[:, None], beyond, odds).to(batch.inputs.device)


def _dealt(n: int, shares: tuple[float | int, ...], start: float) -> Int[Tensor, " n"]:
    """A split for each of n in a row, as evenly as can be: steps of the golden ratio around a circle.

    Begins further on where it would leave a split empty.
    """
    ends = torch.tensor(shares[:-1], dtype=torch.float64).cumsum(0)
    for turn in range(100):
        places = (start + (math.sqrt(5) - 1) / 2 * torch.arange(turn, turn + n, dtype=torch.float64)) % 1
        dealt = torch.bucketize(places, ends, right=True)
        if len(dealt.unique()) == len(shares):
            break
    return dealt
