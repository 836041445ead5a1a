"""The fast way of a sweep: patches worked out from the intact run, those that reach alike together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mechinterp.analysis.patches import NEURONS, STREAMS, Patch, grouped, hook_of, parts
from mechinterp.analysis.setting import Setting

ALIKE = 0.8
"""Patches are worked out together where that share of the positions must be computed anyway."""


def reruns(
    setting: Setting, activation: str, patches: list[Patch], donor: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer at a time, from where they enter; those of single positions together."""
    own = hook_of(activation, 0).removeprefix("blocks.0.")
    rerun = setting.model.rerun(
        setting.inputs, read=setting.read, attention_mask=setting.attention_mask, keep=[own]
    )
    spread = activation in ("k", "v")  # a change of theirs is felt at other positions in the same layer

    def common(patch: Patch) -> tuple[int, tuple[int, ...]]:
        return patch.layer, patch.positions if spread or len(patch.positions) > 1 else ()

    for (layer, positions), some in grouped(common, patches):
        if positions:
            yield from _together(setting, rerun, activation, patches, some, donor)
            continue
        heard = set(rerun.heard(layer, activation).tolist())
        by_position = dict(grouped(lambda patch: patch.positions[0], patches, some))
        for position in by_position.keys() - heard:
            yield from ((which, rerun.intact) for which in by_position.pop(position))
        most = max(map(len, by_position.values()), default=0) * setting.bytes_a_position
        for span in _spans(rerun, activation, layer, sorted(by_position), setting.memory // max(most, 1)):
            here = [which for position in span for which in by_position[position]]
            yield from _together(setting, rerun, activation, patches, here, donor)


def _together(
    setting: Setting, rerun: Any, activation: str, patches: list[Patch], some: list[int], donor: Mapping
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer: all of the same positions, or of one each."""
    layer = patches[some[0]].layer
    apart = len({patches[which].positions for which in some}) > 1
    positions = sorted({at for which in some for at in patches[which].positions})
    kind = {which: (patches[which].head, patches[which].neurons) for which in some}
    kinds = list(dict.fromkeys(kind.values()))
    at = torch.tensor(positions, device=setting.inputs.device)
    change = _enter(rerun, activation, layer, at, donor, kinds)
    change = change.apart() if apart else change
    step = {(position,): len(kinds) * i for i, position in enumerate(positions)} if apart else {}
    rows = [step.get(patches[which].positions, 0) + kinds.index(kind[which]) for which in some]
    changed = change.delta.flatten(2).any(-1).T
    breadth = max(rerun.breadth(layer, activation, positions[0]), change.delta.shape[2])
    at_once = max(1, setting.memory // (breadth * setting.bytes_a_position))
    for chunk in parts(list(zip(some, rows)), at_once):
        picked = [row for _, row in chunk]
        outputs = rerun.outputs(change[picked])
        if outputs is not None and not bool(changed[picked].all()):
            outputs = torch.where(changed[picked][:, :, None, None], outputs, rerun.intact)
        for place, (which, _) in enumerate(chunk):
            yield which, rerun.intact if outputs is None else outputs[place]


def _spans(
    rerun: Any, activation: str, layer: int, positions: Sequence[int], at_once: int
) -> Iterator[list[int]]:
    """Positions whose patches are worked out together: they are few enough, and reach about as far."""
    span: list[int] = []
    total = 0
    for position in positions:
        own = rerun.breadth(layer, activation, position)
        widest = rerun.breadth(layer, activation, span[0]) if span else own
        size = widest * (len(span) + 1)
        if span and (size > at_once or total + own < ALIKE * size):
            yield span
            span, total = [], 0
        span, total = [*span, position], total + own
    if span:
        yield span


def _enter(
    rerun: Any,
    activation: str,
    layer: int,
    at: Tensor,
    donor: Mapping[str, Tensor],
    kinds: Sequence[tuple[int | None, tuple[int, ...] | None]],
) -> Any:
    """The change by patches of some heads or groups of neurons, at the same positions."""
    name = hook_of(activation, layer)
    if activation in STREAMS:
        return rerun.enter_stream(layer, activation, at, donor[name][:, None])[[0] * len(kinds)]
    if activation in NEURONS:
        everything = range(donor[name].shape[-1])
        groups = [torch.tensor(everything if neurons is None else neurons) for _, neurons in kinds]
        return rerun.enter_neurons(layer, groups, at, donor[name])
    turned = name.replace("hook_", "hook_rot_")
    values = donor[turned if activation in ("q", "k") and turned in donor else name]
    joint = kinds[0][0] is None
    change = rerun.enter_heads(layer, activation, at, values, joint=joint)
    if activation in ("q", "k"):  # what is attended to is worked out anew, and differs by its rounding
        moved = (values[:, at] != rerun.base(layer, activation)[:, at]).any(-1)
        moved = moved.any(2, keepdim=True) if joint else moved
        moved = moved if activation == "q" else moved.any(1, keepdim=True)
        change = replace(change, delta=change.delta * moved.transpose(1, 2)[..., None])
    return change[[head or 0 for head, _ in kinds]]
