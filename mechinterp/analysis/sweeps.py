"""Many patches of one run, as few forward passes as memory allows.

A sweep runs a network once for each of many patches: one activation of one layer, at some
positions, of a head or a group of neurons or all, takes a donor's values. Patches are folded
into the batch. A network that knows how to ``rerun`` computes only what each patch can reach; any
other with TransformerLens's hook names takes the plain way, which is also what checks the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.checks import check_metric, check_read
from mechinterp.hooks import Edit, Site, resolve, run, run_with_cache
from mechinterp.models.entering import STAGES

Metric = Callable[[Tensor], Tensor]
"""Takes outputs ``[batch, read, d_out]``, gives one number for each example, ``[batch]``."""
Progress = Callable[[int, int], None]
"""Told how many patches are done, of how many."""

HEADS = ("q", "k", "v", "z", "pattern")
STREAMS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
NEURONS = ("post",)
ENTERS = dict.fromkeys(HEADS, "mid") | dict.fromkeys(NEURONS, "post") | STAGES
"""Where in a layer a change of each joins the stream, as ``Change`` has it."""
MEMORY = 8 << 20
"""Bytes for the activations of one batch of patches: about what stays in a processor's cache."""
ALIKE = 0.8
"""Patches are worked out together where that share of the positions must be computed anyway."""
ROUNDINGS = 16
"""Effects up to so many times a jitter of the last bit count as none."""


@dataclass(frozen=True)
class Patch:
    """One activation of one layer takes a donor's values.

    Args:
        layer: which.
        positions: where; of ``pattern``, the positions that ask.
        head: one of them, or ``None`` for all.
        neurons: some, or ``None`` for all.
    """

    layer: int
    positions: tuple[int, ...]
    head: int | None = None
    neurons: tuple[int, ...] | None = None

    def site(self, activation: str) -> Site:
        """The same as a site."""
        at: dict[str, Any] = {"query" if activation == "pattern" else "position": self.positions}
        if self.head is not None:
            at["head"] = self.head
        if self.neurons is not None:
            at["neuron"] = self.neurons
        return Site.at(hook_of(activation, self.layer), **at)


@dataclass(frozen=True)
class Setting:
    """What all patches of a sweep share.

    Args:
        model: in evaluation mode.
        inputs: of the run that is patched, ``[batch, pos]`` ids or ``[batch, pos, d_input]``.
        metric: what is measured, one number for each example.
        read: positions whose outputs the metric takes, for all examples or ``[batch, read]``.
        attention_mask: true at real tokens, ``[batch, pos]``.
        memory: bytes for the activations of one batch of patches.
    """

    model: Any
    inputs: Tensor
    metric: Metric
    read: Sequence[int] | Tensor = (-1,)
    attention_mask: Tensor | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        check_read(self.read, self.inputs)

    @torch.no_grad()
    def outputs(self, times: int = 1, edits: Sequence[Edit] = ()) -> Float[Tensor, "row read out"]:
        """Outputs at the positions read, of the batch repeated a number of times."""
        return self.forward(times, edits)

    def forward(self, times: int = 1, edits: Sequence[Edit] = ()) -> Float[Tensor, "row read out"]:
        """The same, with gradients if they are on."""
        inputs = self.inputs.repeat(times, *[1] * (self.inputs.ndim - 1))
        forward = self.masked(times)
        read = torch.as_tensor(self.read, device=inputs.device)
        read = read.repeat(times, 1) if read.ndim == 2 else read
        if hasattr(self.model, "rerun"):
            # Without any hook it would compute less and round otherwise: an intact run has one too.
            own = "blocks.0.hook_resid_pre"
            return run_with_cache(self.model, inputs, edits=edits, names=own, read=read, **forward)[0]
        logits = run(self.model, inputs, edits=edits, **forward)
        at = (read % inputs.shape[1]).expand(len(inputs), -1)
        return logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))

    @torch.no_grad()
    def activations(self, names: Sequence[str]) -> dict[str, Float[Tensor, "batch ..."]]:
        """Activations of the intact run, by hook name."""
        return activations(self.model, self.inputs, names, self.attention_mask)

    def masked(self, times: int = 1) -> dict[str, Any]:
        """The attention mask as ``forward`` takes it, of the batch repeated a number of times."""
        return {} if self.attention_mask is None else {"attention_mask": self.attention_mask.repeat(times, 1)}

    def measure(self, outputs: Float[Tensor, "batch read out"], what: object) -> Float[Tensor, " batch"]:
        """The metric of a batch, checked."""
        with torch.no_grad():
            values = self.metric(outputs)
        return check_metric(values, len(self.inputs), what).cpu().double()

    def rounding(self, before: Float[Tensor, " batch"]) -> float:
        """What counts as rounding in the metric: ``ROUNDINGS`` times the most by which it changes in any
        example when every residual stream is jittered by the last bit of its numbers."""

        def jitter(stream: Tensor, _: str) -> Tensor:
            signs = torch.randint(2, stream.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
            return stream * (1 + torch.finfo(stream.dtype).eps * signs.to(stream))

        outputs = self.outputs(edits=[Edit(Site("blocks.*.hook_resid_p*"), jitter, "rounding")])
        return ROUNDINGS * (self.measure(outputs, "the jittered run") - before).abs().max().item()


@torch.no_grad()
def activations(
    model: Any, inputs: Tensor, names: Sequence[str], attention_mask: Tensor | None = None
) -> dict[str, Float[Tensor, "batch ..."]]:
    """Activations of a run, by hook name."""
    masked = {} if attention_mask is None else {"attention_mask": attention_mask}
    _, cache = run_with_cache(model, inputs, names=names, **masked)
    return {name: cache[name] for name in names}


def patches_of(
    axes: Mapping[str, Sequence[Any]], n_pos: int, groups: Mapping[Any, Sequence[int] | Tensor] | None = None
) -> list[Patch]:
    """A patch for each cell of some axes (layer, position, head, group), in their order."""
    cells = (dict(zip(axes, cell)) for cell in product(*axes.values()))
    return [
        Patch(
            cell["layer"],
            (cell["position"],) if "position" in cell else tuple(range(n_pos)),
            cell.get("head"),
            tuple(map(int, (groups or {})[cell["group"]])) if "group" in cell else None,
        )
        for cell in cells
    ]


def hook_of(activation: str, layer: int) -> str:
    """The hook name of an activation's short name."""
    place = "attn." if activation in HEADS else "mlp." if activation in NEURONS else ""
    return f"blocks.{layer}.{place}hook_{activation}"


def donor_names(model: Any, activation: str, layers: Sequence[int]) -> list[str]:
    """The hook names that a donor's run must keep: the activation's, and for reruns the same rotated."""
    names = [hook_of(activation, layer) for layer in layers]
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


def sweep(
    setting: Setting,
    activation: str,
    patches: Sequence[Patch],
    donor: Mapping[str, Tensor],
    *,
    fast: bool = True,
    progress: Progress | None = None,
) -> Float[Tensor, "patch batch"]:
    """The metric of every example under every patch; of one that a patch leaves as it was, to the last bit.

    Args:
        activation: a short name of ``HEADS``, ``STREAMS`` or ``NEURONS``.
        donor: by hook name, the values that the patches bring, of a batch of 1 or of all.
        fast: rerun only what a patch can reach, where the model can.
    """
    way = _reruns if fast and hasattr(setting.model, "rerun") else _whole_runs
    found: dict[int, Tensor] = {}
    for which, outputs in way(setting, activation, list(patches), donor):
        found[which] = setting.measure(outputs, patches[which])
        if progress is not None:
            progress(len(found), len(patches))
    return torch.stack([found[which] for which in range(len(patches))])


def _whole_runs(
    setting: Setting, activation: str, patches: list[Patch], donor: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer at a time, whole forward passes with hooks."""
    names = {patch.layer: hook_of(activation, patch.layer) for patch in patches}
    base, intact = setting.activations(list(names.values())), setting.outputs()
    for layer, some in _by(lambda patch: patch.layer, patches):
        old = base[names[layer]]
        new = donor[names[layer]].to(old).expand_as(old)
        keys = [patches[which].site(activation).key(names[layer], old.shape) for which in some]
        for which, key, outputs in zip(some, keys, _swapped(setting, names[layer], new, keys)):
            changed = (new[key] != old[key]).flatten(1).any(1)
            yield which, torch.where(changed[:, None, None], outputs, intact)


def _swapped(setting: Setting, name: str, new: Tensor, keys: list) -> Iterator[Tensor]:
    """Outputs with new values at each of some places of a hook point, many in one batch."""
    shape = setting.inputs.shape
    at_once = max(1, setting.memory // (shape[0] * shape[1] * 64 * setting.model.cfg.d_model))
    for chunk in _chunks(keys, at_once):

        def swap(tensor: Tensor, _: str, chunk: list = chunk) -> Tensor:
            rows = tensor.clone().unflatten(0, (len(chunk), shape[0]))
            for row, key in zip(rows, chunk):
                row[key] = new[key]
            return rows.flatten(0, 1)

        outputs = setting.outputs(len(chunk), [Edit(Site(name), swap, "patches")])
        yield from outputs.unflatten(0, (len(chunk), shape[0]))


def _reruns(
    setting: Setting, activation: str, patches: list[Patch], donor: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer at a time, from where they enter; those of single positions together."""
    own = hook_of(activation, 0).removeprefix("blocks.0.")
    rerun = setting.model.rerun(
        setting.inputs, read=setting.read, attention_mask=setting.attention_mask, keep=[own]
    )
    spread = activation in ("k", "v")  # a change of theirs is felt at other positions in the same layer

    def common(patch: Patch) -> tuple[int, tuple[int, ...]]:
        return patch.layer, patch.positions if spread or len(patch.positions) > 1 else ()

    for (layer, positions), some in _by(common, patches):
        if positions:
            yield from _together(setting, rerun, activation, patches, some, donor)
            continue
        heard = set(rerun.heard(layer, ENTERS[activation]).tolist())
        by_position = dict(_by(lambda patch: patch.positions[0], patches, some))
        for position in by_position.keys() - heard:
            yield from ((which, rerun.intact) for which in by_position.pop(position))
        most = max(map(len, by_position.values()), default=0) * _bytes(setting)
        for span in _spans(rerun, activation, layer, sorted(by_position), setting.memory // max(most, 1)):
            here = [which for position in span for which in by_position[position]]
            yield from _together(setting, rerun, activation, patches, here, donor)


def _together(
    setting: Setting, rerun: Any, activation: str, patches: list[Patch], some: list[int], donor: Mapping
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer: all of the same positions, or of one each."""
    layer = patches[some[0]].layer
    apart = len({patches[which].positions for which in some}) > 1
    positions = sorted({at for which in some for at in patches[which].positions})
    kinds = list(dict.fromkeys((patches[which].head, patches[which].neurons) for which in some))
    at = torch.tensor(positions, device=setting.inputs.device)
    change = _enter(rerun, activation, layer, at, donor, kinds)
    change = change.apart() if apart else change
    place = {position: len(kinds) * step for step, position in enumerate(positions)} if apart else {}
    rows = [
        place.get(patches[which].positions[0], 0) + kinds.index((patches[which].head, patches[which].neurons))
        for which in some
    ]
    changed = change.delta.flatten(2).any(-1).T
    breadth = rerun.breadth(layer, ENTERS[activation], positions[0])
    at_once = max(1, setting.memory // (breadth * _bytes(setting)))
    for chunk in _chunks(list(zip(some, rows)), at_once):
        picked = [row for _, row in chunk]
        outputs = rerun.outputs(change[picked])
        if outputs is not None and not bool(changed[picked].all()):
            outputs = torch.where(changed[picked][:, :, None, None], outputs, rerun.intact)
        for place_, (which, _) in enumerate(chunk):
            yield which, rerun.intact if outputs is None else outputs[place_]


def _bytes(setting: Setting) -> int:
    """What one patch takes at one position, at the widest place of the network."""
    cfg = setting.model.cfg
    wide = max(cfg.d_mlp or 0, 4 * cfg.d_model, cfg.n_heads * setting.inputs.shape[1], cfg.d_vocab_out)
    return 4 * len(setting.inputs) * wide


def _spans(
    rerun: Any, activation: str, layer: int, positions: Sequence[int], at_once: int
) -> Iterator[list[int]]:
    """Positions whose patches are worked out together: they are few enough, and reach about as far."""
    span: list[int] = []
    total = 0
    for position in positions:
        own = rerun.breadth(layer, ENTERS[activation], position)
        widest = rerun.breadth(layer, ENTERS[activation], span[0]) if span else own
        size = widest * (len(span) + 1)
        if span and (size > at_once or total + own < ALIKE * size):
            yield span
            span, total = [], 0
        span, total = [*span, position], total + own
    if span:
        yield span


def _enter(
    rerun: Any,
    activation: str,
    layer: int,
    at: Tensor,
    donor: Mapping[str, Tensor],
    kinds: Sequence[tuple[int | None, tuple[int, ...] | None]],
) -> Any:
    """The change by patches of some heads or groups of neurons, at the same positions."""
    name = hook_of(activation, layer)
    if activation in STREAMS:
        return rerun.enter_stream(layer, activation, at, donor[name][:, None])[[0] * len(kinds)]
    if activation in NEURONS:
        everything = range(donor[name].shape[-1])
        groups = [torch.tensor(everything if neurons is None else neurons) for _, neurons in kinds]
        return rerun.enter_neurons(layer, groups, at, donor[name])
    turned = name.replace("hook_", "hook_rot_")
    values = donor[turned if activation in ("q", "k") and turned in donor else name]
    joint = kinds[0][0] is None
    change = rerun.enter_heads(layer, activation, at, values, joint=joint)
    if activation in ("q", "k"):  # what is attended to is worked out anew, and differs by its rounding
        moved = (values[:, at] != rerun.base(layer, activation)[:, at]).any(-1)
        moved = moved.any(2, keepdim=True) if joint else moved
        moved = moved if activation == "q" else moved.any(1, keepdim=True)
        change = replace(change, delta=change.delta * moved.transpose(1, 2)[..., None])
    return change[[head or 0 for head, _ in kinds]]


def _by(
    key: Callable[[Patch], Any], patches: list[Patch], some: Sequence[int] | None = None
) -> Iterator[tuple[Any, list[int]]]:
    """The places in the list of the patches, or of some of them, that have a key in common."""
    order = sorted(range(len(patches)) if some is None else some, key=lambda which: key(patches[which]))
    for common, some in groupby(order, key=lambda which: key(patches[which])):
        yield common, list(some)


def _chunks(some: list, size: int) -> Iterator[list]:
    for start in range(0, len(some), size):
        yield some[start : start + size]
