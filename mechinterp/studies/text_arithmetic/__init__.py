"""What can a probe find in a network that reads arithmetic as text, and does it matter?

A published notebook regresses the sum of two numbers written as text, and the sum mod 97, and probes both
networks. The second had learned nothing: its error is the variance of its targets. Here the gate says so, a
recipe that learns takes its place, and what probes find is set beside what erasing it does.
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
from mechinterp.studies.text_arithmetic.anatomy import Anatomy
from mechinterp.studies.text_arithmetic.claims import judge
from mechinterp.studies.text_arithmetic.networks import KINDS, RESIDUE, SUM
from mechinterp.studies.text_arithmetic.scale import TextGrid, grid, headline
from mechinterp.studies.withdrawn import tally
from mechinterp.tasks.text_arithmetic import TextModular

__all__ = ["KINDS", "Anatomy", "TextArithmeticStudy", "TextGrid", "grid", "headline", "silent", "study"]

PLAN = (
    (
        "The networks",
        "Problems are held out by a hash. Sums and residues as numbers are scored by R², residues as classes "
        "or circles by how many are right; a mark shows what a network needs to count as having learned.",
        ("network_scores", "score_curves"),
    ),
    (
        "The sum: read",
        "A ridge probe at every character, after every layer. The untrained network has it too where "
        "characters can be told apart by place: reading is not using. After the last layer a linear readout "
        "gives the answer, so that it can be read there.",
        ("sum_map", "sum_periods", "sum_attention"),
    ),
    (
        "The sum: erased",
        "One direction goes at the last character: that of LEACE, the mean's, the probe's own, or one at "
        "random. The network then answers, and a fresh probe reads; first after the last layer, where a "
        "linear readout follows and has no choice, then after the first, from which later layers can look "
        "again. There also that of the numbers' difference, and circles of the sum, one after another.",
        ("sum_erasure", "sum_erasure_first", "difference_erasure_first", "sum_curve", "sum_heads"),
    ),
    (
        "The residue as published: refused",
        "The published network has learned nothing; what probes find in it is marked as untested.",
        ("probe_of_published",),
    ),
    (
        "The residue: read",
        "Cosine and sine of the residue at every frequency, on residues that the probe has not seen; and of "
        "the sum at small periods. Residues on an open line pass at low frequencies too: whether the ends "
        "meet is not measured.",
        ("fourier_probe", "period_probe", "residue_readers"),
    ),
    (
        "The residue: erased",
        "Frequencies (cosine and sine) go one after another, those that are read best on other problems "
        "first; after the first layer, and after the last.",
        ("erasure_curve_first", "erasure_curve"),
    ),
    (
        "The residue: heads",
        "Heads at their means, one at a time, and how many characters each looks at.",
        ("residue_heads", "attention_entropy"),
    ),
    (
        "Scale",
        "Networks of several widths and depths that answer sums, each trained and analysed alike.",
        ("scale_trends",),
    ),
)

CUT = (
    " With --fast networks had a quarter of their steps, in which residues are not learned, and there are "
    "none of other sizes."
)


@dataclass(frozen=True, kw_only=True)
class TextArithmeticStudy:
    """Train networks on sums and residues in text, probe and erase, and judge."""

    k: int = 97
    """The modulus."""

    max_operand: int = 999
    """The largest number."""

    seeds: int = 3
    """How many seeds, counted from ``seed``."""

    seed: int = 0
    """Seed of problems and initial weights."""

    fast: bool = False
    """A quarter of the steps, and no networks of other sizes."""

    @property
    def task(self) -> TextModular:
        """The task of the first seed.

        Raises:
            ValueError: as ``TextModular``; or a modulus of which there are too few residues to hold some out.
        """
        if self.k < 20:
            raise ValueError(
                f"expected a modulus k >= 20, got {self.k}; of fewer residues too few are left to hold out "
                "from a probe"
            )
        return TextModular(k=self.k, max_operand=self.max_operand, seed=self.seed)

    @property
    def grid(self) -> TextGrid:
        """The networks of other sizes."""
        return TextGrid(
            n_layers=(1, 2, 4), d_model=(32, 64, 128), steps=600, max_operand=self.max_operand,
            seeds=self.seeds, seed=self.seed,
        )  # fmt: skip


def study(config: TextArithmeticStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock, task, seeds = Stopwatch(), config.task, seeds_of(config)
    if not config.fast:
        config.grid.settings()  # what cannot be is refused before work starts
    tasks = [replace(task, seed=seed) for seed in seeds]
    run = Run.create(out, {"kind": "study", "study": "text-arithmetic", **asdict(config)})
    take_apart = partial(Anatomy.of, n=3000) if config.fast else Anatomy.of
    share = 0.25 if config.fast else 1.0
    found = every_seed(tasks, KINDS, take_apart, run.path, watch, fast=config.fast, share=share)
    scale = None if config.fast else grid(config.grid, run.path / "grid", watch=watch)
    table = judge(found, scale)
    results = {**found[0].results, **({} if scale is None else {scale.name: scale})}
    report = StudyReport(
        study="text-arithmetic",
        title="Arithmetic as text: what does a probe find, and does it matter?",
        summary=summary(found, table) + CUT * config.fast,
        claims=table,
        sections=sections_of(PLAN, results),
        metrics={
            "test_score": min(one.scores[RESIDUE] for one in found),
            "sum_r2": min(one.scores[SUM] for one in found),
            "steps": found[0].networks[RESIDUE].job.step,
            "train_seconds": round(found[0].networks[RESIDUE].job.history.seconds, 2),
        },
        seconds=clock.seconds,
    )
    report.save(run)
    return report


def summary(found: Sequence[Anatomy], table: Sequence[Claim]) -> str:
    """The finding in a few sentences."""
    task = found[0].task
    errors, right = [one.rmse for one in found], [one.scores[RESIDUE] for one in found]
    return (
        f"Numbers of 0 to {task.max_operand} as text. Sums are answered with errors of {min(errors):.2f} to "
        f"{max(errors):.2f} (root mean square), residues mod {task.k} as classes {min(right):.4f} to "
        f"{max(right):.4f} right, on held-out problems. {len(found)} seed{'s' * (len(found) > 1)}; of "
        f"{tally(table)}."
    )
