"""Does a network that groks modular addition compute with a few Fourier frequencies?

The question, the network and most claims are those of Nanda et al. (2023), "Progress measures
for grokking via mechanistic interpretability"; the clock and the pizza are those of Zhong et
al. (2023), "The Clock and the Pizza".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from mechinterp.models.factories import modular_addition as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import Claim
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport, Watch, sections_of, silent, train
from mechinterp.studies.modular_addition.anatomy import Activations, Anatomy
from mechinterp.studies.modular_addition.claims import as_clean_as_classic, claims
from mechinterp.studies.modular_addition.grid import phase_claim, phase_grid
from mechinterp.studies.withdrawn import tally
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.training.loading import save_network
from mechinterp.training.recipes import MODULAR_ADDITION

__all__ = ["Activations", "Anatomy", "ModularAdditionStudy", "silent", "study"]


@dataclass(frozen=True, kw_only=True)
class ModularAdditionStudy:
    """What to study."""

    seed: int = 0
    """Seed of the split and of the initial weights."""

    p: int = 113
    """The modulus, an odd number."""

    recipe: Literal["fast", "classic"] = "fast"
    """``fast`` groks in seconds, ``classic`` is the paper's, number for number."""

    fast: bool = False
    """Leave out the grid of weight decay and train fraction."""

    def __post_init__(self) -> None:
        if self.p < 5 or self.p % 2 == 0:
            raise ValueError(
                f"expected an odd modulus p >= 5, got {self.p}; the analyses halve angles, which needs an "
                "inverse of 2"
            )

    @property
    def task(self) -> ModularAddition:
        """The task of this study."""
        return ModularAddition(p=self.p, seed=self.seed)

    def network(self, task: ModularAddition) -> HookedTransformer:
        """The untrained network, with the initial weights that the recipe expects."""
        return build(task, seed=self.seed, init_mode="nanda" if self.recipe == "classic" else "fan_in")


def study(config: ModularAdditionStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge, as ``studies.base.Study`` says."""
    clock = Stopwatch()
    run = Run.create(out, {"kind": "study", "study": "modular-addition", **asdict(config)})
    task, recipe = config.task, MODULAR_ADDITION[config.recipe]
    job = train(config.network(task), task, recipe, run.path, watch)
    save_network(run.path, job.model, task, recipe)
    no_decay = replace(recipe, weight_decay=0.0, steps=job.step, stop_at_score=None, checkpoints=0)
    control = train(config.network(task), task, no_decay, run.path / "no_decay", watch, "control: no decay")
    found = Anatomy.of(config.network(task), job, control)
    results = found.results()
    table = claims(found, results)
    if config.recipe == "fast" and config.p == 113:
        table.append(as_clean_as_classic(found, results["logit_frequencies"]))
    if not config.fast:
        grid = phase_grid(task, config.network, run.path / "grid", watch)
        results[grid.name] = grid
        table.append(phase_claim(grid))
    report = StudyReport(
        study="modular-addition",
        title=f"Modular addition mod {config.p}: how the network does it",
        summary=summary(found, table),
        claims=table,
        sections=sections_of(_PLAN, results),
        metrics={
            "test_accuracy": found.score,
            "test_loss": job.history.test_loss[-1],
            "steps": job.step,
            "train_seconds": round(job.history.seconds, 2),
            "key_frequencies": found.keys.tolist(),
        },
        seconds=clock.seconds,
    )
    report.save(run)
    return report


def summary(found: Anatomy, table: list[Claim]) -> str:
    """The finding in three sentences."""
    history = found.job.history
    return (
        f"A one-layer transformer was trained for {found.job.step} steps ({history.seconds:.1f} s) on "
        f"{found.task.train_fraction:.0%} of all pairs and answers {found.score:.2%} of the others. Its "
        f"logits follow the frequencies {', '.join(map(str, found.keys.tolist()))}. Of {tally(table)}."
    )


_PLAN = (
    (
        "Training",
        "When the train split is fitted, and when the test split. The shaded interval is the gap between the "
        "first measurements at 99 %.",
        ("training_curves",),
    ),
    (
        "Frequencies",
        "Which frequencies stand out in the Fourier basis over the numbers: in the embedding, in what "
        "neurons write to the answers, and in the logits. The grey line is the network before training.",
        ("embedding_spectrum", "readout_spectrum", "logit_frequencies"),
    ),
    (
        "Circles",
        "For each key frequency the numbers lie on a circle, in the plane in which it turns. That a ring is "
        "round shows little by itself, for a random embedding's rings are round too; that the variance lies "
        "there is the finding.",
        ("circles",),
    ),
    (
        "Neurons",
        "Whether each neuron follows one frequency; whether ablating the neurons of one frequency removes it "
        "from the logits and leaves the others, and patching them from another pair carries it over; and the "
        "same of random neurons. No LayerNorm follows the neurons, so that both are sums over their weights: "
        "they say what neurons write, and are no evidence beyond it.",
        ("neuron_frequencies", "neuron_clusters"),
    ),
    (
        "Enough, and needed",
        "Restricted loss keeps only the key frequencies of a + b, excluded loss takes them away. Along "
        "training they say when the circuit forms, beside when the test loss falls.",
        ("sufficiency", "progress"),
    ),
    (
        "Weight decay and data",
        "Where the same network groks within the budget of steps, and with how many frequencies.",
        ("decay_and_fraction_phase",),
    ),
)
