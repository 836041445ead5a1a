"""Ablating sets of heads and MLPs together, many sets in one batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model
from mechinterp.analysis.patches import hook_of, parts
from mechinterp.analysis.setting import Progress, Setting
from mechinterp.hooks import Edit, Site

FIELDS = ("n_layers", "n_heads", "d_model", "attn_only")
"""What a model's config must have of those whose components are ablated."""


@dataclass(frozen=True, order=True)
class Component:
    """A head of a layer, or with ``head=None`` its MLP.

    It prints as ``L0H3`` or ``MLP0``; in a network of two stacks as ``encoder.0.self.3``,
    ``decoder.0.cross.3`` or ``decoder.0.mlp``, and ``Component.named`` reads these.

    Args:
        stack: of ``STACKS``.
    """

    layer: int
    head: int | None = None
    stack: str = ""

    @classmethod
    def named(cls, name: str) -> Component:
        """A component of a network of two stacks, by its name.

        Raises:
            ValueError: no such name.
        """
        parts = re.fullmatch(r"(encoder|decoder)\.(\d+)\.(?:(self|cross)\.(\d+)|mlp)", name)
        if parts is None or (parts[1] == "encoder" and parts[3] == "cross"):
            raise ValueError(
                f"expected a name such as encoder.0.self.3, decoder.1.cross.0 or decoder.0.mlp, got {name!r}"
            )
        stack = "cross" if parts[3] == "cross" else parts[1]
        return cls(int(parts[2]), None if parts[4] is None else int(parts[4]), stack)

    def __str__(self) -> str:
        if not self.stack:
            return f"MLP{self.layer}" if self.head is None else f"L{self.layer}H{self.head}"
        where = f"{'encoder' if self.stack == 'encoder' else 'decoder'}.{self.layer}"
        kind = "cross" if self.stack == "cross" else "self"
        return f"{where}.mlp" if self.head is None else f"{where}.{kind}.{self.head}"

    @property
    def hook(self) -> str:
        """Where it is ablated."""
        return hook_of("mlp_out" if self.head is None else "z", self.layer, self.stack)


@checked
def components_of(model: Any, heads: bool = True, mlps: bool = False) -> list[Component]:
    """All heads of a network, all MLPs, or both, in the order of the forward pass."""
    check_model(model, "its components", FIELDS)
    cfg, found = model.cfg, []
    below = getattr(cfg, "n_encoder_layers", None)
    stacks = [("", "", cfg.n_layers)]
    if below is not None and hasattr(model, "encoder"):
        stacks = [("encoder", "", below), ("decoder", "cross", cfg.n_layers)]
    for stack, across, n_layers in stacks:
        for layer in range(n_layers):
            for kind in dict.fromkeys((stack, across or stack)):
                found += [Component(layer, head, kind) for head in range(cfg.n_heads)] if heads else []
            found += [Component(layer, None, stack)] if mlps and not cfg.attn_only else []
    return found


@checked
def check_components(model: Any, components: Sequence[Component]) -> None:
    """Refuse components that the network does not have, and a list with none or with one twice.

    Raises:
        ValueError: as said.
    """
    there = set(components_of(model, heads=True, mlps=True))
    strange = [str(one) for one in components if one not in there]
    if strange or not components or len(set(components)) < len(components):
        raise ValueError(
            f"expected different components of this network, at least one, got {[str(c) for c in components]}"
            + (f"; it has no {strange}; Component.named reads names" if strange else "")
        )


def ablate_sets(
    setting: Setting,
    sets: Sequence[Collection[Component]],
    reference: Mapping[str, Tensor],
    *,
    fast: bool = True,
    progress: Progress | None = None,
) -> Float[Tensor, "set batch"]:
    """The metric of every example with each set of components at its reference values.

    Args:
        reference: by hook name, ``z`` of layers and ``mlp_out`` of layers, of a batch of 1 or of all.
        fast: start at the first layer ablated, where the model can; otherwise whole forward passes.
    """
    found: dict[int, Tensor] = {}
    for which, outputs in ablated(setting, sets, reference, fast):
        found[which] = setting.measure(outputs, sets[which])
        if progress is not None:
            progress(len(found), len(sets))
    return torch.stack([found[which] for which in range(len(sets))])


def ablated(
    setting: Setting,
    sets: Sequence[Collection[Component]],
    reference: Mapping[str, Tensor],
    fast: bool = True,
) -> Iterator[tuple[int, Float[Tensor, "batch read out"]]]:
    """Outputs with each set of components at its reference values, beside its place in the list.

    Args:
        reference, fast: as ``ablate_sets``.
    """
    way = _reruns if fast and setting.can_rerun else _whole_runs
    return way(setting, sets, reference)


def _chunks(setting: Setting, sets: Sequence[Collection[Component]]) -> Iterator[list[int]]:
    """Sets of the same first layer, as many as memory allows."""
    cfg = setting.model.cfg
    size = max(1, setting.memory // (setting.inputs.shape[1] * setting.bytes_a_position))
    first = [min((c.layer for c in some), default=cfg.n_layers) for some in sets]
    for layer in sorted(set(first)):
        same = [which for which in range(len(sets)) if first[which] == layer]
        yield from parts(same, size)


def _reruns(
    setting: Setting, sets: Sequence[Collection[Component]], reference: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    rerun = setting.model.rerun(setting.inputs, read=setting.read, attention_mask=setting.attention_mask)
    cfg = setting.model.cfg
    by_layer = [
        {
            layer: reference[name]
            for layer in range(cfg.n_layers)
            if (name := hook_of(kind, layer)) in reference
        }
        for kind in ("z", "mlp_out")
    ]
    for chunk in _chunks(setting, sets):
        heads = torch.zeros(len(chunk), cfg.n_layers, cfg.n_heads, dtype=torch.bool)
        mlps = torch.zeros(len(chunk), cfg.n_layers, dtype=torch.bool)
        for row, which in enumerate(chunk):
            for one in sets[which]:
                if one.head is None:
                    mlps[row, one.layer] = True
                else:
                    heads[row, one.layer, one.head] = True
        device = setting.inputs.device
        yield from zip(chunk, rerun.pinned(heads.to(device), mlps.to(device), *by_layer))


def _whole_runs(
    setting: Setting, sets: Sequence[Collection[Component]], reference: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    batch = len(setting.inputs)
    for chunk in _chunks(setting, sets):

        def ablate(tensor: Tensor, name: str, chunk: list[int] = chunk) -> Tensor:
            rows = tensor.clone().unflatten(0, (len(chunk), batch))
            for row, which in zip(rows, chunk):
                for one in sets[which]:
                    if one.hook == name:
                        part = ... if one.head is None else (slice(None), slice(None), one.head)
                        row[part] = reference[name][part].to(row.dtype)
            return rows.flatten(0, 1)

        hooks = sorted({one.hook for which in chunk for one in sets[which]})
        outputs = setting.outputs(len(chunk), [Edit(Site(name), ablate, "ablation") for name in hooks])
        yield from zip(chunk, outputs.unflatten(0, (len(chunk), batch)))
