"""What is claimed of networks that add digit by digit, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mechinterp.result import Claim, Result
from mechinterp.studies.base import Measure, claim_over_seeds
from mechinterp.studies.digit_addition.anatomy import Anatomy, steps_to
from mechinterp.studies.digit_addition.heads import KEPT, LOST, prunable
from mechinterp.studies.digit_addition.networks import PLAIN, REVERSED, ROOMY, UNENRICHED

QUIRKE = "Quirke & Barez (2024), sections 3 and 4"
PUBLISHED = (0.9985, 0.349)
"""Share of right tokens and of right problems of the published homework; both cannot be."""


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


def _claim(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Measure,
    *,
    of: Sequence[str] = (REVERSED,),
    control_kind: str = "",
    source: str = "ours",
    within: tuple[float, float] = (0.0, float("inf")),
) -> Claim:
    """Of seeds in which the networks concerned learned; with none named, of all."""
    return claim_over_seeds(
        id, statement, found, measure, within=within, control_kind=control_kind, source=source,
        learned=lambda one: all(one.networks[name].gate.learned for name in of),
    )  # fmt: skip


def adds(found: Sequence[Anatomy]) -> Claim:
    """The gate of all that follows."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.greedy[REVERSED]
        return {
            "value": value, "theory": 1.0, "holds": value >= 0.999 and one.longest[0] >= 0.999,
            "trivial": one.task.trivial, "control": one.untrained[REVERSED],
        }  # fmt: skip

    task, least = found[0].task, min(one.longest[0] for one in found)
    return _claim(
        "adds",
        f"The encoder-decoder writes at least 99.9 % of held-out sums of {task.n_digits} digits right, each "
        f"digit after those that it wrote itself, and as many of those whose carry runs through all columns "
        f"(at least {least:.2%} of {found[0].longest[1]})",
        found, measure, of=(), within=(0.0, 1.0), control_kind="untrained network", source=QUIRKE,
    )  # fmt: skip


def teacher_forcing_identity(found: Sequence[Anatomy]) -> Claim:
    """What a pair of numbers must satisfy before anything is read into it."""
    length = found[0].task.n_target
    tokens, problems = PUBLISHED

    def measure(one: Anatomy) -> dict[str, Any]:
        values = one.results["teacher_forcing"].values
        greedy, all_right, bound = (
            values.sel(measure=m).values for m in ("greedy", "all right when forced", "bound")
        )
        apart = float(np.abs(greedy - all_right).max())
        return {
            "value": apart, "theory": 0.0, "trivial": 0.0,
            "holds": apart < 1e-9 and bool((greedy >= bound - 1e-9).all()),
            "control": 1 - length * (1 - tokens) - problems,
        }  # fmt: skip

    return _claim(
        "teacher_forcing_identity",
        "Problems written right greedily are those of which every answer is right when forced, and at least "
        f"1 - {length} x the share of wrong tokens, in the network and without any of eight heads: largest "
        "difference",
        found, measure, control_kind="how far the published pair lies below the bound", source="ours",
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

    named = ", ".join(found[0].heads.critical)
    return _claim(
        "few_critical_heads",
        f"At most a third of the heads, and at least one, are critical: mean ablation of one costs "
        f"{LOST:.0%} of exact match or more (in the first seed {named})",
        found, measure, control_kind="critical by a change of the same size with random signs",
    )  # fmt: skip


def heads_prunable_jointly(found: Sequence[Anatomy]) -> Claim:
    """The pruning curve, on problems that did not choose the order."""

    def measure(one: Anatomy) -> dict[str, Any]:
        curve = one.results["pruning"]
        count, of = prunable(curve.values.values), len(one.heads.ablated.components)
        return {
            "value": count, "holds": count >= of / 4, "trivial": 0,
            "control": prunable(curve.control.values),
        }  # fmt: skip

    return _claim(
        "heads_prunable_jointly",
        f"At least a quarter of the heads can be held at their means together for less than {KEPT:.0%} of "
        "exact match, chosen greedily on other problems",
        found, measure, control_kind="in random order",
    )  # fmt: skip


def single_head_redundancy_misleads(found: Sequence[Anatomy]) -> Claim:
    """Heads that can go one by one cannot all go."""

    def measure(one: Anatomy) -> dict[str, Any]:
        lost = one.heads.lost.sel(component=one.heads.redundant)
        together = one.results["head_exact_match"].trivial - one.heads.together
        added = float(lost.sum())
        return {
            "value": together, "holds": together >= 0.1 and together > 2 * added, "trivial": 0.0,
            "control": added,
        }  # fmt: skip

    counts = ", ".join(str(len(one.heads.redundant)) for one in found)
    return _claim(
        "single_head_redundancy_misleads",
        f"Without all heads that cost less than {KEPT:.0%} each ({counts} by seed) exact match falls by at "
        "least .1, and by more than twice the sum of what they cost one by one",
        found, measure, within=(0.0, 1.0), control_kind="the sum of what they cost one by one",
    )  # fmt: skip


def carry_has_its_own_heads(found: Sequence[Anatomy]) -> Claim:
    """Patching pairs that differ in a carry alone, and pairs that differ in a digit alone."""

    def own(one: Anatomy) -> int:
        return int(np.where(one.heads.digit.values <= 0.1, one.heads.carry.values, -1).argmax())

    def brought(result: Result, at: int) -> float:
        return float((result.control[at] - result.trivial) / (result.extra["donor"].mean() - result.trivial))

    def measure(one: Anatomy) -> dict[str, Any]:
        at = own(one)
        value = float(one.heads.carry[at])
        return {
            "value": value, "holds": value >= 0.3, "trivial": 0.0,
            "control": brought(one.results["carry_heads"], at),
        }  # fmt: skip

    named = ", ".join(
        f"{one.heads.carry.component.values[own(one)]} (digit {float(one.heads.digit[own(one)]):.2f})"
        for one in found
    )
    return _claim(
        "carry_has_its_own_heads",
        "A head that brings at most a tenth of a digit's difference brings at least 30 % of a carry's, "
        f"patched from the problem with a carry into its twin without: by seed {named}",
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


def halfway(one: Anatomy, network: str) -> tuple[int, np.ndarray]:
    """The kept step at which a network has about half of all problems right, and exact match there by how far
    carries run."""
    values = one.results["cascades"].values.sel(network=network)
    at = int(np.nanargmin(np.abs(values.mean("longest", skipna=False).values - 0.5)))
    return int(values.step.values[at]), values.isel(step=at).values


def long_cascades_are_hard(found: Sequence[Anatomy]) -> Claim:
    """On the way to a network that is always right, trained on problems that are drawn evenly."""

    def measure(one: Anatomy) -> dict[str, Any]:
        (_, own), (_, enriched) = (halfway(one, name) for name in (UNENRICHED, REVERSED))
        value = float(own[1] - own[-1])
        return {
            "value": value, "holds": value >= 0.1, "trivial": 0.0,
            "control": float(enriched[1] - enriched[-1]),
        }  # fmt: skip

    shown = "; ".join(
        f"step {step}: {', '.join(f'{x:.2f}' for x in values)}"
        for step, values in (halfway(one, UNENRICHED) for one in found)
    )
    return _claim(
        "long_cascades_are_hard",
        "Trained on evenly drawn problems, a network that has half of them right has those whose carry runs "
        f"over one column right more often, by at least .1, than over all (by columns, none first, {shown})",
        found, measure, of=(UNENRICHED,), within=(-1.0, 1.0),
        control_kind="the network trained on many sums of nine", source=QUIRKE,
    )  # fmt: skip


def order_of_digits_matters(found: Sequence[Anatomy]) -> Claim:
    """How long it takes, in one order and the other."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        steps = {name: steps_to(one.networks[name]) for name in (REVERSED, PLAIN, ROOMY)}
        if steps[REVERSED] is None or steps[PLAIN] is None:
            return None
        value = steps[PLAIN] / steps[REVERSED]
        other = steps[ROOMY] / steps[REVERSED] if steps[ROOMY] else None
        return {"value": value, "holds": value >= 1.2, "trivial": 1.0, "control": other}

    ends = ", ".join(f"{one.greedy[PLAIN]:.4f}" for one in found)
    return _claim(
        "order_of_digits_matters",
        "Most significant digit first takes at least 1.2 times the steps to 99 % of problems right, since "
        f"carries must be foreseen, though its rate falls half as fast; at the end {ends} are right, by seed",
        found, measure, of=(REVERSED, PLAIN), control_kind="the same order, room for one digit more",
        source=QUIRKE,
    )  # fmt: skip


def generalises_to_more_digits(found: Sequence[Anatomy]) -> Claim:
    """One digit more than was ever trained on."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["more_digits"]
        value = float(result.values.isel(problems=1).sel(measure="exact match"))
        control = float(result.control.isel(problems=1).sel(measure="exact match"))
        return {"value": value, "holds": value >= 0.9, "trivial": result.trivial, "control": control}

    def forced(one: Anatomy) -> float:
        return float(one.results["more_digits"].values.isel(problems=1)[1])

    shares = ", ".join(f"{forced(one):.2f}" for one in found)
    return _claim(
        "generalises_to_more_digits",
        f"A network with room for {found[0].task.n_digits + 1} digits, trained on {found[0].task.n_digits}, "
        f"adds {found[0].task.n_digits + 1} (forced, {shares} of its digits are right, by seed)",
        found, measure, of=(ROOMY,), within=(0.0, 1.0), control_kind="untrained network",
    )  # fmt: skip
