"""What is claimed of the network, and whether it is so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mechinterp import constructions
from mechinterp.analysis.clock_pizza import distance_irrelevance, gradient_symmetricity
from mechinterp.analysis.fourier import key_frequencies
from mechinterp.analysis.progress import random_frequencies
from mechinterp.analysis.statistics import bootstrap_interval, proportion_interval
from mechinterp.result import Claim, Result, verdict
from mechinterp.studies.base import first_step, gap_bounds
from mechinterp.studies.modular_addition.anatomy import Activations, Anatomy
from mechinterp.studies.withdrawn import withdraws

NANDA = "Nanda et al. (2023)"
ZHONG = "Zhong et al. (2023); where the boundary lies is disputed"


@withdraws("modular-addition")
def claims(found: Anatomy, results: dict[str, Result]) -> list[Claim]:
    """Every claim but that of the grid; all but the first are gated on the network having learned."""
    return [
        learned(found),
        grokking_gap(found, results["training_curves"]),
        few_key_frequencies(found, results["logit_frequencies"]),
        logits_are_trigonometric(found, results["logit_frequencies"]),
        *restricted_and_excluded(found, results["sufficiency"]),
        neurons_single_frequency(found, results["neuron_frequencies"]),
        weight_norm_falls(found),
        embedding_circles(found, results["circles"]),
        neurons_cause_the_answer(found, results.get("neuron_clusters")),
        clock_or_pizza(found),
    ]


def _claim(
    found: Anatomy, id: str, statement: str, value: float | int | None, holds: bool, **more: Any
) -> Claim:
    judged = verdict(holds, found.learned)
    return Claim(id=id, statement=statement, value=value, verdict=judged, **{"source": NANDA, **more})


def learned(found: Anatomy) -> Claim:
    """The gate itself."""
    n = len(found.task.rows("test"))
    return Claim(
        id="learned",
        statement=f"The network answers at least {found.task.learned_at:.0%} of the held-out pairs",
        value=found.score,
        trivial=found.task.trivial,
        control=found.untrained_score(),
        control_kind="untrained network",
        interval=proportion_interval(round(found.score * n), n),
        interval_over="held-out pairs",
        verdict="holds" if found.learned else "fails",
        source=NANDA,
    )


def grokking_gap(found: Anatomy, curves: Result) -> Claim:
    """Generalising comes later than fitting."""
    start, end = (float(step) for step in curves.extra["gap"])
    bounds, without = gap_bounds(found.job.history), found.control.history
    fitted, known = (first_step(without, split) for split in ("train", "test"))
    return _claim(
        found,
        "grokking_gap",
        "The test split reaches 99 % steps after the train split does (without weight decay test accuracy is "
        f"{without.test_score[-1]:.2f} after as many steps)",
        end - start,
        bounds is not None and bounds[0] > 0,
        trivial=0,
        control=None if fitted is None else (without.steps[-1] if known is None else known) - fitted,
        control_kind="without weight decay, at least where the gap is not closed",
        interval=bounds,
        interval_over="steps between measurements",
    )


def weight_norm_falls(found: Anatomy) -> Claim:
    """From its peak on, clean-up shrinks the weights."""
    start = first_step(found.job.history, "train")

    def ratio(history: Any) -> float:
        since = [norm for step, norm in zip(history.steps, history.weight_norm) if step >= (start or 0)]
        return since[-1] / max(since)

    value = ratio(found.job.history)
    return _claim(
        found,
        "weight_norm_falls",
        "Once the train split is fitted the weight norm falls by more than a tenth of its peak",
        value,
        value < 0.9,
        trivial=1,
        control=ratio(found.control.history),
        control_kind="the same ratio without weight decay",
    )


def few_key_frequencies(found: Anatomy, logits: Result) -> Claim:
    """A handful of frequencies carries the logits."""
    n, most = found.task.p // 2, min(10, found.task.p // 2)
    share = float(logits.values.sel(frequency=found.keys.numpy()).sum())
    return _claim(
        found,
        "few_key_frequencies",
        f"At most {most} of {n} frequencies carry the logits",
        len(found.keys),
        len(found.keys) <= most and share > 0.5,
        trivial=n,
        control=len(key_frequencies(torch.tensor(logits.control.values))),
        control_kind="untrained network",
    )


def logits_are_trigonometric(found: Anatomy, logits: Result) -> Claim:
    """The logits are cosines of a + b - c."""
    value = float(logits.values.sel(frequency=found.keys.numpy()).sum())
    sets = random_frequencies(found.task.p, len(found.keys), found.keys.tolist(), draws=20)
    random = [float(logits.values.sel(frequency=chosen.numpy()).sum()) for chosen in sets]
    return _claim(
        found,
        "logits_are_trigonometric",
        "Cosines of a + b - c at the key frequencies explain at least 95 % of the logits' variance",
        value,
        value >= 0.95,
        trivial=0.0,
        control=float(np.mean(random)) if random else None,
        control_kind="random other frequencies",
        interval=logits.interval,
        interval_over="values of a, resampled",
    )


CLASSIC_EXPLAINED, CLASSIC_NEURONS = 0.9722, 0.7402
"""What 25,000 epochs of the classic recipe reach with p = 113 and seed 0 (BENCHMARKS.md): the share of the
logits' variance that key frequencies explain, and the share of single-frequency neurons."""


def as_clean_as_classic(found: Anatomy, logits: Result) -> Claim:
    """Whether speed was paid for with a dirtier circuit."""
    value = float(logits.values.sel(frequency=found.keys.numpy()).sum())
    return _claim(
        found,
        "as_clean_as_classic",
        "The fast recipe's logits are at least as trigonometric as those of one network of the paper's "
        f"recipe after 25,000 epochs (whose single-frequency neurons are {CLASSIC_NEURONS:.1%}); how far "
        "networks of that recipe lie apart was not measured",
        value,
        value >= CLASSIC_EXPLAINED,
        trivial=0.0,
        control=CLASSIC_EXPLAINED,
        control_kind="the classic recipe, seed 0",
        interval=logits.interval,
        interval_over="values of a, resampled",
    )


def restricted_and_excluded(found: Anatomy, losses: Result) -> list[Claim]:
    """The key frequencies are enough, and without them nothing is left."""
    value = {str(m): float(losses.values.sel(measure=m)) for m in losses.values.coords["measure"].values}
    control = {m: None if losses.control is None else float(losses.control.sel(measure=m)) for m in value}
    null = losses.extra.get("null")
    bounds = {
        m: None if null is None else bootstrap_interval(null.sel(measure=m).values)
        for m in ("restricted_test", "excluded_train")
    }
    more = {"trivial": found.uniform_loss, "control_kind": losses.control_kind}
    return [
        _claim(
            found,
            "restricted_sufficient",
            "With only the key frequencies of a + b the test loss is no higher than with all of the logits "
            f"({value['full_test']:.3g}), in nats",
            value["restricted_test"],
            value["restricted_test"] <= value["full_test"],
            control=control["restricted_test"],
            interval=bounds["restricted_test"],
            interval_over="the control's draws",
            **more,
        ),
        _claim(
            found,
            "excluded_necessary",
            "Without the key frequencies of a + b the train loss exceeds that of a uniform guess, in nats",
            value["excluded_train"],
            value["excluded_train"] > found.uniform_loss,
            control=control["excluded_train"],
            interval=bounds["excluded_train"],
            interval_over="the control's draws",
            **more,
        ),
    ]


def neurons_single_frequency(found: Anatomy, neurons: Result) -> Claim:
    """Each neuron follows one frequency."""
    value = float((neurons.values.max("frequency") > 0.85).mean())
    return _claim(
        found,
        "neurons_single_frequency",
        "At least 84 % of the neurons have over 85 % of their variance in one frequency",
        value,
        value >= 0.84,
        trivial=0.0,
        control=float((neurons.control > 0.85).mean()),
        control_kind="untrained network",
        interval=neurons.interval,
        interval_over="neurons",
    )


def embedding_circles(found: Anatomy, circles: Result) -> Claim:
    """The numbers lie on circles, and these hold most of the embedding."""
    value = float(circles.values.sum())
    roundest = float(circles.extra["roundness"].sel(network="trained").min())
    return _claim(
        found,
        "embedding_circles",
        "More than half of the embedding's variance lies on the key frequencies' circles, none of them "
        "flatter than 2 : 1",
        value,
        value > 0.5 and roundest > 0.5,
        trivial=len(found.keys) / (found.task.p // 2),
        control=float(circles.control.sum()),
        control_kind="untrained network",
    )


def neurons_cause_the_answer(found: Anatomy, effects: Result | None) -> Claim:
    """Each frequency's neurons carry that frequency."""
    statement = (
        "Ablating a frequency's neurons takes at least 80 % of it from the logits, and patched from another "
        "pair they carry at least 80 % of it over"
    )
    if effects is None:
        kind = "some key frequency has no neurons of its own"
        return _claim(found, "neurons_cause_the_answer", statement, None, False, control_kind=kind)
    own, random = (
        np.diagonal(array.values, axis1=1, axis2=2).mean(1) for array in (effects.values, effects.control)
    )
    return _claim(
        found,
        "neurons_cause_the_answer",
        statement,
        float(own.min()),
        bool(own.min() >= 0.8),
        trivial=0.0,
        control=float(random.max()),
        control_kind=effects.control_kind,
        interval=effects.interval,
        interval_over="the control's clusters and draws",
    )


def clock_or_pizza(found: Anatomy) -> Claim:
    """Which of the two known ways to add on a circle."""
    irrelevance = distance_irrelevance(found.trained.logits, found.targets)
    symmetricity = gradient_symmetricity(found.outputs_of, found.model.W_E[: found.task.p])
    turning = [k for k in found.keys.tolist() if 2 * k != found.task.p]
    apart = math.gcd(found.task.p, *turning) == 1
    turning = turning if apart else sorted({1, *turning})  # alone they tell no sums apart
    pizza = Activations.of(constructions.modular_addition(found.task, turning), found.task)
    mean, (low, high) = symmetricity.mean().item(), bootstrap_interval(symmetricity.tolist())
    return _claim(
        found,
        "clock_or_pizza",
        "The network is a clock, not a pizza: the right answer's logit hardly depends on a - b (distance "
        f"irrelevance > 0.6) and gradients are not symmetric in a and b (symmetricity < 0.9; measured "
        f"{mean:.2f}, [{low:.2f}, {high:.2f}] over triples)",
        irrelevance,
        irrelevance > 0.6 and mean < 0.9,
        trivial=1.0,
        control=distance_irrelevance(pizza.logits, found.targets),
        control_kind="hand-built pizza of the same frequencies" + ("" if apart else ", and 1"),
        source=ZHONG,
    )
