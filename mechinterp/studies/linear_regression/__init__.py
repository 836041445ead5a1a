"""Does a transformer that regresses in context do gradient descent?

One layer of linear attention has an optimum that is known exactly, one step of gradient descent, and
so have the errors of every other method. Here networks of one to six layers are set beside them: in their
losses, their weights, their derivatives, and on prompts of other kinds than those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mechinterp.constructions.linear_regression import best_steps
from mechinterp.report import Section
from mechinterp.result import Claim, Result
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport, Watch, sections_of, seeds_of, silent
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.claims import judge
from mechinterp.studies.linear_regression.networks import (
    DEEP,
    KINDS,
    LINEAR,
    LINEAR_3,
    LINEAR_6,
    SOFTMAX,
    RegressionKind,
)
from mechinterp.studies.linear_regression.theory import deep_by_dimension, higher_d, optimum_by_setting
from mechinterp.studies.linear_regression.writeup import PLAN, writeup
from mechinterp.studies.seeds import seed_findings
from mechinterp.studies.withdrawn import tally
from mechinterp.tasks.linear_regression import LinearRegression

__all__ = [
    "DEEP",
    "KINDS",
    "LINEAR",
    "LINEAR_3",
    "LINEAR_6",
    "SOFTMAX",
    "Anatomy",
    "LinearRegressionStudy",
    "RegressionKind",
    "silent",
    "study",
]


CUT = " With --fast the networks of six layers were trained for a tenth of their steps."


@dataclass(frozen=True, kw_only=True)
class LinearRegressionStudy:
    """Train networks to regress in context, set them beside gradient descent, and judge."""

    d: int = 5
    """Entries of x."""

    n_context: int = 5
    """The fewest examples in a prompt."""

    max_context: int = 50
    """The most examples in a prompt."""

    noise: float = 0.5
    """Standard deviation of the noise in y; Bayes' optimum is then above 0, and errors have a least."""

    seeds: int = 3
    """How many seeds, counted from ``seed``."""

    seed: int = 0
    """Seed of prompts and initial weights."""

    fast: bool = False
    """Leave out what takes minutes: most steps of the networks of six layers, theory's other settings, and
    the deep network at d = 10 and 20."""

    @property
    def task(self) -> LinearRegression:
        """The task of the first seed.

        Raises:
            ValueError: as ``LinearRegression``; d < 2, of which cosines say nothing; or no noise, or fewer
                than 3 examples, with which there is nothing to set errors and attention beside.
        """
        if self.d < 2:
            raise ValueError(f"expected d >= 2, got {self.d}; of single numbers all cosines are 1 or -1")
        if not self.noise > 0 or self.n_context < 3 or self.max_context <= self.n_context:
            raise ValueError(
                f"expected noise > 0 and prompts of 3 examples and more, up to a larger number, got noise "
                f"{self.noise} and {self.n_context} to {self.max_context}; the study compares errors with "
                "Bayes', which without noise is 0, and examples within a prompt"
            )
        return LinearRegression(
            d=self.d, n_context=self.n_context, max_context=self.max_context, noise=self.noise, seed=self.seed
        )


def study(config: LinearRegressionStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock, task = Stopwatch(), config.task
    tasks = [replace(task, seed=seed) for seed in seeds_of(config)]
    run = Run.create(out, {"kind": "study", "study": "linear-regression", **asdict(config)})
    found = [
        seed_findings(
            each, KINDS, Anatomy.of, run.path / f"seed_{each.seed}", watch,
            share=lambda kind: 0.1 if config.fast and kind.deep else 1.0, fast=config.fast,
        )
        for each in tasks
    ]  # fmt: skip
    steps = [task.one_step_loss, *(best_steps(task, n).loss for n in (2, 3))]
    results, table = dict(found[0].results), judge(found, steps)
    extra: list[Result] = [higher_d(task, run.path / "padded", watch)]
    if not config.fast:
        extra.append(optimum_by_setting([each.seed for each in tasks], run.path / "settings", watch))
        extra.append(deep_by_dimension(task, found, run.path / "wider", watch))
    results |= {result.name: result for result in extra}
    report = StudyReport(
        study="linear-regression",
        title="Linear regression in context: is it gradient descent?",
        summary=summary(found, table) + CUT * config.fast,
        claims=table,
        sections=[
            Section(heading="What it comes to", text=writeup(found, results, steps, table)),
            *sections_of(PLAN, results),
        ],
        metrics={
            "test_score": found[0].networks[LINEAR].gate.score,
            "over_optimum": max(one.over_optimum[0] for one in found),
            "deep_over_bayes": max(one.error(DEEP) / one.error("ridge") for one in found),
            "steps": found[0].networks[LINEAR].job.step,
            "train_seconds": round(found[0].networks[LINEAR].job.history.seconds, 2),
        },
        seconds=clock.seconds,
    )
    report.save(run)
    return report


def summary(found: Sequence[Anatomy], table: Sequence[Claim]) -> str:
    """The finding in a few sentences."""
    task = found[0].task
    ratios = [one.over_optimum[0] for one in found]
    deep = [one.error(DEEP) / one.error("ridge") for one in found]
    return (
        f"Prompts of {task.lengths[0]} to {task.longest} examples (x, y) in {task.d} dimensions, with noise "
        f"{task.noise:g}, and a query. One layer of linear attention reaches {min(ratios):.4f} to "
        f"{max(ratios):.4f} times the least loss that such a layer can have, that of one step of gradient "
        f"descent; six layers of softmax attention and MLPs reach {min(deep):.3f} to {max(deep):.3f} times "
        f"that of Bayes' optimum. {len(found)} seed{'s' * (len(found) > 1)}; of {tally(table)}."
    )
