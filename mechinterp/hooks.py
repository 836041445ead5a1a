"""The one door to TransformerLens: what our models are built on, and how they are edited.

Every other module takes ``HookPoint``, ``HookedRootModule``, ``ActivationCache`` and
``TransformerLensConfig`` from here, so one file knows that TransformerLens 3.9 and 4.x agree
on them.

Three ideas. A ``Site`` names a tensor inside a network, or a slice of one, by its
TransformerLens hook name. An ``Edit`` is a site and a function of that slice. ``run`` runs
a network with edits in place, and refuses to keep quiet about one that did not act.

Hooks live on the network, edits and caches belong to a call: calls on one network from several threads take
turns (``turn``). Threads that must run at the same time take a copy of the network each.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib
import importlib.metadata
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformer_lens import ActivationCache, FactoredMatrix
from transformer_lens.config import TransformerLensConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from mechinterp.devices import callers_default

__all__ = [
    "ActivationCache",
    "Edit",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "Site",
    "TransformerLensConfig",
    "axes_of",
    "is_hooked",
    "mean",
    "patch",
    "project_out",
    "resample",
    "resolve",
    "run",
    "run_with_cache",
    "scale",
    "steer",
    "takes_turns",
    "transformer_lens_3",
    "transformer_lens_tools",
    "turn",
    "zero",
]

_STREAM = ("batch", "position", "d_model")
_HEAD = ("batch", "position", "head", "d_head")
_HEAD_STREAM = ("batch", "position", "head", "d_model")
_SCORES = ("batch", "head", "query", "key")
_NEURONS = ("batch", "position", "neuron")
_AXES = (
    dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"), _HEAD)
    | dict.fromkeys(("hook_result", "hook_q_input", "hook_k_input"), _HEAD_STREAM)
    | dict.fromkeys(("hook_v_input", "hook_attn_in"), _HEAD_STREAM)
    | dict.fromkeys(("hook_attn_scores", "hook_pattern"), _SCORES)
    | dict.fromkeys(("hook_pre", "hook_post"), _NEURONS)
    | {"hook_out": ("batch", "position", "output")}
    | dict.fromkeys(("hook_code_soft", "hook_code"), ("batch", "position", "code"))
)

Index = int | slice | Sequence[int] | Tensor
Activations = ActivationCache | Mapping[str, Tensor]


def transformer_lens_3() -> tuple[Any, Any]:
    """TransformerLens 3's ``HookedTransformer`` and its config class, imported when asked for.

    Raises:
        ImportError: the installed TransformerLens is of version 4, which removed them.
    """
    version = importlib.metadata.version("transformer-lens")
    if int(version.split(".")[0]) >= 4:
        raise ImportError(
            f"expected transformer-lens>=3.9,<4, which has a HookedTransformer class, got {version}; "
            "install transformer-lens==3.9.0 in an environment of its own, or stay with "
            "mechinterp.models.HookedTransformer, on which TransformerLens's tools run"
        )
    module = importlib.import_module("transformer_lens")
    return module.HookedTransformer, module.HookedTransformerConfig


def transformer_lens_tools() -> Any:
    """TransformerLens 4's ``tools.analysis``: lens, attributions and the rest, imported when asked for.

    Raises:
        ImportError: the installed TransformerLens is older and has no logit lens there.
    """
    tools = importlib.import_module("transformer_lens.tools.analysis")
    if not hasattr(tools, "logit_lens"):
        raise ImportError(
            f"expected transformer-lens>=4.3, which has these tools, got "
            f"{importlib.metadata.version('transformer-lens')}; install transformer-lens==4.3.0"
        )
    return tools


def axes_of(hook_name: str, ndim: int | None = None) -> tuple[str, ...]:
    """The axis names of a hook point's tensor, read off the last part of its name.

    The normalisation before attention has an axis of heads if each head has its own input;
    the number of axes, ``ndim``, tells.
    """
    axes = _AXES.get(hook_name.rsplit(".", 1)[-1], _STREAM)
    return _HEAD_STREAM if axes == _STREAM and ndim == 4 else axes


@dataclass(frozen=True)
class Site:
    """A tensor inside a network, or a slice of it.

    Build one with ``Site.at("blocks.0.attn.hook_z", head=2)`` or
    ``Site.at("blocks.*.mlp.hook_post", neuron=[3, 5], position=-1)``: a hook name, in which
    ``*`` and ``?`` match as in a shell, and what to take along named axes (integers, slices,
    lists or boolean masks). Several lists mean their outer product.
    """

    name: str
    index: tuple[tuple[str, Index], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(
                f"expected a hook's name such as 'blocks.0.hook_resid_pre', got {type(self.name).__name__}; "
                "with an index write Site.at(name, position=-1)"
            )

    @classmethod
    def at(cls, name: str, **index: Index) -> Site:
        """A site by hook name, with the indices along named axes as keywords."""
        return cls(name, tuple(index.items()))

    def __str__(self) -> str:
        inner = ", ".join(f"{axis}={value}" for axis, value in self.index)
        return f"{self.name}[{inner}]" if inner else self.name

    def key(self, hook_name: str, shape: Sequence[int]) -> tuple[Any, ...]:
        """The tensor index of this site's slice of a hook's tensor of the given shape.

        Every axis is kept: an integer leaves an axis of size 1.

        Raises:
            ValueError: an axis that the hook lacks, or an index outside the tensor.
        """
        axes, wanted = axes_of(hook_name, len(shape)), dict(self.index)
        for axis in wanted:
            if axis not in axes:
                raise ValueError(
                    f"expected an axis of {hook_name}, one of {list(axes)}; got {axis!r}; "
                    "use one of those names, or choose another hook"
                )
        parts = [self._part(wanted.get(axis), axis, size) for axis, size in zip(axes, shape)]
        if sum(isinstance(part, Tensor) for part in parts) < 2:
            return tuple(parts)
        lists = [
            part if isinstance(part, Tensor) else torch.arange(size, device="cpu")[part]
            for part, size in zip(parts, shape)
        ]
        return tuple(
            entries.reshape([-1 if other == axis else 1 for other in range(len(lists))])
            for axis, entries in enumerate(lists)
        )

    def _part(self, value: Index | None, axis: str, size: int) -> slice | Tensor:
        if value is None:
            return slice(None)
        given = list(range(size)[value]) if isinstance(value, slice) else value
        try:
            entries = torch.as_tensor(given, device="cpu").reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            entries = torch.zeros(1, device="cpu")
        if entries.numel() and (entries.is_floating_point() or entries.is_complex()):
            raise TypeError(
                f"expected whole numbers, a slice or a mask along {axis!r} at {self.name}, got {value!r}; "
                "leave the axis out to take all of it"
            )
        if entries.dtype == torch.bool:
            if len(entries) != size:
                raise ValueError(
                    f"expected a mask of {size} entries along {axis!r} at {self}, got {len(entries)}; "
                    "give one for each, or give indices"
                )
            entries = entries.nonzero().squeeze(-1)
        if entries.numel() == 0:
            raise ValueError(
                f"expected at least one index along {axis!r} at {self}, got none; the tensor has "
                f"{size} entries there"
            )
        if entries.min() < -size or entries.max() >= size:
            raise ValueError(
                f"expected indices along {axis!r} within [-{size}, {size}) at {self}, got "
                f"{entries.tolist()}; the tensor has {size} entries there"
            )
        return entries % size

    def read(self, hook_name: str, tensor: Tensor) -> Tensor:
        """This site's slice of a hook's tensor, with every axis kept."""
        return tensor[self.key(hook_name, tensor.shape)]


@dataclass(frozen=True)
class Edit:
    """A site, and what becomes of its slice.

    Args:
        site: where.
        change: takes the slice and the hook's name, returns the new slice, of the same shape
            or one that expands to it. What it is given is a copy, into which it may write.
        label: what to call the edit in messages.
    """

    site: Site
    change: Callable[[Tensor, str], Tensor]
    label: str = "edit"

    def __post_init__(self) -> None:
        if not isinstance(self.site, Site) or not callable(self.change):
            raise TypeError(
                f"expected Edit(site, change) of a Site and a function, got {type(self.site).__name__} and "
                f"{type(self.change).__name__}; write Edit(Site.at(name), lambda old, name: 0 * old)"
            )

    def __call__(self, tensor: Tensor, hook_name: str) -> Tensor:
        """The whole tensor with the slice replaced; the given tensor stays as it was."""
        key = self.site.key(hook_name, tensor.shape)
        old = tensor[key]
        if not any(isinstance(part, Tensor) for part in key):
            old = old.clone()  # slices alone give a view, and the change may write into it
        new = self.change(old, hook_name)
        if not isinstance(new, Tensor):
            raise TypeError(
                f"expected {self} to return a tensor, got {type(new).__name__}; return the changed slice"
            )
        try:
            new = new.to(tensor.dtype).expand(old.shape)
        except RuntimeError:
            raise ValueError(
                f"expected {self} to return shape {tuple(old.shape)}, got {tuple(new.shape)}; "
                "an edit keeps the shape of its slice"
            ) from None
        edited = tensor.clone()
        edited[key] = new
        return edited

    def __str__(self) -> str:
        return f"{self.label} at {self.site}"


def zero(site: Site) -> Edit:
    """Zero ablation: the slice becomes 0."""
    return Edit(site, lambda old, _: torch.zeros_like(old), "zero")


def scale(site: Site, factor: float) -> Edit:
    """Multiply the slice by a number."""
    return Edit(site, lambda old, _: factor * old, f"scale by {factor}")


def mean(site: Site, cache: Activations) -> Edit:
    """Mean ablation: the slice becomes its mean over the cache's batch, position by position."""

    def change(old: Tensor, name: str) -> Tensor:
        reference = _kept(cache, name).mean(0, keepdim=True)
        if dict(site.index).keys() & {"batch"}:
            raise ValueError(f"expected a site without a batch index for a mean, got {site}")
        return site.read(name, reference).expand(old.shape)

    return Edit(site, change, "mean")


def patch(site: Site, cache: Activations) -> Edit:
    """Activation patching: the slice takes its value in another run's cache, row by row."""
    return Edit(site, lambda _, name: site.read(name, _kept(cache, name)), "patch")


def resample(site: Site, cache: Activations, seed: int = 0) -> Edit:
    """Resample ablation: each row takes the slice of a random row of the cache."""

    def change(old: Tensor, name: str) -> Tensor:
        donor = site.read(name, _kept(cache, name))
        generator = torch.Generator().manual_seed(seed)
        return donor[torch.randint(len(donor), (len(old),), generator=generator, device="cpu")]

    return Edit(site, change, "resample")


def _kept(cache: Activations, name: str) -> Tensor:
    """Look a hook point up in another run's cache.

    Raises:
        ValueError: the cache was kept without it.
    """
    if name not in cache:
        raise ValueError(
            f"expected a cache with {name}, got one with {sorted(cache)[:4]}; keep it by "
            f"run_with_cache(..., names={name!r})"
        )
    return cache[name]


def steer(site: Site, direction: Tensor, amount: float = 1.0) -> Edit:
    """Add ``amount`` times a direction, which has the length of the site's last axis."""

    def change(old: Tensor, name: str) -> Tensor:
        _check_length(site, name, direction, old)
        return old + amount * direction.to(old)

    return Edit(site, change, "steer")


def project_out(site: Site, directions: Tensor) -> Edit:
    """Remove the span of directions, shape ``[d]`` or ``[k, d]``, along the site's last axis."""
    _, sizes, rows = torch.linalg.svd(torch.atleast_2d(directions).double(), full_matrices=False)
    basis = rows[sizes > 1e-6 * sizes.max()].mT  # directions that depend on each other count once

    def change(old: Tensor, name: str) -> Tensor:
        _check_length(site, name, directions, old)
        span = basis.to(old)
        return old - (old @ span) @ span.mT

    return Edit(site, change, "project out")


def _check_length(site: Site, name: str, direction: Tensor, old: Tensor) -> None:
    """Refuse a direction that would be spread over an axis, or does not fit it."""
    got = direction.shape[-1] if direction.ndim else 0
    if got != old.shape[-1]:
        raise ValueError(
            f"expected a direction of {old.shape[-1]} entries, as the last axis of {site} at {name} has, got "
            f"{list(direction.shape)}; give one of that length"
        )


_TURNS: WeakKeyDictionary[torch.nn.Module, AbstractContextManager] = WeakKeyDictionary()
_TURNS_GUARD = threading.Lock()


def turn(model: Any) -> AbstractContextManager:
    """Return the lock that calls on a network share; the thread that holds it may take it again.

    While one thread has hooks attached, the passes of others would meet them.
    """
    model = getattr(model, "shares_hooks_with", model)
    if not isinstance(model, torch.nn.Module):
        return nullcontext()  # what is no network is refused elsewhere, in words
    with _TURNS_GUARD:
        return _TURNS.setdefault(model, threading.RLock())


def takes_turns(function: Callable) -> Callable:
    """Give a function whose first argument is a network its ``turn`` for as long as it runs."""

    @functools.wraps(function)
    def turning(model: Any, *args: Any, **kwargs: Any) -> Any:
        with turn(model):
            return function(model, *args, **kwargs)

    return turning


def is_hooked(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether any of some modules has a hook attached, TransformerLens's or torch's own."""
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


def resolve(model: torch.nn.Module, site: Site) -> list[str]:
    """The names of the model's hook points that a site covers, in the order of its modules.

    Raises:
        ValueError: the site covers none; the message names the nearest hook points.
    """
    _check_hooked(model)
    if site.name in model.hook_dict:
        return [site.name]
    names = [name for name in model.hook_dict if fnmatch.fnmatchcase(name, site.name)]
    if not names:
        near = difflib.get_close_matches(site.name, model.hook_dict, n=3, cutoff=0.3)
        raise ValueError(
            f"expected a site of this model, got {site.name!r}, which matches no hook point; "
            f"the nearest are {near or list(model.hook_dict)[:3]}"
        )
    return names


def _check_hooked(model: Any) -> None:
    if not (hasattr(model, "hook_dict") and hasattr(model, "hooks")):
        raise TypeError(
            f"expected a network with hook points, got {type(model).__name__}; build a "
            "mechinterp.models.HookedTransformer, or give your module HookPoints and call setup()"
        )


def run(model: torch.nn.Module, *inputs: Any, edits: Iterable[Edit] = (), **forward: Any) -> Any:
    """Run a model with edits in place and return its output.

    Calls on one network from several threads take turns. A compiled network is run without its compilation.
    Edits at one hook point apply in the order given, each to the result of the one before;
    across hook points they apply in the order of the forward pass. Hooks are gone when
    ``run`` returns or raises.

    Args:
        model: any model with TransformerLens's hook points.
        inputs, forward: what the model's ``forward`` takes.
        edits: what to change.

    Raises:
        ValueError: a site that matches nothing, or an edit that changes the shape.
        RuntimeError: an edit whose hook point was never reached.
    """
    return _run(model, inputs, forward, _edits(edits), None)[0]


def run_with_cache(
    model: torch.nn.Module,
    *inputs: Any,
    edits: Iterable[Edit] = (),
    names: str | Sequence[str] = "*",
    dtype: torch.dtype | None = None,
    **forward: Any,
) -> tuple[Any, ActivationCache]:
    """As ``run``, and the activations after the edits, as an ``ActivationCache``.

    Args:
        names: hook names, or patterns of them, to keep.
        dtype: keep them in this precision, such as ``torch.bfloat16`` for half the memory; the run
            itself stays as it is.

    Raises:
        ValueError: as ``run``, or a pattern in ``names`` that matches nothing.
        RuntimeError: as ``run``, or a pattern in ``names`` whose hook points were never reached.
    """
    wanted = [resolve(model, Site(pattern)) for pattern in ([names] if isinstance(names, str) else names)]
    output, kept = _run(model, inputs, forward, _edits(edits), set().union(*wanted), dtype)
    for covered in wanted:
        if kept.keys().isdisjoint(covered):
            raise RuntimeError(_unreached("every name to be kept", covered[0], covered[0]))
    return output, ActivationCache(kept, model)


def _edits(edits: Any) -> list[Edit]:
    """Edits as a list, checked."""
    given = list(edits) if isinstance(edits, Iterable) else [edits]
    strange = [type(edit).__name__ for edit in given if not isinstance(edit, Edit)]
    if strange or isinstance(edits, Edit):
        raise TypeError(
            f"expected edits=[Edit(site, change), ...], got {strange or 'one edit alone'}; make a list"
        )
    return given


def _run(
    model: torch.nn.Module,
    inputs: tuple,
    forward: dict,
    edits: list[Edit],
    wanted: set | None,
    dtype: torch.dtype | None = None,
) -> tuple[Any, dict[str, Tensor]]:
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    _check_hooked(model)
    pending = {(order, name) for order, edit in enumerate(edits) for name in resolve(model, edit.site)}
    kept: dict[str, Tensor] = {}

    # Under the name asked for: TransformerLens 4's bridge has several for one hook point.
    acts = [(name, _acting(edits[order], order, name, pending)) for order, name in sorted(pending)]
    keeps = [(name, _keeping(name, kept, dtype)) for name in wanted or ()]
    hooks = acts + keeps
    with turn(model), model.hooks(fwd_hooks=hooks), callers_default():
        output = model(*inputs, **forward)
    if pending:
        order, name = min(pending)
        raise RuntimeError(_unreached("every edit to act", str(edits[order]), name))
    return output, kept


# Lambdas, since type checks of the tests would compile an inner function anew at every call.
def _acting(edit: Edit, order: int, name: str, pending: set) -> Callable:
    """A hook that applies an edit, and says that it did."""
    return lambda tensor, hook: (pending.discard((order, name)), edit(tensor, name))[1]


def _keeping(name: str, kept: dict[str, Tensor], dtype: torch.dtype | None) -> Callable:
    """A hook that keeps an activation, and changes nothing."""
    return lambda tensor, hook: kept.update(
        {name: tensor.detach() if dtype is None else tensor.detach().to(dtype)}
    )


def _unreached(expected: str, got: str, name: str) -> str:
    return (
        f"expected {expected}, but {got} never fired: the forward pass does not reach {name}; "
        "switch it on in the config (use_attn_result, use_split_qkv_input, use_attn_in, "
        "use_hook_mlp_in) or choose another site"
    )
