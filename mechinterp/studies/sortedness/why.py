"""Why the network without positions goes as far as it does, over seeds: its mechanism, and what fails it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mechinterp.result import Claim, Result
from mechinterp.studies.seeds import claim_of_networks, told
from mechinterp.studies.sortedness.anatomy import Anatomy
from mechinterp.studies.sortedness.lengths import FURTHEST
from mechinterp.studies.sortedness.networks import DENSE, FREE

DECAY = 0.05
"""Accuracy that must be lost before it is asked why."""


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

    return claim_of_networks(
        "prefix_max_head_found",
        "The causal network without positions has a head in its first layer that gives, in random sequences, "
        "at least half of its attention to the largest token so far, more than if tokens changed places, and "
        "whose resample ablation costs at least 5 points (head, accuracy without it, best head of the "
        "untrained network, and what the best head gives it at the fall of the task's own sequences, by "
        f"seed: {told(found, said, (FREE,))})",
        found, measure, of=(FREE,), within=(0.0, 1.0), control_kind="largest tokens of other orders",
        source="ours; hand-built in constructions.sortedness",
    )  # fmt: skip


def density_explains_decay(found: Sequence[Anatomy]) -> Claim:
    """Longer sequences of as many integers are denser."""

    def measure(one: Anatomy) -> dict[str, Any] | None:
        at, control = one.far(FURTHEST), one.task.train_lengths[1]
        lost = one.lost_at(FREE, at)
        if at not in one.results["accuracy_by_density"].values.length:
            return None
        dense = one.scores[FREE] - one.at(FREE, at, "accuracy_by_density")
        plain = one.scores[FREE] - one.at(FREE, control, "accuracy_by_density")
        if lost - plain < DECAY:
            return None
        value = (dense - plain) / (lost - plain)
        return {"value": value, "trivial": 0.0, "control": plain / lost, "holds": value >= 0.5}

    return claim_of_networks(
        "density_explains_decay",
        f"Of what the causal network without positions loses at length {found[0].far(FURTHEST)} beyond what "
        "it loses at the longest length of training, it loses at least half at that length too, where tokens "
        "are drawn as densely",
        found, measure, of=(FREE,), within=(-np.inf, np.inf),
        control_kind="of all that is lost, at that length, no denser than in training",
    )  # fmt: skip


def dense_training_helps(found: Sequence[Anatomy]) -> Claim:
    """Short sequences, but as dense as long ones."""

    def measure(one: Anatomy) -> dict[str, Any]:
        at = one.far(FURTHEST)
        gain = one.at(DENSE, at) - one.at(FREE, at)
        return {
            "value": gain, "trivial": 0.0, "control": one.scores[DENSE] - one.scores[FREE],
            "holds": gain >= DECAY,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        sharp = one.results["accuracy_by_length"].extra["log_n"].sel(network=DENSE, length=one.far(FURTHEST))
        return f"{one.at(DENSE, one.far(FURTHEST)):.3f} and {float(sharp):.3f}"

    return claim_of_networks(
        "dense_training_helps",
        "Trained at the same lengths, for as many steps, but on stretches of six integers or more, the "
        f"causal network without positions is right more often at length {found[0].far(FURTHEST)}, by at "
        f"least 5 points (as trained, and with attention sharper with log n, by seed: "
        f"{told(found, said, (DENSE,))})",
        found, measure, of=(FREE, DENSE), within=(-1.0, 1.0), control_kind="gain at the lengths of training",
    )  # fmt: skip


def dilution_explains_decay(found: Sequence[Anatomy]) -> Claim:
    """Attention of the last layer, spread over more keys, and made sharper by just as much."""

    def accuracies(one: Anatomy) -> dict[str, float]:
        result = one.results["sharpening"].values
        return {str(name): float(result.sel(layers=name)[0]) for name in result.layers.values}

    def attention(one: Anatomy) -> list[float]:
        seen = one.results["attention_dilution"].values.sel(network=FREE)
        return [float(seen.sel(length=length)) for length in (one.task.train_lengths[1], one.far(FURTHEST))]

    def measure(one: Anatomy) -> dict[str, Any] | None:
        by, last = accuracies(one), len(one.networks[FREE].model.blocks) - 1
        lost = one.scores[FREE] - by["as trained"]
        if lost < DECAY:
            return None
        back = {name: (value - by["as trained"]) / lost for name, value in by.items()}
        before, after = attention(one)
        return {
            "value": back[f"layer {last}"], "trivial": 0.0, "control": back["layer 0"],
            "holds": back[f"layer {last}"] >= max(0.5, back["layer 0"] + 0.05) and after <= before / 2,
        }  # fmt: skip

    def said(one: Anatomy) -> str:
        before, after = attention(one)
        rows = ", ".join(f"{name} {value:.3f}" for name, value in accuracies(one).items())
        return f"{before:.2f} to {after:.2f}; {rows}"

    return claim_of_networks(
        "dilution_explains_decay",
        "In the causal network without positions the last token's attention to the fall is at most half as "
        f"much at length {found[0].far(FURTHEST)} as at {found[0].task.train_lengths[1]}, and scores of the "
        "last layer alone, made to grow with log n beyond the lengths of training, bring back at least half "
        "of the accuracy that is lost there, more than those of the first layer do (attention, and accuracy "
        f"by the layer that is sharper, by seed: {told(found, said, (FREE,))})",
        found, measure, of=(FREE,), within=(-np.inf, np.inf), control_kind="scores of the first layer",
        source="Chiang & Cholak (2022)",
    )  # fmt: skip
