"""What a probe is given, read and checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.probes.apart import Apart, Rows, keep_apart
from mechinterp.analysis.probes.controls import raw_features, type_numbers
from mechinterp.analysis.probes.layout import Layout, check_finite, lay_out, read_activations
from mechinterp.analysis.probes.targets import Targets, Variable, check_targets
from mechinterp.analysis.repeats import RepeatedRows
from mechinterp.analysis.tensors import tensor_of
from mechinterp.analysis.warn import warn
from mechinterp.hooks import ActivationCache

Cache = ActivationCache | Mapping[str, Tensor] | Tensor


@dataclass(frozen=True, kw_only=True)
class Given:
    """Activations, what is to be read from them, and what that is compared with.

    Args:
        activations: by hook, ``[batch, pos, d]``.
        others: the same of the untrained network or of the raw input, by name and hook, and their layout.
        repeats: which inputs repeat, and what was done; and cells in which they are on both sides.
        types: input types of the control task.
    """

    activations: Mapping[str, Float[Tensor, "batch pos _"]]
    layout: Layout
    targets: Targets
    others: Mapping[str, tuple[Mapping[str, Float[Tensor, "batch _ _"]], Layout]]
    types: Int[Tensor, "batch _"] | None
    repeats: Apart | None = None

    @property
    def axes(self) -> dict[str, list]:
        """Names along each axis of the result."""
        named = {self.targets.dim: list(self.targets.names)} if self.targets.dim else {}
        return {"hook": list(self.activations), "position": list(self.layout.positions), **named}

    def told(self) -> dict[str, str]:
        """What provenance says of inputs that repeat.

        Warns:
            RepeatedRows: a variable is attached to inputs that stand on both sides of the split.
        """
        if self.repeats is None or not self.repeats.said:
            return {}
        if mixed := self.repeats.mixed:
            warn(
                f"expected inputs that can be held out whole, since the variable is attached to them, got "
                f"{mixed[0]}{f', and {len(mixed) - 1} such cells more' if mixed[1:] else ''}; a score there "
                "says that inputs are remembered, not that the variable can be read",
                RepeatedRows,
            )
        return {"repeats": "; ".join(self.repeats.said)}

    def label(self, x: Float[Tensor, "*hook position target"], units: str = "") -> xr.DataArray:
        """Numbers with names for their axes, the last of those that results have."""
        axes, values = self.axes, x.double().numpy()
        values = values if self.targets.dim else values[..., 0]
        dims = list(axes)[-values.ndim :]
        attrs = {"units": units} if units else {}
        return xr.DataArray(values, dims=dims, coords={dim: axes[dim] for dim in dims}, attrs=attrs)

    def at(self, flat: int) -> tuple[tuple[int, int, int], str]:
        """The cell of a flat index into all hooks, positions and targets, and its name."""
        axes = list(self.axes.items())
        shape = [len(names) for _, names in axes] + [1] * (3 - len(axes))
        hook, position, target = (int(i) for i in np.unravel_index(flat, shape))
        said = ", ".join(f"{dim} {names[i]}" for (dim, names), i in zip(axes, (hook, position, target)))
        return (hook, position, target), said


def gather(
    activations: Cache,
    variable: Variable,
    encode: Callable[[Variable, Layout], Targets],
    rows: Rows,
    *,
    mask: Bool[Tensor, "_ _"] | None,
    positions: Sequence[int] | None,
    pool: bool,
    untrained: Cache | None,
    inputs: Tensor | None,
    types: Tensor | None,
    together: Tensor | None = None,
    within: bool = False,
) -> Given:
    """Read and check all of it; the arguments are those of ``probe``.

    Args:
        rows: makes the splits' sequences from the number of examples, and the inputs that repeat.

    Raises:
        ValueError: whatever is wrong with any of it.
    """
    read = read_activations(activations)
    variable = (
        {name: tensor_of(x, f"the variable {name}") for name, x in variable.items()}
        if (isinstance(variable, Mapping))
        else tensor_of(variable, "the variable")
    )
    batch, length = next(iter(read.values())).shape[:2]
    layout = lay_out(
        batch, length, rows(batch, None), mask=mask, positions=positions, pool=pool, together=together,
        within=within,
    )  # fmt: skip
    targets = encode(variable, layout)
    check_targets(targets, layout)
    for name, x in read.items():
        check_finite(name, x, layout.parts)
    apart = Apart(layout=layout)
    if together is None:
        apart = keep_apart(layout, read, targets.values, rows)
        check_targets(targets, apart.layout)
    others: dict[str, tuple[Mapping[str, Tensor], Layout]] = {}
    if untrained is not None:
        others["untrained"] = _second_set(untrained, read, layout), apart.layout
    if inputs is not None:
        raw = _raw_input(inputs, mask, pool, layout)
        own = layout
        if together is None:
            own = keep_apart(layout, raw, targets.values, rows, must=False).layout
        others["raw_input"] = raw, own
    return Given(
        activations=read, layout=apart.layout, targets=targets, others=others, repeats=apart,
        types=type_numbers(types, inputs, batch, length),
    )  # fmt: skip


def tensors_of(**given: Any) -> dict[str, Tensor | None]:
    """Optional arguments as tensors, by name; ``None`` stays."""
    return {name: None if x is None else tensor_of(x, name) for name, x in given.items()}


def _second_set(given: Cache, read: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    others = read_activations(given)
    if missing := read.keys() - others.keys():
        raise ValueError(f"expected untrained activations of the same hooks, got none of {sorted(missing)}")
    others = {hook: others[hook] for hook in read}
    for hook, x in others.items():
        if x.shape[:2] != (layout.batch, layout.length):
            raise ValueError(
                f"expected untrained activations of {layout.batch} examples and {layout.length} positions, "
                f"got {list(x.shape[:2])} of {hook}; run the same inputs"
            )
        check_finite(f"the untrained {hook}", x, layout.parts)
    return others


def _raw_input(inputs: Tensor, mask: Tensor | None, pool: bool, layout: Layout) -> dict[str, Tensor]:
    fits = inputs.ndim in (2, 3) and len(inputs) == layout.batch and not inputs.is_complex()
    if not fits or ((pool or mask is not None) and inputs.shape[1] != layout.length):
        raise ValueError(
            f"expected the activations' inputs, [{layout.batch}, {layout.length}] tokens or vectors there, "
            f"got {list(inputs.shape)}"
        )
    x = raw_features(inputs, mask, by_position=pool)
    check_finite("the raw input", x, layout.parts)
    if x.shape[-1] == 0:
        raise ValueError("expected inputs that differ between examples, got the same for all")
    return {"raw input": x if x.dtype == torch.float64 else x.float()}
