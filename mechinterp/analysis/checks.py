"""What every analysis refuses before it starts to work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_model(model: Any, what: str = "this", cfg: Sequence[str] = (), weights: Sequence[str] = ()) -> None:
    """Refuse what has no hook points or lacks what an analysis needs, and activations drawn at random.

    Args:
        what: the analysis, for the message.
        cfg: fields of the model's config that the analysis reads.
        weights: attributes of the model that it reads, such as ``W_U``.

    Raises:
        ValueError: no network with hook points, a field or weight that it lacks; dropout, noise of codebooks,
            or drawn positions, in training mode.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "hook_dict"):
        raise ValueError(
            f"expected a network with TransformerLens's hook points, got {type(model).__name__}; build one "
            "with models, load a TransformerBridge, or derive yours from hooks.HookedRootModule, with setup()"
        )
    own = getattr(model, "cfg", None)
    lacking = [f"cfg.{name}" for name in cfg if not hasattr(own, name)]
    lacking += [name for name in weights if not hasattr(model, name)]
    if lacking:
        raise ValueError(
            f"expected a model with {', '.join(lacking)} for {what}, got {type(model).__name__}, which lacks "
            "them; set them as TransformerLens names them, or patch at a hook's own name by "
            "activation_patching"
        )
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


def check_evaluation(model: Any) -> None:
    """Refuse a network in training mode, which TransformerLens's own tools do not take.

    Raises:
        ValueError: as said.
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            f"expected {type(model).__name__} in evaluation mode, got training mode in a part of it; call "
            "model.eval()"
        )


def check_untrained(model: Any, untrained: Any) -> None:
    """Refuse a network before training that is none, or of another number of layers.

    Raises:
        ValueError: as said, or as ``check_model``.
    """
    if untrained is None:
        return
    check_model(untrained)
    layers = [getattr(getattr(each, "cfg", None), "n_layers", None) for each in (model, untrained)]
    if layers[0] != layers[1]:
        raise ValueError(
            f"expected an untrained network with the layers and heads of the trained one, got {layers[1]} "
            f"layers for {layers[0]}; build it alike"
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
    if hasattr(getattr(model, "cfg", None), "n_ctx_source") and not (
        decoder and not hasattr(model, "encoder")
    ):
        raise ValueError(
            f"expected a network of one stack for {what}, got {type(model).__name__}, whose attention to the "
            f"source it would leave out; {remedy}"
        )


def check_tokens(model: Any, inputs: Tensor) -> None:
    """Refuse vectors where the network takes token ids.

    Raises:
        ValueError: floats, unless the network's config has a ``d_input``.
    """
    cfg = getattr(model, "cfg", None)
    if cfg is not None and inputs.is_floating_point() and getattr(cfg, "d_input", None) is None:
        raise ValueError(
            f"expected token ids, int64 [batch, pos], got {inputs.dtype} {tuple(inputs.shape)}; convert them "
            "with .long()"
        )


def check_inputs(
    inputs: Tensor, attention_mask: Tensor | None = None, name: str = "inputs", least: int = 2
) -> None:
    """Refuse what is no batch of examples, a batch of one, and a mask that is none or leaves nothing.

    Args:
        name: what they are called.
        least: how many examples are needed.

    Raises:
        ValueError: no ids ``[batch, pos]`` or vectors ``[batch, pos, d_input]``, fewer than two examples, no
            position, or as ``check_attention_mask``.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim not in (2, 3) or inputs.dtype in _NO_INPUTS:
        raise ValueError(
            f"expected {name} as a tensor of ids [batch, pos] or vectors [batch, pos, d_input], got "
            f"{said(inputs)}; of a batch give its inputs"
        )
    if len(inputs) < least or inputs.shape[1] < 1:
        raise ValueError(
            f"expected at least {least} examples, got {len(inputs)}, of {inputs.shape[1]} positions, which "
            "has no interval or control; give more"
        )
    check_attention_mask(attention_mask, inputs)


_NO_INPUTS = (torch.bool, torch.complex64, torch.complex128)


def check_attention_mask(mask: Tensor | None, inputs: Tensor) -> None:
    """Refuse a mask that does not say of each token whether it is real, or leaves an example nothing.

    Raises:
        ValueError: another shape, numbers other than 0 and 1, floats (which may be an additive mask, true
            where this is false), or an empty mask.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(inputs.shape[:2]):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"expected an attention_mask of {tuple(inputs.shape[:2])}, got {got}; give one entry for each "
            "token"
        )
    whole = not mask.is_floating_point() and not mask.is_complex()
    if not whole or (mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any())):
        raise ValueError(
            "expected an attention_mask of booleans or of 0 and 1, true at real tokens, got "
            f"{said(mask)}; of an additive mask, 0 at real tokens, give mask == 0"
        )
    empty = (~mask.bool().any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"expected a real token in every example, got an empty mask in examples {empty[:5]}; drop them"
        )


def check_masked(model: Any, mask: Tensor | None) -> None:
    """Refuse a mask for a model whose forward pass takes none.

    Raises:
        ValueError: as said.
    """
    if mask is not None:
        check_takes(model, "attention_mask", "give examples of one length, without a mask")


def check_takes(model: Any, argument: str, remedy: str) -> None:
    """Refuse a model whose forward pass does not take an argument.

    Raises:
        ValueError: as said.
    """
    takes = inspect.signature(model.forward).parameters
    kinds = {each.kind for each in takes.values()}
    if argument not in takes and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"expected a model whose forward pass takes {argument}, got {type(model).__name__}, which does "
            f"not; {remedy}"
        )


def said(given: Any) -> str:
    """What was given, for a message."""
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


def check_pair(clean: Tensor, corrupted: Tensor, attention_mask: Tensor | None = None) -> None:
    """Refuse clean and corrupted inputs that do not match place by place, and as ``check_inputs``.

    Raises:
        ValueError: different shapes.
    """
    for name, inputs in (("clean", clean), ("corrupted", corrupted)):
        check_inputs(inputs, name=name)
    if clean.shape != corrupted.shape:
        raise ValueError(
            f"expected clean and corrupted inputs of one shape, got {tuple(clean.shape)} and "
            f"{tuple(corrupted.shape)}; pair each clean example with a corrupted one of the same length"
        )
    check_attention_mask(attention_mask, clean)


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
    try:
        indices = [int(index) for index in wanted]
    except (TypeError, ValueError):
        raise ValueError(
            f"expected {what} as a list of whole numbers, or None for all, got {wanted!r}; of one give [it]"
        ) from None
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


def check_read(
    read: Sequence[int] | Tensor, inputs: Tensor, mask: Tensor | None = None, each: bool = False
) -> None:
    """Refuse positions to read that the inputs do not have, or that are padding.

    Args:
        each: refuse an example of which one position is padding, not only one of which all are.

    Raises:
        ValueError: none, some beyond the sequence, padding alone in an example, or not ``[read]`` or
            ``[batch, read]`` integers.
    """
    try:
        at = torch.as_tensor(read)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"expected positions to read as integers [read] or [batch, read], got {type(read).__name__}; for "
            "the last position give read=(-1,)"
        ) from None
    n_pos = inputs.shape[1]
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
    real = mask.bool().gather(1, rows)
    padded = int((~(real.all(1) if each else real.any(1))).sum())
    if padded:
        raise ValueError(
            f"expected real tokens where outputs are read, got padding{'' if each else ' alone'} in {padded} "
            f"of {len(inputs)} examples; give each example's own positions, such as a batch's read"
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
