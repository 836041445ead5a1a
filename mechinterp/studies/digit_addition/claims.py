"""What is claimed of networks that add digit by digit, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.digit_addition.anatomy import Anatomy, steps_to
from mechinterp.studies.digit_addition.heads import KEPT, LOST, prunable
from mechinterp.studies.digit_addition.networks import PLAIN, REVERSED, ROOMY, UNENRICHED
from mechinterp.studies.seeds import claim_of_networks, told
from mechinterp.studies.withdrawn import withdraws

QUIRKE = "Quirke & Barez (2024), sections 3 and 4"
PUBLISHED = (0.9985, 0.349)
"""Share of right tokens and of right problems of the published homework; both cannot be."""
PUBLISHED_LENGTH = 5
"""Answers of a problem with three digits: its sum, and the end."""
HALF = (0.3, 0.7)
"""A network counts as halfway if its exact match lies within."""
APART = 0.1
"""Of a digit's difference: a head that brings more, in any column, is one of digits."""

_claim = partial(claim_of_networks, of=(REVERSED,), within=(0.0, np.inf))


@withdraws("digit-addition")
def judge(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim, from one anatomy a seed."""
    return [
        adds(found),
        teacher_forcing_identity(found),
        few_critical_heads(found),
        heads_prunable_jointly(found),
        single_head_redundancy_misleads(found),
        carry_has_its_own_heads(found),
        column_alignment(found),
        long_cascades_are_hard(found),
        order_of_digits_matters(found),
        generalises_to_more_digits(found),
    ]


def adds(found: Sequence[Anatomy]) -> Claim:
    """The gate of all that follows."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value, (every, _, held_out, _) = one.greedy[REVERSED], one.longest
        return {
            "value": value, "theory": 1.0, "holds": value >= 0.999 and min(every, held_out) >= 0.999,
            "trivial": one.task.trivial, "control": one.untrained[REVERSED],
        }  # fmt: skip

    task, (_, every, _, held_out) = found[0].task, found[0].longest
    least, alone = min(min(one.longest[0], one.longest[2]) for one in found), min(x.apart[0] for x in found)
    return _claim(
        "adds",
        f"The encoder-decoder writes at least 99.9 % of held-out sums of {task.n_digits} digits right, each "
        f"digit after those that it wrote itself, and as many of the {every} sums whose carry runs through "
        f"all columns and of those {held_out} of them that are held out (at least {least:.2%}; of sums of "
        f"which neither order was trained on, {alone:.2%})",
        found, measure, of=(), within=(0.0, 1.0), control_kind="untrained network", source=QUIRKE,
    )  # fmt: skip


def teacher_forcing_identity(found: Sequence[Anatomy]) -> Claim:
    """What a pair of numbers must satisfy before anything is read into it."""
    length = found[0].task.n_target
    tokens, problems = PUBLISHED
    below = 1 - PUBLISHED_LENGTH * (1 - tokens) - problems

    def measure(one: Anatomy) -> dict[str, Any]:
        values = one.results["teacher_forcing"].values
        greedy, all_right, bound = (
            values.sel(measure=m).values for m in ("greedy", "all right when forced", "bound")
        )
        apart = float(np.abs(greedy - all_right).max())
        return {
            "value": apart, "theory": 0.0, "trivial": 0.0,
            "holds": apart < 1e-9 and bool((greedy >= bound - 1e-9).all()),
        }  # fmt: skip

    return _claim(
        "teacher_forcing_identity",
        "Problems written right greedily are those of which every answer is right when forced, and at least "
        f"1 - {length} x the share of wrong tokens, in the network and without any of eight heads: largest "
        f"difference (a published pair, {tokens} of tokens and {problems} of problems, lies {below:.2f} "
        "below that bound)",
        found, measure, source="ours",
    )  # fmt: skip


def few_critical_heads(found: Sequence[Anatomy]) -> Claim:
    """By mean ablation, one at a time."""

    def measure(one: Anatomy) -> dict[str, Any]:
        count, of = len(one.heads.critical), len(one.heads.ablated.components)
        result = one.results["head_exact_match"]
        lost = result.trivial - result.control.sel(reference="mean")
        return {
            "value": count, "holds": 1 <= count <= of / 3, "trivial": of,
            "control": int((lost >= LOST).sum()),
        }  # fmt: skip

    named = told(found, lambda one: ", ".join(one.heads.critical) or "none", (REVERSED,))
    return _claim(
        "few_critical_heads",
        f"At most a third of the heads, and at least one, are critical: mean ablation of one costs "
        f"{LOST:.0%} of exact match or more (by seed {named})",
        found, measure, control_kind="critical by a change of the same size with random signs",
    )  # fmt: skip


def heads_prunable_jointly(found: Sequence[Anatomy]) -> Claim:
    """The pruning curve, on problems that did not choose the order."""

    def measure(one: Anatomy) -> dict[str, Any]:
        curve = one.results["pruning"]
        count, of = prunable(curve.values.values), len(one.heads.ablated.components)
        return {
            "value": count, "holds": count >= of / 4, "trivial": 0,
            "control": np.mean([prunable(each) for each in curve.extra["random"].values]),
        }  # fmt: skip

    return _claim(
        "heads_prunable_jointly",
        f"At least a quarter of the heads can be held at their means together for less than {KEPT:.0%} of "
        "exact match, chosen greedily on other problems",
        found, measure, control_kind="in random order, mean of ten",
    )  # fmt: skip


def single_head_redundancy_misleads(found: Sequence[Anatomy]) -> Claim:
    """Heads that can go one by one cannot all go; chosen on half of the problems, measured on the others."""

    def measure(one: Anatomy) -> dict[str, Any]:
        together, added = one.heads.together, one.heads.one_by_one
        return {
            "value": together, "holds": together >= 0.1 and together > 2 * added, "trivial": 0.0,
            "control": added,
        }  # fmt: skip

    counts = told(found, lambda one: str(len(one.heads.redundant)), (REVERSED,))
    return _claim(
        "single_head_redundancy_misleads",
        f"Without all heads that cost less than {KEPT:.0%} each ({counts} by seed) exact match falls by at "
        "least .1, and by more than twice the sum of what they cost one by one, on other problems",
        found, measure, within=(-1.0, 1.0), control_kind="the sum of what they cost one by one",
    )  # fmt: skip


def carry_has_its_own_heads(found: Sequence[Anatomy]) -> Claim:
    """Patching pairs whose sums differ by a carry, and pairs whose sums differ by a digit.

    Pairs that choose the head are others than those that measure it.
    """

    def own(one: Anatomy) -> str | None:
        carry, digit = (one.results[f"{kind}_heads"].extra["chosen by"] for kind in ("carry", "digit"))
        free = np.abs(digit.values).max(0) <= APART
        least = np.where(free, carry.values.mean(0), -np.inf)
        return str(carry.component.values[least.argmax()]) if free.any() else None

    def mean(one: Anatomy, kind: str, control: bool = False) -> float:
        result = one.results[f"{kind}_heads"]
        return float((result.control if control else result.values).sel(component=own(one)).mean())

    def measure(one: Anatomy) -> dict[str, Any]:
        if own(one) is None:
            return {"value": 0.0, "holds": False, "trivial": 0.0}
        value, other = mean(one, "carry"), mean(one, "carry", control=True)
        digits = one.results["digit_heads"].values.sel(component=own(one))
        return {
            "value": value, "trivial": 0.0, "control": other,
            "holds": value - max(other, 0.0) >= 0.3 and float(np.abs(digits).max()) <= 2 * APART,
        }  # fmt: skip

    named = told(
        found,
        lambda one: f"{own(one)}, digit {mean(one, 'digit'):.2f}" if own(one) else "no such head",
        (REVERSED,),
    )
    return _claim(
        "carry_has_its_own_heads",
        "A head that brings next to nothing of the difference that a column's own digits make brings at "
        "least 30 % of that which a carry into it makes, on average over columns, patched from the problem "
        "with the carry into its twin without, beyond what its output from another problem brings (by seed "
        f"{named}); the twins differ in the digits of the "
        "column before, so that the head may bring those rather than a carry worked out",
        found, measure, within=(-1.0, 2.0), control_kind="its output from another problem without a carry",
        source=QUIRKE,
    )  # fmt: skip


def column_alignment(found: Sequence[Anatomy]) -> Claim:
    """Where the decoder looks in the source."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["column_alignment"]
        cross = [name for name in map(str, result.values.component.values) if ".cross." in name]

        def mean(array: Any) -> float:
            return float(array.sel(component=cross, offset=0).mean())

        value, even = mean(result.values), mean(result.extra["even"])
        return {
            "value": value, "trivial": even, "control": mean(result.control),
            "holds": value >= 0.5 and value >= 1.5 * even and value >= 1.5 * mean(result.extra["untrained"]),
        }  # fmt: skip

    return _claim(
        "column_alignment",
        "The decoder looks in the source at the column that it writes: heads of cross-attention give the two "
        "digits there at least half of their attention on average, and 1.5 times that of even attention and "
        "of the untrained network",
        found, measure, within=(0.0, 1.0), control_kind="each query asks for a column drawn at random",
    )  # fmt: skip


def halfway(one: Anatomy, network: str) -> tuple[int, float, np.ndarray] | None:
    """The kept step at which a network has about half of all problems right, if there is one.

    Returns:
        The step, exact match there, and the same by how far carries run.
    """
    values = one.results["cascades"].values.sel(network=network)
    scores = one.results["score_curves"].values.sel(network=network)
    kept = [int(step) for step in values.step.values if np.isfinite(values.sel(step=step)).all()]
    known = [step for step in kept if step in scores.step.values and np.isfinite(scores.sel(step=step))]
    step = min(known, key=lambda step: abs(float(scores.sel(step=step)) - 0.5))
    score = float(scores.sel(step=step))
    return (step, score, values.sel(step=step).values) if HALF[0] <= score <= HALF[1] else None


def long_cascades_are_hard(found: Sequence[Anatomy]) -> Claim:
    """On the way to a network that is always right, trained on problems that are drawn evenly."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        own, enriched = (halfway(one, name) for name in (UNENRICHED, REVERSED))
        if own is None:
            return None
        value = float(own[2][1] - own[2][-1])
        return {
            "value": value, "holds": value >= 0.1, "trivial": 0.0,
            "control": enriched and float(enriched[2][1] - enriched[2][-1]),
        }  # fmt: skip

    def tell(one: Anatomy) -> str:
        at = halfway(one, UNENRICHED)
        if at is None:
            return "no step that is halfway"
        return f"step {at[0]}, {at[1]:.2f} in all: " + ", ".join(f"{x:.2f}" for x in at[2])

    return _claim(
        "long_cascades_are_hard",
        "Trained on evenly drawn problems, a network that has about half of them right has those whose carry "
        "runs over one column right more often, by at least .1, than over all (by columns, none first: "
        f"{told(found, tell, (UNENRICHED,))})",
        found, measure, of=(UNENRICHED,), within=(-1.0, 1.0),
        control_kind="the network trained on many sums of nine", source=QUIRKE,
    )  # fmt: skip


def order_of_digits_matters(found: Sequence[Anatomy]) -> Claim:
    """How long it takes, in one order and the other."""
    both = (REVERSED, PLAIN)

    def measure(one: Anatomy) -> dict[str, Any] | None:
        steps = {name: steps_to(one.networks[name]) for name in (*both, ROOMY)}
        value, other = (steps[name][0] / steps[REVERSED][0] for name in (PLAIN, ROOMY))
        if not steps[ROOMY][1]:
            return None  # what room costs is not known
        return {
            "value": value, "holds": value >= 1.2 * max(1.0, other) and steps[REVERSED][1], "trivial": 1.0,
            "control": other,
        }  # fmt: skip

    def tell(one: Anatomy) -> str:
        ends = [steps_to(one.networks[name]) for name in both]
        return " and ".join(f"{'' if there else 'more than '}{step}" for step, there in ends)

    return _claim(
        "order_of_digits_matters",
        "Most significant digit first takes at least 1.2 times the steps to 99 % of problems right, and as "
        f"much more than a network with room for one digit more, since carries must be foreseen, though its "
        f"rate falls half as fast (by seed {told(found, tell, both)}, measured every 50; at the end "
        f"{told(found, lambda one: f'{one.greedy[PLAIN]:.4f}', both)} are right)",
        found, measure, of=both, control_kind="the same order, room for one digit more", source=QUIRKE,
    )  # fmt: skip


def generalises_to_more_digits(found: Sequence[Anatomy]) -> Claim:
    """One digit more than was ever trained on."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["more_digits"]
        value = float(result.values.isel(problems=1).sel(measure="exact match"))
        control = float(result.control.isel(problems=1).sel(measure="exact match"))
        return {"value": value, "holds": value >= 0.9, "trivial": result.trivial, "control": control}

    def forced(one: Anatomy) -> str:
        return f"{float(one.results['more_digits'].values.isel(problems=1)[1]):.2f}"

    shares = told(found, forced, (ROOMY,))
    return _claim(
        "generalises_to_more_digits",
        f"A network with room for {found[0].task.n_digits + 1} digits, trained on {found[0].task.n_digits}, "
        f"adds {found[0].task.n_digits + 1} (forced, {shares} of its digits are right, by seed)",
        found, measure, of=(ROOMY,), within=(0.0, 1.0), control_kind="untrained network",
    )  # fmt: skip
