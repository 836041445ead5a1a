"""Claims of networks of one layer, linear or softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechinterp.result import Claim
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.claims.base import OSWALD, SMOOTHER, ZHANG, claim_of, mean_over
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, SOFTMAX


def reaches_one_step_optimum(found: Sequence[Anatomy]) -> Claim:
    """The gate of the one-layer network: its loss against the least that there is."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        if LINEAR not in one.networks:
            return None
        value, before = one.over_optimum
        theory = one.task.one_layer_loss
        return {
            "value": value, "theory": 1.0, "holds": abs(value - 1) <= 0.01, "control": before,
            "trivial": one.task.variance / theory,
        }  # fmt: skip

    return claim_of(
        "reaches_one_step_optimum",
        "One layer of linear attention comes within 1 % of the loss of the best step of gradient descent, "
        f"which is {found[0].task.one_layer_loss:.4g}",
        found, measure, of=(), control_kind="untrained network", source=ZHANG,
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
        return mean_over(
            found, lambda one: float(one.results["effective_step"].values.sel(measure=measure)), LINEAR
        )

    low, high = found[0].results["effective_step"].extra["null"].values
    return claim_of(
        "weights_are_gradient_step",
        "W_PV[y,y] W_KQ[x,x] of the linear layer is the preconditioner of the best step: cosine at least "
        f".99, relative error at most .1 (measured {mean_of('relative error'):.3f}), and at least 95 % of "
        f"what the weights do is that step ({mean_of('share of the step'):.1%}); 95 % of random matrices "
        f"have cosines in [{low:.2f}, {high:.2f}]",
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
        return mean_over(found, lambda one: _agreed(one, name, "best step", measure), LINEAR)

    return claim_of(
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
            "control": max(
                strongest(one, name, "control") for name in ("attention_similarity", "softmax_similarity")
            ),
        }  # fmt: skip

    there = [one for one in found if "deep_similarity" in one.results]
    deep = (
        f"; the deep network's most similar head has "
        f"{mean_over(there, lambda one: strongest(one, 'deep_similarity'), DEEP):.2f}"
        if there
        else ""
    )
    return claim_of(
        "attention_is_similarity",
        "In one layer, linear or softmax, a query's attention scores are the products of its x with the "
        f"examples': correlation at least .95 in size{deep}",
        found, measure, of=(LINEAR, SOFTMAX), within=(0.0, 1.0),
        control_kind="untrained network", source=OSWALD,
    )  # fmt: skip


def not_ols_at_depth_one(found: Sequence[Anatomy]) -> Claim:
    """That the loss of one linear layer approaches that of least squares is false."""
    least = 2 * found[0].task.d

    def measure(one: Anatomy) -> dict[str, Any]:
        bayes, value = one.error("ridge"), one.error(LINEAR)
        near = abs(one.over_optimum[0] - 1) <= 0.01
        return {
            "value": value / bayes, "theory": one.task.one_layer_loss / bayes,
            "holds": value / bayes >= 2 and near, "trivial": one.task.variance / bayes,
            "control": one.error(DEEP) / bayes if DEEP in one.networks else None,
        }  # fmt: skip

    over_ols = mean_over(found, lambda one: one.error(LINEAR, least) / one.error("ols", least), LINEAR)
    return claim_of(
        "not_ols_at_depth_one",
        "One linear layer stays far from the best that can be answered: within 1 % of its own optimum its "
        f"error is at least twice Bayes' (with {least} examples and more it is {over_ols:.1f} times that of "
        "least squares)",
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
        mean_over(
            found,
            lambda one, p=p: abs(float(one.results["kernel_smoother"].extra["parameters"].sel(parameter=p))),
            SOFTMAX,
        )
        for p in ("u", "w")
    )
    step = mean_over(
        found,
        lambda one: float(one.results["kernel_smoother"].values.sel(predictor="gradient step")),
        SOFTMAX,
    )
    return claim_of(
        "softmax_is_kernel_smoother",
        "One layer of softmax attention is a kernel smoother: u times the mean of y under exp(w x_j . x), "
        f"fitted on other prompts, explains at least 95 % of its answers, and more than a gradient step does "
        f"({step:.1%}); sizes of u {u:.2f} and w {w:.2f}, 1/w {1 / w:.2f}",
        found, measure, of=SOFTMAX, within=(-1.0, 1.0),
        control_kind="y dealt out anew among the examples", source=SMOOTHER,
    )  # fmt: skip
