"""What is claimed of networks trained on a language, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mechinterp.analysis.statistics import seeds_interval
from mechinterp.automata import is_aperiodic
from mechinterp.result import Claim, Result, verdict
from mechinterp.studies.regex_language.anatomy import Anatomy

OURS = "ours"
PUBLISHED = "the published comparison of value matrices with a construction"
LIU = "Liu et al. (2023), Transformers Learn Shortcuts to Automata"
NULL = "random automata of the same size"


def claims(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim about one pattern, from one anatomy a seed."""
    table = [
        classifies(found), predicts_tokens(found), states_linearly_readable(found),
        *states_swapped(found), *weights_match(found), generalises_in_length(found),
    ]  # fmt: skip
    order = ("classifies", "predicts_tokens", "states_linearly_readable", "states_cause_the_answer")
    rest = (
        "weights_match_raw",
        "weights_match_state_basis",
        "generalises_in_length",
        "shortcut_or_simulation",
    )
    return sorted(table, key=lambda claim: (*order, *rest).index(claim.id))


def _claim(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Callable[[Anatomy], dict[str, Any]],
    *,
    gated: bool = True,
    least: float = 0.0,
    control_kind: str,
    source: str,
) -> Claim:
    """A claim that holds if it does for every seed whose network learned.

    Args:
        measure: ``value``, ``holds``, and where there are such ``trivial`` and ``control``.
        least: what the value cannot be below; it cannot be above 1.
    """
    those = [one for one in found if one.gate.learned or not gated]
    numbers = [measure(one) for one in those]
    numbers = [each for each in numbers if each["value"] is not None]

    def middle(key: str) -> float | None:
        known = [each[key] for each in numbers if each.get(key) is not None]
        return float(np.mean(known)) if known else None

    values = [float(each["value"]) for each in numbers]
    return Claim(
        id=id,
        statement=statement,
        value=middle("value"),
        trivial=middle("trivial"),
        control=middle("control"),
        control_kind=control_kind,
        interval=_within(seeds_interval(values), least) if len(values) > 1 else None,
        interval_over=f"the mean over {len(values)} of {len(found)} seeds"
        + (" whose network learned" if gated else ""),
        verdict=verdict(all(each["holds"] for each in numbers), bool(numbers)),
        source=source,
    )


def _within(interval: tuple[float, float], least: float) -> tuple[float, float]:
    return max(least, interval[0]), min(1.0, interval[1])


def classifies(found: Sequence[Anatomy]) -> Claim:
    """The gate itself."""
    return _claim(
        "classifies",
        f"At least 99 % of prefixes of unseen words get their class right (whole words: "
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
    """More than any network, and more than the symbol, gives away."""

    def measure(one: Anatomy) -> dict[str, Any]:
        result = one.results["state_probe"]
        best = result.values.isel(position=0).argmax("hook")
        value = float(result.values.isel(position=0, hook=best))
        control = float(result.extra["untrained"].isel(position=0, hook=best))
        return {
            "value": value,
            "holds": value >= 0.95 and result.interval is not None and result.interval[0] > control,
            "trivial": result.trivial,
            "control": control,
        }

    return _claim(
        "states_linearly_readable",
        "A linear probe reads the automaton's state from the stream of unseen words at least 95 % of the "
        "time, and more often than from an untrained network's",
        found,
        measure,
        control_kind="untrained network",
        source="Alain & Bengio (2017); controls ours",
    )


def states_swapped(found: Sequence[Anatomy]) -> list[Claim]:
    """Swapped states: the answer at the place, and the answers after it."""

    def at_once(one: Anatomy) -> dict[str, Any]:
        return _swap(one.results.get("state_swap"), lambda later: later == 0, 0.9)

    def afterwards(one: Anatomy) -> dict[str, Any]:
        return _swap(one.results.get("state_swap"), lambda later: later > 0, 0.5)

    dfa, layers = found[0].trained.task.dfa, found[0].trained.options.n_layers
    kind = "is" if is_aperiodic(dfa) else "is not"
    more = {"control_kind": "a third state's direction", "source": f"{OURS}; after {LIU}"}
    return [
        _claim(
            "states_cause_the_answer",
            "With another state's direction put in the stream, at least 90 % of answers there are that "
            "state's",
            found,
            at_once,
            **more,
        ),
        _claim(
            "shortcut_or_simulation",
            f"A state put in after layer 1 of {layers} is carried on, as by a simulation: most later "
            "answers follow it. Where they do not, each is worked out from the word again, a shortcut "
            f"(the language {kind} star-free)",
            found,
            afterwards,
            **more,
        ),
    ]


def _swap(result: Result | None, which: Callable[[Any], Any], least: float) -> dict[str, Any]:
    later = None if result is None else result.values.later[which(result.values.later)]
    if result is None or not len(later):
        return {"value": None, "holds": False}
    value, control = (float(x.sel(later=later).mean()) for x in (result.values, result.control))
    p = float(result.extra["p"].sel(later=later).min())
    trivial = float(result.extra["intact"].sel(later=later).mean())
    return {"value": value, "holds": value >= least and p < 0.05, "trivial": trivial, "control": control}


def weights_match(found: Sequence[Anatomy]) -> list[Claim]:
    """Raw, as published, and in a basis that means something."""

    def measure(name: str) -> Callable[[Anatomy], dict[str, Any]]:
        def of(one: Anatomy) -> dict[str, Any]:
            result = one.results[name]
            value, control = (float(x.sel(head="all")) for x in (result.values, result.control))
            untrained = float(result.extra["untrained"].sel(measure="cosine", head="all"))
            p, n = (result.extra[name] for name in ("p", "n_null"))
            least = np.maximum(
                0.05, 1 / (n + 1)
            )  # of few states there are few relabellings: it must beat them all
            beyond = (p.sel(measure="cosine", head="all") <= least) | (n == 0)
            holds = bool(beyond.all()) and value > untrained
            return {"value": value, "holds": holds, "trivial": 0.0, "control": control}

        return of

    rotated = [
        one.results["raw_transitions"].extra["rotated"].sel(measure="cosine", head="all") for one in found
    ]
    low, high = (float(np.mean([f(x) for x in rotated])) for f in (np.min, np.max))
    return [
        _claim(
            "weights_match_raw",
            "Heads' value circuits are like the transition matrices of symbols, entry by entry (cosine), "
            f"beyond relabelled states, {NULL} (p < 0.05) and the untrained network; the same function in "
            f"a rotated stream has {low:.2f} to {high:.2f}",
            found,
            measure("raw_transitions"),
            least=-1.0,
            control_kind=NULL,
            source=PUBLISHED,
        ),
        _claim(
            "weights_match_state_basis",
            "In the basis of states, heads matched to symbols, they are (cosine), beyond relabelled states, "
            f"{NULL} (p < 0.05) and the untrained network",
            found,
            measure("state_transitions"),
            least=-1.0,
            control_kind=NULL,
            source=OURS,
        ),
    ]


def generalises_in_length(found: Sequence[Anatomy]) -> Claim:
    """Words of up to twice the length."""
    longest = found[0].trained.task.max_len
    return _claim(
        "generalises_in_length",
        f"At least 99 % of prefixes of words of {longest + 1} to {2 * longest} symbols get their class right "
        f"(trained on up to {longest})",
        found,
        lambda one: {
            "value": one.longer["class_acc"],
            "holds": one.longer["class_acc"] >= 0.99,
            "trivial": one.trivial_longer,
            "control": one.untrained_longer,
        },
        control_kind="untrained network",
        source=OURS,
    )
