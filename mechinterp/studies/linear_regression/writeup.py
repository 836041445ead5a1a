"""The findings in two pages, with the numbers of the runs, and the order in which to read the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mechinterp.result import Claim, Result
from mechinterp.studies.linear_regression.anatomy import Anatomy, explained, read_off
from mechinterp.studies.linear_regression.claims.base import mean_over, without_nan
from mechinterp.studies.linear_regression.networks import (
    DEEP,
    LINEAR,
    LINEAR_3,
    LINEAR_6,
    LONGER,
    SOFTMAX,
)
from mechinterp.studies.linear_regression.shifts import BEST_STEP, OWN_STEP
from mechinterp.studies.seeds import learned

PLAN = (
    (
        "The networks side by side",
        "Errors are means over prompts of every number of examples. FLOPs are those of matrix products, "
        "counted from what a forward pass carries out on a prompt of the longest kind.",
        ("course_table", "training_losses", "error_by_context"),
    ),
    (
        "One linear layer",
        "What multiplies the gradient in the layer's step, read off its weights through embedding and "
        "readout, beside theory; then which method's weights the derivatives of its answers are; then "
        "where it looks.",
        ("effective_step", "method_agreement", "attention_similarity", "optimum_by_setting"),
    ),
    (
        "One softmax layer",
        "A kernel smoother with two numbers, fitted on half of the prompts and judged on the others.",
        ("kernel_smoother", "softmax_similarity"),
    ),
    (
        "More layers",
        "Rates and curvatures of the steps nearest to three raw layers, which also explain layers trained on "
        "another task; and which method the deep network answers like.",
        ("layer_steps", "deep_agreement", "deep_similarity", "deep_by_dimension"),
    ),
    (
        "Rank collapse",
        "How much of the stream differs between positions, in the deep network and with parts of it left "
        "out.",
        ("collapse_without_parts",),
    ),
    (
        "Other prompts than those of training",
        "Each shift is put to networks and methods alike. The trained step keeps the rate that was best in "
        "training, as a layer must. A lower d leaves the last entries of x at 0. Tokens have no room for a "
        "higher d, so another layer was trained with room for twice as much, all of it 0 in training.",
        ("shifts", "higher_d"),
    ),
)


TEXT = """
One step of gradient descent is what one layer of linear attention can do at best. Zhang, Frei and
Bartlett (2024) prove that gradient flow from a small start finds it, Ahn et al. (2023) and Mahankali,
Hashimoto and Ma (2024) that no weights of such a layer do better on normal prompts, and von Oswald et
al. (2023) wrote it down. Our layers, trained with Adam on all of their matrices from a random start, end
at {over_optimum:.4f} times the least loss. Their weights are that step: the product of W_PV at y and
W_KQ on x has a cosine of {weight_cosine:.4f} with the preconditioner of theory (first seed; relative
error {weight_error:.3f}). The rest of what one linear layer does follows from that matrix in closed
form: the derivative of the answer by the query has a cosine of {step_cosine:.4f} with the step's
weights.

That is not least squares. That the error of a linear layer approaches that of ordinary least squares is
often said and is false: it approaches that of the step. Here the step has {least_loss:.3f}, the layer
{linear:.3f} on these prompts, and Bayes' optimum, ridge with the penalty of the noise, {ridge:.3f}. With
{enough} examples and more the layer still has {linear_over_ols:.1f} times the error of least squares.
Least squares itself is no yardstick with as few examples as dimensions ({ols:.1f} over all prompts).

A softmax layer is a kernel smoother. Nadaraya (1964) and Watson (1964) estimate a function by the mean
of the y nearby; softmax attention by x_j . x is that mean with the kernel exp(w x_j . x). With many
normal x it comes to w times the truth, which a factor u of 1/w would mend; with few it is also noisy,
and u had better be smaller. Fitted sizes are {u:.2f} of u and {w:.2f} of w (1/w {one_over_w:.2f}). Of
{seeds} networks {mirrored} smooth the mirror images (-x_j, -y_j), with both numbers negative, which for
a linear function are examples as good. The two numbers explain {smoother:.1%} of the answers on prompts
that they were not fitted on, a gradient step {step_share:.1%}. The layer's error is
{softmax_over_bayes:.1f} times Bayes', that of the linear layer {linear_over_bayes:.1f}.

Whether depth is more steps is open. Three layers of linear attention on raw tokens, started as the
identity (from a random start one of them is lost), reach {three:.3f}; the best one, two and three steps
of plain gradient descent reach {steps}. So they are no plain descent. GD++ also shrinks every x along
the directions in which the examples vary most (von Oswald et al. 2023): the rates and curvatures read
off the three layers, six numbers, explain {read_off:.1%} of the answers. Six such numbers also explain
95 % of the answers of three layers trained on the signs of w.x, so that they are no evidence of steps.
Answers of three layers are polynomials of degree 27 of the prompt: under shifts of x they are off by any
amount.
Six raw layers could not be trained at all, since single prompts overflow. With RMSNorm six linear layers
reach {six_over_bayes:.2f} times Bayes' error, and six layers of softmax attention with MLPs
{deep_over_bayes:.2f}; Garg et al. (2022) found larger ones to answer like least squares. The deep
network's derivatives have a cosine of {deep_ridge:.3f} with the weights of ridge and {deep_gd:.3f} with
those of one step.

Without skips positions collapse, trained or not. Dong, Cordonnier and Loukas (2021) prove that attention
alone takes all positions to one vector, doubly exponentially in depth, and that skips and, less so, MLPs
prevent it. In our deep network what differs between examples is {whole:.2f} of the whole after six
layers; without skips it is {no_skips:.1e}, without MLPs {no_mlps:.2f}, without both {neither:.1e}. That
is so before training too ({untrained_whole:.2f} whole, {untrained_neither:.1e} without both), and of
MLPs we see no such effect. It is a fact about the parts of the network, and says nothing of what was
learned.

What one linear layer learns is a rate, not least squares, and its errors elsewhere follow from it. With
{longer} the linear layer has {linear_longer:.3f} of the variance, the step with the same rate
{own_longer:.3f}, the step with the best rate there {best_longer:.3f}. With x twice as large it has
{linear_doubled:.1f}, worse than answering 0, where the best step has {best_doubled:.2f}; the deep
network has {deep_doubled:.2f} and Bayes' optimum {bayes_doubled:.3f}. A higher d means nothing to a
network whose tokens have no entries for it. With room left empty in training, a prompt that fills it
comes upon weights that no gradient ever reached: {padded:.2f} of the variance at d = {d}, {filled:.2f}
at d = {twice}.

Sources: Ahn, Cheng, Daneshmand and Sra (2023), arXiv:2306.00297; Dong, Cordonnier and Loukas (2021),
arXiv:2103.03404; Garg, Tsipras, Liang and Valiant (2022), arXiv:2208.01066; Mahankali, Hashimoto and Ma
(2024), arXiv:2307.03576; Nadaraya (1964), On estimating regression; von Oswald et al. (2023),
arXiv:2212.07677; Watson (1964), Smooth regression analysis; Zhang, Frei and Bartlett (2024),
arXiv:2306.09927.
"""


def writeup(
    found: Sequence[Anatomy], results: Mapping[str, Result], steps: Sequence[float], table: Sequence[Claim]
) -> str:
    """``TEXT`` with the numbers of the runs; paragraphs are parted by empty lines.

    Numbers are means over the seeds whose networks learned. Claims that do not hold, and those that are
    withdrawn, are named before all.

    Args:
        steps: the errors of the best 1, 2 and 3 steps of gradient descent.
        table: the claims.
    """
    paragraphs = TEXT.strip().split("\n\n")
    whole = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    withdrawn = ", ".join(claim.id for claim in table if claim.verdict == "withdrawn")
    if withdrawn:
        whole = f"Withdrawn, for the reasons in the table: {withdrawn}. Their numbers stay.\n\n" + whole
    judged = [claim for claim in table if claim.verdict not in ("holds", "withdrawn")]
    other = ", ".join(f"{claim.id} ({claim.verdict})" for claim in judged)
    if other:
        whole = (
            f"Not all of what follows was found in these runs: {other}. Where text and table differ, the "
            "table "
            "is right.\n\n" + whole
        )
    return without_nan(whole.format(**_numbers(found, results), steps=", ".join(f"{x:.3f}" for x in steps)))


def _numbers(found: Sequence[Anatomy], results: Mapping[str, Result]) -> dict[str, Any]:
    task, enough, longer = found[0].task, 2 * found[0].task.d, f"{LONGER * found[0].task.longest} examples"

    def mean(number: Callable[[Anatomy], float], *of: str) -> float:
        return mean_over(found, number, *of)

    def value(of: str, result: str, **at: Any) -> float:
        return mean(lambda one: float(one.results[result].values.sel(at)), of)

    def over_bayes(name: str) -> float:
        return mean(lambda one: one.error(name) / one.error("ridge"), name)

    def shift(predictor: str, shift: str) -> float:
        of = predictor if predictor in (LINEAR, DEEP) else LINEAR
        return value(of, "shifts", predictor=predictor, shift=shift)

    def left(network: str, part: str = "values") -> float:
        found_by = "collapse_without_parts"
        return mean(lambda one: float(getattr(one.results[found_by], part).sel(network=network)[-1]), DEEP)

    smooth = [one for one in found if learned(one, (SOFTMAX,))]
    fits = [one.results["kernel_smoother"].extra["parameters"] for one in smooth]
    u, w = (mean_of([abs(float(fit.sel(parameter=name))) for fit in fits]) for name in ("u", "w"))
    weights, wider = results["effective_step"].values, results["higher_d"].values.sel(predictor=LINEAR)
    cosine = {"measure": "model cos"}
    return {
        "over_optimum": mean(lambda one: one.over_optimum[0], LINEAR),
        "weight_cosine": float(weights.sel(measure="cosine")),
        "weight_error": float(weights.sel(measure="relative error")),
        "step_cosine": value(LINEAR, "method_agreement", predictor="best step", **cosine),
        "least_loss": task.one_layer_loss,
        "linear": mean(lambda one: one.error(LINEAR), LINEAR),
        "ridge": mean(lambda one: one.error("ridge")),
        "ols": mean(lambda one: one.error("ols")),
        "enough": enough,
        "linear_over_ols": mean(lambda one: one.error(LINEAR, enough) / one.error("ols", enough), LINEAR),
        "u": u,
        "w": w,
        "one_over_w": 1 / w,
        "seeds": len(fits),
        "mirrored": sum(float(fit.sel(parameter="w")) < 0 for fit in fits),
        "smoother": value(SOFTMAX, "kernel_smoother", predictor="kernel smoother"),
        "step_share": value(SOFTMAX, "kernel_smoother", predictor="gradient step"),
        "softmax_over_bayes": over_bayes(SOFTMAX),
        "linear_over_bayes": over_bayes(LINEAR),
        "three": mean(lambda one: one.error(LINEAR_3), LINEAR_3),
        "read_off": mean(lambda one: explained(read_off(one), one.given[LINEAR_3]), LINEAR_3),
        "six_over_bayes": over_bayes(LINEAR_6),
        "deep_over_bayes": over_bayes(DEEP),
        "deep_ridge": value(DEEP, "deep_agreement", predictor="ridge", **cosine),
        "deep_gd": value(DEEP, "deep_agreement", predictor="gd", **cosine),
        "whole": left("whole"),
        "no_skips": left("no skips"),
        "no_mlps": left("no MLPs"),
        "neither": left("neither"),
        "untrained_whole": left("whole", "control"),
        "untrained_neither": left("neither", "control"),
        "longer": longer,
        "linear_longer": shift(LINEAR, longer),
        "own_longer": shift(OWN_STEP, longer),
        "best_longer": shift(BEST_STEP, longer),
        "linear_doubled": shift(LINEAR, "x doubled"),
        "best_doubled": shift(BEST_STEP, "x doubled"),
        "deep_doubled": shift(DEEP, "x doubled"),
        "bayes_doubled": shift("Bayes", "x doubled"),
        "padded": float(wider[0]),
        "filled": float(wider[-1]),
        "d": task.d,
        "twice": 2 * task.d,
    }


def mean_of(numbers: Sequence[float]) -> float:
    """Their mean; NaN of none."""
    return float(np.mean(numbers)) if numbers else float("nan")
