"""What is claimed of position encodings and lengths, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.seeds import claim_of_networks, learned, told
from mechinterp.studies.sortedness.anatomy import ENCODED, Anatomy
from mechinterp.studies.sortedness.lengths import FURTHER, FURTHEST, lengths_of
from mechinterp.studies.sortedness.networks import (
    BLIND,
    FREE,
    KINDS,
    LEARNED,
    RECIPES,
    SHUFFLED,
    SINES,
    named,
)
from mechinterp.studies.sortedness.why import (
    dense_training_helps,
    density_explains_decay,
    dilution_explains_decay,
    prefix_max_head_found,
)
from mechinterp.studies.withdrawn import withdraws
from mechinterp.training.recipes import SORTEDNESS

_claim = partial(claim_of_networks, within=(0.0, 1.0))
ABLE = tuple(name for name in ENCODED if name != BLIND)
"""Networks that can tell the order."""
MARGIN = 0.02
"""By which one of two accuracies is more than another."""
HOMEWORK = "a published homework, which reports about 50 % for three encodings"


@withdraws("sortedness")
def judge(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim, from one anatomy a seed."""
    return [
        all_learn_in_range(found),
        none_bidirectional_at_chance(found),
        none_causal_extrapolates(found),
        sinusoidal_extrapolates(found),
        linear_shift_used(found),
        learned_fails_beyond_range(found),
        best_encoding_at_256(found),
        random_shuffles_leak(found),
        prefix_max_head_found(found),
        density_explains_decay(found),
        dense_training_helps(found),
        dilution_explains_decay(found),
    ]


def all_learn_in_range(found: Sequence[Anatomy]) -> Claim:
    """The gate of all others."""

    def measure(one: Anatomy) -> dict[str, Any]:
        worst = min(one.scores[name] for name in ABLE)
        return {
            "value": worst, "theory": 1.0, "trivial": 0.5,
            "control": max(one.untrained[name] for name in ABLE), "holds": worst >= 0.995,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        short = [f"{name} {one.scores[name]:.3f}" for name in ABLE if one.scores[name] < 0.995]
        return ", ".join(short) or "none"

    shortest, longest = found[0].task.train_lengths
    return _claim(
        "all_learn_in_range",
        f"At the lengths of training, {shortest} to {longest}, every network that can tell the order is "
        f"right on at least 99.5 % of newly drawn pairs (the value is the worst of {len(ABLE)}; what is "
        "trained on drawn positions is asked at evenly spread ones; those that are not, by seed: "
        f"{'; '.join(map(said, found))})",
        found, measure, control_kind="untrained networks, the best",
    )  # fmt: skip


def none_bidirectional_at_chance(found: Sequence[Anatomy]) -> Claim:
    """A network that sees a bag of tokens."""

    def measure(one: Anatomy) -> dict[str, Any]:
        values = [one.at(BLIND, length) for length in one.task.test_lengths]
        furthest = max(values, key=lambda x: abs(x - 0.5))
        return {
            "value": furthest, "theory": 0.5, "trivial": 0.5, "control": one.scores[FREE],
            "holds": abs(furthest - 0.5) <= 0.01,
        }  # fmt: skip

    return _claim(
        "none_bidirectional_at_chance",
        "Without positions, and with sight of later tokens, a network sees the tokens as a bag, and is right "
        "in half of the cases at every length, as it must be by how pairs are made, however long it is "
        "trained (the value is the one furthest from that)",
        found, measure, of=(FREE,), control_kind="the same, causal, at the lengths of training",
    )  # fmt: skip


def _extrapolates(found: Sequence[Anatomy], id: str, network: str, statement: str, source: str) -> Claim:
    def measure(one: Anatomy) -> dict[str, Any]:
        value, before = one.at(network, one.far(FURTHER)), one.results["accuracy_by_length"].control
        return {
            "value": value, "trivial": 0.5,
            "control": float(before.sel(network=network, length=one.far(FURTHER))), "holds": value >= 0.95,
        }  # fmt: skip

    def at_end(one: Anatomy) -> str:
        return f"{one.at(network, one.far(FURTHEST)):.3f}"

    return _claim(
        id,
        f"{statement} at least 95 % at length {found[0].far(FURTHER)} (at {found[0].far(FURTHEST)} by seed "
        f"{told(found, at_end, (network,))})",
        found, measure, of=(network,), control_kind="untrained network", source=source,
    )  # fmt: skip


def none_causal_extrapolates(found: Sequence[Anatomy]) -> Claim:
    """Without positions the mechanism has no length."""
    return _extrapolates(
        found, "none_causal_extrapolates", FREE,
        "A causal network without positions goes on beyond the lengths of training: it is right on",
        "Kazemnejad et al. (2023)",
    )  # fmt: skip


def sinusoidal_extrapolates(found: Sequence[Anatomy]) -> Claim:
    """As the homework states; Press et al. (2022) find otherwise."""
    return _extrapolates(
        found, "sinusoidal_extrapolates", SINES,
        "A causal network with sinusoidal positions goes on beyond the lengths of training: it is right on",
        "expected by " + HOMEWORK,
    )  # fmt: skip


def linear_shift_used(found: Sequence[Anatomy]) -> Claim:
    """Why the homework expects sinusoidal positions to go on."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        if "position_moves" not in one.results or "shift_maps" not in one.results:
            return None
        moved = one.results["position_moves"]
        on = [str(move) for move in moved.values.move.values if str(move).endswith(" on")]
        worst = float(moved.values.sel(network=SINES, move=on).min())
        linear = float(one.results["shift_maps"].values.sel(table="sinusoidal").min())
        mixed = float(moved.control.sel(network=SINES))
        return {
            "value": worst, "trivial": 0.5, "control": mixed,
            "holds": worst >= max(0.95, mixed + 0.1) and linear >= 0.99,
        }  # fmt: skip

    return _claim(
        "linear_shift_used",
        "A shift of sinusoidal positions is a linear map (R² of at least .99), and the causal network goes "
        "by it: with all positions moved on within the range of training it is still right on 95 %, and with "
        "positions in a random order on at least 10 points less (the value is the worst move)",
        found, measure, of=(SINES,), control_kind="positions in a random order", source=HOMEWORK,
    )  # fmt: skip


def learned_fails_beyond_range(found: Sequence[Anatomy]) -> Claim:
    """The last vector stands for all later positions."""
    both = (LEARNED, named("learned", "bidirectional"))

    def measure(one: Anatomy) -> dict[str, Any]:
        lost = {name: one.lost_at(name, one.far(FURTHER)) / (one.scores[name] - 0.5) for name in both}
        least = min(lost, key=lambda name: lost[name])
        return {
            "value": lost[least], "trivial": 0.0,
            "control": one.lost_at(least, one.task.train_lengths[1]) / (one.scores[least] - 0.5),
            "holds": lost[least] > 0.5,
        }  # fmt: skip

    return _claim(
        "learned_fails_beyond_range",
        f"With learned positions, of which the last stands for all later ones, more than half of what there "
        f"is above chance is lost at length {found[0].far(FURTHER)}, in both directions (the "
        "value is the lesser share)",
        found, measure, of=both, within=(-np.inf, np.inf), control_kind="at the longest length of training",
        source=HOMEWORK,
    )  # fmt: skip


def best_encoding_at_256(found: Sequence[Anatomy]) -> Claim:
    """Encodings and directions, with and without sharper attention: the best at half of the longest length,
    on average over seeds, is asked at the longest."""
    choose, ask = ([*lengths_of(found[0].task)[-2:]] * 2)[:2]

    def values(one: Anatomy, length: int) -> dict[str, float]:
        result = one.results["accuracy_by_length"]
        cells = {"": result.values, ", attention sharper with log n": result.extra["log_n"]}
        return {
            name + said: float(cell.sel(network=name, length=length))
            for said, cell in cells.items()
            for name in ABLE
        }

    known = [name for name in ABLE if all(learned(one, (name,)) for one in found)]
    chosen = {
        name: np.mean([values(one, choose)[name] for one in found])
        for name in values(found[0], choose)
        if name.startswith(tuple(known))
    }
    ranked = sorted(chosen, key=lambda name: chosen[name], reverse=True)
    best_of = {name.split(", ")[0]: name for name in reversed(ranked)}  # of each encoding, chosen likewise
    best = ranked[0] if ranked else "none"
    trained = ", ".join(f"{name} {KINDS[name].recipe.steps:,}" for name in RECIPES)

    def measure(one: Anatomy) -> dict[str, Any] | None:
        at_end = values(one, ask)
        rivals = [at_end[name] for name in best_of.values() if name != best]
        if not rivals:
            return None
        rival = max(rivals)
        return {
            "value": at_end[best], "trivial": 0.5, "control": rival,
            "holds": at_end[best] >= 0.95 and at_end[best] >= rival + MARGIN,
        }  # fmt: skip

    return _claim(
        "best_encoding_at_256",
        f"At length {ask} the best network, chosen at {choose}, is right on at least 95 %, and by at least "
        f"{100 * MARGIN:.0f} points more often than that of any other encoding, chosen likewise: "
        f"{best} ({SORTEDNESS['fast'].steps:,} steps of training, but {trained}; left out, since in some "
        f"seed they did not learn: {', '.join(name for name in ABLE if name not in known) or 'none'})",
        found, measure, control_kind="the best of the others there",
    )  # fmt: skip


def random_shuffles_leak(found: Sequence[Anatomy]) -> Claim:
    """Why the published data could be fitted without knowing what sorted means."""
    view = "first and last token"

    def measure(one: Anatomy) -> dict[str, Any]:
        values = one.results["leaks_by_length"].values.sel(view=view)
        shuffled, matched = (values.sel(negatives=kind) for kind in ("shuffle", "adjacent"))
        worst = max(matched.values.tolist(), key=lambda x: abs(x - 0.5))
        return {
            "value": float(shuffled.min()), "trivial": 0.5, "control": worst,
            "holds": float(shuffled.min()) >= 0.9 and abs(worst - 0.5) <= 0.05,
        }  # fmt: skip

    longest = found[0].task.train_lengths[1]

    def said(one: Anatomy) -> str:
        return f"{one.scores[SHUFFLED]:.3f} and {one.at(SHUFFLED, longest):.3f}"

    return _claim(
        "random_shuffles_leak",
        "Random orders are told from sorted ones by their first and last token alone, in at least 90 % of "
        "cases at every length (the value is the least), and pairs that differ in two neighbours are not, as "
        f"they cannot be (a network trained on random orders is right on those, and on such pairs of "
        f"{longest} tokens, in {told(found, said, (SHUFFLED,))}, by seed)",
        found, measure, control_kind="pairs that differ in two neighbours", source="the data of " + HOMEWORK,
    )  # fmt: skip
