"""What to train, under the published script's names, and the run folder that training leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mechinterp.automata import CLASSES
from mechinterp.constructions.regex_language import ValueMatrices, near_construction, off_construction
from mechinterp.files import write_json
from mechinterp.models.factories import regex_language as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.runs import Run
from mechinterp.studies.base import Watch, silent
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.training.checkpoint import CheckpointSeries, load_weights, save_weights
from mechinterp.training.curriculum import curriculum
from mechinterp.training.fit import Fit
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
        _check_device(self.device)
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


@dataclass(frozen=True)
class Trained:
    """A run folder, and what is in it."""

    run: Run
    options: RegexLanguageOptions
    task: RegexLanguage

    @classmethod
    def open(cls, path: str | Path) -> Trained:
        """A finished run of ``train``.

        Raises:
            ValueError: there is none, it is of another kind, or it is not finished.
        """
        run = Run.open(path)
        if run.config.get("task") != "regex_language":
            raise ValueError(
                f"expected a run of `mechinterp train regex-language` at {path}, got "
                f"{run.config.get('kind')!r} of {run.config.get('task') or run.config.get('study')!r}; "
                "name another folder"
            )
        if not run.finished:
            raise ValueError(
                f"expected a finished run at {path}, got one that stopped; train it to its end first"
            )
        options = RegexLanguageOptions.from_json(run.config["options"])
        return cls(run, options, options.task)

    @property
    def checkpoints(self) -> CheckpointSeries:
        """Weights along training."""
        return CheckpointSeries(self.run.path / _last_stage(self.options) / "checkpoints")

    def weights(self, checkpoint: str = "best") -> dict[str, Tensor]:
        """Weights by ``"best"`` (lowest loss on val), ``"final"``, or the number of a step.

        Raises:
            ValueError: no such checkpoint.
        """
        if checkpoint in ("best", "final"):
            return load_weights(self.run.path / f"{checkpoint}.safetensors")
        known = self.checkpoints.steps
        if not checkpoint.isdecimal() or int(checkpoint) not in known:
            raise ValueError(
                f"expected a checkpoint best, final or one of {known}, got {checkpoint!r}; name one"
            )
        return self.checkpoints[int(checkpoint)]

    def model(self, checkpoint: str = "best") -> HookedTransformer:
        """The network with some checkpoint's weights, on the CPU and in evaluation mode."""
        model = self.untrained()
        model.load_state_dict(self.weights(checkpoint))
        return model

    def untrained(self) -> HookedTransformer:
        """The network before training, on the CPU and in evaluation mode."""
        return replace(self.options, device="cpu").network(self.task).eval()


def train(options: RegexLanguageOptions, out: str | Path, watch: Watch = silent) -> Trained:
    """Train, and leave a run folder; one that is finished is opened, one that was interrupted goes on.

    The folder has, besides what every run has: ``best.safetensors`` and ``final.safetensors``,
    ``construction.safetensors`` (the value matrices) and ``regex.json`` (the automaton).

    Raises:
        ValueError: options that cannot be, or a folder of something else.
        KeyboardInterrupt: interrupted; the state is saved.
    """
    task = options.task
    earlier = [options.task_of(pattern) for pattern in options.curriculum]
    for other in earlier:
        if other.dfa.alphabet != task.dfa.alphabet:
            raise ValueError(
                f"expected patterns over the alphabet {task.dfa.alphabet!r}, got {other.pattern!r} over "
                f"{other.dfa.alphabet!r}; give alphabet"
            )
    model = options.network(task)
    penalty = None
    if options.towards_automaton:
        off_construction(model, task.dfa)  # refuses, before work starts, what it cannot pull
        penalty = lambda model: options.towards_automaton * off_construction(model, task.dfa)  # noqa: E731
    stages = [(each, options.recipe(each)) for each in [*earlier, task]]
    run = Run.create(out, {"kind": "train", "task": task.name, "options": asdict(options)})
    if run.finished:
        return Trained(run, options, task)
    _describe(run, task)
    with watch(f"train {options.pattern}") as callback:
        jobs = curriculum(model, stages, folder=run.path, callbacks=[callback], penalty=penalty)
    if jobs[-1].stopped == "interrupted":
        raise KeyboardInterrupt
    _save(run, jobs[-1], task)
    return Trained(run, options, task)


def _save(run: Run, job: Fit, task: RegexLanguage) -> None:
    save_weights(run.path / "final.safetensors", job.model)
    save_weights(run.path / "best.safetensors", job.best)
    write_json(run.path / "history.json", job.history.to_json())
    model = job.model.eval()
    model.load_state_dict(job.best)
    test = task.dataset("test").to(next(model.parameters()).device)
    with torch.no_grad():
        measures = task.measures(task.outputs(model, test), test)
    best = min(job.history.test_loss)
    run.finish(
        {
            **measures,
            "test_accuracy": measures["class_acc"],
            "trivial": task.trivial,
            "val_loss": best,
            "steps": job.step,
            "best_step": job.history.steps[job.history.test_loss.index(best)],
            "seconds": round(job.history.seconds, 2),
            "stopped": job.stopped,
        }
    )


def _describe(run: Run, task: RegexLanguage) -> None:
    """The automaton, and its value matrices."""
    dfa = task.dfa
    save_weights(run.path / "construction.safetensors", {"V": ValueMatrices.of(dfa).matrices})
    record = {
        "pattern": task.pattern,
        "alphabet": dfa.alphabet,
        "n_states": dfa.n_states,
        "table": dfa.table.tolist(),
        "accepting": dfa.accepting.tolist(),
        "classes": [CLASSES[kind] for kind in dfa.classes.tolist()],
        "token_ceiling": task.mixture.ceiling,
        "words": task.notes,
    }
    write_json(run.path / "regex.json", record)


def _last_stage(options: RegexLanguageOptions) -> str:
    return f"stage_{len(options.curriculum)}"


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"expected a device that torch has here, got {name!r} ({str(error).splitlines()[0]}); try cpu"
        ) from None
