"""Does a network that groks modular addition compute with a few Fourier frequencies?

The question, the network and most claims are those of Nanda et al. (2023), "Progress measures
for grokking via mechanistic interpretability"; the clock and the pizza are those of Zhong et
al. (2023), "The Clock and the Pizza".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp import constructions
from mechinterp.analysis import modular
from mechinterp.analysis.clock_pizza import distance_irrelevance, gradient_symmetricity
from mechinterp.analysis.clusters import cluster_effects, clusters_by_frequency
from mechinterp.analysis.fourier import frequency_power, gini, key_frequencies, trigonometric_share
from mechinterp.analysis.progress import excluded, pair_loss, random_frequencies, restricted
from mechinterp.analysis.statistics import bootstrap_interval, proportion_interval
from mechinterp.models.factories import modular_addition as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.report import Section
from mechinterp.result import Claim, Result, verdict
from mechinterp.runs import Run
from mechinterp.studies.base import Stopwatch, StudyReport
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.training.fit import Callback, Fit, fit
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import MODULAR_ADDITION

NANDA, ZHONG = "Nanda et al. (2023)", "Zhong et al. (2023)"
Watch = Callable[[str], AbstractContextManager[Callback]]


@dataclass(frozen=True, kw_only=True)
class ModularAdditionStudy:
    """What to study."""

    seed: int = 0
    """Seed of the split and of the initial weights."""

    p: int = 113
    """The modulus, a prime."""

    recipe: Literal["fast", "classic"] = "fast"
    """``fast`` groks in seconds, ``classic`` is the paper's, number for number."""

    fast: bool = False
    """Leave out the grid of weight decay and train fraction."""

    @property
    def task(self) -> ModularAddition:
        """The task of this study."""
        return ModularAddition(p=self.p, seed=self.seed)

    def network(self, task: ModularAddition) -> HookedTransformer:
        """The untrained network, with the initial weights that the recipe expects."""
        return build(task, seed=self.seed, init_mode="nanda" if self.recipe == "classic" else "fan_in")


@contextmanager
def silent(_: str) -> Iterator[Callback]:
    """Watch nothing."""
    yield lambda job: None


def study(config: ModularAdditionStudy, out: str | Path, watch: Watch = silent) -> StudyReport:
    """Train, take apart, and judge.

    Args:
        out: the run folder; an interrupted study goes on from it.
        watch: given a label, a context that yields a callback to follow a training with.

    Returns:
        The report, already saved in ``out``.

    Raises:
        KeyboardInterrupt: interrupted; the training's state is saved.
    """
    watch_time = Stopwatch()
    run = Run.create(out, {"kind": "study", "study": "modular-addition", **asdict(config)})
    task, recipe = config.task, MODULAR_ADDITION[config.recipe]
    model = config.network(task)
    job = _train(model, task, recipe, run.path, watch, "train")
    untrained = config.network(task)
    control = _train(
        config.network(task),
        task,
        _without_decay(recipe, job.step),
        run.path / "no_decay",
        watch,
        "control: no decay",
    )
    found = Anatomy.of(model, untrained, job, control)
    results = found.results()
    claims = found.claims(results)
    if not config.fast:
        grid = phase_grid(config, run.path / "grid", watch)
        results["decay_and_fraction_phase"] = grid
        claims.append(phase_claim(grid))
    report = StudyReport(
        study="modular-addition",
        title=f"Modular addition mod {config.p}: how the network does it",
        summary=_summary(claims, job, found),
        claims=claims,
        sections=_sections(results),
        metrics=found.metrics(),
        seconds=watch_time.seconds,
    )
    report.save(run)
    return report


def _train(
    model: HookedTransformer, task: ModularAddition, recipe: Recipe, folder: Path, watch: Watch, label: str
) -> Fit:
    with watch(label) as callback:
        job = fit(model, task, recipe, folder=folder, callbacks=[callback])
    if job.stopped == "interrupted":
        raise KeyboardInterrupt
    return job


def _without_decay(recipe: Recipe, steps: int) -> Recipe:
    return replace(recipe, weight_decay=0.0, steps=steps, stop_at_score=None, checkpoints=0)


@dataclass(frozen=True)
class Activations:
    """What a network does on all pairs, at the position read."""

    logits: Float[Tensor, "p p p"]
    neurons: Float[Tensor, "p p neuron"]
    embedding: Float[Tensor, "p d_model"]
    readout: Float[Tensor, "p neuron"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedTransformer, task: ModularAddition) -> Activations:
        """Run the network on all pairs."""
        p, hook = task.p, "blocks.0.mlp.hook_post"
        logits, cache = model.run_with_cache(task.everything.inputs, names_filter=hook)
        return cls(
            logits=logits[:, -1].unflatten(0, (p, p)),
            neurons=cache[hook][:, -1].unflatten(0, (p, p)),
            embedding=model.W_E[:p].clone(),
            readout=(model.W_out[0] @ model.W_U).T.clone(),
        )


@dataclass(frozen=True)
class Anatomy:
    """The trained network taken apart, with its controls at hand."""

    model: HookedTransformer
    job: Fit
    control: Fit
    task: ModularAddition
    trained: Activations
    untrained: Activations
    keys: Int[Tensor, " k"]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, model: HookedTransformer, untrained: HookedTransformer, job: Fit, control: Fit) -> Anatomy:
        """Run both networks on everything and find the key frequencies."""
        task = job.task
        model.eval()
        trained = Activations.of(model, task)
        provenance = {
            "model": "HookedTransformer 1L", "task": f"{task.operation} mod {task.p}", "seed": task.seed,
            "steps": job.step, "split": "all pairs", "n": task.p**2,
        }  # fmt: skip
        return cls(
            model, job, control, task, trained, Activations.of(untrained, task),
            key_frequencies(trigonometric_share(trained.logits)), provenance,
        )  # fmt: skip

    @property
    def targets(self) -> Int[Tensor, "p p"]:
        """The right answers."""
        return self.task.everything.targets.view(self.task.p, self.task.p)

    @property
    def learned(self) -> bool:
        """The gate: whether the network knows the task."""
        return self.job.history.test_score[-1] >= self.task.learned_at

    def metrics(self) -> dict[str, Any]:
        """Headline numbers of the training."""
        history = self.job.history
        return {
            "test_accuracy": history.test_score[-1],
            "test_loss": history.test_loss[-1],
            "steps": self.job.step,
            "train_seconds": round(history.seconds, 2),
            "key_frequencies": self.keys.tolist(),
        }

    def results(self) -> dict[str, Result]:
        """Every analysis, by name."""
        new, old, about = self.trained, self.untrained, self.provenance
        rows = self.task._split
        found = [
            training_curves(self.job, self.task, about),
            modular.spectrum(new.embedding, old.embedding, "embedding_spectrum", about),
            modular.spectrum(new.readout, old.readout, "readout_spectrum", about),
            modular.circles(new.embedding, old.embedding, self.keys, about),
            modular.neuron_frequencies(new.neurons, old.neurons, about),
            modular.logit_frequencies(new.logits, old.logits, about),
            modular.sufficiency(new.logits, self.targets, self.keys, rows["train"], rows["test"], about),
            progress_series(self.job, self.task, self.keys, about),
        ]
        clusters = clusters_by_frequency(_shares(found[4]), self.keys)
        if all(len(cluster) for cluster in clusters):
            sample = torch.randperm(self.task.p**2, generator=torch.Generator().manual_seed(self.task.seed))[
                :2000
            ]
            everything = self.task.everything[sample]
            with torch.no_grad():
                found.append(
                    cluster_effects(
                        self.model, everything.inputs, everything.targets[:, 0], clusters, self.keys,
                        {**about, "split": "random pairs", "n": len(sample)},
                    )
                )  # fmt: skip
        return {result.name: result for result in found}

    def claims(self, results: dict[str, Result]) -> list[Claim]:
        """Every claim but that of the grid."""
        return [
            *self._claims_of_training(results),
            *self._claims_of_frequencies(results),
            *self._claims_of_mechanism(results),
        ]

    def _claim(self, id: str, statement: str, value: float | int | None, holds: bool, **more: Any) -> Claim:
        return Claim(
            id=id, statement=statement, value=value, verdict=verdict(holds, self.learned),
            **{"source": NANDA, **more},
        )  # fmt: skip

    def _claims_of_training(self, results: dict[str, Result]) -> list[Claim]:
        history, other = self.job.history, self.control.history
        n_test = len(self.task.dataset("test"))
        score = history.test_score[-1]
        low, high = (float(x) for x in results["training_curves"].extra["gap"])
        fitted = _first(history.steps, history.train_score)
        bounds = _gap_bounds(history)
        at = history.steps.index(fitted) if fitted is not None else 0
        falls = history.weight_norm[-1] / max(history.weight_norm[at:])
        rises = other.weight_norm[-1] / max(other.weight_norm[at:] or other.weight_norm)
        return [
            Claim(
                id="learned", statement=f"The network answers at least {self.task.learned_at:.0%} of held-out pairs",
                value=score, trivial=self.task.trivial, control=self._untrained_score(),
                control_kind="untrained network", verdict="holds" if self.learned else "fails", source=NANDA,
                interval=proportion_interval(round(score * n_test), n_test), interval_over="held-out pairs",
            ),
            self._claim(
                "grokking_gap", "It fits the train split (99 %) steps before it generalises (99 %)", high - low,
                bounds is not None and bounds[0] > 0, trivial=0, control=other.test_score[-1],
                control_kind="test accuracy after as many steps without weight decay",
                interval=bounds, interval_over="measurement steps",
            ),
            self._claim(
                "weight_norm_falls", "After its peak the weight norm falls by more than a tenth", falls, falls < 0.9,
                trivial=1, control=rises, control_kind="the same ratio without weight decay",
            ),
        ]  # fmt: skip

    def _claims_of_frequencies(self, results: dict[str, Result]) -> list[Claim]:
        p, keys = self.task.p, self.keys
        logits, circles = results["logit_frequencies"], results["circles"]
        share, before = logits.values.sel(frequency=keys.numpy()), logits.control
        neurons = results["neuron_frequencies"]
        single = float((neurons.values.max("frequency") > 0.85).mean())
        random = [float(logits.values.sel(frequency=k.numpy()).sum()) for k in _null(p, keys)]
        on_circles = float(circles.values.sum())
        most = min(10, p // 2)
        return [
            self._claim(
                "few_key_frequencies", f"At most {most} of {p // 2} frequencies carry the logits", len(keys),
                len(keys) <= most and float(share.sum()) > 0.5, trivial=p // 2,
                control=len(key_frequencies(torch.tensor(before.values))), control_kind="untrained network",
            ),
            self._claim(
                "logits_are_trigonometric",
                "Cosines of a + b - c at the key frequencies explain at least 95 % of the logits' variance",
                float(share.sum()), float(share.sum()) >= 0.95, trivial=0.0, control=float(np.mean(random)),
                control_kind="as many random other frequencies", interval=logits.interval,
                interval_over="values of a, resampled",
            ),
            self._claim(
                "neurons_single_frequency",
                "At least 84 % of neurons have over 85 % of their variance in one frequency", single, single >= 0.84,
                trivial=0.0, control=float((neurons.control > 0.85).mean()), control_kind="untrained network",
                interval=neurons.interval, interval_over="neurons",
            ),
            self._claim(
                "embedding_circles",
                "More than half of the embedding's variance lies on the key frequencies' circles", on_circles,
                on_circles > 0.5 and float(circles.extra["roundness"].sel(network="trained").min()) > 0.5,
                trivial=len(keys) / (p // 2), control=float(circles.control.sum()), control_kind="untrained network",
            ),
        ]  # fmt: skip

    def _claims_of_mechanism(self, results: dict[str, Result]) -> list[Claim]:
        enough = results["sufficiency"]
        value = {str(m): float(enough.values.sel(measure=m)) for m in enough.values.coords["measure"].values}
        null = {m: float(enough.control.sel(measure=m)) for m in value}
        uniform = float(np.log(self.task.p))
        excluded_null = enough.extra["null"].sel(measure="excluded_train").values
        return [
            self._claim(
                "restricted_sufficient", "With only the key frequencies the test loss is no higher, in nats",
                value["restricted_test"], value["restricted_test"] <= value["full_test"], trivial=uniform,
                control=null["restricted_test"], control_kind=enough.control_kind, interval=enough.interval,
                interval_over="the control's draws",
            ),
            self._claim(
                "excluded_necessary", "Without the key frequencies the train loss exceeds a uniform guess's, in nats",
                value["excluded_train"], value["excluded_train"] > uniform, trivial=uniform,
                control=null["excluded_train"], control_kind=enough.control_kind,
                interval=bootstrap_interval(excluded_null), interval_over="the control's draws",
            ),
            self._cause(results.get("neuron_clusters")),
            self._clock_or_pizza(),
        ]  # fmt: skip

    def _cause(self, effects: Result | None) -> Claim:
        statement = "Ablating a frequency's neurons takes at least 80 % of it from the logits and, patched, it follows them"
        if effects is None:
            return self._claim(
                "neurons_cause_the_answer", statement, None, False, control_kind="no cluster found"
            )
        own = np.diagonal(effects.values.values, axis1=1, axis2=2)
        random = np.diagonal(effects.control.values, axis1=1, axis2=2)
        return self._claim(
            "neurons_cause_the_answer", statement, float(own[0].mean()), bool(own.mean(1).min() >= 0.8), trivial=0.0,
            control=float(random[0].mean()), control_kind=effects.control_kind, interval=effects.interval,
            interval_over="the control's clusters and draws",
        )  # fmt: skip

    def _clock_or_pizza(self) -> Claim:
        irrelevance = distance_irrelevance(self.trained.logits, self.targets)
        planted = constructions.modular_addition(self.task, self._planted())
        pizza = distance_irrelevance(Activations.of(planted, self.task).logits, self.targets)
        symmetricity = gradient_symmetricity(self._outputs_of, self.model.W_E[: self.task.p])
        mean = symmetricity.mean().item()
        return self._claim(
            "clock_or_pizza",
            "The network is a clock: its right answers' logits hardly depend on a - b (distance irrelevance "
            f"> 0.6) and its gradients are not symmetric (symmetricity {mean:.2f} < 0.9)",
            irrelevance, irrelevance > 0.6 and mean < 0.9, trivial=1.0, control=pizza,
            control_kind="hand-built pizza of the same frequencies", source=f"{ZHONG}; the boundary is disputed",
            interval=bootstrap_interval(symmetricity.tolist()), interval_over="triples (of gradient symmetricity)",
        )  # fmt: skip

    def _planted(self) -> list[int]:
        return [k for k in self.keys.tolist() if 2 * k != self.task.p]

    def _outputs_of(self, vectors: Float[Tensor, "n 2 d_model"]) -> Float[Tensor, "n p"]:
        """Logits from the vectors of a and b."""
        equals = self.model.W_E[self.task.p].expand(len(vectors), 1, -1)
        resid = torch.cat([vectors, equals], dim=1) + self.model.W_pos
        return self.model(resid, start_at_layer=0, read=(-1,))[:, 0]

    @torch.no_grad()
    def _untrained_score(self) -> float:
        rows = self.task._split["test"]
        guesses = self.untrained.logits.flatten(0, 1)[rows].argmax(-1)
        return (guesses == self.targets.flatten()[rows]).double().mean().item()


def training_curves(job: Fit, task: ModularAddition, provenance: dict[str, Any]) -> Result:
    """Losses and scores at the measured steps; ``extra["gap"]`` is the grokking gap, in steps."""
    history = job.history
    at = [min(step, len(history.train_loss) - 1) for step in history.steps]
    measures = {
        "train_loss": [history.train_loss[step] for step in at],
        "test_loss": history.test_loss,
        "train_score": history.train_score,
        "test_score": history.test_score,
    }
    gap = [_first(history.steps, history.train_score), _first(history.steps, history.test_score)]
    return Result(
        name="training_curves",
        values=xr.DataArray(
            list(measures.values()), dims=("measure", "step"),
            coords={"measure": list(measures), "step": history.steps}, attrs={"units": "nats, accuracy"},
        ),
        trivial=float(np.log(task.p)),
        provenance={**provenance, "split": "train and test", "seconds": round(history.seconds, 2)},
        extra={"gap": xr.DataArray([np.nan if step is None else float(step) for step in gap], dims=("end",))},
    )  # fmt: skip


@torch.no_grad()
def progress_series(
    job: Fit, task: ModularAddition, keys: Int[Tensor, " k"], provenance: dict[str, Any]
) -> Result:
    """Progress measures at every checkpoint, for the key frequencies of the trained network."""
    model = build(task, **{"init_mode": job.model.cfg.init_mode})
    everything, p = task.everything, task.p
    targets, rows = everything.targets.view(p, p), task._split
    null = random_frequencies(p, min(len(keys), p // 2 - len(keys)), keys.tolist(), 1)[0]
    names = ("train_loss", "test_loss", "restricted_loss", "excluded_loss", "gini", "weight_norm")
    series, control = [], []
    for step in job.checkpoints:
        model.load_state_dict(job.checkpoints[step])
        logits = model(everything.inputs, read=(-1,))[:, 0].unflatten(0, (p, p))
        losses = [
            pair_loss(logits, targets, rows["train"]),
            pair_loss(logits, targets, rows["test"]),
        ]
        norm = sum(w.square().sum().item() for w in model.parameters()) ** 0.5
        concentration = gini(frequency_power(model.W_E[:p]).sum(1).sqrt()).item()
        for chosen, kept in ((keys, series), (null, control)):
            kept.append(
                [
                    *losses,
                    pair_loss(restricted(logits, chosen), targets, rows["test"]),
                    pair_loss(excluded(logits, chosen), targets, rows["train"]),
                    concentration,
                    norm,
                ]
            )
    coords = {"measure": list(names), "step": job.checkpoints.steps}
    dims = ("measure", "step")
    return Result(
        name="progress",
        values=xr.DataArray(
            np.array(series).T, dims=dims, coords=coords, attrs={"units": "nats, Gini, norm"}
        ),
        trivial=float(np.log(p)),
        control=xr.DataArray(np.array(control).T, dims=dims, coords=coords),
        control_kind="as many random other frequencies",
        provenance=provenance,
    )


def phase_grid(config: ModularAdditionStudy, folder: Path, watch: Watch) -> Result:
    """Train over weight decay and train fraction: whether, when, and with how many frequencies it groks."""
    decays, fractions = (0.0, 0.3, 1.0, 2.0), (0.2, 0.3, 0.5, 0.7)
    base = replace(MODULAR_ADDITION["fast"], checkpoints=0, cleanup_steps=0, stop_at_score=0.99)
    cells = np.full((3, len(decays), len(fractions)), np.nan)
    for i, decay in enumerate(decays):
        for j, fraction in enumerate(fractions):
            task = replace(config.task, train_fraction=fraction)
            model, recipe = config.network(task), replace(base, weight_decay=decay)
            job = _train(model, task, recipe, folder / f"decay_{decay}_train_{fraction}", watch,
                         f"grid: decay {decay:g}, train {fraction:.0%}")  # fmt: skip
            score = job.history.test_score[-1]
            cells[2, i, j] = score
            if score >= 0.99:
                keys = key_frequencies(trigonometric_share(Activations.of(model, task).logits))
                cells[:2, i, j] = job.step, len(keys)
    return Result(
        name="decay_and_fraction_phase",
        values=xr.DataArray(
            cells, dims=("measure", "weight_decay", "train_fraction"),
            coords={"measure": ["steps", "key_frequencies", "test_score"], "weight_decay": list(decays),
                    "train_fraction": list(fractions)},
            attrs={"units": "steps"},
        ),
        trivial=config.task.trivial,
        control=xr.DataArray(cells[2, 0], dims=("train_fraction",), coords={"train_fraction": list(fractions)}),
        control_kind="test accuracy without weight decay",
        provenance={"seed": config.seed, "p": config.p, "most steps": base.steps, "groks": "test accuracy >= .99"},
    )  # fmt: skip


def phase_claim(grid: Result) -> Claim:
    """Judge the grid: with weight decay more networks grok, and sooner with more data."""
    steps = grid.values.sel(measure="steps")
    with_decay = steps.sel(weight_decay=[0.3, 1.0, 2.0])
    rate, rate_without = (
        float(with_decay.notnull().mean()),
        float(steps.sel(weight_decay=0.0).notnull().mean()),
    )
    sooner = [
        bool((np.diff(row[np.isfinite(row)]) <= 0).all())
        for row in with_decay.values
        if np.isfinite(row).sum() > 1
    ]
    n = int(with_decay.size)
    return Claim(
        id="decay_and_fraction_phase",
        statement="With weight decay more networks grok within the budget than without, and sooner the more pairs train",
        value=rate, trivial=0.0, control=rate_without, control_kind="without weight decay",
        interval=proportion_interval(round(rate * n), n), interval_over="cells of the grid",
        verdict="holds" if rate > rate_without and sooner and all(sooner) else "fails", source=NANDA,
    )  # fmt: skip


def _first(steps: list[int], scores: list[float], least: float = 0.99) -> int | None:
    """The first measured step from which on a score is reached."""
    return next((step for step, score in zip(steps, scores) if score >= least), None)


def _gap_bounds(history: Any) -> tuple[float, float] | None:
    """The least and most steps between fitting and generalising that the measurements allow."""
    ends = [_first(history.steps, scores) for scores in (history.train_score, history.test_score)]
    if None in ends:
        return None
    before = [history.steps[max(0, history.steps.index(end) - 1)] for end in ends]
    return float(before[1] - ends[0]), float(ends[1] - before[0])


def _null(p: int, keys: Tensor) -> list[Tensor]:
    return random_frequencies(p, min(len(keys), p // 2 - len(keys)), keys.tolist(), draws=20)


def _shares(neurons: Result) -> Tensor:
    return torch.tensor(neurons.values.values)


def _summary(claims: list[Claim], job: Fit, found: Anatomy) -> str:
    count = {kind: sum(claim.verdict == kind for claim in claims) for kind in ("holds", "fails", "untested")}
    return (
        f"A one-layer transformer was trained for {job.step} steps ({job.history.seconds:.1f} s) on "
        f"{found.task.train_fraction:.0%} of all pairs and answers {job.history.test_score[-1]:.2%} of the others. "
        f"It uses the frequencies {', '.join(map(str, found.keys.tolist()))}. Of {len(claims)} claims {count['holds']} "
        f"hold, {count['fails']} fail and {count['untested']} are untested."
    )


def _sections(results: dict[str, Result]) -> list[Section]:
    """The results in reading order; what a network did not give is left out."""
    plan = (
        ("Training", "The train split is fitted long before the test split is. The shaded interval is the gap between "
         "the first measurements at 99 %.", ["training_curves"]),
        ("Frequencies", "In the Fourier basis over the numbers a few frequencies stand out, in the embedding, in "
         "what neurons write to the answers, and in the logits themselves. The grey line is the network before "
         "training.", ["embedding_spectrum", "readout_spectrum", "logit_frequencies"]),
        ("Circles", "For each key frequency the numbers lie on a circle, in the plane in which that frequency turns. "
         "That a ring is round shows little by itself: a random embedding's rings are round too. That the variance "
         "lies there is the finding.", ["circles"]),
        ("Neurons", "Each neuron follows one frequency. Ablating the neurons of one frequency removes it from the "
         "logits and leaves the others; patching them carries it over. As many random neurons do neither.",
         ["neuron_frequencies", "neuron_clusters"]),
        ("Enough, and needed", "Restricted loss keeps only the key frequencies of a + b, excluded loss takes them "
         "away. Along training they show the circuit form while the test loss still stands still.",
         ["sufficiency", "progress"]),
        ("Weight decay and data", "Where the same network groks within the budget of steps, and with how many "
         "frequencies.", ["decay_and_fraction_phase"]),
    )  # fmt: skip
    sections = [
        Section(heading=heading, text=text, results=[results[name] for name in names if name in results])
        for heading, text, names in plan
    ]
    return [section for section in sections if section.results]
