"""What is claimed of networks that regress in context, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.base import Measure, claim_over_seeds
from mechinterp.studies.linear_regression.anatomy import Anatomy, explained, read_off
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, LINEAR_3, LINEAR_6, LONGER, SOFTMAX
from mechinterp.studies.linear_regression.shifts import AS_TRAINED, BEST_STEP, OWN_STEP

OSWALD = "von Oswald et al. (2023), section 3"
ZHANG = "Zhang, Frei & Bartlett (2024), theorem 4.1"
AHN = "Ahn et al. (2023); von Oswald et al. (2023), section 4"
GARG = "Garg et al. (2022), section 3"
SMOOTHER = "after Nadaraya (1964) and Watson (1964)"
DONG = "Dong et al. (2021), sections 2 and 3"


def judge(found: Sequence[Anatomy], steps: Sequence[float]) -> list[Claim]:
    """Every claim, from one anatomy a seed.

    Args:
        steps: the errors of the best 1, 2 and 3 steps of gradient descent on the task.
    """
    return [
        reaches_one_step_optimum(found),
        weights_are_gradient_step(found),
        sensitivities_match_gd(found),
        attention_is_similarity(found),
        not_ols_at_depth_one(found),
        softmax_is_kernel_smoother(found),
        depth_is_more_steps(found, steps),
        approaches_ols_with_depth(found),
        extrapolates_in_context_length(found),
        breaks_under_covariate_shift(found),
        rank_collapse_without_skips(found),
    ]


def _claim(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Measure,
    *,
    of: str,
    control_kind: str,
    source: str,
    gated: bool = True,
    within: tuple[float, float] = (0.0, float("inf")),
) -> Claim:
    """Of one kind of network, in the seeds in which it learned."""

    def learned(one: Anatomy) -> bool:
        return of in one.networks and (one.networks[of].gate.learned or not gated)

    return claim_over_seeds(
        id,
        statement,
        found,
        measure,
        learned=learned,
        within=within,
        control_kind=control_kind,
        source=source,
    )


def _middle(found: Sequence[Anatomy], number: Callable[[Anatomy], float]) -> float:
    return float(np.mean([number(one) for one in found]))


def reaches_one_step_optimum(found: Sequence[Anatomy]) -> Claim:
    """The gate of the one-layer network: its loss against the least that there is."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value, before = one.over_optimum
        theory = one.task.one_layer_loss
        return {
            "value": value, "theory": 1.0, "holds": value <= 1.01, "control": before,
            "trivial": one.task.variance / theory,
        }  # fmt: skip

    return _claim(
        "reaches_one_step_optimum",
        "One layer of linear attention comes within 1 % of the loss of the best step of gradient descent, "
        f"which is {found[0].task.one_layer_loss:.4g}",
        found, measure, of=LINEAR, gated=False, control_kind="untrained network", source=ZHANG,
    )  # fmt: skip


def weights_are_gradient_step(found: Sequence[Anatomy]) -> Claim:
    """Read off the weights."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["effective_step"]
        numbers = {str(m): float(result.values.sel(measure=m)) for m in result.values.measure.values}
        cosine, error, share = (numbers[m] for m in ("cosine", "relative error", "share of the step"))
        holds = cosine >= 0.99 and error <= 0.1 and share >= 0.95 and float(result.extra["p"]) < 0.05
        control = float(result.control.sel(measure="cosine"))
        return {"value": cosine, "theory": 1.0, "holds": holds, "trivial": 0.0, "control": control}

    def mean_of(measure: str) -> float:
        return _middle(found, lambda one: float(one.results["effective_step"].values.sel(measure=measure)))

    low, high = found[0].results["effective_step"].extra["null"].values
    return _claim(
        "weights_are_gradient_step",
        "W_PV[y,y] W_KQ[x,x] of the linear layer is the preconditioner of the best step: cosine at least "
        ".99, "
        f"relative error at most .1 (measured {mean_of('relative error'):.3f}), and at least 95 % of what "
        "the "
        f"weights do is that step ({mean_of('share of the step'):.1%}); 95 % of random matrices have "
        "cosines in "
        f"[{low:.2f}, {high:.2f}]",
        found, measure, of=LINEAR, within=(-1.0, 1.0), control_kind="untrained network", source=ZHANG,
    )  # fmt: skip


def _agreed(one: Anatomy, result: str, predictor: str, measure: str, *, part: str = "values") -> float:
    array = one.results[result].values if part == "values" else one.results[result].extra[part]
    return float(array.sel(predictor=predictor, measure=measure))


def sensitivities_match_gd(found: Sequence[Anatomy]) -> Claim:
    """Whatever the weights are, the answers turn with the query as one step's do."""
    name = "method_agreement"

    def measure(one: Anatomy) -> dict[str, Any]:
        value = _agreed(one, name, "best step", "model cos")
        control = float(one.results[name].control.sel(predictor="best step", measure="model cos"))
        return {"value": value, "theory": 1.0, "holds": value >= 0.995, "trivial": 0.0, "control": control}

    def mean_of(measure: str) -> float:
        return _middle(found, lambda one: _agreed(one, name, "best step", measure))

    return _claim(
        "sensitivities_match_gd",
        "The derivatives of the linear layer's answers by the query are the weights of one step of gradient "
        f"descent: mean cosine at least .995 (mean |difference of answers| {mean_of('preds diff'):.3f}, of "
        f"derivatives {mean_of('model diff'):.3f}, correlation with eta X'y/k {mean_of('correlation'):.4f})",
        found,
        measure,
        of=LINEAR,
        within=(-1.0, 1.0),
        control_kind="the step of another prompt",
        source=OSWALD,
    )


def attention_is_similarity(found: Sequence[Anatomy]) -> Claim:
    """Where queries look."""

    def strongest(one: Anatomy, name: str, part: str = "values") -> float:
        return float(abs(getattr(one.results[name], part)).max())

    def measure(one: Anatomy) -> dict[str, Any]:
        both = [strongest(one, name) for name in ("attention_similarity", "softmax_similarity")]
        value = min(both)
        return {
            "value": value, "theory": 1.0, "holds": value >= 0.95, "trivial": 0.0,
            "control": strongest(one, "attention_similarity", "control"),
        }  # fmt: skip

    there = [one for one in found if "deep_similarity" in one.results]
    deep = (
        f"; the deep network's most similar head has "
        f"{_middle(there, lambda one: strongest(one, 'deep_similarity')):.2f}"
        if there
        else ""
    )
    return _claim(
        "attention_is_similarity",
        "In one layer, linear or softmax, a query's attention scores are the products of its x with the "
        f"examples': correlation at least .95 in size{deep}",
        found, measure, of=LINEAR, within=(0.0, 1.0), control_kind="untrained network", source=OSWALD,
    )  # fmt: skip


def not_ols_at_depth_one(found: Sequence[Anatomy]) -> Claim:
    """That the loss of one linear layer approaches that of least squares is false."""
    least = 2 * found[0].task.d

    def measure(one: Anatomy) -> dict[str, Any]:
        bayes, value = one.error("ridge"), one.error(LINEAR)
        near = abs(one.over_optimum[0] - 1) <= 0.05
        return {
            "value": value / bayes, "theory": one.task.one_layer_loss / bayes,
            "holds": value / bayes >= 2 and near, "trivial": one.task.variance / bayes,
            "control": one.error(DEEP) / bayes if DEEP in one.networks else None,
        }  # fmt: skip

    over_ols = _middle(found, lambda one: one.error(LINEAR, least) / one.error("ols", least))
    return _claim(
        "not_ols_at_depth_one",
        "One linear layer is not least squares: trained to its optimum its error is at least twice Bayes' "
        f"(with {least} examples and more it is {over_ols:.1f} times that of least squares)",
        found, measure, of=LINEAR, control_kind="softmax and MLPs, 6 layers", source=ZHANG,
    )  # fmt: skip


def softmax_is_kernel_smoother(found: Sequence[Anatomy]) -> Claim:
    """Two numbers that answer like the softmax layer."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["kernel_smoother"]
        value, step = (float(result.values.sel(predictor=p)) for p in ("kernel smoother", "gradient step"))
        control = float(result.control.sel(predictor="kernel smoother"))
        return {
            "value": value,
            "theory": 1.0,
            "holds": value >= 0.95 and value > step,
            "trivial": 0.0,
            "control": control,
        }

    u, w = (
        _middle(
            found,
            lambda one, p=p: abs(float(one.results["kernel_smoother"].extra["parameters"].sel(parameter=p))),
        )
        for p in ("u", "w")
    )
    step = _middle(
        found, lambda one: float(one.results["kernel_smoother"].values.sel(predictor="gradient step"))
    )
    return _claim(
        "softmax_is_kernel_smoother",
        "One layer of softmax attention is a kernel smoother: u times the mean of y under exp(w x_j . x), "
        f"fitted on other prompts, explains at least 95 % of its answers, and more than a gradient step does "
        f"({step:.1%}); sizes of u {u:.2f} and w {w:.2f}, 1/w {1 / w:.2f}",
        found, measure, of=SOFTMAX, within=(-1.0, 1.0),
        control_kind="y dealt out anew among the examples", source=SMOOTHER,
    )  # fmt: skip


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

    three = _middle(found, lambda one: one.error(LINEAR_3))
    return _claim(
        "depth_is_more_steps",
        "Three layers of linear attention are three steps of GD++: with the rates and curvatures read off "
        "their "
        f"weights, six numbers, these explain at least 95 % of the answers. Error {three:.3f}; best 1, 2 "
        "and 3 "
        f"steps of plain descent: {', '.join(f'{x:.3f}' for x in steps)}",
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
        f"{_middle(there, lambda one: one.error(DEEP, least) / one.error('ols', least)):.3f}"
        if there
        else "–"
    )
    chain = ", ".join(
        f"{name} {_middle(there, lambda one, name=name: one.error(name) / one.error('ridge')):.2f}"
        for name in (there[0].networks if there else ())
        if name != SOFTMAX
    )
    return _claim(
        "approaches_ols_with_depth",
        "With depth the error falls towards Bayes' optimum, and six layers of softmax attention and MLPs "
        "come "
        f"within 15 %: over Bayes, {chain}; with {least} examples and more the deep network has {over_ols} "
        "of "
        "the error of least squares",
        found, measure, of=DEEP, control_kind="linear, 1 layer", source=GARG,
    )  # fmt: skip


def _shift(one: Anatomy, predictor: str, shift: str) -> float:
    return float(one.results["shifts"].values.sel(predictor=predictor, shift=shift))


def extrapolates_in_context_length(found: Sequence[Anatomy]) -> Claim:
    """More examples than ever in training."""
    task = found[0].task
    longer = f"{LONGER * task.longest} examples"

    def longest(one: Anatomy, name: str) -> float:
        return float(one.results["error_by_context"].values.sel(predictor=name).sel(examples=task.longest))

    def ratio(one: Anatomy, name: str) -> float:
        return _shift(one, name, longer) * task.variance / longest(one, name)

    def measure(one: Anatomy) -> dict[str, Any]:
        value, same = (
            ratio(one, LINEAR),
            _shift(one, LINEAR, longer) / _shift(one, OWN_STEP, longer),
        )
        return {
            "value": value, "holds": value <= 1 and abs(same - 1) <= 0.05, "trivial": 1.0,
            "theory": _shift(one, OWN_STEP, longer) * task.variance / longest(one, "gd"),
            "control": ratio(one, DEEP) if DEEP in one.networks else None,
        }  # fmt: skip

    against_best = _middle(found, lambda one: _shift(one, LINEAR, longer) / _shift(one, BEST_STEP, longer))
    return _claim(
        "extrapolates_in_context_length",
        f"One linear layer goes on with {longer}, trained on up to {task.longest}: its error there over "
        "that at "
        f"{task.longest} is at most 1, and within 5 % of the error of its step (it keeps the rate of "
        f"training, and so has {against_best:.2f} times the error of the step that is best there)",
        found, measure, of=LINEAR, control_kind="softmax and MLPs, 6 layers", source="ours",
    )  # fmt: skip


def breaks_under_covariate_shift(found: Sequence[Anatomy]) -> Claim:
    """A rate is for one scale of x."""
    shift = "x doubled"

    def measure(one: Anatomy) -> dict[str, Any]:
        value, trained = (_shift(one, LINEAR, at) for at in (shift, AS_TRAINED))
        return {
            "value": value, "theory": _shift(one, OWN_STEP, shift), "trivial": 1.0,
            "holds": value >= 1 and value > 2 * trained, "control": _shift(one, "Bayes", shift),
        }  # fmt: skip

    there = [one for one in found if DEEP in one.networks]
    deep = (
        f" (the deep network has {_middle(there, lambda one: _shift(one, DEEP, shift)):.3f})" if there else ""
    )
    best = _middle(found, lambda one: _shift(one, BEST_STEP, shift))
    return _claim(
        "breaks_under_covariate_shift",
        "With x twice as large the linear layer does worse than answering 0: squared error over variance at "
        f"least 1, where the best step has {best:.2f}{deep}",
        found, measure, of=LINEAR, control_kind="Bayes' optimum under the shift", source=ZHANG,
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
    without = f"{_middle(there, lambda one: last(one, 'no skips')):.2g}" if there else "–"
    return _claim(
        "rank_collapse_without_skips",
        "Without skips and MLPs the deep network's positions come to hold one vector: what differs between "
        f"them is at most 1 % after six layers, and at least 10 % in the whole network (without skips "
        f"alone {without})",
        found, measure, of=DEEP, within=(0.0, 2.0), control_kind="the whole network", source=DONG,
    )  # fmt: skip
