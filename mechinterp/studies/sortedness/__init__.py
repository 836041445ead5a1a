"""Which position encoding lets a network tell sorted sequences that are longer than those it was trained on?

A published homework asked this of three encodings, and found all at chance: on data whose ends give the
answer away, with networks that had learned nothing. Here pairs differ in two neighbours alone, every network
that can learn does, and what is asked is what each does at sixteen times the length, why, and what helps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from mechinterp.result import Claim
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport, Watch, sections_of, seeds_of, silent
from mechinterp.studies.seeds import every_seed
from mechinterp.studies.sortedness.anatomy import Anatomy
from mechinterp.studies.sortedness.claims import judge
from mechinterp.studies.sortedness.lengths import FURTHEST
from mechinterp.studies.sortedness.networks import FREE, KINDS
from mechinterp.studies.withdrawn import tally
from mechinterp.tasks.sortedness import Sortedness

__all__ = ["KINDS", "Anatomy", "SortednessStudy", "silent", "study"]

PLAN = (
    (
        "The data",
        "What a reader of the ends, or of the tokens as a bag, tells of random orders and of pairs that "
        "differ in two neighbours.",
        ("leaks_by_length",),
    ),
    (
        "Learning",
        "At the lengths of training. Without positions, and with sight of later tokens, there is nothing to "
        "learn. All are trained alike, but that those which learn last (all in both directions, and drawn "
        "positions) had two to six times the steps, the causal ones without positions three times, to see "
        "how far they go, and what has little to learn half of them.",
        ("network_scores", "score_curves"),
    ),
    (
        "Beyond the lengths of training",
        "Half is chance. Dotted: the same networks, their scores made to grow with log n beyond the lengths "
        "of training. In maps also networks that were trained on other data: by where the fall is, and by "
        "how much, where a constant is right always or never; and by how many tokens are equal.",
        ("accuracy_by_length", "accuracy_by_place", "accuracy_by_gap", "accuracy_by_ties"),
    ),
    (
        "Why they fail",
        "Longer sequences are denser, and their neighbours nearer to one another; attention that is "
        "left for the fall is less; and positions are new. What each does by itself.",
        (
            "accuracy_by_density", "attention_dilution", "sharpening", "position_table", "shift_maps",
            "position_moves",
        ),
    ),
    (
        "The mechanism without positions",
        "Heads that look at the largest token so far, in random sequences and at the fall of the task's own, "
        "and what each is needed for; then those of the network that was trained on dense sequences.",
        (
            "prefix_max_match", "prefix_max_at_fall", "prefix_max_ablation", "prefix_max_match_dense",
            "prefix_max_at_fall_dense", "prefix_max_ablation_dense",
        ),
    ),
)  # fmt: skip

MANY, FEW = 100, 12
"""Integers, and those with ``fast``, if not told otherwise: few are learned sooner."""
CUT = " With --fast there are {} integers, and networks had a twenty-fourth of their steps."


@dataclass(frozen=True, kw_only=True)
class SortednessStudy:
    """Train networks of six encodings in both directions, ask them at longer lengths, and judge."""

    vocabulary: int | None = None
    """Integers from 0 up: 100 if not told otherwise, with ``fast`` 12."""

    train_lengths: tuple[int, int] = (8, 16)
    """The shortest and the longest sequences of training."""

    test_lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Lengths at which is asked."""

    seeds: int | None = None
    """How many seeds, counted from ``seed``: 3 if not told otherwise, with ``fast`` one."""

    seed: int = 0
    """Seed of sequences and initial weights."""

    fast: bool = False
    """A twenty-fourth of the steps, and if not told otherwise one seed and few integers."""

    workers: int = 0
    """Networks that are trained side by side, each by a process of its own; 0: as many as there are cores."""

    @property
    def settled(self) -> SortednessStudy:
        """With what was not told."""
        vocabulary, seeds = (FEW, 1) if self.fast else (MANY, 3)
        return replace(
            self,
            vocabulary=vocabulary if self.vocabulary is None else self.vocabulary,
            seeds=seeds if self.seeds is None else self.seeds,
        )

    @property
    def task(self) -> Sortedness:
        """The task of the first seed.

        Raises:
            ValueError: sequences that cannot be.
        """
        own = Sortedness(
            vocabulary=self.settled.vocabulary, train_lengths=self.train_lengths,
            test_lengths=self.test_lengths, seed=self.seed,
        )  # fmt: skip
        return replace(own, n_test=600) if self.fast else own


def study(config: SortednessStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock, config = Stopwatch(), config.settled
    if config.workers < 0:
        raise ValueError(f"expected workers >= 0, got {config.workers}; 0 takes all cores")
    if max(config.task.test_lengths) <= config.train_lengths[1]:
        raise ValueError(
            f"expected test_lengths beyond the {config.train_lengths[1]} of training, got "
            f"{config.test_lengths}; add longer ones"
        )
    tasks = [replace(config.task, seed=seed) for seed in seeds_of(config)]
    settings = {name: value for name, value in asdict(config).items() if name != "workers"}
    run = Run.create(out, {"kind": "study", "study": "sortedness", **settings})
    take_apart = partial(Anatomy.of, n=200) if config.fast else Anatomy.of
    share, workers = 1 / 24 if config.fast else 1.0, config.workers or os.cpu_count() or 1
    found = every_seed(
        tasks, KINDS, take_apart, run.path, watch, fast=config.fast, share=share, workers=workers
    )
    table = judge(found)
    job = found[0].networks[FREE].job
    report = StudyReport(
        study="sortedness",
        title="Is it sorted? Position encodings and length",
        summary=summary(found, table) + CUT.format(config.task.vocabulary) * config.fast,
        claims=table,
        sections=sections_of(PLAN, found[0].results),
        metrics={
            "test_accuracy": min(one.scores[FREE] for one in found), "steps": job.step,
            "train_seconds": round(job.history.seconds, 2),
        },
        seconds=clock.seconds,
    )  # fmt: skip
    report.save(run)
    return report


def summary(found: Sequence[Anatomy], table: Sequence[Claim]) -> str:
    """The finding in a few sentences."""
    task = found[0].task
    at = found[0].far(FURTHEST)
    plain, sharp = (
        [float(values(one).sel(network=FREE, length=at)) for one in found]
        for values in (
            lambda one: one.results["accuracy_by_length"].values,
            lambda one: one.results["accuracy_by_length"].extra["log_n"],
        )
    )
    return (
        f"Sequences of {task.train_lengths[0]} to {task.train_lengths[1]} of {task.vocabulary} integers "
        f"train; at length {at} a causal network without positions is right on {min(plain):.1%} to "
        f"{max(plain):.1%}, and with scores that grow with log n on {min(sharp):.1%} to {max(sharp):.1%}. "
        f"{len(found)} seed{'s' * (len(found) > 1)}; of {tally(table)}."
    )
