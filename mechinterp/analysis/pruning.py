"""Cumulative pruning: how much of a network can go before the answer does, and in which order?

Greedy order removes at each step what is missed least, given all that is gone already. The first-order score
estimates all single effects by one backward pass (Michel et al. 2019; Nanda 2023, attribution
patching). Either is compared with random orders, and the order is chosen on some examples and
measured on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.references import references
from mechinterp.analysis.sets import FIELDS, Component, ablate_sets, check_components, components_of
from mechinterp.analysis.setting import MEMORY, Metric, Progress, Setting
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.hooks import Edit, Site
from mechinterp.result import Result


@checked
def prune(
    model: Any,
    inputs: Tensor,
    metric: Metric,
    components: Sequence[Component] | None = None,
    *,
    order: str | Sequence[Component] = "greedy",
    reference: str = "mean",
    held_out: Tensor | None = None,
    orders: int = 10,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    fast: bool = True,
    memory: int = MEMORY,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Ablate components one after the other, all that went before staying ablated.

    Args:
        metric: higher is better; one number for each example.
        components: all heads and MLPs by default.
        order: ``"greedy"``, ``"first_order"``, or a list of all components, first to go first.
        orders: random orders in the control.
        reference, held_out: as in ``ablation``; the other arguments as in ``activation_patching``.

    Returns:
        Dim ``removed``, from 0 to all: the metric on the half of the examples that did not choose the
        order. The control is the mean over random orders; ``interval`` is that of the metric when half of the
        components are gone. In ``extra``: ``order`` (names), ``low`` and ``high`` (95 %, bootstrap over
        examples), ``random`` (draw, removed), and ``random_low`` and ``random_high``, the least and most of
        them.

    Raises:
        ValueError: as ``ablation``; fewer than four examples, which are halved; an incomplete order.
    """
    check_inputs(inputs, attention_mask)
    check_model(model, "ablating components", FIELDS)
    chosen = components_of(model, mlps=True) if components is None else list(components)
    check_components(model, chosen)
    if len(inputs) < 4 or orders < 1:
        raise ValueError(f"expected at least 4 examples and 1 random order, got {len(inputs)} and {orders}")
    if not isinstance(order, str) and set(order) != set(chosen):
        raise ValueError(
            f"expected an order of all of {[str(c) for c in chosen]}, got {[str(c) for c in order]}"
        )
    setting = Setting(model, inputs, metric, read, attention_mask, memory)
    becomes = references(
        model, sorted({one.hook for one in chosen}), reference, inputs, held_out,
        attention_mask=attention_mask, held_out_mask=held_out_mask, seed=seed,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    choosing = torch.zeros(len(inputs), dtype=torch.bool)
    choosing[torch.randperm(len(inputs), generator=generator)[: len(inputs) // 2]] = True
    sequence = _order(setting, chosen, order, becomes, choosing, fast, progress)
    random = [torch.randperm(len(chosen), generator=generator).tolist() for _ in range(orders)]
    paths = [sequence, *([chosen[i] for i in draw] for draw in random)]
    sets = [tuple(path[:k]) for path in paths for k in range(len(chosen) + 1)]
    after = ablate_sets(setting, sets, becomes, fast=fast).unflatten(0, (len(paths), -1))[..., ~choosing]
    return _result(
        after, sequence, gated(gate, _provenance(order, reference, after.shape[-1], seed)), orders, seed
    )


def first_order_scores(
    setting: Setting, components: Sequence[Component], reference: Mapping[str, Tensor]
) -> Float[Tensor, "component batch"]:
    """The change of the metric that each component's ablation would make, were the network linear.

    The gradient of the metric by the component's output, times what ablation adds to it.
    """
    names, own, added = sorted({one.hook for one in components}), {}, {}

    def watch(tensor: Tensor, name: str) -> Tensor:
        # Nothing is added to it; the gradient by that is the whole one, by way of later components too.
        own[name], added[name] = tensor.detach(), torch.zeros_like(tensor, requires_grad=True)
        return tensor + added[name]

    with torch.enable_grad():
        outputs = setting.forward(edits=[Edit(Site(name), watch, "watch") for name in names])
        total = setting.metric(outputs).sum()
        gradients = dict(zip(names, torch.autograd.grad(total, [added[name] for name in names])))
    scores = []
    for one in components:
        change = gradients[one.hook] * (reference[one.hook] - own[one.hook])
        part = change if one.head is None else change[:, :, one.head]
        scores.append(part.detach().flatten(1).sum(1).double())
    return torch.stack(scores)


def _order(
    setting: Setting,
    components: list[Component],
    order: Any,
    reference: Mapping[str, Tensor],
    choosing: Bool[Tensor, " batch"],
    fast: bool,
    progress: Progress | None,
) -> list[Component]:
    if not isinstance(order, str):
        return list(order)
    if order == "first_order":
        scores = first_order_scores(setting, components, reference)[:, choosing].mean(1)
        return [components[i] for i in scores.argsort(descending=True).tolist()]
    if order != "greedy":
        raise ValueError(f'expected order "greedy", "first_order" or a list of components, got {order!r}')
    gone: list[Component] = []
    while len(gone) < len(components):
        left = [one for one in components if one not in gone]
        after = ablate_sets(setting, [(*gone, one) for one in left], reference, fast=fast)
        gone.append(left[int(after[:, choosing].mean(1).argmax())])
        if progress is not None:
            progress(len(gone), len(components))
    return gone


def _provenance(order: Any, reference: str, n: int, seed: int) -> dict[str, Any]:
    named = order if isinstance(order, str) else "given"
    split = "half of the examples chose the order, the others measured it"
    return {"order": named, "reference": reference, "n": n, "split": split, "seed": seed}


def _result(
    after: Float[Tensor, "path removed example"],
    sequence: list[Component],
    provenance: dict[str, Any],
    orders: int,
    seed: int,
) -> Result:
    low, high = bootstrap_means(after[0].mT, seed=seed)
    mean, half = after.mean(-1).numpy(), len(sequence) // 2
    steps = np.arange(len(sequence) + 1)

    def array(values: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(values), dims=["removed"], coords={"removed": steps})

    return Result(
        name="pruning",
        values=array(mean[0]).assign_attrs(units="metric"),
        trivial=float(mean[0, 0]),
        control=array(mean[1:].mean(0)),
        control_kind=f"mean of {orders} random orders",
        interval=(float(low[half]), float(high[half])),
        provenance={**provenance, "interval of": f"the metric with {half} components gone"},
        extra={
            "order": xr.DataArray([str(one) for one in sequence], dims=["step"]),
            "low": array(low.numpy()),
            "high": array(high.numpy()),
            "random": xr.DataArray(mean[1:], dims=["draw", "removed"], coords={"removed": steps}),
            "random_low": array(mean[1:].min(0)),
            "random_high": array(mean[1:].max(0)),
        },
    )
