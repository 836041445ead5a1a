"""One probe on many cells: the truth, and its controls, from the same fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.probes.controls import draw_labels
from mechinterp.analysis.probes.kinds import Probe
from mechinterp.analysis.probes.layout import Layout, Part
from mechinterp.analysis.probes.scores import shuffle_p_values
from mechinterp.analysis.probes.targets import varies

_MOST = 2**24  # numbers in the targets and predictions of one call


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores of every cell, ``[hook, position, target]``, and held-out predictions of the truth.

    Args:
        shuffled, control_task: ``[hook, position, draw, target]``.
        notes: what the probe says of its fits.
        held_out: by hook and position, predictions and truths ``[n, target, component]`` and the sequence
            of each, or its group.
    """

    score: Float[Tensor, "hook position target"]
    trivial: Float[Tensor, "hook position target"]
    p_value: Float[Tensor, "hook position target"]
    shuffled: Float[Tensor, "hook position _ target"]
    control_task: Float[Tensor, "hook position _ target"]
    notes: Mapping[str, Float[Tensor, "hook position target"]] = field(default_factory=dict)
    held_out: Mapping[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


def measure(
    probe: Probe,
    activations: Mapping[str, Float[Tensor, "batch _ _"]],
    values: Float[Tensor, "batch _ target component"],
    layout: Layout,
    *,
    shuffles: int = 0,
    permutations: int = 0,
    types: Int[Tensor, "batch _"] | None = None,
    seed: int = 0,
) -> Measured:
    """Fit and score every hook and position.

    Args:
        values: targets, checked.
        permutations: orders of the held-out labels behind each p-value.
        types: input types of the control task, of which there are as many draws as ``shuffles``.
    """
    draws, first_task = 1 + shuffles * (1 if types is None else 2), 1 + shuffles
    scores = torch.full((len(activations), len(layout.positions), draws, values.shape[2]), torch.nan).double()
    single = {name: scores[:, :, 0].clone() for name in ("trivial", "p_value")}
    held_out: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
    for part in layout.parts:
        labels = draw_labels(values, part, shuffles, types, seed)
        truth = {split: each[:, 0] for split, each in labels.items()}
        orders, unit = part.shuffles("test", permutations, seed + 1), part.units("test")
        undefined = ~_all_vary(labels, first_task)
        for hook, (name, x) in enumerate(activations.items()):
            if part.hooks is not None and name not in part.hooks:
                continue
            found, notes = _predict(probe, part, x, labels["train"], seed)
            score = probe.score(found, labels["test"])
            score[:, first_task:].masked_fill_(undefined, torch.nan)
            scores[hook, part.at] = score
            single["trivial"][hook, part.at] = probe.trivial(truth["train"], truth["test"])
            for called, note in notes.items():
                single.setdefault(called, torch.full_like(scores[:, :, 0], torch.nan))[hook, part.at] = note
            if permutations:
                single["p_value"][hook, part.at] = shuffle_p_values(found[:, 0], truth["test"], orders)
            for cell, position in enumerate(part.at):
                own = found[cell % len(found), 0], truth["test"][cell % len(truth["test"])]
                held_out[hook, position] = (*own, unit)
    return Measured(
        score=scores[:, :, 0], shuffled=scores[:, :, 1:first_task], control_task=scores[:, :, first_task:],
        trivial=single.pop("trivial"), p_value=single.pop("p_value"), notes=single, held_out=held_out,
    )  # fmt: skip


def _predict(
    probe: Probe, part: Part, activations: Tensor, labels: Tensor, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Held-out predictions ``[cell, draw, m, target, component]``, of large cells a few at a time."""
    old, new = part.take(activations, "train"), part.take(activations, "test")
    cells = max(len(old), len(labels))
    at_once = max(1, _MOST // labels[0].numel())
    given = [x if len(x) == 1 else x.split(at_once) for x in (old, labels, new)]
    runs = -(-cells // at_once)
    more = {"alike": part.units("train").unique(return_inverse=True)[1]} if part.found else {}
    each = [
        probe.predict(*some, seed, **(more if probe.leaves_out else {}))
        for some in zip(*([x] * runs if isinstance(x, Tensor) else x for x in given))
    ]
    found, notes = zip(*each)
    return torch.cat(found), {name: torch.cat([note[name] for note in notes]) for name in notes[0]}


def _all_vary(labels: Mapping[str, Tensor], first: int) -> Tensor:
    """Whether labels vary in both splits, from a draw on: ``[cell, draw, target]``."""
    train, test = (varies(labels[split][:, first:].movedim(1, 2)) for split in ("train", "test"))
    return train & test
