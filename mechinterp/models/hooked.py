"""What all our networks share: seeded weights, biases trained or not, and TransformerLens's cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.hooks import ActivationCache, HookedRootModule, turn
from mechinterp.models.config import TransformerConfig


class GuardedCache(ActivationCache):
    """A cache that refuses some sums, and so do its slices."""

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> ActivationCache:
        """As TransformerLens has it, with the same guard."""
        found = super().apply_slice_to_batch_dim(batch_slice)
        return type(self)(found.cache_dict, found.model, has_batch_dim=found.has_batch_dim)


class TwoStackCache(GuardedCache):
    """A cache of a network with cross-attention, which TransformerLens's sums over components do not know."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        """Refused: attention to the source would be left out.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected the cache of a network of one stack, got one with attention to a source, which this "
            "sum would leave out; take hook_cross_attn_out beside hook_attn_out and hook_mlp_out"
        )

    def __getitem__(self, key: Any) -> Tensor:
        """By hook name, or by TransformerLens's shorthand, which knows the decoder's own attention only.

        Raises:
            ValueError: a shorthand that names another part.
        """
        if isinstance(key, tuple) and len(key) > 2 and key[2] not in (None, "", "a", "attn", "m", "mlp"):
            raise ValueError(
                f"expected attn or mlp of the decoder in {key}, got {key[2]!r}; name the hook instead, such "
                "as blocks.0.cross_attn.hook_pattern or encoder.blocks.0.attn.hook_pattern"
            )
        return super().__getitem__(key)

    decompose_resid = stack_head_results = get_full_resid_decomposition = _refuse


class CodebookCache(GuardedCache):
    """A cache of a network with codebooks, behind which a sublayer's output is no sum of its parts."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        """Refused: the codes that pass are not the sum of what heads or neurons write.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected the cache of a network without codebooks, got one whose heads' and neurons' outputs do "
            "not add up to the stream; take hook_attn_out and hook_mlp_out, or decompose_resid"
        )

    stack_head_results = stack_neuron_results = get_full_resid_decomposition = _refuse


def hook_tables(module: nn.Module) -> tuple[Any, ...]:
    """The dictionaries in which torch keeps the hooks of a module and of all its parts.

    ``torch.compile`` passes over hooks that are attached later, since it does not guard on these dictionaries
    under their own names; it does on what is looked up in this tuple.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return tuple(getattr(part, kind) for part in module.modules() for kind in kinds)


def uncompiled_while_hooked(forward: Callable) -> Callable:
    """Let a ``forward`` leave ``torch.compile`` while hooks are ``attached``, since it would freeze them."""

    @wraps(forward)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() and any(len(table) for table in self.attached):
            return _uncompiled(forward, self, *args, **kwargs)
        return forward(self, *args, **kwargs)

    return run


@torch._disable_dynamo  # as torch.compiler.disable, which would import the compiler here
def _uncompiled(forward: Callable, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


class Hooked(HookedRootModule):
    """A network with hook points; a subclass builds its modules and then calls ``finish``."""

    cfg: TransformerConfig

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = copy.copy(cfg)  # TransformerLens's tools switch flags there, of this network alone

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.Module._apply``, through which all conversions go; the config follows the weights."""
        moved = super()._apply(*args, **kwargs)
        self._follow()
        return moved

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.Module.load_state_dict``; with ``assign=True`` weights may come in another dtype."""
        keys = super().load_state_dict(*args, **kwargs)
        self._follow()
        return keys

    def _follow(self) -> None:
        """Set dtype and device of the network's configs to those of its weights."""
        weight = next(self.parameters())
        for cfg in (getattr(module, "cfg", None) for module in self.modules()):
            if isinstance(cfg, TransformerConfig):
                cfg.dtype, cfg.device = weight.dtype, str(weight.device)

    def finish(self) -> None:
        """Draw the weights by ``cfg.seed``, settle which are trained, and name the hook points."""
        cfg = self.cfg
        dtype, device = cfg.dtype, cfg.device
        self.float()  # whatever torch's default dtype is, a seed draws the same weights
        self.reset_parameters(torch.Generator().manual_seed(cfg.seed))
        for name, parameter in self.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("b_"):
                parameter.requires_grad_(cfg.use_biases)
        self.to(device=device, dtype=dtype)
        self.setup()
        self.attached = hook_tables(self)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, in the order of the modules."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters(generator)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the network, in turn with calls from other threads, whose hooks it would meet."""
        if torch.compiler.is_compiling():  # a lock cannot be compiled
            return super().__call__(*inputs, **kwargs)
        with turn(self):
            return super().__call__(*inputs, **kwargs)

    @contextmanager
    def hooks(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As ``HookedRootModule.hooks``; meanwhile calls from other threads wait."""
        with turn(self), super().hooks(*args, **kwargs):
            yield self

    def run_with_cache(self, *inputs: Any, return_cache_object: bool = True, **kwargs: Any) -> Any:
        """As ``HookedRootModule.run_with_cache``, with an ``ActivationCache`` for a cache."""
        remove_batch_dim = kwargs.get("remove_batch_dim", False)
        output, cache = super().run_with_cache(*inputs, **kwargs)
        if not return_cache_object:
            return output, cache
        books = CodebookCache if self.cfg.codebook_size else ActivationCache
        kind = TwoStackCache if hasattr(self.cfg, "n_ctx_source") else books
        return output, kind(cache, self, has_batch_dim=not remove_batch_dim)

    @property
    def hooked(self) -> bool:
        """Whether a hook is attached anywhere."""
        return any(self.attached)
