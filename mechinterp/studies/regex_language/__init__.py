"""Does a transformer trained on a regular language learn its automaton?

The published experiment trains a one-layer transformer on the words of a regular language, then sets
its value matrices beside a construction in which each head is a symbol and each matrix its transition
matrix. Here both are done, the matrices also in a basis of states, and it is asked what that comparison
cannot tell: whether states can be read, and whether they cause the answer. Most of these claims are withdrawn
(``studies.withdrawn``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mechinterp.automata import NAMED
from mechinterp.result import Claim
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport, Watch, sections_of, seeds_of, silent
from mechinterp.studies.regex_language.anatomy import Anatomy
from mechinterp.studies.regex_language.claims import judge
from mechinterp.studies.regex_language.comparing import record
from mechinterp.studies.regex_language.options import RegexLanguageOptions
from mechinterp.studies.regex_language.sweeps import sweep
from mechinterp.studies.regex_language.training import Trained, prepare, train
from mechinterp.studies.withdrawn import tally

__all__ = [
    "PATTERNS",
    "Anatomy",
    "RegexLanguageOptions",
    "RegexLanguageStudy",
    "Trained",
    "silent",
    "study",
    "train",
]

PATTERNS: Mapping[str, str | None] = {
    "a+": "ab",
    "a*b*": "ab",
    "(a|b)+": "ab",
    "ab": "ab",
    "(a|b)*c": "abc",
    "a+b+c+": "abc",
    "parity": None,
    "Z3": None,
    "S3": None,
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])": "0123456789-",
}
"""What ``make studies`` studies, and over which alphabet: star-free languages, groups, and ISO dates."""


@dataclass(frozen=True, kw_only=True)
class RegexLanguageStudy(RegexLanguageOptions):
    """Train on a language with several seeds, compare with its automaton, and judge."""

    seeds: int = 3
    """How many seeds, counted from ``seed``."""

    fast: bool = False
    """Leave out the sweeps over width, heads, words, depth, positions, length and alphabet."""

    def options(self, seed: int) -> RegexLanguageOptions:
        """What to train for a seed."""
        record = {f.name: getattr(self, f.name) for f in fields(RegexLanguageOptions)}
        return RegexLanguageOptions(**record | {"seed": seed})


def study(config: RegexLanguageStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock, task, seeds = Stopwatch(), config.options(config.seed).task, seeds_of(config)
    if config.d_model < task.dfa.n_states:
        raise ValueError(
            f"expected d_model >= {task.dfa.n_states} states of {config.pattern!r}, got {config.d_model}: "
            "its states have no directions of their own to compare; raise d_model"
        )
    prepare(config.options(config.seed))  # what cannot be is refused before anything is written
    run = Run.create(out, {"kind": "study", "study": "regex-language", **asdict(config)})
    found = [take_apart(config.options(seed), run.path / f"seed_{seed}", watch) for seed in seeds]
    results, table = dict(found[0].results), judge(found)
    if not config.fast:
        results["language_sweep"] = sweep(found[0].trained, run.path / "sweep", watch)
    names = ("class_acc", "token_share", "steps", "seconds")
    trainings = [dict(zip(names, one.trained.run.numbers(*names))) for one in found]
    report = StudyReport(
        study="regex-language",
        title=f"The words of {config.pattern}: does the network learn the automaton?",
        summary=summary(found, table),
        claims=table,
        sections=sections_of(_PLAN, results),
        metrics={
            **{name: float(np.mean([m[name] for m in trainings])) for name in ("class_acc", "token_share")},
            "test_accuracy": float(np.mean([m["class_acc"] for m in trainings])),
            "steps": int(np.mean([m["steps"] for m in trainings])),
            "train_seconds": round(float(np.mean([m["seconds"] for m in trainings])), 2),
        },
        seconds=clock.seconds,
    )
    report.save(run)
    return report


def take_apart(options: RegexLanguageOptions, out: Path, watch: Watch) -> Anatomy:
    """Train and take apart; what was found is kept in the run's folder."""
    found = Anatomy.of(train(options, out, watch))
    found.trained.run.save_results(found.results.values())
    comparisons = [x for name, x in found.results.items() if name.endswith("_transitions")]
    record(found.trained, comparisons)
    return found


def summary(found: list[Anatomy], table: list[Claim]) -> str:
    """The finding in a few sentences."""
    task = found[0].trained.task
    machine = "a machine" if task.pattern in NAMED else "an expression"
    seconds = np.mean([one.trained.run.numbers("seconds") for one in found])
    score = np.mean([one.measures["class_acc"] for one in found])
    layers, networks = found[0].trained.options.n_layers, len(found)
    return (
        f"{task.pattern} is {machine} of {task.dfa.n_states} states over {task.dfa.n_symbols} symbols. "
        f"{networks} network{'s' * (networks > 1)} of {layers} layer{'s' * (layers > 1)}, trained for "
        f"{seconds:.0f} s each on words of {task.min_len} to {task.max_len} symbols, classify {score:.2%} "
        f"of the prefixes of held-out words, most of which begin a training word too. Of {tally(table)}. "
        f"Words: {'; '.join(task.notes)}."
        + "".join(f" Not measured: {what}, since {why}." for what, why in found[0].missing.items())
    )


_PLAN = (
    (
        "Answers",
        "How often the class and the next symbol are right, by the length of the word, by position and by "
        "the automaton's state. A whole word counts if all of its prefixes do. The best token is one that "
        "is most likely given the prefix; nobody can do better.",
        ("agreement_by_length", "agreement_by_position", "agreement_by_state"),
    ),
    (
        "States read",
        "A linear probe of the state, beside the same probe of the untrained network and of the bare "
        "symbol: much of the state of so small a machine is in the last symbol. A linear readout follows the "
        "last layer, so that what is answered rightly can be read there.",
        ("logistic_probe",),
    ),
    (
        "States swapped",
        "One state's direction is taken from the stream after the first layer and another's put there. At "
        "0 are the answers at that place, further right those after so many symbols more. A one-layer "
        "network has nothing left that could carry the state on. Only answers whose class differs are "
        "counted: directions of the classes do as well as those of the states.",
        ("state_swap",),
    ),
    (
        "Weights beside the automaton",
        "Each head's value circuit beside a symbol's transition matrix: first in the leading dimensions of "
        "the stream, as published, where a rotation that changes no answer changes the number; then in the "
        "basis of states. The nulls say how alike matrices of this size are by chance. The exact automaton "
        "gets no number here, so that a low one is no evidence against an automaton.",
        ("raw_transitions", "state_transitions"),
    ),
    (
        "Along training",
        "The same comparison at every checkpoint, and the gradients by kind of weight.",
        ("comparison_along_training",),
    ),
    (
        "What it needs",
        "The same network with one thing changed at a time, one seed each.",
        ("language_sweep",),
    ),
)
