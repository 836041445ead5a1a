"""What is claimed of networks that regress in context, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from mechinterp.result import Claim
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.claims.depth import (
    approaches_ols_with_depth,
    depth_is_more_steps,
    rank_collapse_without_skips,
)
from mechinterp.studies.linear_regression.claims.one_layer import (
    attention_is_similarity,
    not_ols_at_depth_one,
    reaches_one_step_optimum,
    sensitivities_match_gd,
    softmax_is_kernel_smoother,
    weights_are_gradient_step,
)
from mechinterp.studies.linear_regression.claims.shifts import (
    breaks_under_covariate_shift,
    extrapolates_in_context_length,
)
from mechinterp.studies.withdrawn import withdraws


@withdraws("linear-regression")
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
