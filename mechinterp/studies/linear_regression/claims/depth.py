"""Claims of networks of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mechinterp.result import Claim
from mechinterp.studies.linear_regression.anatomy import Anatomy, explained, read_off
from mechinterp.studies.linear_regression.claims.base import AHN, DONG, GARG, claim_of, mean_over
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, LINEAR_3, LINEAR_6, SOFTMAX


def depth_is_more_steps(found: Sequence[Anatomy], steps: Sequence[float]) -> Claim:
    """Read three steps off three layers, and let them answer."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = explained(read_off(one), one.given[LINEAR_3])
        control = explained(one.given["gd"], one.given[LINEAR_3])
        better = one.error(LINEAR_3) < steps[0]
        return {
            "value": value,
            "theory": 1.0,
            "holds": value >= 0.95 and better,
            "trivial": 0.0,
            "control": control,
        }

    three = mean_over(found, lambda one: one.error(LINEAR_3))
    return claim_of(
        "depth_is_more_steps",
        "Three layers of linear attention are three steps of GD++: with the rates and curvatures read off "
        f"their weights, six numbers, these explain at least 95 % of the answers. Error {three:.3f}; best "
        f"1, 2 and 3 steps of plain descent: {', '.join(f'{x:.3f}' for x in steps)}",
        found,
        measure,
        of=LINEAR_3,
        within=(-10.0, 1.0),
        control_kind="one step at the best rate",
        source=AHN,
    )


def approaches_ols_with_depth(found: Sequence[Anatomy]) -> Claim:
    """Towards the optimum of all answers."""
    least = 2 * found[0].task.d

    def measure(one: Anatomy) -> dict[str, Any]:
        errors = [one.error(name) for name in (LINEAR, LINEAR_3, LINEAR_6, DEEP) if name in one.networks]
        value = one.error(DEEP) / one.error("ridge")
        falling = all(after < before for before, after in pairwise(errors))
        return {
            "value": value,
            "theory": 1.0,
            "holds": value <= 1.15 and falling,
            "trivial": one.task.variance / one.error("ridge"),
            "control": one.error(LINEAR) / one.error("ridge"),
        }

    there = [one for one in found if DEEP in one.networks]
    over_ols = (
        f"{mean_over(there, lambda one: one.error(DEEP, least) / one.error('ols', least)):.3f}"
        if there
        else "–"
    )
    chain = ", ".join(
        f"{name} {mean_over(there, lambda one, name=name: one.error(name) / one.error('ridge')):.2f}"
        for name in (there[0].networks if there else ())
        if name != SOFTMAX
    )
    return claim_of(
        "approaches_ols_with_depth",
        "With depth the error falls towards Bayes' optimum, and six layers of softmax attention and MLPs "
        f"come within 15 %: over Bayes, {chain}; with {least} examples and more the deep network has "
        f"{over_ols} of the error of least squares",
        found, measure, of=DEEP, control_kind="linear, 1 layer", source=GARG,
    )  # fmt: skip


def rank_collapse_without_skips(found: Sequence[Anatomy]) -> Claim:
    """What keeps positions apart."""

    def last(one: Anatomy, network: str) -> float:
        return float(one.results["collapse_without_parts"].values.sel(network=network)[-1])

    def measure(one: Anatomy) -> dict[str, Any]:
        value, whole = last(one, "neither"), last(one, "whole")
        return {
            "value": value,
            "theory": 0.0,
            "holds": value <= 0.01 and whole >= 0.1,
            "trivial": 0.0,
            "control": whole,
        }

    there = [one for one in found if "collapse_without_parts" in one.results]
    without = f"{mean_over(there, lambda one: last(one, 'no skips')):.2g}" if there else "–"
    return claim_of(
        "rank_collapse_without_skips",
        "Without skips and MLPs the deep network's positions come to hold one vector: what differs between "
        f"them is at most 1 % after six layers, and at least 10 % in the whole network (without skips "
        f"alone {without})",
        found, measure, of=DEEP, within=(0.0, 2.0), control_kind="the whole network", source=DONG,
    )  # fmt: skip
