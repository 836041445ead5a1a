"""What every analysis refuses before it starts to work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_model(model: Any) -> None:
    """Refuse a network whose activations are drawn at random.

    Raises:
        ValueError: dropout, noise of codebooks, or drawn positions, in training mode.
    """
    drawing = (
        m
        for m in model.modules()
        if m.training and ((isinstance(m, nn.Dropout) and m.p > 0) or getattr(m, "noisy", False))
    )
    if next(drawing, None) is not None:
        raise ValueError(
            "expected a network in evaluation mode, got one with dropout, noise or drawn positions in "
            "training mode, whose activations differ at every run; call model.eval()"
        )


def check_no_codebooks(model: Any, what: str, remedy: str) -> None:
    """Refuse a network with codebooks, behind which what a sublayer writes is no linear map of its parts.

    Raises:
        ValueError: as said.
    """
    if getattr(getattr(model, "cfg", None), "codebook_size", 0):
        raise ValueError(
            f"expected a network without codebooks for {what}, got one in whose place codes are written to "
            f"the stream; {remedy}"
        )


def check_one_stack(model: Any, what: str, remedy: str, decoder: bool = False) -> None:
    """Refuse a network of two stacks where an analysis knows of one.

    Args:
        decoder: let the decoder of one pass, whose sources are given.

    Raises:
        ValueError: an encoder-decoder, or the decoder of one.
    """
    if hasattr(model.cfg, "n_ctx_source") and not (decoder and not hasattr(model, "encoder")):
        raise ValueError(
            f"expected a network of one stack for {what}, got {type(model).__name__}, whose attention to the "
            f"source it would leave out; {remedy}"
        )


def check_tokens(model: Any, inputs: Tensor) -> None:
    """Refuse vectors where the network takes token ids.

    Raises:
        ValueError: floats, unless the network's config has a ``d_input``.
    """
    if inputs.is_floating_point() and getattr(model.cfg, "d_input", None) is None:
        raise ValueError(
            f"expected token ids, int64 [batch, pos], got {inputs.dtype} {tuple(inputs.shape)}; convert them "
            "with .long()"
        )


def check_inputs(inputs: Tensor, attention_mask: Tensor | None = None) -> None:
    """Refuse a batch of one, and a mask that leaves an example nothing.

    Raises:
        ValueError: fewer than two examples, or an empty mask.
    """
    if len(inputs) < 2:
        raise ValueError(
            f"expected at least 2 examples, got {len(inputs)}, which has no interval or control; give more"
        )
    if attention_mask is None:
        return
    if tuple(attention_mask.shape) != tuple(inputs.shape[:2]):
        raise ValueError(
            f"expected an attention_mask of {tuple(inputs.shape[:2])}, got "
            f"{tuple(attention_mask.shape)}; give one entry for each token"
        )
    empty = (~attention_mask.bool().any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"expected a real token in every example, got an empty mask in examples {empty[:5]}; drop them"
        )


def check_pair(clean: Tensor, corrupted: Tensor) -> None:
    """Refuse clean and corrupted inputs that do not match place by place.

    Raises:
        ValueError: different shapes.
    """
    for inputs in (clean, corrupted):
        if not isinstance(inputs, Tensor) or inputs.ndim < 2:
            got = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(
                f"expected a tensor of ids [batch, pos] or vectors [batch, pos, d_input], got {got}; of a "
                "batch give its inputs"
            )
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"expected clean and corrupted inputs of one shape, got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}; pair each clean example with a corrupted one of the same length"
        )


def check_direction(direction: str) -> None:
    """Refuse a direction of patching that there is not.

    Raises:
        ValueError: as said.
    """
    if direction not in ("denoise", "noise"):
        raise ValueError(f'expected direction "denoise" or "noise", got {direction!r}; choose one of them')


def chosen(what: str, wanted: Any, size: int) -> list[int]:
    """Indices along an axis: those wanted, negative ones from the end, or all for ``None``.

    Raises:
        ValueError: none, or one outside the axis.
    """
    if wanted is None:
        return list(range(size))
    indices = [int(index) for index in wanted]
    if not indices or any(not -size <= index < size for index in indices):
        raise ValueError(
            f"expected {what} within [{-size}, {size}), at least one, got {indices}; this axis has {size}"
        )
    return sorted({index % size for index in indices})


def check_groups(groups: Mapping[Any, Sequence[int] | Tensor], size: int) -> None:
    """Refuse groups of neurons that are empty, or name one twice, or name a neuron that is not there.

    Raises:
        ValueError: as said.
    """
    for name, neurons in groups.items():
        indices = [int(neuron) for neuron in neurons]
        there = all(0 <= index < size for index in indices)
        if not indices or not there or len(set(indices)) < len(indices):
            raise ValueError(
                f"expected at least one neuron in every group, each once and within [0, {size}), got "
                f"{indices} in {name!r}; leave out empty groups"
            )


def check_read(read: Sequence[int] | Tensor, inputs: Tensor, mask: Tensor | None = None) -> None:
    """Refuse positions to read that the inputs do not have, or of which all are padding in an example.

    Raises:
        ValueError: none, some beyond the sequence, padding, or not ``[read]`` or ``[batch, read]`` integers.
    """
    at, n_pos = torch.as_tensor(read), inputs.shape[1]
    whole = not (at.is_floating_point() or at.dtype == torch.bool) and at.numel() > 0
    if not whole or not (at.ndim == 1 or (at.ndim == 2 and len(at) == len(inputs))):
        raise ValueError(
            f"expected positions to read as integers [read] or [batch, read], got {at.dtype} "
            f"{tuple(at.shape)}; for the last position give read=(-1,)"
        )
    if int(at.min()) < -n_pos or int(at.max()) >= n_pos:
        raise ValueError(
            f"expected positions to read within [{-n_pos}, {n_pos}), got {int(at.min())} to {int(at.max())}; "
            f"the sequence has {n_pos}"
        )
    if mask is None or mask.shape != inputs.shape[:2]:
        return
    rows = at.to(mask.device).long().expand(len(inputs), -1) % n_pos
    padded = int((~mask.bool().gather(1, rows).any(1)).sum())
    if padded:
        raise ValueError(
            f"expected real tokens where outputs are read, got padding alone in {padded} of {len(inputs)} "
            "examples; give each example's own positions, such as a batch's read"
        )


def check_metric(values: Any, n: int, what: object) -> Tensor:
    """Refuse what is not one finite number for each of ``n`` examples.

    Args:
        what: the run that was measured, for the message.

    Raises:
        ValueError: not a tensor, another shape, NaN or infinity.
    """
    if not isinstance(values, Tensor) or values.shape != (n,):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"expected the metric to give one number for each of {n} examples, [batch], got {got}; leave out "
            "the mean over examples, and sum over anything else"
        )
    # One sum for all examples: this is asked after every patch.
    if not math.isfinite(values.sum().item()) and not bool(values.isfinite().all()):
        example = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"expected a finite metric, got {values[example]} of example {example} in {what}")
    return values
