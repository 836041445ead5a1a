"""Ablation: what does a network lose without a head, an MLP, some neurons or a direction?

One component at a time. What two do together, and what many do, is in ``redundancy`` and ``pruning``: single
ablations do not add up, since components that do the same hide each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_groups, check_inputs, check_model, check_one_stack, chosen
from mechinterp.analysis.effects import distinct, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patches import STREAMS, Patch, donor_names, extent, patches_of
from mechinterp.analysis.references import check_reference, random_signs, references
from mechinterp.analysis.setting import MEMORY, Metric, Progress, Setting
from mechinterp.analysis.sweeps import sweep
from mechinterp.result import Result

ACTIVATION = {"heads": "z", "mlps": "mlp_out", "neurons": "post"}


@checked
def ablation(
    model: Any,
    inputs: Tensor,
    metric: Metric,
    what: str = "heads",
    *,
    reference: str = "mean",
    held_out: Tensor | None = None,
    groups: Mapping[Any, Sequence[int] | Tensor] | None = None,
    layers: Sequence[int] | None = None,
    by_position: bool = False,
    stack: str = "",
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    fast: bool = True,
    memory: int = MEMORY,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Ablate every component of a kind, one at a time.

    Args:
        inputs: ``[batch, pos]`` ids or ``[batch, pos, d_input]`` vectors.
        metric: takes outputs ``[batch, read, d_out]``, gives one number for each example ``[batch]``.
        what: ``"heads"``, ``"mlps"``, or ``"neurons"`` in named ``groups``.
        reference: what the component's output becomes: ``"zero"``, its ``"mean"`` at each position, or its
            value in another example (``"resample"``); the last two from ``held_out`` examples.
        held_out_mask: true at the real tokens of ``held_out``, where ``attention_mask`` is given too.
        by_position: one position at a time, instead of all at once.
        stack: of an encoder-decoder, as in ``activation_patching``.
        read, attention_mask, fast, memory, progress, gate: as in ``activation_patching``.

    Returns:
        As ``effects_result``, with dims layer, head or group, and position. The control makes a change of the
        same size in a random direction: every coordinate's change gets a random sign.

    Raises:
        ValueError: as ``activation_patching``, and a reference that is missing or does not fit.
    """
    if what not in ACTIVATION:
        raise ValueError(
            f"expected heads, mlps or neurons to ablate, got {what!r}; for directions see erase_directions"
        )
    if what == "neurons" and not groups:
        raise ValueError('expected groups of neurons to ablate, got none; give groups={"name": [0, 1, ...]}')
    check_inputs(inputs, attention_mask)
    neurons = ("d_mlp",) if what == "neurons" else ()
    check_model(model, f"ablating {what}", ("n_layers", "n_heads", "d_model", *neurons))
    if what == "neurons":
        check_groups(groups, model.cfg.d_mlp)
    check_reference(reference, inputs, held_out)
    n_layers, n_pos = extent(model, inputs, stack)
    axes = _axes(model, what, layers, groups, n_layers, n_pos if by_position else None)
    names = donor_names(model, ACTIVATION[what], axes["layer"], stack)
    groups_of_inputs = distinct(inputs, mask=attention_mask)
    setting = Setting(model, inputs, metric, read, attention_mask, memory)
    before = setting.intact()
    own = setting.activations(names)
    becomes = references(
        model, names, reference, inputs, held_out,
        attention_mask=attention_mask, held_out_mask=held_out_mask, seed=seed,
    )  # fmt: skip
    signed = {name: random_signs(own[name], becomes[name], seed) for name in names}
    patches = patches_of(axes, n_pos, groups, stack)
    found = []
    for turn, donor in enumerate((becomes, signed)):
        report = None if progress is None else partial(_report, progress, turn)
        swept = sweep(setting, ACTIVATION[what], patches, donor, fast=fast, progress=report)
        found.append(swept.unflatten(0, [len(values) for values in axes.values()]))
    provenance = {
        "what": what,
        **({"stack": stack} if stack else {}),
        "reference": reference,
        "seed": seed,
        "held out": 0 if held_out is None else len(held_out),
    }
    return effects_result(
        "ablation", found[0], before, axes, gated(gate, provenance), other=found[1],
        sample=setting.sample(before, groups_of_inputs),
        control_kind="a change of the same size with random signs", seed=seed,
    )  # fmt: skip


@checked
def erase_directions(
    model: Any,
    inputs: Tensor,
    metric: Metric,
    directions: Mapping[Any, Float[Tensor, " d_model"] | Float[Tensor, "k d_model"]],
    activation: str = "resid_post",
    *,
    reference: str = "zero",
    held_out: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    layers: Sequence[int] | None = None,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    fast: bool = True,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Ablate directions of the residual stream, or the span of several, at every position.

    The part of the activation in the span becomes 0, its mean or another example's. This removes a
    direction, not a concept: for that see ``analysis.erasure``.

    Args:
        directions: by name, ``[d_model]`` or ``[k, d_model]``.
        activation: ``resid_pre``, ``attn_out``, ``resid_mid``, ``mlp_out`` or ``resid_post``.

    Returns:
        As ``effects_result``, with dims layer and direction. The control erases random directions, as many.

    Raises:
        ValueError: as ``ablation``, and directions that are none, zero or of another width.
    """
    if activation not in STREAMS:
        raise ValueError(f"expected an activation of the stream, one of {STREAMS}, got {activation!r}")
    check_inputs(inputs, attention_mask)
    check_model(model, "erasing directions", ("n_layers", "d_model"))
    check_one_stack(model, "directions", "erase at a Site, with project_out")
    spans = {name: _span(name, direction, model.cfg.d_model) for name, direction in directions.items()}
    if not spans:
        raise ValueError("expected at least one direction to erase, got none")
    check_reference(reference, inputs, held_out)
    axes: dict[str, list[Any]] = {
        "layer": chosen("layers", layers, model.cfg.n_layers),
        "direction": list(spans),
    }
    names = donor_names(model, activation, axes["layer"])
    groups_of_inputs = distinct(inputs, mask=attention_mask)
    setting = Setting(model, inputs, metric, read, attention_mask)
    before = setting.intact()
    own = setting.activations(names)
    becomes = references(
        model, names, reference, inputs, held_out,
        attention_mask=attention_mask, held_out_mask=held_out_mask, seed=seed,
    )  # fmt: skip
    patches = [Patch(layer, tuple(range(inputs.shape[1]))) for layer in axes["layer"]]
    generator = torch.Generator().manual_seed(seed)

    def swept(basis: Tensor) -> Tensor:
        donor = {n: own[n] + (becomes[n] - own[n]) @ (basis @ basis.mT).to(own[n]) for n in names}
        return sweep(setting, activation, patches, donor, fast=fast)

    after = torch.stack([swept(basis) for basis in spans.values()], 1)
    random = [torch.randn(basis.shape, generator=generator, dtype=torch.float64) for basis in spans.values()]
    other = torch.stack([swept(torch.linalg.qr(basis).Q) for basis in random], 1)
    provenance = {"what": "directions", "activation": activation, "reference": reference, "seed": seed}
    return effects_result(
        "ablation", after, before, axes, gated(gate, provenance), other=other,
        sample=setting.sample(before, groups_of_inputs),
        control_kind="random directions, as many", seed=seed,
    )  # fmt: skip


def _report(progress: Progress, turn: int, done: int, of: int) -> None:
    """Progress of one of two equal sweeps."""
    progress(turn * of + done, 2 * of)


def _span(name: Any, direction: Tensor, width: int) -> Float[Tensor, "d_model k"]:
    """An orthonormal basis of the span."""
    rows = torch.atleast_2d(direction).double()
    if rows.shape[-1] != width or not bool(rows.isfinite().all()) or not bool(rows.any()):
        raise ValueError(
            f"expected direction {name!r} to be finite, not zero, of {width} entries, got "
            f"{tuple(direction.shape)}"
        )
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[sizes > 1e-6 * sizes.max()].mT


def _axes(
    model: Any,
    what: str,
    layers: Sequence[int] | None,
    groups: Mapping[Any, Any] | None,
    n_layers: int,
    n_pos: int | None,
) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {"layer": chosen("layers", layers, n_layers)}
    if what == "heads":
        axes["head"] = list(range(model.cfg.n_heads))
    elif what == "neurons":
        axes["group"] = list(groups or ())
    return axes if n_pos is None else {**axes, "position": list(range(n_pos))}
