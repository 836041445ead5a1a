"""What is claimed of networks trained on a language, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mechinterp.automata import is_aperiodic
from mechinterp.result import Claim, Result
from mechinterp.studies.base import Measure, claim_over_seeds
from mechinterp.studies.regex_language.anatomy import Anatomy
from mechinterp.studies.withdrawn import withdraws

PUBLISHED = "the published comparison of value matrices with a construction"
LIU = "after Liu et al. (2023), Transformers Learn Shortcuts to Automata"
NULL = "random automata of the same size"


@withdraws("regex-language")
def judge(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim about one pattern, from one anatomy a seed."""
    return [
        classifies(found),
        predicts_tokens(found),
        states_linearly_readable(found),
        states_cause_the_answer(found),
        weights_match(found, "raw_transitions"),
        weights_match(found, "state_transitions"),
        generalises_in_length(found),
        shortcut_or_simulation(found),
    ]


def _claim(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Measure,
    *,
    control_kind: str,
    source: str,
    gated: bool = True,
    least: float = 0.0,
) -> Claim:
    """As ``claim_over_seeds``; ``gated`` leaves out networks that did not learn, and values are at most 1."""
    return claim_over_seeds(
        id, statement, found, measure, learned=lambda one: one.gate.learned or not gated,
        within=(least, 1.0), control_kind=control_kind, source=source,
    )  # fmt: skip


def classifies(found: Sequence[Anatomy]) -> Claim:
    """The gate itself."""
    return _claim(
        "classifies",
        "At least 99 % of prefixes of unseen words get their class right, with at most half of the errors "
        "of the best constant answer (whole words: "
        f"{np.mean([one.measures['string_acc'] for one in found]):.1%})",
        found,
        lambda one: {
            "value": one.measures["class_acc"],
            "holds": one.gate.learned,
            "trivial": one.gate.trivial,
            "control": one.untrained["class_acc"],
        },
        gated=False,
        control_kind="untrained network",
        source=PUBLISHED,
    )


def predicts_tokens(found: Sequence[Anatomy]) -> Claim:
    """Measured against what can be known."""
    ceiling = found[0].measures["token_ceiling"]
    return _claim(
        "predicts_tokens",
        "Guesses of the next symbol are right, on average, at least 99 % as often as the best possible ones, "
        f"which are right {ceiling:.1%} of the time",
        found,
        lambda one: {
            "value": one.measures["token_share"],
            "holds": one.measures["token_share"] >= 0.99,
            "control": one.untrained["token_share"],
        },
        gated=False,
        control_kind="untrained network",
        source=PUBLISHED,
    )


def states_linearly_readable(found: Sequence[Anatomy]) -> Claim:
    """More than an untrained network, and more than the bare symbol, gives away."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        if (result := one.results.get("logistic_probe")) is None or result.interval is None:
            return None
        control = max(float(result.extra[name].max()) for name in ("untrained", "raw_input"))
        value, low = float(result.values.max()), result.interval[0]
        holds = value >= 0.95 and low is not None and low > control
        return {"value": value, "holds": holds, "trivial": result.trivial, "control": control}

    return _claim(
        "states_linearly_readable",
        "A linear probe reads the automaton's state from the last stream of unseen words at least 95 % of "
        "the time, and more often than from an untrained network's, or from the bare symbol",
        found,
        measure,
        control_kind="the better of untrained network and bare symbol",
        source="Alain & Bengio (2017); controls ours",
    )


def states_cause_the_answer(found: Sequence[Anatomy]) -> Claim:
    """Swapped states: the answer at the place."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        result = one.results.get("state_swap")
        if result is None or 0 not in result.values.later:
            return None
        numbers = (result.values, result.control, result.extra["p"], result.extra["intact"])
        value, control, p, intact = (float(x.sel(later=0)) for x in numbers)
        return {"value": value, "holds": value >= 0.9 and p < 0.05, "trivial": intact, "control": control}

    return _claim(
        "states_cause_the_answer",
        "With another state's direction put in the stream, at least 90 % of answers there are that "
        "state's, and more than with a third state's (p < 0.05)",
        found,
        measure,
        control_kind=_swap_control(found),
        source=LIU,
    )


def shortcut_or_simulation(found: Sequence[Anatomy]) -> Claim:
    """Swapped states: the answers after it."""
    layers = found[0].trained.options.n_layers

    def measure(one: Anatomy) -> dict[str, Any] | None:
        result = one.results.get("state_swap")
        if layers == 1 or result is None or "after" not in result.extra:
            return None  # after the only layer nothing can carry a state on
        value, control, p = (float(x) for x in result.extra["after"])
        return {"value": value, "holds": value >= 0.5 and p < 0.05, "trivial": 0.0, "control": control}

    kind = "is" if is_aperiodic(found[0].trained.task.dfa) else "is not"
    only = "; after the only layer nothing can, so that it is not asked" if layers == 1 else ""
    return _claim(
        "shortcut_or_simulation",
        f"A state put in after layer 1 of {layers} is carried on, as by a simulation: most later answers "
        f"follow it, and do not come from the word again, as by a shortcut (the language {kind} star-free"
        f"{only})",
        found,
        measure,
        control_kind=_swap_control(found),
        source=LIU,
    )


def _swap_control(found: Sequence[Anatomy]) -> str:
    swaps = [one.results["state_swap"] for one in found if "state_swap" in one.results]
    return swaps[0].control_kind if swaps else "a third state's direction"


_BASES = {
    "raw_transitions": ("weights_match_raw", "Heads' value circuits, entry by entry,", PUBLISHED),
    "state_transitions": (
        "weights_match_state_basis",
        "In the basis of states, heads' value circuits, each beside the symbol it fits best,",
        "ours",
    ),
}


def weights_match(found: Sequence[Anatomy], name: str) -> Claim:
    """Raw, as published, or in a basis that means something."""
    id, what, source = _BASES[name]
    results = [one.results[name] for one in found if name in one.results and one.gate.learned]
    return _claim(
        id,
        f"{what} are like the transition matrices of symbols: cosine at least 0.5, more than untrained, "
        f"beyond {NULL} (p < 0.05) and relabelled states (p < 0.05, or the best where there are fewer than "
        "20)" + _rotations(results),
        found,
        lambda one: _matched(one.results.get(name)),
        least=-1.0,
        control_kind=NULL,
        source=source,
    )


def _matched(result: Result | None) -> dict[str, Any] | None:
    """``None`` also where not even a perfect match would be beyond the null."""
    if result is None or float(result.extra["least_p"].sel(null="random automata")) >= 0.05:
        return None
    value, control = (float(x.sel(head="all")) for x in (result.values, result.control))
    untrained = float(result.extra["untrained"].sel(measure="cosine", head="all"))
    p = result.extra["p"].sel(measure="cosine", head="all")
    beyond = float(p.sel(null="random automata")) < 0.05
    least = float(result.extra["least_p"].sel(null="relabelled states"))
    relabelled = float(p.sel(null="relabelled states"))
    if least < 1:  # else the states have no other names
        beyond = beyond and (relabelled < 0.05 if least < 0.05 else relabelled <= least + 1e-9)
    holds = value >= 0.5 and not untrained >= value and beyond
    return {"value": value, "holds": holds, "trivial": 0.0, "control": control}


def _rotations(results: Sequence[Result]) -> str:
    rotated = [x.extra["rotated"].sel(measure="cosine", head="all") for x in results if "rotated" in x.extra]
    if not rotated:
        return ""
    low, high = (float(np.mean([end(x) for x in rotated])) for end in (np.min, np.max))
    return f"; the same function in a rotated stream has {low:.2f} to {high:.2f}"


def generalises_in_length(found: Sequence[Anatomy]) -> Claim:
    """Words of up to twice the length."""
    longest = found[0].trained.task.max_len

    def measure(one: Anatomy) -> dict[str, Any] | None:
        if not one.longer or one.longer["trivial"] == 1:
            return None
        value, trivial = one.longer["trained"], one.longer["trivial"]
        holds = value >= 0.99 and 1 - value <= (1 - trivial) / 2
        return {"value": value, "holds": holds, "trivial": trivial, "control": one.longer["untrained"]}

    return _claim(
        "generalises_in_length",
        f"At least 99 % of prefixes of words of {longest + 1} to {2 * longest} symbols get their class right "
        f"(trained on up to {longest}), with at most half of the errors of the best constant answer",
        found,
        measure,
        control_kind="untrained network",
        source="ours",
    )
