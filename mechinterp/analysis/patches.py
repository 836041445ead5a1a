"""What a sweep patches: one activation of one layer at a time, by TransformerLens's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

from torch import Tensor

from mechinterp.hooks import Site, axes_of, resolve

HEADS = ("q", "k", "v", "z", "pattern")
STREAMS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
NEURONS = ("post",)


@dataclass(frozen=True)
class Patch:
    """One activation of one layer takes a donor's values.

    Args:
        layer: which.
        positions: where; of ``pattern``, the positions that ask.
        head: one of them, or ``None`` for all.
        neurons: some, or ``None`` for all.
        stack: of ``STACKS``.
        hook: a hook point's own name, in place of layer and stack; without positions all of it is patched.

    Raises:
        ValueError: no position of an activation, or one counted from the end.
    """

    layer: int
    positions: tuple[int, ...]
    head: int | None = None
    neurons: tuple[int, ...] | None = None
    stack: str = ""
    hook: str = ""

    def __post_init__(self) -> None:
        if not (self.positions or self.hook) or min(self.positions, default=0) < 0:
            raise ValueError(f"expected positions counted from 0, at least one, got {self.positions}")

    def name(self, activation: str) -> str:
        """Its hook point."""
        return self.hook or hook_of(activation, self.layer, self.stack)

    def site(self, activation: str) -> Site:
        """The same as a site."""
        name = self.name(activation)
        where = "query" if "query" in axes_of(name) else "position"
        at: dict[str, Any] = {where: self.positions} if self.positions else {}
        if self.head is not None:
            at["head"] = self.head
        if self.neurons is not None:
            at["neuron"] = self.neurons
        return Site.at(name, **at)


def patches_of(
    axes: Mapping[str, Sequence[Any]],
    n_pos: int,
    groups: Mapping[Any, Sequence[int] | Tensor] | None = None,
    stack: str = "",
) -> list[Patch]:
    """A patch for each cell of some axes (layer or hook, position, head, group), in their order."""
    cells = (dict(zip(axes, cell)) for cell in product(*axes.values()))
    return [
        Patch(
            cell.get("layer", 0),
            (cell["position"],) if "position" in cell else tuple(range(0 if "hook" in cell else n_pos)),
            cell.get("head"),
            tuple(map(int, (groups or {})[cell["group"]])) if "group" in cell else None,
            stack,
            cell.get("hook", ""),
        )
        for cell in cells
    ]


STACKS = ("", "encoder", "decoder", "cross")
"""Where a layer's heads are: of a network of one stack, of an encoder, of a decoder looking at its own
sequence, and of a decoder looking at the source."""


def hook_of(activation: str, layer: int, stack: str = "") -> str:
    """The hook name of an activation's short name, in one of ``STACKS``."""
    attn = "cross_attn." if stack == "cross" else "attn."
    place = attn if activation in HEADS else "mlp." if activation in NEURONS else ""
    return f"{'encoder.' * (stack == 'encoder')}blocks.{layer}.{place}hook_{activation}"


def extent(model: Any, inputs: Tensor, stack: str = "") -> tuple[int, int]:
    """How many layers a stack has, and how many positions its activations have.

    Raises:
        ValueError: a stack that the model has not.
    """
    cfg, two = model.cfg, hasattr(model, "encoder") and hasattr(model.cfg, "n_ctx_source")
    if stack not in STACKS or (stack and not two):
        there = STACKS[1:] if two else ("",)
        raise ValueError(f"expected a stack of this network, one of {list(there)}, got {stack!r}")
    if not two:
        return cfg.n_layers, inputs.shape[1]
    if stack == "encoder":
        return cfg.n_encoder_layers, cfg.n_ctx_source
    return cfg.n_layers, inputs.shape[1] - cfg.n_ctx_source


def mask_of(model: Any, name: str, mask: Tensor | None) -> Tensor | None:
    """What is real at the positions of a hook point's activations, of a mask of the inputs."""
    n_source = getattr(getattr(model, "cfg", None), "n_ctx_source", None)
    if mask is None or n_source is None:
        return mask
    of_source = name.startswith("encoder.") or name.endswith(("cross_attn.hook_k", "cross_attn.hook_v"))
    return mask[:, :n_source] if of_source else mask[:, n_source:]


def donor_names(model: Any, activation: str, layers: Sequence[int], stack: str = "") -> list[str]:
    """The hook names that a donor's run must keep: the activation's, and for reruns the same rotated."""
    names = [hook_of(activation, layer, stack) for layer in layers]
    for name in names:
        resolve(model, Site(name))
        own = model.hook_dict[name].name  # TransformerLens 4's bridge has several names for a hook point
        if activation == "resid_mid" and own != name:
            raise ValueError(
                f"expected {name} to be the residual stream, got {own}, a copy that only the MLP reads; take "
                "attn_out or the resid_pre of the next layer"
            )
    rotates = activation in ("q", "k") and hasattr(model, "rerun")
    turned = [name.replace("hook_", "hook_rot_") for name in names] if rotates else []
    return names + [name for name in turned if name in model.hook_dict]


def grouped(
    key: Callable[[Patch], Any], patches: list[Patch], some: Sequence[int] | None = None
) -> Iterator[tuple[Any, list[int]]]:
    """The places in the list of the patches, or of some of them, that have a key in common."""
    order = sorted(range(len(patches)) if some is None else some, key=lambda which: key(patches[which]))
    for common, alike in groupby(order, key=lambda which: key(patches[which])):
        yield common, list(alike)


def parts(some: list, size: int) -> Iterator[list]:
    """Parts of no more than that size, about as large as one another."""
    count = -(-len(some) // size)
    for part in range(count):
        yield some[len(some) * part // count : len(some) * (part + 1) // count]
