"""The findings in two pages, with the numbers of the runs, and the order in which to read the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mechinterp.result import Result
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, LINEAR_3, LINEAR_6, SOFTMAX

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
        "readout, "
        "beside theory; then which method's weights the derivatives of its answers are; then where it looks.",
        ("effective_step", "method_agreement", "attention_similarity", "optimum_by_setting"),
    ),
    (
        "One softmax layer",
        "A kernel smoother with two numbers, fitted on half of the prompts and judged on the others.",
        ("kernel_smoother", "softmax_similarity"),
    ),
    (
        "More layers",
        "Rates and curvatures of the steps nearest to three raw layers; and which method the deep network "
        "answers like.",
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


def writeup(found: Sequence[Anatomy], results: Mapping[str, Result], steps: Sequence[float]) -> str:
    """Paragraphs, parted by empty lines."""
    task = found[0].task
    least = 2 * task.d

    def mean(number: Callable[[Anatomy], float]) -> float:
        return float(np.mean([number(one) for one in found]))

    def bayes(name: str) -> float:
        return mean(lambda one: one.error(name) / one.error("ridge"))

    def shift(predictor: str, at: str) -> float:
        return mean(lambda one: float(one.results["shifts"].values.sel(predictor=predictor, shift=at)))

    def agreed(result: str, predictor: str, measure: str) -> float:
        return mean(lambda one: float(one.results[result].values.sel(predictor=predictor, measure=measure)))

    def kernel(predictor: str) -> float:
        return mean(lambda one: float(one.results["kernel_smoother"].values.sel(predictor=predictor)))

    def number(name: str) -> float:
        return mean(
            lambda one: abs(float(one.results["kernel_smoother"].extra["parameters"].sel(parameter=name)))
        )

    def collapse(network: str, at: int = -1) -> float:
        return mean(lambda one: float(one.results["collapse_without_parts"].values.sel(network=network)[at]))

    weights = results["effective_step"].values
    wider = results["higher_d"].values.sel(predictor=LINEAR)
    longer = f"{4 * task.longest} examples"
    return "\n\n".join(
        (
            "One step of gradient descent is what one layer of linear attention can do at best. Zhang, "
            "Frei and "
            "Bartlett (2024) prove that gradient flow from a small start finds it, Ahn et al. (2023) and "
            "Mahankali, Hashimoto and Ma (2024) that no weights of such a layer do better on normal "
            "prompts, and "
            "von Oswald et al. (2023) wrote it down. Our layers, trained with Adam on all of their "
            "matrices from "
            f"a random start, end at {mean(lambda one: one.over_optimum[0]):.4f} times the least loss. Their "
            f"weights are that step: the product of W_PV at y and W_KQ on x has a cosine of "
            f"{float(weights.sel(measure='cosine')):.4f} with the preconditioner of theory (first seed; "
            "relative "
            f"error {float(weights.sel(measure='relative error')):.3f}), and the derivative of the answer "
            "by the "
            f"query a cosine of {agreed('method_agreement', 'best step', 'model cos'):.4f} with the step's "
            "weights.",
            "That is not least squares. That the error of a linear layer approaches that of ordinary least "
            "squares "
            "is often said and is false: it approaches that of the step. Here the step has "
            f"{found[0].task.one_layer_loss:.3f}, the layer {mean(lambda one: one.error(LINEAR)):.3f} on "
            "these "
            f"prompts, and Bayes' optimum, ridge with the penalty of the noise, "
            f"{mean(lambda one: one.error('ridge')):.3f}. "
            f"With {least} examples and more the layer still has "
            f"{mean(lambda one: one.error(LINEAR, least) / one.error('ols', least)):.1f} times the error "
            "of least "
            "squares. Least squares itself is no yardstick with as few examples as dimensions, where its "
            f"error is larger than any other ({mean(lambda one: one.error('ols')):.1f} over all prompts).",
            "A softmax layer is a kernel smoother. Nadaraya (1964) and Watson (1964) estimate a function "
            "by the mean "
            "of the y nearby; softmax attention by x_j . x is that mean with the kernel exp(w x_j . x). "
            "For normal x "
            "and linear functions the mean falls short of the truth by about the factor w, so the layer "
            "multiplies "
            f"it by u: fitted u is {number('u'):.2f}, w {number('w'):.2f} and 1/w {1 / number('w'):.2f}. "
            "These two "
            f"numbers explain {kernel('kernel smoother'):.1%} of the answers on prompts that they were not "
            "fitted "
            f"on, a gradient step {kernel('gradient step'):.1%}. The error is {bayes(SOFTMAX):.2f} times "
            "Bayes', that "
            f"of the linear layer {bayes(LINEAR):.2f}: normalising weights costs something where examples "
            "are few, "
            "and bounds answers that a polynomial does not.",
            "Depth is more steps, as far as we can read it. Three layers of linear attention on raw tokens "
            "reach "
            f"{mean(lambda one: one.error(LINEAR_3)):.3f}; the best one, two and three steps of plain "
            "gradient "
            f"descent reach {', '.join(f'{x:.3f}' for x in steps)}. So they are no plain descent. GD++, "
            "which also "
            "shrinks every x along the directions in which the examples vary most (von Oswald et al. "
            "2023), is "
            "what their first layer looks like; whether it is what all three do is the claim "
            "depth_is_more_steps. "
            "Six raw layers could not be trained at all: their answers are polynomials of degree 729 of "
            "the prompt, "
            f"and single prompts overflow. With RMSNorm six linear layers reach {bayes(LINEAR_6):.2f} "
            "times Bayes', "
            f"and six layers of softmax attention with MLPs {bayes(DEEP):.2f}, as Garg et al. (2022) found "
            "of larger "
            f"ones. The deep network's derivatives have a cosine of "
            f"{agreed('deep_agreement', 'ridge', 'model cos'):.3f} "
            f"with the weights of ridge and {agreed('deep_agreement', 'gd', 'model cos'):.3f} with those "
            "of one step.",
            "Skips are what depth lives on. Dong, Cordonnier and Loukas (2021) prove that attention alone "
            "takes all "
            "positions to one vector, doubly exponentially in depth, and that skips and, less so, MLPs "
            "prevent it. In "
            f"our deep network what differs between positions is {collapse('whole'):.2f} of the whole "
            "after six layers; "
            f"without skips it is {collapse('no skips'):.1e}, without MLPs {collapse('no MLPs'):.2f}, "
            "without both "
            f"{collapse('neither'):.1e} (after two layers {collapse('neither', 2):.1e}). A stack of "
            "smoothers "
            "forgets what it smooths: each layer of a kernel smoother makes the examples more alike, and "
            "only "
            "the skip hands the next step the examples themselves, as gradient descent needs them.",
            f"What is learned is a rate, not least squares. With {longer} the linear layer has "
            f"{shift(LINEAR, longer):.3f} "
            f"of the variance, the step with the same rate {shift('the trained step', longer):.3f}, the "
            "step with the "
            f"best rate there {shift('the best step', longer):.3f}. With x twice as large it has "
            f"{shift(LINEAR, 'x doubled'):.1f}, worse than answering 0, where the best step has "
            f"{shift('the best step', 'x doubled'):.2f}; the deep network has "
            f"{shift(DEEP, 'x doubled'):.2f} and Bayes' "
            f"optimum {shift('Bayes', 'x doubled'):.3f}. A higher d means nothing to a network whose "
            "tokens have no "
            "entries for it. With room left empty in training, a prompt that fills it comes upon weights "
            "that no "
            f"gradient ever reached: {float(wider[0]):.2f} of the variance at d = {task.d}, "
            f"{float(wider[-1]):.2f} at "
            f"d = {2 * task.d}.",
            "Sources: Ahn, Cheng, Daneshmand and Sra (2023), arXiv:2306.00297; Dong, Cordonnier and Loukas "
            "(2021), "
            "arXiv:2103.03404; Garg, Tsipras, Liang and Valiant (2022), arXiv:2208.01066; Mahankali, "
            "Hashimoto and "
            "Ma (2024), arXiv:2307.03576; Nadaraya (1964), On estimating regression; von Oswald et al. "
            "(2023), "
            "arXiv:2212.07677; Watson (1964), Smooth regression analysis; Zhang, Frei and Bartlett (2024), "
            "arXiv:2306.09927.",
        )
    )
