"""What a probe is compared with: shuffled labels, random labels by input type, and the raw input.

A high score alone says that a variable can be read off activations; so can much else. Source of
the control task and of selectivity: Hewitt & Liang (2019), "Designing and interpreting probes with
control tasks", section 2.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.probes.layout import Part

Truth = Float[Tensor, "#cell n target component"]


def draw_labels(
    values: Float[Tensor, "batch _ target component"],
    part: Part,
    shuffles: int,
    types: Int[Tensor, "batch _"] | None,
    seed: int,
) -> dict[str, Float[Tensor, "_ draw n target component"]]:
    """By split, the truth, as many shuffles of it, and as many control tasks if there are types.

    The first axis is of cells, or 1 where all cells have the same labels.
    """
    truth = {split: part.take(values, split) for split in part.rows}
    draws = {
        # Each split is dealt out by a seed of its own, so that they share nothing.
        split: [y[:, None], y[:, part.shuffles(split, shuffles, seed=2 * seed + number)]]
        for number, (split, y) in enumerate(truth.items())
    }
    if types is not None and shuffles:
        kinds = {split: part.take(types, split) for split in part.rows}
        first = next(iter(truth.values()))
        for split, labels in random_by_type(first, kinds, shuffles, seed).items():
            draws[split].append(labels)
    cells = max(len(each) for several in draws.values() for each in several)
    return {s: torch.cat([y.expand(cells, *y.shape[1:]) for y in several], 1) for s, several in draws.items()}


def random_by_type(
    truth: Truth,
    types: dict[str, Int[Tensor, "#cell n"]],
    draws: int,
    seed: int,
) -> dict[str, Float[Tensor, "cell draw n target component"]]:
    """A control task for each draw: every input type has one label, that of a random training example.

    Labels so occur about as often as they do in training. A probe does well on them only if it
    remembers what it was told of each type.
    """
    cells = max(len(truth), *map(len, types.values()))
    truth = truth.expand(cells, *truth.shape[1:])
    count = 1 + max(int(each.max()) for each in types.values())
    donor = torch.randint(truth.shape[1], (draws, count), generator=torch.Generator().manual_seed(seed))
    labels = {}
    for split, each in types.items():
        chosen = donor[:, each.expand(cells, -1)]
        labels[split] = torch.stack([truth[cell][chosen[:, cell]] for cell in range(cells)])
    return labels


def type_numbers(
    types: Tensor | None, inputs: Tensor | None, batch: int, length: int
) -> Int[Tensor, "batch _"] | None:
    """Input types numbered from 0, ``[batch, pos or 1]``: those given, or else the tokens.

    Raises:
        ValueError: other shapes, or types that are not integers.
    """
    if types is None and (inputs is None or inputs.ndim != 2 or not is_whole(inputs)):
        return None
    found = inputs if types is None else types[:, None] if types.ndim == 1 else types
    if found is None or found.ndim != 2 or found.shape[0] != batch or found.shape[1] not in (1, length):
        raise ValueError(
            f"expected input types [{batch}] or [{batch}, {length}], got {list(found.shape)}; they say which "
            "examples share a label in the control task"
        )
    if found.is_floating_point() or found.is_complex():
        raise ValueError(f"expected integer input types, got {found.dtype}; number them")
    return found.cpu().unique(return_inverse=True)[1].view(found.shape)


def is_whole(x: Tensor) -> bool:
    """Whether numbers are integers or booleans by their dtype."""
    return not x.is_floating_point() and not x.is_complex()


def raw_features(
    inputs: Tensor, mask: Bool[Tensor, "batch pos"] | None, by_position: bool
) -> Float[Tensor, "batch _ feature"]:
    """The whole input as a probe without a network sees it: tokens one-hot at all positions, or vectors.

    Args:
        by_position: for probes of pooled positions, which one it is becomes part of the features.
    """
    if not is_whole(inputs):
        at = inputs if inputs.ndim == 3 else inputs[..., None]
    else:
        numbered = inputs.cpu().unique(return_inverse=True)[1].view(inputs.shape)
        at = torch.nn.functional.one_hot(numbered).float()
    if mask is not None:
        at = torch.where(mask[..., None], at, 0)
    flat = at.flatten(1)
    flat = flat[:, (flat != flat[:1]).any(0)]  # what never changes says nothing
    if not by_position:
        return flat[:, None]
    place = torch.eye(inputs.shape[1], dtype=flat.dtype)
    return torch.cat([each.expand(len(flat), *place.shape[:1], -1) for each in (flat[:, None], place)], -1)
