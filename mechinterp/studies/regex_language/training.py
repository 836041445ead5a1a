"""Training by options, and the run folder that it leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mechinterp.automata import CLASSES
from mechinterp.constructions.regex_language import ValueMatrices, off_construction
from mechinterp.files import from_record, write_json
from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer
from mechinterp.runs import Run
from mechinterp.studies.base import Watch, silent
from mechinterp.studies.regex_language.options import RegexLanguageOptions
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.training.checkpoint import (
    CheckpointSeries,
    describe_weights,
    load_into,
    load_weights,
    save_weights,
)
from mechinterp.training.curriculum import curriculum
from mechinterp.training.fit import Fit
from mechinterp.training.loading import check_buildable
from mechinterp.training.recipe import Recipe
from mechinterp.training.step import Penalty

MOST_SYMBOLS = 20_000_000
"""The most symbols of a run's words, which are drawn anew when it is opened."""
LONGEST_WORD = 10_000
"""Symbols of the longest words of a run that is opened."""


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
        file, record = run.path / "config.json", run.config.get("options")
        options = from_record(RegexLanguageOptions, record, RegexLanguageOptions.from_json, file)
        drawn = options.n_samples * (options.max_len + 1)
        if drawn > MOST_SYMBOLS or options.max_len > LONGEST_WORD:
            raise ValueError(
                f"in {file}: expected at most {MOST_SYMBOLS:,} symbols in words of {LONGEST_WORD:,}, got "
                f"{drawn:,} in words of {options.max_len:,}; train on fewer"
            )
        return cls(run, options, from_record(RegexLanguageOptions, record, lambda _: options.task, file))

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
        weights, model = self.weights(checkpoint), self.untrained()
        load_into(model, weights, f"the checkpoint {checkpoint} of {self.run.path}")
        return model

    def untrained(self) -> HookedTransformer:
        """The network before training, on the CPU and in evaluation mode."""
        options, file = self.options, self.run.path / "config.json"
        cfg = TransformerConfig(
            n_layers=options.n_layers,
            d_model=options.d_model,
            n_heads=options.n_heads,
            d_head=options.d_model // max(1, options.n_heads),
            d_mlp=options.d_mlp,
            act_fn="relu",
            n_ctx=2 * options.max_len + 1,
            d_vocab=self.task.d_vocab,
            positional_embedding_type=options.positional_type,
            tie_embeddings=options.tie_weights,
        )
        check_buildable(cfg, describe_weights(self.run.path / "final.safetensors"), file)
        return replace(options, device="cpu").network(self.task).eval()


def prepare(
    options: RegexLanguageOptions,
) -> tuple[RegexLanguage, HookedTransformer, list[tuple[RegexLanguage, Recipe]], Penalty | None]:
    """Task, network, stages of training and penalty: all that options ask for, before anything is written.

    Raises:
        ValueError: options that cannot be.
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
    return task, model, stages, penalty


def train(options: RegexLanguageOptions, out: str | Path, watch: Watch = silent) -> Trained:
    """Train, and leave a run folder; one that is finished is opened, one that was interrupted goes on.

    The folder has, besides what every run has: ``best.safetensors``, which ``training.load_network``
    reads, ``final.safetensors``, ``construction.safetensors`` (the value matrices) and ``regex.json`` (the
    automaton).

    Raises:
        ValueError: options that cannot be, or a folder of something else.
        KeyboardInterrupt: interrupted; the state is saved.
    """
    task, model, stages, penalty = prepare(options)
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
    write_json(run.path / "network.json", {"model": model.cfg.to_json(), "weights": "best.safetensors"})
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
