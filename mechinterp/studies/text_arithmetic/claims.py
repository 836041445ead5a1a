"""What is claimed of networks that read arithmetic as text, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mechinterp.analysis.statistics import seeds_interval
from mechinterp.result import Claim, Result, verdict
from mechinterp.studies.base import Measure, claim_over_seeds
from mechinterp.studies.text_arithmetic.anatomy import Anatomy
from mechinterp.studies.text_arithmetic.networks import PUBLISHED, RESIDUE, SUM
from mechinterp.studies.text_arithmetic.residues import CIRCLES

LEACE = "Belrose et al. (2023)"
NANDA = "Nanda et al. (2023), on circles in modular addition"
PUBLISHED_RMSE = 29.5
"""Of the published network, in units of the sum."""


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


def _claim(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Measure,
    *,
    of: str | None,
    control_kind: str,
    source: str = "ours",
    within: tuple[float, float] = (-np.inf, 1.0),
) -> Claim:
    """Of seeds in which a network learned; with none named, of all."""
    return claim_over_seeds(
        id, statement, found, measure, within=within, control_kind=control_kind, source=source,
        learned=lambda one: of is None or one.networks[of].gate.learned,
    )  # fmt: skip


def sum_learned(found: Sequence[Anatomy]) -> Claim:
    """The gate of what is said of sums."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.scores[SUM]
        return {
            "value": value, "theory": 1.0, "trivial": 0.0, "control": one.untrained[SUM],
            "holds": value >= 0.9999 and one.rmse <= PUBLISHED_RMSE / 10,
        }  # fmt: skip

    errors = ", ".join(f"{one.rmse:.2f}" for one in found)
    return _claim(
        "sum_learned",
        "The network answers sums of numbers in text with R² of at least .9999, and errors of at most a "
        f"tenth of the published {PUBLISHED_RMSE} (root mean square by seed {errors})",
        found, measure, of=None, control_kind="untrained network",
    )  # fmt: skip


def _last(result: Result) -> dict[str, Any]:
    return {"hook": result.values.hook[-1], "position": result.values.position[-1]}


def sum_linearly_readable(found: Sequence[Anatomy]) -> Claim:
    """A ridge probe where the answer is read."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["sum_map"]
        at = _last(result)
        value = float(result.values.sel(at))
        return {
            "value": value, "trivial": 0.0, "control": float(result.control.sel(at)),
            "holds": value >= 0.998 and float(result.extra["untrained"].sel(at)) < 0.99 * value,
        }  # fmt: skip

    before = ", ".join(
        f"{float(one.results['sum_map'].extra['untrained'].sel(_last(one.results['sum_map']))):.2f}"
        for one in found
    )
    return _claim(
        "sum_linearly_readable",
        "At the last character, after the last layer, a ridge probe reads the sum of held-out problems with "
        f"R² of at least .998, above that of the untrained network ({before} by seed)",
        found, measure, of=SUM, control_kind="shuffled labels",
    )  # fmt: skip


def sum_direction_causes(found: Sequence[Anatomy]) -> Claim:
    """The network's own answers with the direction of the sum gone."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["sum_erasure"]
        lost = result.provenance["intact"] + result.extra["change"].sel(quantity="mean")
        own, random = (1 - float(lost.sel(eraser=name)) for name in ("leace", "random"))
        return {
            "value": own, "trivial": one.scores[SUM], "control": random,
            "holds": own <= 0.05 and random >= 0.8,
        }  # fmt: skip

    return _claim(
        "sum_direction_causes",
        "Without one direction at the last character, that of LEACE, R² of the network's own answers falls "
        "to at most .05, while without a random one it stays at .8 or more",
        found, measure, of=SUM, control_kind="random erasers of rank 1", source=LEACE,
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
        found, measure, of=SUM, control_kind="the probe's direction projected out", source=LEACE,
    )  # fmt: skip


def published_modk_unlearned(found: Sequence[Anatomy]) -> Claim:
    """The published recipe gives a constant, and the gate says so."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.scores[PUBLISHED]
        return {
            "value": value, "theory": 0.0, "trivial": 0.0, "control": one.scores[SUM],
            "holds": value < 0.05 and not one.networks[PUBLISHED].gate.learned,
        }  # fmt: skip

    return _claim(
        "published_modk_unlearned",
        f"Residues mod {found[0].task.k} answered as numbers with squared error, as published, are not "
        "learned: R² stays below .05, and the gate refuses what is found in such a network",
        found, measure, of=None, control_kind="the network that answers sums, as many steps",
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
        found, measure, of=None, within=(0.0, 1.0), control_kind="untrained network",
    )  # fmt: skip


def residue_is_circular(found: Sequence[Anatomy]) -> Claim:
    """Fourier probes on residues that the probe has not seen."""

    def order(one: Anatomy) -> np.ndarray:
        return np.argsort(-one.results["fourier_probe"].values.isel(hook=-1, position=0).values)[:3]

    def best(one: Anatomy, array: Any) -> float:
        return float(array.isel(hook=-1, position=0, frequency=order(one)).mean())

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["fourier_probe"]
        value = best(one, result.values)
        return {
            "value": value, "trivial": 0.0, "control": best(one, result.control),
            "holds": value >= 0.9 and best(one, result.extra["untrained"]) < 0.5,
        }  # fmt: skip

    shown = "; ".join(
        ", ".join(map(str, one.results["fourier_probe"].values.frequency.values[order(one)])) for one in found
    )
    return _claim(
        "residue_is_circular",
        "At the last character, after the last layer, residues lie on circles that are read off residues "
        f"never seen by the probe: mean R² of the best three frequencies ({shown} by seed) at least .9",
        found, measure, of=RESIDUE, control_kind="shuffled labels, the same frequencies", source=NANDA,
    )  # fmt: skip


def residue_directions_cause(found: Sequence[Anatomy]) -> Claim:
    """The network's own answers with circles gone."""

    def measure(one: Anatomy) -> dict[str, Any]:
        curve, intact = one.results["erasure_curve"], one.scores[RESIDUE]
        value, other = (intact + float(x[-1]) for x in (curve.values, curve.control))
        return {
            "value": value, "trivial": intact, "control": other,
            "holds": value <= 0.2 and other - value >= 0.3,
        }  # fmt: skip

    ranks = ", ".join(str(int(one.results["erasure_curve"].extra["dimensions"][-1])) for one in found)
    return _claim(
        "residue_directions_cause",
        f"Without the {CIRCLES} circles that are read best at most 20 % of residues are right, and at least "
        f"30 points fewer than without as many random dimensions ({ranks} by seed)",
        found, measure, of=RESIDUE, within=(0.0, 1.0), control_kind="random erasers of the same rank",
        source=LEACE,
    )  # fmt: skip


def nonlinear_adds_over_linear(found: Sequence[Anatomy]) -> Claim:
    """After the first layer."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["residue_readers"]
        linear, best = (
            float(result.values.sel(reader=names).isel(hook=0).max())
            for names in (["logistic"], ["MLP, 64", "MLP, 256", "MLP, 64 + 64"])
        )
        return {
            "value": best - linear, "trivial": 0.0, "holds": best - linear >= 0.1,
            "control": float(result.control.sel(reader="MLP, 64").isel(hook=0)),
        }  # fmt: skip

    return _claim(
        "nonlinear_adds_over_linear",
        "After the first layer an MLP reads the residue at the last character right at least 10 points more "
        "often than a linear classifier",
        found, measure, of=RESIDUE, within=(-1.0, 1.0), control_kind="MLP, shuffled labels",
    )  # fmt: skip


def scale_trend(scale: Result | None) -> Claim:
    """Errors of networks of several widths and depths."""
    statement = "Twice the width brings the error of sums down, trained for as many steps"
    if scale is None or not np.isfinite(scale.extra["slopes"].sel(scale="width")).all():
        return Claim(id="scale_trend", statement=f"{statement} (not asked)", value=None, source="ours")
    width, layers = (scale.extra["slopes"].sel(scale=name).values for name in ("width", "layers"))
    interval = seeds_interval(width) if len(width) > 1 else None
    sides = [", ".join(map(str, scale.values[name].values)) for name in ("d_model", "n_layers")]
    return Claim(
        id="scale_trend",
        statement=f"{statement}: factors of ten for each doubling, over widths {sides[0]} and layers "
        f"{sides[1]} (for each doubling of layers {np.mean(layers):+.2f})",
        value=float(np.mean(width)),
        trivial=0.0,
        control=float(scale.extra["untrained slopes"].sel(scale="width").mean()),
        control_kind="untrained networks",
        interval=interval,
        interval_over=f"the mean over {len(width)} seeds",
        verdict=verdict((interval[1] if interval else float(width[0])) < 0, True),
        source="ours",
    )
