"""What is claimed of networks that read arithmetic as text, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mechinterp.analysis.statistics import seeds_interval
from mechinterp.result import Claim, Result, verdict
from mechinterp.studies.seeds import claim_of_networks, told
from mechinterp.studies.text_arithmetic.anatomy import Anatomy
from mechinterp.studies.text_arithmetic.networks import NUMBER, PUBLISHED, RESIDUE, SUM
from mechinterp.studies.text_arithmetic.waves import WAVES
from mechinterp.studies.withdrawn import withdraws

LEACE = "Belrose et al. (2023)"
NANDA = "Nanda et al. (2023), on circles in modular addition"
PUBLISHED_RMSE = 29.5
"""Of the published network, in units of the sum of numbers to 999."""
MLP_READER = "MLP, 256"
_claim = partial(claim_of_networks, within=(-np.inf, 1.0))


@withdraws("text-arithmetic")
def judge(found: Sequence[Anatomy], scale: Result | None) -> list[Claim]:
    """Every claim, from one anatomy a seed and the networks of other sizes."""
    return [
        sum_learned(found),
        sum_linearly_readable(found),
        sum_direction_causes(found),
        leace_removes_more_than_one_direction(found),
        published_modk_unlearned(found),
        residue_learned(found),
        residue_is_circular(found),
        residue_directions_cause(found),
        nonlinear_adds_over_linear(found),
        scale_trend(scale),
    ]


def sum_learned(found: Sequence[Anatomy]) -> Claim:
    """The gate of what is said of sums."""
    allowed = PUBLISHED_RMSE / 10 * found[0].task.max_operand / 999

    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.scores[SUM]
        return {
            "value": value, "theory": 1.0, "trivial": 0.0, "control": one.untrained[SUM],
            "holds": value >= 0.9999 and one.rmse <= allowed,
        }  # fmt: skip

    errors = ", ".join(f"{one.rmse:.2f}" for one in found)
    return _claim(
        "sum_learned",
        f"The network answers sums of numbers in text with R² of at least .9999, and errors of at most "
        f"{allowed:.3g}, a tenth of the published {PUBLISHED_RMSE} on numbers to 999 (root mean square by "
        f"seed {errors})",
        found, measure, control_kind="untrained network",
    )  # fmt: skip


def sum_linearly_readable(found: Sequence[Anatomy]) -> Claim:
    """A ridge probe where the answer is read."""

    def last(one: Anatomy, extra: str | None = None) -> float:
        result = one.results["sum_map"]
        values = result.values if extra is None else result.extra[extra]
        return float(values.isel({dim: -1 for dim in values.dims if dim in ("hook", "position")}))

    def raw(one: Anatomy) -> float:
        return float(one.results["sum_map"].extra["raw_input"].isel(position=-1))

    def measure(one: Anatomy) -> dict[str, Any]:
        value, result = last(one), one.results["sum_map"]
        others = max(last(one, "untrained"), raw(one))
        return {
            "value": value, "trivial": 0.0, "control": float(result.control.isel(hook=-1, position=-1)),
            "holds": value >= 0.998 and 1 - value <= (1 - others) / 10,
        }  # fmt: skip

    said = told(found, lambda one: f"{last(one, 'untrained'):.3f} and {raw(one):.3f}", (SUM,))
    return _claim(
        "sum_linearly_readable",
        "At the last character, after the last layer, a ridge probe reads the sum of held-out problems with "
        "R² of at least .998, and misses less than a tenth of what probes of the untrained network and of "
        f"the characters themselves miss (R² by seed {said})",
        found, measure, of=(SUM,), control_kind="shuffled labels",
    )  # fmt: skip


def _left(result: Result, eraser: str) -> float:
    """R² of the network's answers with an eraser in place."""
    return 1 - result.provenance["intact"] - float(result.extra["change"].sel(eraser=eraser, quantity="mean"))


def sum_direction_causes(found: Sequence[Anatomy]) -> Claim:
    """The network's own answers with the direction of the sum gone where it can still look again."""

    def measure(one: Anatomy) -> dict[str, Any]:
        first, other = (one.results[name] for name in ("sum_erasure_first", "difference_erasure_first"))
        own, random, difference = _left(first, "leace"), _left(first, "random"), _left(other, "leace")
        return {
            "value": own, "trivial": 1 - first.provenance["intact"], "control": difference,
            "holds": own <= 0.5 and random >= 0.9 and difference >= 0.9,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        return (
            f"{_left(one.results['sum_erasure_first'], 'random'):.3f} and "
            f"{_left(one.results['sum_erasure'], 'leace'):.3f}"
        )

    return _claim(
        "sum_direction_causes",
        "Without the sum's direction at the last character after the first layer, from where the network "
        "could look again, R² of its own answers falls to at most .5; without that of the numbers' "
        "difference it stays at .9 or more (without random ones, and without the sum's after the last layer, "
        f"which a linear readout leaves no choice, by seed {told(found, said, (SUM,))})",
        found, measure, of=(SUM,), control_kind="LEACE of the difference x - y", source=LEACE,
    )  # fmt: skip


def leace_removes_more_than_one_direction(found: Sequence[Anatomy]) -> Claim:
    """What a fresh probe finds once a direction is gone."""

    def measure(one: Anatomy) -> dict[str, Any]:
        left = one.results["sum_erasure"].extra["readable"]
        value, other = (float(left.sel(eraser=name)) for name in ("leace", "probe projection"))
        return {
            "value": value, "trivial": float(left.sel(eraser="intact")), "control": other,
            "holds": value <= 0.01 and other >= 0.5,
        }  # fmt: skip

    return _claim(
        "leace_removes_more_than_one_direction",
        "After LEACE a fresh linear probe reads the sum with R² of at most .01; with the probe's own "
        "direction projected out it still reads at least .5",
        found, measure, of=(SUM,), control_kind="the probe's direction projected out", source=LEACE,
    )  # fmt: skip


def published_modk_unlearned(found: Sequence[Anatomy]) -> Claim:
    """The published recipe gives a constant, and the gate says so."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        if not one.networks[NUMBER].gate.learned:
            return None  # nothing tells the published recipe from too few steps
        value, result = one.agreement[PUBLISHED], one.results["probe_of_published"]
        return {
            "value": value, "theory": 0.0, "trivial": 0.0, "control": one.agreement[NUMBER],
            "holds": value < 0.05 and one.scores[PUBLISHED] < 0.05 and result.provenance["learned"] is False,
        }  # fmt: skip

    scores = ", ".join(f"{one.scores[PUBLISHED]:.2f}" for one in found)
    steps = found[0].networks[PUBLISHED].job.step, found[0].networks[NUMBER].job.step
    return _claim(
        "published_modk_unlearned",
        f"Residues mod {found[0].task.k} answered by one number with squared error, by the published recipe, "
        f"are not learned in {steps[0]} steps: answers and residues have a squared correlation below .05, R² "
        f"is below .05 too ({scores} by seed), and the gate marks what probes find there as untested. The "
        f"control answers by one number as well, but is in all else the network that answers classes "
        f"({steps[1]} steps)",
        found, measure, within=(0.0, 1.0), control_kind="our recipe, the same readout",
        source="the published notebook's validation error is the variance of its targets",
    )  # fmt: skip


def residue_learned(found: Sequence[Anatomy]) -> Claim:
    """The gate of what is said of residues."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.scores[RESIDUE]
        return {
            "value": value, "theory": 1.0, "trivial": one.task.trivial, "control": one.untrained[RESIDUE],
            "holds": value >= 0.99,
        }  # fmt: skip

    return _claim(
        "residue_learned",
        f"As classes, at least 99 % of residues mod {found[0].task.k} of held-out problems are right",
        found, measure, within=(0.0, 1.0), control_kind="untrained network",
    )  # fmt: skip


def residue_is_circular(found: Sequence[Anatomy]) -> Claim:
    """Fourier probes on residues that the probe has not seen."""

    def chosen(one: Anatomy) -> list[int]:
        return one.results["fourier_probe"].extra["best on val"].isel(hook=-1).values[:3].tolist()

    def best(one: Anatomy, array: Any) -> float:
        return float(array.isel(hook=-1, position=0).sel(frequency=chosen(one)).mean())

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["fourier_probe"]
        value = best(one, result.values)
        return {
            "value": value, "trivial": 0.0, "control": best(one, result.control),
            "holds": value >= 0.9 and best(one, result.extra["untrained"]) < 0.5,
        }  # fmt: skip

    seen = told(found, lambda one: ", ".join(map(str, chosen(one))), (RESIDUE,))
    return _claim(
        "residue_is_circular",
        "At the last character, after the last layer, residues lie on circles that are read off residues "
        "never seen by the probe: mean R² of three frequencies, chosen on other problems "
        f"({seen}, by seed), of at least "
        ".9, and below .5 in the untrained network",
        found, measure, of=(RESIDUE,), control_kind="shuffled labels, the same frequencies", source=NANDA,
    )  # fmt: skip


def residue_directions_cause(found: Sequence[Anatomy]) -> Claim:
    """The network's own answers with circles gone."""

    def right(one: Anatomy, name: str, count: int, random: bool = False) -> float:
        curve = one.results[name]
        return curve.provenance["intact"] + float((curve.control if random else curve.values)[count])

    def measure(one: Anatomy) -> dict[str, Any]:
        value, other = (right(one, "erasure_curve_first", 1, random) for random in (False, True))
        return {
            "value": value, "trivial": one.results["erasure_curve_first"].provenance["intact"],
            "control": other, "holds": value <= 0.5 and other - value >= 0.3,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        return " and ".join(f"{right(one, 'erasure_curve', -1, random):.3f}" for random in (False, True))

    return _claim(
        "residue_directions_cause",
        "Without the one frequency (cosine and sine) that is read best on other problems at the last "
        "character after the first layer, from where the network could look again, at most half of the "
        "residues are right, and at least 30 points fewer than without as many random dimensions (after the "
        f"last layer, before a linear readout, without {WAVES} frequencies, and without as many random "
        "dimensions, by seed "
        f"{told(found, said, (RESIDUE,))})",
        found, measure, of=(RESIDUE,), within=(0.0, 1.0), control_kind="random erasers of the same rank",
        source=LEACE,
    )  # fmt: skip


def nonlinear_adds_over_linear(found: Sequence[Anatomy]) -> Claim:
    """After the first layer."""

    def gain(array: Any) -> float:
        return float(array.sel(reader=MLP_READER) - array.sel(reader="logistic"))

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["residue_readers"]
        value, untrained = gain(result.values.isel(hook=0)), gain(result.extra["untrained"].isel(hook=0))
        return {
            "value": value, "trivial": 0.0, "control": gain(result.control.isel(hook=0)),
            "holds": value >= 0.1 and value - untrained >= 0.1,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        result = one.results["residue_readers"]
        others = (result.extra["untrained"].isel(hook=0), result.values.sel(hook="characters"))
        return " and ".join(f"{gain(array):.3f}" for array in others)

    return _claim(
        "nonlinear_adds_over_linear",
        f"After the first layer an MLP (of {MLP_READER.split()[-1]}) reads the residue at the last character "
        "right at least 10 points more often than a linear classifier, and by 10 points more than there "
        "before training (there, and from the characters themselves, by seed "
        f"{told(found, said, (RESIDUE,))})",
        found, measure, of=(RESIDUE,), within=(-1.0, 1.0), control_kind="the same gain, shuffled labels",
    )  # fmt: skip


def scale_trend(scale: Result | None) -> Claim:
    """Errors of networks of several widths and depths."""
    statement = "Twice the width brings the error of sums down by a tenth of a factor of ten or more"
    if scale is None or not np.isfinite(scale.extra["slopes"].sel(scale="width")).all():
        return Claim(id="scale_trend", statement=f"{statement} (not asked)", value=None, source="ours")
    width = scale.extra["slopes"].sel(scale="width").values
    deeper, low, high = (float(scale.extra[x].sel(scale="layers").mean()) for x in ("slopes", "low", "high"))
    interval = seeds_interval(width) if len(width) > 1 else None
    sides = [", ".join(map(str, scale.values[name].values)) for name in ("d_model", "n_layers")]
    middle = float(np.mean(width))
    return Claim(
        id="scale_trend",
        statement=f"{statement}: factors of ten for each doubling, over widths {sides[0]} and layers "
        f"{sides[1]}, trained for {scale.provenance['steps']} steps at one learning rate up to width 128; "
        f"{scale.provenance['networks that learned']} networks learned (for each doubling of layers "
        f"{deeper:+.2f}, {low:+.2f} to {high:+.2f})",
        value=middle,
        trivial=0.0,
        control=float(scale.extra["untrained slopes"].sel(scale="width").mean()),
        control_kind="untrained networks",
        interval=interval,
        interval_over=f"the mean over {len(width)} seeds",
        verdict=verdict(middle <= -0.1 and (interval is None or interval[1] < 0), True),
        source="ours",
    )
