"""Claims of what becomes of the linear layer on prompts of another kind than those of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mechinterp.result import Claim
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.linear_regression.claims.base import ZHANG, claim_of, mean_over
from mechinterp.studies.linear_regression.networks import DEEP, LINEAR, LONGER
from mechinterp.studies.linear_regression.shifts import AS_TRAINED, BEST_STEP, OWN_STEP


def _shift(one: Anatomy, predictor: str, shift: str) -> float:
    return float(one.results["shifts"].values.sel(predictor=predictor, shift=shift))


def extrapolates_in_context_length(found: Sequence[Anatomy]) -> Claim:
    """More examples than ever in training."""
    task = found[0].task
    here, longer = f"{task.longest} examples", f"{LONGER * task.longest} examples"

    def ratio(one: Anatomy, name: str) -> float:
        return _shift(one, name, longer) / _shift(one, name, here)

    def measure(one: Anatomy) -> dict[str, Any]:
        value, same = ratio(one, LINEAR), _shift(one, LINEAR, longer) / _shift(one, OWN_STEP, longer)
        before = one.results["shifts"].control
        least = [one.task.step_loss(one.task.best_rate, k) for k in (LONGER * task.longest, task.longest)]
        return {
            "value": value, "holds": value <= 1 and abs(same - 1) <= 0.05, "trivial": 1.0,
            "theory": least[0] / least[1],
            "control": float(before.sel(shift=longer) / before.sel(shift=here)),
        }  # fmt: skip

    best = mean_over(found, lambda one: _shift(one, LINEAR, longer) / _shift(one, BEST_STEP, longer), LINEAR)
    deep = mean_over(found, lambda one: ratio(one, DEEP), DEEP)
    return claim_of(
        "extrapolates_in_context_length",
        f"One linear layer goes on with {longer}, trained on up to {task.longest}: its error there over "
        f"that at {task.longest} is at most 1, and within 5 % of the error of its step (it keeps the rate "
        f"of training, and so has {best:.2f} times the error of the step that is best there; the deep "
        f"network's ratio is {deep:.2f})",
        found, measure, of=LINEAR, control_kind="untrained network", source="ours",
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

    deep = mean_over(found, lambda one: _shift(one, DEEP, shift), DEEP)
    best = mean_over(found, lambda one: _shift(one, BEST_STEP, shift), LINEAR)
    return claim_of(
        "breaks_under_covariate_shift",
        "With x twice as large the linear layer does worse than answering 0: squared error over variance at "
        f"least 1, where the best step has {best:.2f} (the deep network has {deep:.3f})",
        found, measure, of=LINEAR, control_kind="Bayes' optimum under the shift", source=ZHANG,
    )  # fmt: skip
