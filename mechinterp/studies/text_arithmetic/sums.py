"""The network that answers sums: where its sum can be read, and whether that direction causes the answer."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.erasure import erasure_effect
from mechinterp.analysis.probes import probe
from mechinterp.hooks import Site, run_with_cache
from mechinterp.result import Result
from mechinterp.studies.networks import Trained


def sums(one: Trained, n: int) -> list[Result]:
    """Probes by layer and position, erasers at the last character, and heads one at a time."""
    batch = one.task.dataset("test")[slice(0, n)]
    total, last = batch.variables["sum"].double(), len(one.model.blocks) - 1
    hooks = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(last + 1))]
    given = {"names": hooks, "attention_mask": batch.mask}
    read = probe(
        run_with_cache(one.model, batch.inputs, **given)[1], total, mask=batch.mask, inputs=batch.inputs,
        untrained=run_with_cache(one.untrained, batch.inputs, **given)[1], gate=one.gate,
    )  # fmt: skip
    wanted = batch.targets[:, 0, 0].double()

    def lost(outputs: Tensor) -> Tensor:
        """Of the answers' variance, by problem."""
        return (outputs[:, 0, 0].double() - wanted).square() / wanted.var(correction=0)

    forward = {"read": (-1,), "attention_mask": batch.mask, "gate": one.gate}
    erased = {
        name: erasure_effect(
            one.model, batch.inputs, Site.at(f"blocks.{layer}.hook_resid_post", position=-1), total, lost,
            **forward,
        )
        for name, layer in (("sum_erasure", last), ("sum_erasure_first", 0))
    }  # fmt: skip
    others = one.task.dataset("val")
    heads = ablation(
        one.model, batch.inputs, lost, "heads", held_out=others.inputs, held_out_mask=others.mask, **forward
    )
    return [
        replace(read, name="sum_map"),
        *(replace(result, name=name) for name, result in erased.items()),
        replace(heads, name="sum_heads"),
    ]
