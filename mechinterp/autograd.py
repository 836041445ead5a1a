"""Where torch runs our operations as they are, and where it transforms or traces them.

Our own autograd functions overwrite tensors and choose dtypes by hand, and checks look at the values of
tensors. ``torch.func``'s transforms, forward-mode differentiation, autocast, ``torch.compile`` and
``torch.export`` cannot follow either, so that plain operations take their place there, with the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def runs_eagerly() -> bool:
    """Whether autograd functions of our own may be used: nothing transforms, traces or casts operations."""
    return not (
        torch.compiler.is_compiling()  # first: dynamo cannot trace the others
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def may_overwrite(grad: Tensor) -> bool:
    """Whether a backward pass may overwrite what it no longer needs.

    A second derivative, a transform or a batch of gradients (``is_grads_batched``) needs plain operations.
    """
    batched = torch._C._functorch.is_legacy_batchedtensor(grad)
    return not torch.is_grad_enabled() and not batched and runs_eagerly()


def is_readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be looked at: it is not traced, transformed, fake or ``meta``."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or tensor.is_meta
        or type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    )
