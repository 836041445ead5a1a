"""What to train, under the published script's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mechinterp.automata import CLASSES
from mechinterp.constructions.regex_language import near_construction
from mechinterp.models.config import check_device
from mechinterp.models.factories import regex_language as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import epochs


@dataclass(frozen=True, kw_only=True)
class RegexLanguageOptions:
    """Train a transformer on the words of a regular language."""

    pattern: str = "a*b*"
    """A regular expression in Python's syntax, or parity, Z2, Z3, Z5, S3, A5, flip-flop or Dyck-3."""

    alphabet: str | None = None
    """The symbols, one character each; by default ab, or the machine's own."""

    n_samples: int = 5000
    """Words drawn for train, val and test together."""

    min_len: int = 1
    """Symbols of the shortest words."""

    max_len: int = 20
    """Symbols of the longest words."""

    p_class: tuple[float | int, float | int, float | int] = (1.0, 1.0, 1.0)
    """Shares of words that end rejected, incomplete and accepted."""

    train_classes: tuple[str, ...] = CLASSES
    """Words of these classes train; val and test keep all."""

    lambda_class: float = 1.0
    """Weight of the loss of the class beside that of the next symbol."""

    n_layers: int = 1
    """Layers."""

    d_model: int = 64
    """Width of the residual stream."""

    n_heads: int = 4
    """Heads a layer, which share d_model evenly."""

    d_mlp: int = 256
    """Neurons a layer."""

    dropout: float = 0.1
    """Probability of dropping an entry of the embedding and of each sublayer's output."""

    positional_type: Literal["sinusoidal", "none", "standard", "rotary", "alibi"] = "sinusoidal"
    """How positions enter; standard is a trained table."""

    tie_weights: bool = False
    """Read out with the transposed embedding."""

    epochs: int = 50
    """Most passes over the training words."""

    batch_size: int = 32
    """Words a step."""

    lr: float = 1e-3
    """Learning rate of Adam."""

    patience: int = 10
    """Epochs without a lower loss on val after which training stops."""

    curriculum: tuple[str, ...] = ()
    """Patterns over the same alphabet to train on before, in this order."""

    towards_automaton: float = 0.0
    """Weight of a penalty on what tells the first layer's heads from the value matrices."""

    near_construction: float | None = None
    """Start with the value matrices in the first layer's heads, plus noise of this standard deviation."""

    seed: int = 0
    """Seed of the words, the initial weights, the order of batches and dropout."""

    device: str = "cpu"
    """Where to train, such as cuda."""

    @property
    def task(self) -> RegexLanguage:
        """The language that is studied.

        Raises:
            ValueError: as ``RegexLanguage``.
        """
        return self.task_of(self.pattern)

    def task_of(self, pattern: str) -> RegexLanguage:
        """The same with another pattern."""
        names = (
            "alphabet",
            "n_samples",
            "min_len",
            "max_len",
            "p_class",
            "train_classes",
            "lambda_class",
            "seed",
        )
        return RegexLanguage(pattern=pattern, **{name: getattr(self, name) for name in names})

    def network(self, task: RegexLanguage) -> HookedTransformer:
        """The untrained network.

        Raises:
            ValueError: sizes that cannot be; a construction that the heads cannot hold; no such device.
        """
        check_device(self.device)
        names = ("n_layers", "d_model", "n_heads", "d_mlp", "dropout", "seed", "device")
        model = build(
            task, positional_embedding_type=self.positional_type, tie_embeddings=self.tie_weights,
            **{name: getattr(self, name) for name in names},
        )  # fmt: skip
        if self.near_construction is not None:
            near_construction(model, task.dfa, self.near_construction, self.seed)
        return model

    def recipe(self, task: RegexLanguage) -> Recipe:
        """How to train on a task."""
        return epochs(
            task, self.epochs, self.batch_size, self.lr, self.patience, seed=self.seed, checkpoints=12
        )  # fmt: skip

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> RegexLanguageOptions:
        """Options from a run's record, in which tuples are lists.

        Raises:
            ValueError: a record of something else.
        """
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise ValueError(
                f"expected a run of `mechinterp train regex-language`, got another record ({error}); name "
                "such a run"
            ) from None
