"""What is claimed of position encodings and lengths, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mechinterp.result import Claim, Result
from mechinterp.studies.networks import claim_of_networks, told
from mechinterp.studies.sortedness.anatomy import ENCODED, Anatomy
from mechinterp.studies.sortedness.networks import BLIND, DENSE, FREE, LEARNED, SHUFFLED, SINES, named

_claim = partial(claim_of_networks, within=(0.0, 1.0))
ABLE = tuple(name for name in ENCODED if name != BLIND)
"""Networks that can tell the order."""
FURTHER, FURTHEST = 4, 16
"""How many times the longest length of training is asked for."""
HOMEWORK = "a published homework, which reports about 50 % for three encodings"


def judge(found: Sequence[Anatomy]) -> list[Claim]:
    """Every claim, from one anatomy a seed."""
    return [
        all_learn_in_range(found),
        none_bidirectional_at_chance(found),
        none_causal_extrapolates(found),
        sinusoidal_extrapolates(found),
        learned_fails_beyond_range(found),
        best_encoding_at_256(found),
        random_shuffles_leak(found),
        prefix_max_head_found(found),
        dilution_explains_decay(found),
    ]


def far(one: Anatomy, times: int) -> int:
    """The length asked for that comes nearest to so many times the longest of training."""
    return min(one.task.test_lengths, key=lambda length: abs(length - times * one.task.train_lengths[1]))


def all_learn_in_range(found: Sequence[Anatomy]) -> Claim:
    """The gate of all others."""

    def measure(one: Anatomy) -> dict[str, Any]:
        worst = min(one.scores[name] for name in ABLE)
        return {
            "value": worst, "theory": 1.0, "trivial": 0.5,
            "control": max(one.untrained[name] for name in ABLE), "holds": worst >= 0.995,
        }  # fmt: skip

    least = ", ".join(min(ABLE, key=lambda name, one=one: one.scores[name]) for one in found)
    shortest, longest = found[0].task.train_lengths
    return _claim(
        "all_learn_in_range",
        f"At the lengths of training, {shortest} to {longest}, every network that can tell the order is "
        f"right on at least 99.5 % of held-out pairs (the value is the worst of {len(ABLE)}: by "
        f"seed {least})",
        found, measure, control_kind="untrained networks, the best",
    )  # fmt: skip


def none_bidirectional_at_chance(found: Sequence[Anatomy]) -> Claim:
    """A network that sees a bag of tokens."""

    def measure(one: Anatomy) -> dict[str, Any]:
        values = [one.at(BLIND, length) for length in one.task.test_lengths]
        furthest = max(values, key=lambda x: abs(x - 0.5))
        return {
            "value": furthest, "theory": 0.5, "trivial": 0.5,
            "control": one.at(FREE, one.task.train_lengths[1]), "holds": abs(furthest - 0.5) <= 0.01,
        }  # fmt: skip

    return _claim(
        "none_bidirectional_at_chance",
        "Without positions, and with sight of later tokens, a network sees the tokens as a bag, and is right "
        "in half of the cases at every length (the value is the one furthest from that)",
        found, measure, control_kind="the same, causal, at the longest length of training",
    )  # fmt: skip


def _extrapolates(found: Sequence[Anatomy], id: str, network: str, statement: str, source: str) -> Claim:
    def measure(one: Anatomy) -> dict[str, Any]:
        value = one.at(network, far(one, FURTHER))
        return {
            "value": value, "trivial": 0.5,
            "control": float(one.results["accuracy_by_length"].control.sel(
                network=network, length=far(one, FURTHER)
            )),
            "holds": value >= 0.95,
        }  # fmt: skip

    longest = max(found[0].task.test_lengths)
    at_end = told(found, lambda one: f"{one.at(network, longest):.3f}", (network,))
    return _claim(
        id, f"{statement} at least 95 % at length {far(found[0], FURTHER)} (at {longest} by seed {at_end})",
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
        "Since a shift of sinusoidal positions is a linear map, a causal network with them goes on beyond "
        "the lengths of training, too: it is right on",
        HOMEWORK,
    )  # fmt: skip


def learned_fails_beyond_range(found: Sequence[Anatomy]) -> Claim:
    """The last vector stands for all later positions."""

    def measure(one: Anatomy) -> dict[str, Any]:
        at = far(one, FURTHER)
        values = [one.at(named("learned", way), at) for way in ("causal", "bidirectional")]
        return {
            "value": max(values), "trivial": 0.5, "control": one.scores[LEARNED],
            "holds": max(values) <= 0.75,
        }  # fmt: skip

    return _claim(
        "learned_fails_beyond_range",
        f"With learned positions, of which the last stands for all later ones, more than half of what there "
        f"is above chance is lost at length {far(found[0], FURTHER)}, in both directions (the "
        "value is the better)",
        found, measure, of=(LEARNED, named("learned", "bidirectional")),
        control_kind="at the lengths of training", source=HOMEWORK,
    )  # fmt: skip


def best_encoding_at_256(found: Sequence[Anatomy]) -> Claim:
    """The best at half of the longest length, on average over seeds, is asked at the longest."""
    lengths = sorted(found[0].task.test_lengths)
    choose, ask = lengths[-2:] if len(lengths) > 1 else lengths * 2

    def values(one: Anatomy, length: int) -> dict[str, float]:
        result = one.results["accuracy_by_length"]
        cells = {"": result.values, ", attention sharper with log n": result.extra["log_n"]}
        return {
            name + said: float(cell.sel(network=name, length=length))
            for said, cell in cells.items()
            for name in (*ABLE, DENSE)
        }

    chosen = {
        name: np.mean([values(one, choose)[name] for one in found]) for name in values(found[0], choose)
    }
    ranked = sorted(chosen, key=lambda name: chosen[name], reverse=True)
    best = ranked[0]
    network = max((name for name in (*ABLE, DENSE) if best.startswith(name)), key=len)
    other = next(name for name in ranked if name.split(",")[:2] != best.split(",")[:2])

    def measure(one: Anatomy) -> dict[str, Any]:
        at_end = values(one, ask)
        return {
            "value": at_end[best],
            "trivial": 0.5,
            "control": at_end[other],
            "holds": at_end[best] >= 0.95,
        }

    return _claim(
        "best_encoding_at_256",
        f"At length {ask} the best network, chosen at {choose}, is right on at least 95 %: {best}",
        found, measure, of=(network,), control_kind=f"the next best encoding: {other}",
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
    trained = "; ".join(f"{one.at(SHUFFLED, longest):.3f} at {longest}" for one in found)
    return _claim(
        "random_shuffles_leak",
        "Random orders are told from sorted ones by their first and last token alone, in at least 90 % of "
        "cases at every length (the value is the least), and pairs that differ in two neighbours are not (a "
        f"network trained on random orders is right on those pairs in {trained}, by seed)",
        found, measure, control_kind="pairs that differ in two neighbours", source="the data of " + HOMEWORK,
    )  # fmt: skip


def best_head(match: Result) -> int:
    """The head of the first layer that is furthest above its null."""
    return int(np.argmax((match.values - match.control).values[0]))


def prefix_max_head_found(found: Sequence[Anatomy]) -> Claim:
    """The mechanism of the hand-built network, in the trained one."""

    def measure(one: Anatomy) -> dict[str, Any]:
        match, lost = one.results["prefix_max_match"], one.results["prefix_max_ablation"]
        first, head = match.values[0], best_head(match)
        p = float(match.extra["p_adjusted"][0, head])
        fall = lost.trivial - float(lost.values[0, head])
        return {
            "value": float(first[head]), "theory": 1.0, "trivial": match.trivial,
            "control": float(match.control[0, head]),
            "holds": float(first[head]) >= 0.5 and p <= 0.05 and fall >= 0.05,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        match, lost = one.results["prefix_max_match"], one.results["prefix_max_ablation"]
        head, untrained = best_head(match), float(match.extra["untrained"][0].max())
        at_fall = float(one.results["prefix_max_at_fall"].values[0].max())
        return f"L0H{head}, {float(lost.values[0, head]):.3f}, {untrained:.2f}, {at_fall:.2f}"

    return _claim(
        "prefix_max_head_found",
        "The causal network without positions has a head in its first layer that gives, in random sequences, "
        "at least half of its attention to the largest token so far, more than if tokens changed places, and "
        "whose resample ablation costs at least 5 points (head, accuracy without it, best head of the "
        "untrained network, and what the best head gives it at the fall of the task's own sequences, by "
        f"seed: {told(found, said, (FREE,))})",
        found, measure, of=(FREE,), control_kind="largest tokens of other orders",
        source="ours; hand-built in constructions.sortedness",
    )  # fmt: skip


def recovered(one: Anatomy, network: str) -> float:
    """The share of the accuracy lost at the furthest length that sharper attention brings back."""
    longest, asked = one.task.train_lengths[1], far(one, FURTHEST)
    result = one.results["accuracy_by_length"]
    lost = one.scores[network] - one.at(network, asked)
    gained = float(result.extra["log_n"].sel(network=network, length=asked)) - one.at(network, asked)
    assert longest < asked
    return gained / max(lost, 1e-9)


def dilution_explains_decay(found: Sequence[Anatomy]) -> Claim:
    """Attention spread over more keys, and made sharper by just as much."""

    def measure(one: Anatomy) -> dict[str, Any]:
        value = recovered(one, FREE)
        return {
            "value": value, "trivial": 0.0, "control": recovered(one, SINES),
            "holds": value >= 0.5 and left(one)[1] <= left(one)[0] / 2,
        }  # fmt: skip

    def left(one: Anatomy) -> list[float]:
        result = one.results["attention_dilution"].values.sel(network=FREE)
        return [float(result.sel(length=far(one, times))) for times in (1, FURTHEST)]

    def said(one: Anatomy) -> str:
        return f"{left(one)[0]:.2f} to {left(one)[1]:.2f}"

    return _claim(
        "dilution_explains_decay",
        "In the causal network without positions the last token's attention to the fall is at most half as "
        f"much at length {far(found[0], FURTHEST)} as at {far(found[0], 1)}, and scores that grow with log "
        "n, put in after training, bring back at least half of the accuracy that is lost there (attention by "
        f"seed: {told(found, said, (FREE,))})",
        found, measure, of=(FREE, SINES), within=(-np.inf, np.inf),
        control_kind="share brought back with sinusoidal positions", source="Chiang & Cholak (2022)",
    )  # fmt: skip
