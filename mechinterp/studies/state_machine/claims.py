"""What is claimed of networks with codebooks that follow machines, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.seeds import claim_of_networks, learned, told
from mechinterp.studies.state_machine.anatomy import WINDOW, Anatomy
from mechinterp.studies.state_machine.networks import (
    ANNEALED,
    FREE,
    MESS3,
    ONE_CODE,
    PUBLISHED,
    SHARED,
    SHARED_FREE,
    SOFT,
    WARM,
)
from mechinterp.studies.withdrawn import withdraws

_claim = partial(claim_of_networks, within=(0.0, 1.0))
TAMKIN = "Tamkin et al. (2024)"
SHAI = "Shai et al. (2024)"
SHUFFLED = "states of other sequences"
TOKENS = f"last {WINDOW} tokens"


@withdraws("state-machine")
def judge(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim, from one anatomy a seed."""
    return [
        predicts_at_ceiling(found),
        codes_align_with_states(found),
        alignment_beats_null(found),
        annealing_helps(found),
        codes_cause_the_prediction(found),
        bottleneck_costs_little(found),
        tracks_hidden_state_when_ambiguous(found),
        belief_geometry(found),
    ]


def share_of_ceiling(one: Anatomy, network: str, scores: Mapping[str, float] | None = None) -> float:
    """The score over the best predictor's."""
    return (one.scores if scores is None else scores)[network] / one.networks[network].task.ceiling


def at_chosen(one: Anatomy, name: str, measure: str, extra: str | None = None) -> float:
    """A measure of alignment at the site that was chosen on other sequences."""
    result = one.results[name]
    array = result.values if extra is None else result.extra[extra]
    return float(array.sel(site=one.chosen[name], measure=measure))


def predicts_at_ceiling(found: Sequence[Anatomy]) -> Claim:
    """The gate of what is said of disjoint tokens."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value, task = share_of_ceiling(one, ONE_CODE), one.networks[ONE_CODE].task
        return {
            "value": value, "theory": 1.0, "trivial": task.trivial / task.ceiling,
            "control": share_of_ceiling(one, ONE_CODE, one.untrained),
            "holds": min(value, share_of_ceiling(one, PUBLISHED)) >= 0.99,
        }  # fmt: skip

    four = ", ".join(f"{share_of_ceiling(one, PUBLISHED):.4f}" for one in found)
    return _claim(
        "predicts_at_ceiling",
        f"Where every state has tokens of its own, so that the state is the last token and at best "
        f"{found[0].task.ceiling:.3g} of next tokens can be known, networks with codebooks reach at least 99 "
        f"% of that (with 4 codes, as published, by seed {four})",
        found, measure, control_kind="untrained network",
    )  # fmt: skip


def codes_align_with_states(found: Sequence[Anatomy]) -> Claim:
    """One code at a time, states with tokens of their own."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = at_chosen(one, "code_alignment", "ami")
        return {
            "value": value, "theory": 1.0, "trivial": 0.0,
            "control": float(one.results["code_alignment"].control.sel(
                site=one.chosen["code_alignment"], measure="ami"
            )),
            "holds": value >= 0.95,
        }  # fmt: skip

    sites = told(found, lambda one: one.chosen["code_alignment"], (ONE_CODE,))
    return _claim(
        "codes_align_with_states",
        "With one code at a time and tokens of their own, codes become states: adjusted mutual information "
        f"of at least .95 at a site chosen on other sequences ({sites}, by seed)",
        found, measure, of=(ONE_CODE,), control_kind=SHUFFLED, source=TAMKIN,
    )  # fmt: skip


def alignment_beats_null(found: Sequence[Anatomy]) -> Claim:
    """Four codes at a time, as published: purity beside its nulls."""
    name = "code_alignment_published"

    def measure(one: Anatomy) -> dict[str, Any]:
        value, null = (at_chosen(one, name, "purity", extra) for extra in (None, "null_high"))
        before = float(one.results[name].extra["untrained"].sel(measure="purity").max())
        return {
            "value": value, "trivial": 1 / one.task.n_states, "control": before,
            "holds": value > null and value >= before + 0.1,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        return f"{at_chosen(one, name, 'purity', 'null_high'):.2f} and {at_chosen(one, name, 'ami'):.2f}"

    seen = told(found, said, (PUBLISHED,))
    return _claim(
        "alignment_beats_null",
        "With four codes at a time, as published, purity is above 95 % of states of other sequences, and "
        "by at least .1 above the best site of the untrained network, whose codes are of tokens and so of "
        f"states too (95 % of other sequences' states, and adjusted mutual information, by seed {seen})",
        found, measure, of=(PUBLISHED,), control_kind="untrained network, its best site",
        source="the published notebook reports purity alone",
    )  # fmt: skip


def annealing_helps(found: Sequence[Anatomy]) -> Claim:
    """Where the state must be followed: the better of two annealed networks, of one code and of softmaxes,
    against the better of two whose temperature stays; those that did not learn are left out."""
    arms = {
        ANNEALED: "code_alignment_annealed", SOFT: "code_alignment_soft",
        SHARED: "code_alignment_shared", WARM: "code_alignment_warm",
    }  # fmt: skip

    def measure(one: Anatomy) -> dict[str, Any] | None:
        fell, stayed = (
            [of for of in pair if learned(one, (of,))] for pair in ((ANNEALED, SOFT), (SHARED, WARM))
        )
        if not fell or not stayed:
            return None
        best, other = (max(at_chosen(one, arms[of], "ami") for of in side) for side in (fell, stayed))
        untrained = [one.results[arms[of]].extra["untrained"].sel(measure="ami") for of in fell]
        return {
            "value": best - other, "trivial": 0.0, "holds": best - other >= 0.02,
            "control": best - max(float(values.max()) for values in untrained),
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        return ", ".join(
            f"{at_chosen(one, name, 'ami'):.2f} at {share_of_ceiling(one, of):.0%}"
            + ("" if learned(one, (of,)) else ", left out")
            for of, name in arms.items()
        )

    seen = "; ".join(map(said, found))
    return _claim(
        "annealing_helps",
        "With shared tokens, codes of a network whose temperature falls in training align better with "
        "states, by at least .02 of adjusted mutual information, than those of networks whose temperature "
        "stays, of those that learned (one code, annealed; softmaxes, annealed; one code, low from the "
        f"start; softmaxes, not annealed; each with its share of the ceiling, by seed: {seen})",
        found, measure, within=(-1.0, 1.0), control_kind="gain over the untrained networks",
    )  # fmt: skip


def codes_cause_the_prediction(found: Sequence[Anatomy]) -> Claim:
    """Codes of another state put in the place of the active ones."""
    names = ("code_steering_shared", "code_steering")

    def success(one: Anatomy, name: str, of: str) -> float:
        return float(one.results[name].extra["success"].sel(of=of)[-1])

    def measure(one: Anatomy) -> dict[str, Any]:
        own, others = ([success(one, name, of) for name in names] for of in ("codes", "another state's"))
        random = max(success(one, name, "random") for name in names)
        p = max(float(one.results[name].extra["p_adjusted"][-1]) for name in names)
        return {
            "value": own[0], "trivial": one.results[names[0]].trivial, "control": others[0],
            "holds": min(own) >= 0.9 and max(*others, random) <= 2 / one.task.n_states and p <= 0.05,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        single = [float(one.results[name].extra["success"].sel(of="codes")[:-1].max()) for name in names]
        return ", ".join(
            f"{x:.2f}" for x in (success(one, names[0], "random"), success(one, names[1], "codes"), *single)
        )

    seen = told(found, said, (SHARED, ONE_CODE))
    return _claim(
        "codes_cause_the_prediction",
        "With shared tokens, once the codes of another state are active at all sites of the last token, the "
        "next token is predicted as in that state in at least 90 % of cases, and likewise with tokens of "
        "their own; with codes of a third state, or random ones, at most twice as often as one state in all "
        "(random codes; codes with tokens of their own; the site that does most alone, with shared and with "
        f"own tokens, by seed: {seen})",
        found, measure, of=(SHARED, ONE_CODE), control_kind="codes of a third state", source=TAMKIN,
    )  # fmt: skip


def bottleneck_costs_little(found: Sequence[Anatomy]) -> Claim:
    """The same network with and without codebooks."""

    def measure(one: Anatomy) -> dict[str, Any]:
        pairs = ((SHARED, SHARED_FREE), (ONE_CODE, FREE))
        costs = [share_of_ceiling(one, free) - share_of_ceiling(one, with_) for with_, free in pairs]
        return {
            "value": costs[0], "trivial": 0.0,
            "control": share_of_ceiling(one, SHARED_FREE) - share_of_ceiling(one, SHARED, one.untrained),
            "holds": max(costs) <= 0.02,
        }  # fmt: skip

    return _claim(
        "bottleneck_costs_little",
        "With codebooks the share of the ceiling that is reached is at most 2 points lower than without, "
        "with shared tokens (the value) and with tokens of their own",
        found, measure, of=(SHARED_FREE, FREE), within=(-1.0, 1.0),
        control_kind="cost of not training at all", source=TAMKIN,
    )  # fmt: skip


def tracks_hidden_state_when_ambiguous(found: Sequence[Anatomy]) -> Claim:
    """Shared tokens: one token does not tell the state."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value, task = share_of_ceiling(one, SHARED), one.networks[SHARED].task
        return {
            "value": value, "theory": 1.0, "trivial": task.trivial / task.ceiling,
            "control": float(task.machine.optimum(1).accuracy[0]) / task.ceiling,
            "holds": value >= 0.98 and at_chosen(one, "code_alignment_shared", "ami") >= 0.9,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        name = "code_alignment_shared"
        return f"{at_chosen(one, name, 'ami'):.3f} at {one.chosen[name]}"

    aligned = "; ".join(map(said, found))
    return _claim(
        "tracks_hidden_state_when_ambiguous",
        "With shared tokens, where one token leaves the state open, a network with one code at a time "
        "predicts at least 98 % of what the best predictor does, and at a site chosen on other sequences the "
        "code has adjusted mutual information of at least .9 with the state once that is known (by seed "
        f"{aligned})",
        found, measure, control_kind="best predictor from the last token",
    )  # fmt: skip


def belief_geometry(found: Sequence[Anatomy]) -> Claim:
    """Where the state is never known for sure."""

    def read(one: Anatomy, hook: str, extra: str | None = None) -> float:
        result = one.results["simplex_probe"]
        values = result.values if extra is None else result.extra[extra]
        return float(np.ravel(values.sel(hook=hook))[0])

    def measure(one: Anatomy) -> dict[str, Any]:
        last = f"blocks.{len(one.networks[MESS3].model.blocks) - 1}.hook_resid_post"
        value, before, window = read(one, last), read(one, last, "untrained"), read(one, TOKENS)
        return {
            "value": value, "trivial": 0.0, "control": window,
            "holds": value >= 0.95 and 1 - value <= (1 - max(before, window)) / 2,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        last = f"blocks.{len(one.networks[MESS3].model.blocks) - 1}.hook_resid_post"
        return f"{read(one, 'hook_embed'):.3f} and {read(one, last, 'untrained'):.3f}"

    seen = told(found, said, (MESS3,))
    return _claim(
        "belief_geometry",
        "Where the state stays uncertain (mess3), beliefs are read linearly off the stream after the last "
        "layer with R² of at least .95, and at most half as much is missed as by a linear reader of the last "
        f"{WINDOW} tokens, and by one of the untrained network (of the last token alone, and of the "
        f"untrained network, by seed {seen})",
        found, measure, of=(MESS3,), within=(-np.inf, 1.0), control_kind=f"read off the {TOKENS}",
        source=SHAI,
    )  # fmt: skip
