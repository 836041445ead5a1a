"""What every study has in common: it trains, and ends in a table of claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from torch import nn

from mechinterp.analysis.statistics import seeds_interval
from mechinterp.report import Section, report
from mechinterp.result import Claim, Result, verdict
from mechinterp.runs import Run, environment
from mechinterp.tasks.base import Task
from mechinterp.training.fit import Callback, Fit, History, fit
from mechinterp.training.recipe import Recipe
from mechinterp.training.step import Penalty

Watch = Callable[[str], AbstractContextManager[Callback]]
"""Given a label, a context that yields a callback to follow a training with."""

FITTED = 0.99
"""The score from which a split counts as fitted when transitions are dated."""


@contextmanager
def silent(_: str) -> Iterator[Callback]:
    """Watch nothing."""
    yield lambda job: None


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The end of a study.

    Args:
        study: its name.
        claims: the product.
        sections: the results, in the order in which to read them.
        metrics: headline numbers for ``mechinterp runs list``.
        seconds: wall time of the whole study.
    """

    study: str
    title: str
    summary: str
    claims: Sequence[Claim]
    sections: Sequence[Section]
    metrics: dict[str, Any]
    seconds: float
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def results(self) -> list[Result]:
        """All results."""
        return [result for section in self.sections for result in section.results]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "study": self.study,
            "seconds": round(self.seconds, 2),
            "environment": self.environment,
            "claims": [claim.to_json() for claim in self.claims],
        }

    def save(self, run: Run) -> Path:
        """Write results, claims, report and metrics; returns the report's path."""
        run.save_results(self.results)
        run.save_claims(self.claims)
        page = run.save_report(report(self.title, self.summary, self.claims, self.sections, self.environment))
        run.finish({**self.metrics, "seconds": round(self.seconds, 2)})
        return page


class Study(Protocol):
    """What every study's ``study`` is: from options to a report."""

    def __call__(self, config: Any, out: str | Path, watch: Watch = silent) -> StudyReport:
        """Train, take apart, and judge.

        Args:
            config: the study's options.
            out: the run folder; each network's training is below it, and an interrupted study goes on from
                there.
            watch: given a label, a context that yields a callback to follow a training with.

        Returns:
            The report, already saved in ``out``. Results in it are of the first seed; those of others are in
            their own folders.

        Raises:
            KeyboardInterrupt: interrupted; the training's state is saved.
            ValueError: options that cannot be, or ``out`` holds something else.
        """
        ...


Plan = Sequence[tuple[str, str, Sequence[str]]]
"""Headings, texts, and the names of the results that go below."""


def sections_of(plan: Plan, results: Mapping[str, Result]) -> list[Section]:
    """The results in reading order; what a network did not give is left out."""
    filled = [
        Section(heading=heading, text=text, results=[results[name] for name in names if name in results])
        for heading, text, names in plan
    ]
    return [section for section in filled if section.results]


Measure = Callable[[Any], Mapping[str, Any] | None]
"""One seed's ``value`` and whether the claim ``holds``, with ``trivial``, ``control`` and ``theory`` where
there are such; ``None`` where it cannot be asked."""


def claim_over_seeds(
    id: str,
    statement: str,
    found: Sequence[Any],
    measure: Measure,
    *,
    learned: Callable[[Any], bool] = lambda _: True,
    within: tuple[float, float] = (-math.inf, math.inf),
    control_kind: str,
    source: str,
) -> Claim:
    """A claim that holds if it does for every seed whose network learned.

    Args:
        found: what is known of each seed.
        measure: asked of each seed whose network learned.
        learned: whether it did; by default all did, as for the claim that is the gate.
        within: what the value cannot leave, and so the interval neither.
    """
    by_seed = [measure(one) if learned(one) else None for one in found]
    numbers = [number for number in by_seed if number is not None]

    def middle(key: str) -> float | None:
        known = [each[key] for each in numbers if each.get(key) is not None]
        return float(np.mean(known)) if known else None

    values = [float(each["value"]) for each in numbers]
    interval = seeds_interval(values) if len(values) > 1 else None
    return Claim(
        id=id,
        statement=statement,
        value=middle("value"),
        trivial=middle("trivial"),
        theory=middle("theory"),
        control=middle("control"),
        control_kind=control_kind,
        interval=interval and tuple(float(np.clip(end, *within)) for end in interval),
        interval_over=f"the mean over {len(values)} of {len(found)} seeds",
        verdict=verdict(all(each["holds"] for each in numbers), bool(numbers)),
        source=source,
        values_by_seed=tuple(each and float(each["value"]) for each in by_seed) if len(found) > 1 else (),
        holds_by_seed=tuple(each and bool(each["holds"]) for each in by_seed) if len(found) > 1 else (),
    )


def seeds_of(config: Any) -> range:
    """The seeds that a study of ``config.seeds`` seeds, counted from ``config.seed``, trains with.

    Raises:
        ValueError: none.
    """
    if config.seeds < 1:
        raise ValueError(f"expected at least 1 seed, got {config.seeds}; give more")
    return range(config.seed, config.seed + config.seeds)


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    folder: Path | None,
    watch: Watch = silent,
    label: str = "train",
    *,
    callbacks: Sequence[Callback] = (),
    penalty: Penalty | None = None,
) -> Fit:
    """``fit``, watched; an interruption ends the whole study.

    Raises:
        KeyboardInterrupt: training was interrupted; its state is saved.
    """
    with watch(label) as callback:
        job = fit(model, task, recipe, folder=folder, callbacks=[*callbacks, callback], penalty=penalty)
        callback(job)  # a training that was done before is shown, too
    if job.stopped == "interrupted":
        raise KeyboardInterrupt
    return job


def first_step(history: History, split: str, least: float = FITTED) -> int | None:
    """The first measured step at which the score of a split (``"train"``, ``"test"``) reaches ``least``."""
    scores = getattr(history, f"{split}_score")
    return next((step for step, score in zip(history.steps, scores) if score >= least), None)


def gap_bounds(history: History) -> tuple[float, float] | None:
    """The least and most steps between fitting train and test that the measurements allow."""
    ends = [first_step(history, split) for split in ("train", "test")]
    if ends[0] is None or ends[1] is None:
        return None
    before = [history.steps[max(0, history.steps.index(end) - 1)] for end in ends]
    return float(before[1] - ends[0]), float(ends[1] - before[0])


def training_curves(job: Fit, uniform_loss: float, provenance: dict[str, Any]) -> Result:
    """Losses and scores at the measured steps; ``extra["gap"]`` is the grokking gap, in steps.

    Args:
        uniform_loss: the loss of a uniform guess, drawn for comparison.
    """
    history = job.history
    last = len(history.train_loss) - 1
    measures = {
        "train_loss": [history.train_loss[min(step, last)] for step in history.steps],
        "test_loss": history.test_loss,
        "train_score": history.train_score,
        "test_score": history.test_score,
    }
    gap = [first_step(history, split) for split in ("train", "test")]
    return Result(
        name="training_curves",
        values=xr.DataArray(
            list(measures.values()),
            dims=("measure", "step"),
            coords={"measure": list(measures), "step": history.steps},
            attrs={"units": "nats, accuracy"},
        ),
        trivial=uniform_loss,
        provenance={**provenance, "split": "train and test", "seconds": round(history.seconds, 2)},
        extra={"gap": xr.DataArray([np.nan if step is None else float(step) for step in gap], dims=("end",))},
    )
