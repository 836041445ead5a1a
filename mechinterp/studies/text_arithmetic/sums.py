"""The network that answers sums: where its sum can be read, and whether that direction causes the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.attention import attention_entropy
from mechinterp.analysis.erasure import erasure_curve, erasure_effect
from mechinterp.analysis.probes import Periods, probe
from mechinterp.hooks import Site
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, stream_hooks, streams
from mechinterp.studies.text_arithmetic.waves import WAVES, circle
from mechinterp.tasks.base import Batch

PERIODS = (2, 3, 4, 5, 7, 8)
LEAST = 200
"""Problems that must have a character at a position for a probe there."""


def sums(one: Trained, n: int) -> list[Result]:
    """Probes by layer and position, erasers at the last character, and heads one at a time."""
    batch, others = one.task.dataset("test")[slice(0, n)], one.task.dataset("val")
    total, last = batch.variables["sum"].double(), len(one.model.blocks) - 1
    wanted = batch.targets[:, 0, 0].double()

    def lost(outputs: Tensor) -> Tensor:
        """Of the answers' variance, by problem."""
        return (outputs[:, 0, 0].double() - wanted).square() / wanted.var(correction=0)

    forward: dict[str, Any] = {"read": (-1,), "attention_mask": batch.mask, "gate": one.gate}
    places = {
        f"sum_erasure{name}": Site.at(f"blocks.{layer}.hook_resid_post", position=-1)
        for name, layer in (("", last), ("_first", 0))
    }
    difference = (batch.variables["x"] - batch.variables["y"]).double()
    first = places["sum_erasure_first"]
    p = 2 * one.task.max_operand + 2
    waves = {n: circle(batch.variables["sum"], n, p) for n in range(1, WAVES + 1)}
    return [
        *readable(one, batch, total),
        *(
            replace(erasure_effect(one.model, batch.inputs, site, total, lost, **forward), name=name)
            for name, site in places.items()
        ),
        replace(
            erasure_effect(one.model, batch.inputs, first, difference, lost, **forward),
            name="difference_erasure_first",
        ),
        replace(erasure_curve(one.model, batch.inputs, first, waves, lost, **forward), name="sum_curve"),
        replace(
            ablation(
                one.model, batch.inputs, lost, "heads", held_out=others.inputs, held_out_mask=others.mask,
                **forward,
            ),
            name="sum_heads",
        ),
        replace(
            attention_entropy(
                one.model, batch.inputs[:1000], mask=None if batch.mask is None else batch.mask[:1000],
                untrained=one.untrained, gate=one.gate,
            ),
            name="sum_attention",
        ),
    ]  # fmt: skip


def readable(one: Trained, batch: Batch, total: Tensor) -> list[Result]:
    """The sum by layer and position, and the sum on circles of small periods at the last character."""
    hooks = ["hook_embed", *stream_hooks(one.model)]
    caches = [streams(model, batch, hooks) for model in (one.model, one.untrained)]
    enough = None
    if batch.mask is not None:
        counts = batch.mask.sum(0).tolist()
        enough = [at for at, count in enumerate(counts) if count >= min(LEAST, len(batch) // 2)]
    by_place = probe(
        caches[0], total, mask=batch.mask, inputs=batch.inputs, positions=enough, untrained=caches[1],
        gate=one.gate,
    )  # fmt: skip
    last = [{hook: x[:, -1:] for hook, x in cache.items()} for cache in caches]
    periods = probe(last[0], total, Periods(periods=PERIODS), untrained=last[1], gate=one.gate)
    return [replace(by_place, name="sum_map"), replace(periods, name="sum_periods")]
