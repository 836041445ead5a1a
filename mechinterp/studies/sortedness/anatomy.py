"""What one seed's networks are found to do: at which lengths they are right, where they look, and what they
know of positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.leaks import leaks
from mechinterp.analysis.metrics import accuracy
from mechinterp.analysis.patterns import Patterns
from mechinterp.analysis.positions import moved_positions, position_table, shift_maps
from mechinterp.analysis.statistics import proportion_interval
from mechinterp.models.positions import sinusoidal_table
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, network_scores, score_curves
from mechinterp.studies.sortedness.networks import DENSE, FREE, KINDS, LEARNED, SHUFFLED, sharper
from mechinterp.tasks.base import Batch
from mechinterp.tasks.sortedness import Sortedness

PARTS = 4
"""Of a sequence, by which the place of a fall is counted."""
SHIFTS = (1, 2, 4)
"""Tokens by which positions are moved, or mapped on."""
ATTENDED = 100
"""Pairs of sequences in which attention is looked at."""
ENCODED = tuple(name for name in KINDS if name not in (DENSE, SHUFFLED))


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One seed's findings.

    Args:
        networks: trained, by kind.
        scores: of each on held-out sequences of the lengths of training; and before training.
        results: by name.
    """

    task: Sortedness
    networks: Mapping[str, Trained]
    scores: Mapping[str, float]
    untrained: Mapping[str, float]
    results: Mapping[str, Result]

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 1000) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn.

        Args:
            n: sequences of each length.
        """
        task = networks[FREE].task
        batch = task.dataset("test")
        scores, untrained = (
            {name: task.score(task.answers(model(one), batch), batch) for name, one in networks.items()}
            for model in (lambda one: one.model, lambda one: one.untrained)
        )
        asked = {length: task.of_length(length, n) for length in task.test_lengths}
        results = [
            leaks_by_length(task, n),
            score_curves(networks, units="accuracy"),
            network_scores(networks, scores, untrained, n=len(batch), units="accuracy"),
            *by_length(networks, asked),
            dilution(networks, task),
            table_of(networks[LEARNED]),
            maps(networks[LEARNED], task),
            *moves(networks, task, n),
            *heads(networks[FREE], n),
            *(replace(result, name=f"{result.name}_dense") for result in heads(networks[DENSE], n)),
        ]
        return cls(
            task=task, networks=networks, scores=scores, untrained=untrained,
            results={result.name: result for result in results},
        )  # fmt: skip

    def at(self, network: str, length: int, result: str = "accuracy_by_length") -> float:
        """A network's accuracy at a length."""
        return float(self.results[result].values.sel(network=network, length=length))


def leaks_by_length(task: Sortedness, n: int) -> Result:
    """What tells without the order, by kind of negatives and length."""
    kinds = ("adjacent", "shuffle")
    found = {
        (kind, length): _leaks(replace(task, negatives=kind), length, n)
        for kind in kinds
        for length in task.test_lengths
    }
    coords = {"negatives": list(kinds), "length": list(task.test_lengths)}

    def grid(of: Callable[[Result], xr.DataArray]) -> xr.DataArray:
        rows = [
            xr.concat([of(found[kind, length]) for length in task.test_lengths], "length") for kind in kinds
        ]
        return xr.concat(rows, "negatives").assign_coords(coords)

    return Result(
        name="leaks_by_length",
        values=grid(lambda result: result.values).assign_attrs(units="accuracy, held out"),
        trivial=0.5,
        control=grid(lambda result: result.control),
        control_kind="shuffled answers",
        provenance={"n": n, "seed": task.seed, "reader": "logistic regression"},
    )


def _leaks(task: Sortedness, length: int, n: int) -> Result:
    batch = task.of_length(length, n)
    views = task.leaks(batch)
    del views["length"]  # of one length all are the same
    return leaks(views, batch.targets[:, 0], torch.arange(len(batch)) // 2, seed=task.seed)


@torch.no_grad()
def right(model: Any, task: Sortedness, batch: Batch) -> np.ndarray:
    """Which answers are right, ``[batch]``."""
    return (task.answers(model, batch).argmax(-1) == batch.targets)[:, 0].numpy()


def by_length(networks: Mapping[str, Trained], asked: Mapping[int, Batch]) -> list[Result]:
    """Accuracy by length, as trained and with sharper attention; by place of the fall; by ties."""
    longest = networks[FREE].task.train_lengths[1]
    own, sharp, before = (
        {
            (name, length): right(model(one), one.task, batch)
            for name, one in networks.items()
            for length, batch in asked.items()
        }
        for model in (
            lambda one: one.model,
            lambda one: sharper(one.model, longest),
            lambda one: one.untrained,
        )
    )
    coords = {"network": list(networks), "length": list(asked)}

    def grid(of: Callable[[np.ndarray], float], answers: Mapping[Any, np.ndarray]) -> xr.DataArray:
        cells = [[of(answers[name, length]) for length in asked] for name in networks]
        return xr.DataArray(np.array(cells), dims=list(coords), coords=coords, attrs={"units": "accuracy"})

    ends = [
        grid(lambda hits, end=end: proportion_interval(int(hits.sum()), len(hits))[end], own)
        for end in (0, 1)
    ]
    provenance = {
        "n": len(next(iter(asked.values()))), "seed": networks[FREE].task.seed, "split": "test",
        "trained at": "{} to {}".format(*networks[FREE].task.train_lengths),
    }  # fmt: skip
    lengths = Result(
        name="accuracy_by_length",
        values=grid(np.mean, own),
        trivial=0.5,
        control=grid(np.mean, before),
        control_kind="untrained network",
        provenance=provenance | {"log n from": longest},
        extra={"low": ends[0], "high": ends[1], "log_n": grid(np.mean, sharp)},
    )
    return [
        lengths,
        by_kind(own, networks, asked, provenance),
        by_ties(own, networks, asked, provenance),
    ]


def by_kind(
    answers: Mapping[Any, np.ndarray],
    networks: Mapping[str, Trained],
    asked: Mapping[int, Batch],
    provenance: Mapping[str, Any],
) -> Result:
    """Accuracy on sorted sequences, and on others by the part of the sequence in which they fall."""
    kinds = ["sorted", *(f"falls in part {part + 1} of {PARTS}" for part in range(PARTS))]

    def cells(name: str, length: int) -> list[float]:
        place = asked[length].variables["place"].numpy()
        part = np.where(place < 0, 0, 1 + place * PARTS // length)
        hits = [answers[name, length][part == kind] for kind in range(PARTS + 1)]
        return [float(each.mean()) if len(each) else math.nan for each in hits]

    coords = {"network": list(networks), "length": list(asked), "kind": kinds}
    values = np.array([[cells(name, length) for length in asked] for name in networks])
    return Result(
        name="accuracy_by_place",
        values=xr.DataArray(values, dims=list(coords), coords=coords, attrs={"units": "accuracy"}),
        trivial=0.5,
        provenance=dict(provenance),
    )


def by_ties(
    answers: Mapping[Any, np.ndarray],
    networks: Mapping[str, Trained],
    asked: Mapping[int, Batch],
    provenance: Mapping[str, Any],
) -> Result:
    """Accuracy by how often neighbours are equal when sorted: the thirds of each length's sequences."""
    thirds = ["fewest ties", "middle third", "most ties"]
    rates = {length: batch.variables["tie_rate"].numpy() for length, batch in asked.items()}
    # Pairs have the same ties, and stay together.
    third = {
        length: (rate[::2].argsort(kind="stable").argsort() * 3 // len(rate[::2])).repeat(2)
        for length, rate in rates.items()
    }
    coords = {"network": list(networks), "length": list(asked), "ties": thirds}
    values = [
        [[answers[name, length][third[length] == i].mean() for i in range(3)] for length in asked]
        for name in networks
    ]
    rate = [[rates[length][third[length] == i].mean() for i in range(3)] for length in asked]
    of = {"length": list(asked), "ties": thirds}
    return Result(
        name="accuracy_by_ties",
        values=xr.DataArray(np.array(values), dims=list(coords), coords=coords, attrs={"units": "accuracy"}),
        trivial=0.5,
        provenance=dict(provenance),
        extra={"tie_rate": xr.DataArray(np.array(rate), dims=list(of), coords=of)},
    )


def dilution(networks: Mapping[str, Trained], task: Sortedness) -> Result:
    """What the last token's attention in the last layer has left for the fall, by length.

    Of the head that looks there most at the longest length of training, on other sequences; the fall is the
    two neighbours that have changed places. Beside it the same with sharper attention, and even attention.
    """
    longest = task.train_lengths[1]
    chosen = task.of_length(longest, 2 * ATTENDED, "val")
    asked = {length: task.of_length(length, 2 * ATTENDED) for length in task.test_lengths}
    head = {name: int(on_fall(one.model, chosen).mean(0).argmax()) for name, one in networks.items()}
    coords = {"network": list(networks), "length": list(asked)}

    def grid(model: Callable[[Trained], Any]) -> xr.DataArray:
        cells = [
            [float(on_fall(model(one), batch)[:, head[name]].mean()) for batch in asked.values()]
            for name, one in networks.items()
        ]
        return xr.DataArray(np.array(cells), dims=list(coords), coords=coords, attrs={"units": "attention"})

    even = xr.DataArray([2 / length for length in asked], dims="length", coords={"length": list(asked)})
    return Result(
        name="attention_dilution",
        values=grid(lambda one: one.model),
        trivial=float(even.sel(length=longest)) if longest in asked else 2 / longest,
        control=grid(lambda one: one.untrained),
        control_kind="untrained network",
        provenance={"n": ATTENDED, "seed": task.seed, "log n from": longest},
        extra={
            "log_n": grid(lambda one: sharper(one.model, longest)),
            "even": even,
            "head": xr.DataArray(list(head.values()), dims="network", coords={"network": list(networks)}),
        },
    )


def on_fall(model: Any, batch: Batch) -> Tensor:
    """The last token's attention on the two that have changed places, in the last layer, ``[row, head]``."""
    batch = batch[batch.targets[:, 0] == 0]
    seen = Patterns.of(model, batch.inputs).weights[:, -1, :, -1]
    place = batch.variables["place"]
    pair = torch.stack((place - 1, place), 1)
    return seen.gather(2, pair[:, None].expand(-1, seen.shape[1], -1)).sum(-1)


def table_of(one: Trained) -> Result:
    """The learned position vectors, beside those before training."""
    found = position_table(one.model.W_pos, one.untrained.W_pos, gate=one.gate)
    return replace(found, provenance={**found.provenance, "network": one.name, "seed": one.task.seed})


def maps(learned: Trained, task: Sortedness) -> Result:
    """How well a shift is a linear map, for as many positions of each encoding."""
    n = len(learned.model.W_pos)
    tables = {
        "sinusoidal": sinusoidal_table(n, learned.model.cfg.d_model),
        "learned": learned.model.W_pos,
        "learned, before training": learned.untrained.W_pos,
    }
    return shift_maps(tables, SHIFTS, seed=task.seed)


def moves(networks: Mapping[str, Trained], task: Sortedness, n: int) -> list[Result]:
    """The shortest sequences at other positions of the range of training, for encodings that are added."""
    length = task.train_lengths[0]
    room = task.train_lengths[1] - length
    batch, at = task.of_length(length, n), torch.arange(length)
    kinds = {f"{k} on": at + k for k in (1, room // 2, room)} | {
        "two apart": (2 * at).clamp(max=length + room - 1)
    }
    added = {
        name: one
        for name, one in networks.items()
        if hasattr(one.model, "hook_pos_embed") and not one.model.cfg.randomised_positions
    }
    found = {
        name: moved_positions(one.model, batch.inputs, accuracy(batch.targets), kinds, gate=one.gate)
        for name, one in added.items()
    }
    coords = {"network": list(found), "move": ["as trained", *kinds, "all alike", "random order"]}
    values = [[r.trivial, *r.values.values, float(r.extra["flat"]), float(r.control)] for r in found.values()]
    return [
        Result(
            name="position_moves",
            values=xr.DataArray(
                np.array(values), dims=list(coords), coords=coords, attrs={"units": "accuracy"}
            ),
            trivial=0.5,
            control=xr.DataArray(
                [float(r.control) for r in found.values()], dims="network", coords={"network": list(found)}
            ),
            control_kind="positions in a random order",
            provenance={"n": n, "length": length, "seed": task.seed},
        )
    ]


def heads(one: Trained, n: int) -> Sequence[Result]:
    """Which heads of a network without positions look at the largest token so far, in random sequences and at
    the fall of its own, and which it needs."""
    generator = torch.Generator().manual_seed(one.task.seed)
    tokens = torch.randint(one.task.vocabulary, (200, one.task.train_lengths[1]), generator=generator)
    found = match_score(
        one.model, tokens, tokens.cummax(1).values, key_variable=tokens, include_self=True,
        untrained=one.untrained, draws=200, gate=one.gate, seed=one.task.seed,
    )  # fmt: skip
    batch = one.task.of_length(one.task.train_lengths[1], n)
    falls = batch[batch.targets[:, 0] == 0]
    at_fall = match_score(
        one.model, falls.inputs, falls.variables["prefix_max"], key_variable=falls.inputs, include_self=True,
        queries=falls.variables["place"][:, None], untrained=one.untrained, draws=200, gate=one.gate,
        seed=one.task.seed,
    )  # fmt: skip
    held_out = one.task.of_length(one.task.train_lengths[1], n, "val")
    lost = ablation(
        one.model, batch.inputs, accuracy(batch.targets), reference="resample", held_out=held_out.inputs,
        gate=one.gate, seed=one.task.seed,
    )  # fmt: skip
    return [
        replace(found, name="prefix_max_match"),
        replace(at_fall, name="prefix_max_at_fall"),
        replace(lost, name="prefix_max_ablation"),
    ]
