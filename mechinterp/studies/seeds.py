"""What a study finds seed by seed: all kinds of networks are trained on each seed's task, taken apart, and
claims are made of those that learned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mechinterp.result import Claim, NotLearned, Result
from mechinterp.runs import Run
from mechinterp.studies.base import Measure, Watch, claim_over_seeds, silent
from mechinterp.studies.networks import Kind, Trained, fit_kind, train_kind
from mechinterp.studies.sweeps import side_by_side
from mechinterp.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class SeedFindings:
    """What is found of one seed's networks.

    Args:
        networks: trained, by kind.
        results: by name.
    """

    task: Any
    networks: Mapping[str, Trained]
    results: Mapping[str, Result]


Findings = TypeVar("Findings", bound=SeedFindings)


def train_side_by_side(
    tasks: Sequence[Task],
    kinds: Mapping[str, Kind],
    out: Path,
    watch: Watch,
    share: float,
    workers: int,
) -> None:
    """Train every kind of network on every task, so many at a time, each by a process with its share of the
    cores: small networks are then trained faster than one after the other on all cores.

    The longest begin, so that no core ends long before the others. Their states are in the folders in which
    ``seed_findings`` looks for them.

    Raises:
        KeyboardInterrupt: interrupted; the states are saved.
        Exception: that of the first that fails.
    """
    jobs = {
        f"seed_{task.seed}/network_{number}": (name, kind, task, share)
        for task in tasks
        for number, (name, kind) in enumerate(kinds.items())
    }
    jobs = dict(sorted(jobs.items(), key=lambda job: -job[1][1].recipe.steps))
    with watch(f"{len(jobs)} networks, {workers} at a time; each is shown when it is done"):
        pass
    for folder in side_by_side(_train_into, jobs, out, workers):
        name, kind, task, _ = jobs[folder]
        fit_kind(name, kind, task, out / folder, watch, share)  # done: it is read, and shown


def _train_into(given: tuple[str, Kind, Task, float], folder: Path) -> None:
    name, kind, task, share = given
    fit_kind(name, kind, task, folder, share=share)


def seed_findings(
    task: Task,
    kinds: Mapping[str, Kind],
    take_apart: Callable[[Mapping[str, Trained]], Findings],
    out: Path,
    watch: Watch = silent,
    *,
    share: Callable[[Kind], float] = lambda _: 1.0,
    **options: Any,
) -> Findings:
    """Train every kind of network on a seed's task and take them apart; the results are kept in ``out``.

    Args:
        share: of its recipe's steps that a kind gets.
        options: of the study that the results depend on, for the run's config.
    """
    run = _seed_run(task, out, options)
    networks = {
        name: train_kind(name, kind, task, out / f"network_{number}", watch, share(kind))
        for number, (name, kind) in enumerate(kinds.items())
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotLearned)  # of a network that did not learn the claims say so, once
        found = take_apart(networks)
    run.save_results(found.results.values())
    run.finish({name: one.gate.score for name, one in networks.items()})
    return found


def _seed_run(task: Task, folder: Path, options: Mapping[str, Any]) -> Run:
    return Run.create(folder, {"kind": "seed", **options, **task.to_json()})


def every_seed(
    tasks: Sequence[Task],
    kinds: Mapping[str, Kind],
    take_apart: Callable[[Mapping[str, Trained]], Findings],
    out: Path,
    watch: Watch = silent,
    *,
    fast: bool,
    share: float,
    workers: int = 1,
) -> list[Findings]:
    """``seed_findings`` of every task, in folders ``seed_0`` and so on.

    Args:
        share: of its recipe's steps that every kind gets.
        workers: how many networks are trained side by side, each by a process of its own.
    """
    if workers > 1:
        for task in tasks:
            _seed_run(task, out / f"seed_{task.seed}", {"fast": fast})
        train_side_by_side(tasks, kinds, out, watch, share, workers)
    return [
        seed_findings(
            task, kinds, take_apart, out / f"seed_{task.seed}", watch, share=lambda _: share, fast=fast
        )
        for task in tasks
    ]


def learned(one: SeedFindings, of: Sequence[str]) -> bool:
    """Whether some networks of a seed's findings are there, and all of them learned."""
    return all(name in one.networks and one.networks[name].gate.learned for name in of)


def told(found: Sequence[Any], tell: Callable[[Any], str], of: Sequence[str]) -> str:
    """What there is to say of each seed in which the networks concerned learned."""
    return "; ".join(tell(one) for one in found if learned(one, of)) or "none"


def claim_of_networks(
    id: str,
    statement: str,
    found: Sequence[Any],
    measure: Measure,
    *,
    of: Sequence[str] = (),
    control_kind: str = "",
    source: str = "ours",
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Claim:
    """``claim_over_seeds``, of seeds in which some networks learned; with none named, of all."""
    return claim_over_seeds(
        id, statement, found, measure, within=within, control_kind=control_kind, source=source,
        learned=lambda one: learned(one, of),
    )  # fmt: skip
