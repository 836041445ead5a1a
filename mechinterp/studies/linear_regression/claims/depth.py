"""Claims of networks of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mechinterp.result import Claim
from mechinterp.studies.linear_regression.anatomy import Anatomy, explained, read_off
from mechinterp.studies.linear_regression.claims.base import AHN, DONG, GARG, claim_of, mean_over
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, LINEAR_3, LINEAR_6, SOFTMAX
from mechinterp.studies.seeds import told


def depth_is_more_steps(found: Sequence[Anatomy], steps: Sequence[float]) -> Claim:
    """Read three steps off three layers, and let them answer."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value, control = (explained(x, one.given[LINEAR_3]) for x in (read_off(one), one.given["gd"]))
        return {
            "value": value, "theory": 1.0, "trivial": 0.0, "control": control,
            "holds": value >= 0.95 and needed(one) >= 0.02 and one.error(LINEAR_3) < steps[1],
        }  # fmt: skip

    def needed(one: Anatomy) -> float:
        """What the step that matters least explains beyond the others."""
        given = one.given[LINEAR_3]
        without = max(explained(read_off(one, without=layer), given) for layer in range(3))
        return explained(read_off(one), given) - without

    three = mean_over(found, lambda one: one.error(LINEAR_3), LINEAR_3)
    least = told(found, lambda one: f"{needed(one):.1%}", (LINEAR_3,))
    return claim_of(
        "depth_is_more_steps",
        "Three layers of linear attention, started as the identity, are three steps of GD++: with the "
        "rates and curvatures read off their weights, six numbers, these explain at least 95 % of the "
        f"answers, each step at least 2 % of its own (the least, by seed {least}), with an error below that "
        f"of the best two plain steps ({three:.3f}; best 1, 2 and 3 steps of plain descent: "
        f"{', '.join(f'{x:.3f}' for x in steps)})",
        found, measure, of=LINEAR_3, within=(-10.0, 1.0),
        control_kind="one step at the best rate", source=AHN,
    )  # fmt: skip


def approaches_ols_with_depth(found: Sequence[Anatomy]) -> Claim:
    """Towards the optimum of all answers."""
    least, depths = 2 * found[0].task.d, (LINEAR, LINEAR_3, LINEAR_6, DEEP)

    def measure(one: Anatomy) -> dict[str, Any]:
        errors = [one.error(name) for name in depths if name in one.networks]
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
        f"{mean_over(there, lambda one: one.error(DEEP, least) / one.error('ols', least), DEEP):.3f}"
        if there
        else "–"
    )
    chain = ", ".join(
        f"{name} {mean_over(there, lambda one, name=name: one.error(name) / one.error('ridge'), name):.2f}"
        for name in (there[0].networks if there else ())
        if name != SOFTMAX
    )
    return claim_of(
        "approaches_ols_with_depth",
        "From one linear layer to three, to six with RMSNorm, to six of softmax attention and MLPs the "
        f"error falls towards Bayes' optimum, the last within 15 %: over Bayes, {chain}; with {least} "
        f"examples and more the deep network has {over_ols} of the error of least squares",
        found, measure, of=[name for name in depths if name in (LINEAR, DEEP) or name in found[0].networks],
        control_kind="linear, 1 layer", source=GARG,
    )  # fmt: skip


def rank_collapse_without_skips(found: Sequence[Anatomy]) -> Claim:
    """What keeps positions apart: a matter of what the network is made of, before training as after."""

    def last(one: Anatomy, network: str, part: str = "values") -> float:
        return float(getattr(one.results["collapse_without_parts"], part).sel(network=network)[-1])

    def measure(one: Anatomy) -> dict[str, Any]:
        value, whole = last(one, "neither"), last(one, "whole")
        return {
            "value": value, "theory": 0.0, "trivial": 0.0, "control": whole,
            "holds": value <= 0.01 and whole >= 10 * max(value, 1e-3),
        }  # fmt: skip

    def mean(network: str, part: str = "values") -> float:
        return mean_over(found, lambda one: last(one, network, part), DEEP)

    return claim_of(
        "rank_collapse_without_skips",
        "Without skips and MLPs the deep network's positions come to hold one vector: what differs between "
        "them is at most 1 % after six layers, and at least ten times as much in the whole network "
        f"(without skips alone {mean('no skips'):.1e}; untrained, whole {mean('whole', 'control'):.2f} and "
        f"without both {mean('neither', 'control'):.1e})",
        found, measure, of=DEEP, within=(0.0, 2.0), control_kind="the whole network", source=DONG,
    )  # fmt: skip
