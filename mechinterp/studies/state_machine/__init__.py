"""Do the codes of a network with codebooks become the states of the machine that it predicts?

A published notebook trains a transformer with codebooks on a cycle of states that each have tokens of their
own, and asks whether codes become states. There the state is the last token, no memory is needed, and a third
of next tokens can be known. That is repeated here, beside what chance and an untrained network give; then the
tokens are shared, so that one token does not tell the state, and codes are put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from mechinterp.result import Claim
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport, Watch, sections_of, seeds_of, silent
from mechinterp.studies.seeds import every_seed
from mechinterp.studies.state_machine.anatomy import Anatomy, dashboard, training_so_far
from mechinterp.studies.state_machine.claims import judge, share_of_ceiling
from mechinterp.studies.state_machine.networks import KINDS, ONE_CODE, SHARED
from mechinterp.studies.withdrawn import tally
from mechinterp.tasks.state_machine import StateMachine

__all__ = ["KINDS", "Anatomy", "StateMachineStudy", "dashboard", "silent", "study", "training_so_far"]

PLAN = (
    (
        "The machines and the networks",
        "Scores are how often the token held most likely comes, worked out from what can be known of the "
        "state. The state machine drawn is that with shared tokens.",
        ("state_machine", "network_scores", "score_curves", "score_by_position"),
    ),
    (
        "Training with codebooks",
        "With shared tokens and one code at a time; and as published, with tokens of their own and four.",
        ("codebook_training", "codebook_training_published"),
    ),
    (
        "Codes beside states",
        "At tokens after which the state can be known. Purity is high by chance where codes are many, and 1 "
        "for codes that name tokens where each token belongs to one state; it stands beside measures that "
        "are not.",
        (
            "code_alignment", "code_alignment_published", "code_alignment_shared",
            "code_alignment_annealed", "code_alignment_soft", "code_alignment_warm",
        ),
    ),
    (
        "Codes put in",
        "At the last token, the code of another state takes the place of the active one: at one site, and at "
        "all. The stream passes by a codebook, so one site alone may change nothing; all together replace "
        "every sublayer's output, which works without codebooks too, and so is no evidence of codes.",
        ("code_steering", "code_steering_shared"),
    ),
    (
        "Where the state is never known",
        "Beliefs about the state of the mess3 process, read off the stream of a network without codebooks. A "
        "lookup of the last four tokens decodes them as well.",
        ("simplex_probe",),
    ),
)  # fmt: skip

CUT = " With --fast networks had a quarter of their steps."


@dataclass(frozen=True, kw_only=True)
class StateMachineStudy:
    """Train networks with and without codebooks on machines, compare codes with states, and judge."""

    n_states: int = 8
    """States of the cycle."""

    tokens_per_state: int = 3
    """Tokens that a state chooses among."""

    length: int = 32
    """Tokens that are read."""

    seeds: int = 3
    """How many seeds, counted from ``seed``."""

    seed: int = 0
    """Seed of machines, sequences and initial weights."""

    fast: bool = False
    """A quarter of the steps."""

    @property
    def task(self) -> StateMachine:
        """The task of the first seed, with tokens of their own.

        Raises:
            ValueError: machines that cannot be.
        """
        return StateMachine(
            n_states=self.n_states, tokens_per_state=self.tokens_per_state, length=self.length, seed=self.seed
        )


def study(config: StateMachineStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock, tasks = Stopwatch(), [replace(config.task, seed=seed) for seed in seeds_of(config)]
    if config.n_states < 2:
        raise ValueError(
            f"expected at least 2 states to tell apart, got n_states={config.n_states}; raise it"
        )
    for task in tasks:
        for kind in KINDS.values():
            kind.posed(task)  # what cannot be is refused before work starts
    run = Run.create(out, {"kind": "study", "study": "state-machine", **asdict(config)})
    take_apart = partial(Anatomy.of, n=100) if config.fast else Anatomy.of
    share = 0.25 if config.fast else 1.0
    found = every_seed(tasks, KINDS, take_apart, run.path, watch, fast=config.fast, share=share)
    table = judge(found)
    shares = [share_of_ceiling(one, SHARED) for one in found]
    job = found[0].networks[ONE_CODE].job
    report = StudyReport(
        study="state-machine",
        title="Codebooks on a state machine: do codes become states?",
        summary=summary(found, shares, table) + CUT * config.fast,
        claims=table,
        sections=sections_of(PLAN, found[0].results),
        metrics={
            "test_score": min(shares), "steps": job.step, "train_seconds": round(job.history.seconds, 2),
        },
        seconds=clock.seconds,
    )  # fmt: skip
    report.save(run)
    return report


def summary(found: Sequence[Anatomy], shares: Sequence[float], table: Sequence[Claim]) -> str:
    """The finding in a few sentences."""
    task = found[0].task
    own = [share_of_ceiling(one, ONE_CODE) for one in found]
    return (
        f"A cycle of {task.n_states} states that choose among {task.tokens_per_state} tokens. With tokens of "
        f"their own networks with one code at a time reach {min(own):.2%} to {max(own):.2%} of what can be "
        f"known, with shared tokens {min(shares):.2%} to {max(shares):.2%}. {len(found)} "
        f"seed{'s' * (len(found) > 1)}; of {tally(table)}."
    )
