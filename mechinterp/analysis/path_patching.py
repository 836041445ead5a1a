"""Path patching: does a head act on another head, or on the answer, by a direct path?

The sender's output takes its value from the other run, all other heads are held as they were, and what then
arrives at the receiver's queries, keys or values (or at the readout) is patched into a run of its
own. Source: Wang et al. (2023), "Interpretability in the wild", section 3.1 and appendix B;
Goldowsky-Dill et al. (2023), "Localizing model behavior with path patching".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import (
    check_direction,
    check_model,
    check_one_stack,
    check_pair,
    check_tokens,
)
from mechinterp.analysis.effects import derangement, distinct, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.patches import hook_of
from mechinterp.analysis.setting import Metric, Progress, Setting, activations
from mechinterp.hooks import Edit, Site, patch, run_with_cache
from mechinterp.result import Result

Receiver = tuple[int, int, str]
"""Layer, head, and which of its inputs: ``"q"``, ``"k"`` or ``"v"``."""


@checked
def path_patching(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    metric: Metric,
    receivers: str | Sequence[Receiver] = "logits",
    *,
    through_mlps: bool = True,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    direction: str = "denoise",
    control: bool = True,
    fast: bool = True,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Patch the direct path from every head to each receiver.

    Args:
        receivers: ``"logits"``, or heads' inputs: (layer, head, ``"q"``, ``"k"`` or ``"v"``).
        through_mlps: MLPs on the way answer to the change, as in Wang et al.; else they are frozen too.
        fast: work the paths out from the intact run, where the model can; otherwise runs with hooks.
        The other arguments are those of ``activation_patching``.

    Returns:
        Dims receiver, layer and head (of the sender), as ``effects_result``. A sender that is not in an
        earlier layer has no path to a head: its effect is exactly 0.

    Raises:
        ValueError: as ``activation_patching``, and receivers that are not there.
    """
    check_pair(clean, corrupted, attention_mask)
    check_model(model, "path patching", ("n_layers", "n_heads", "d_model", "attn_only"))
    check_one_stack(model, "paths", "patch its components instead, with component_patching")
    check_tokens(model, clean)
    check_direction(direction)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    targets: list[Receiver | None] = (
        [None] if receivers == "logits" else [_checked(model, r) for r in receivers]
    )
    if all(target is not None and target[0] == 0 for target in targets):
        raise ValueError(
            f"expected a receiver after the first layer, where heads come before, got {receivers!r}"
        )
    setting = Setting(model, base, metric, read, attention_mask)
    cfg = model.cfg
    names = [hook_of("z", layer) for layer in range(cfg.n_layers)]
    before = setting.intact()
    donor = activations(model, source, names, attention_mask)
    pairs = distinct(base, source, mask=attention_mask)
    others = derangement(len(base), seed, attention_mask, pairs)
    ends = None
    if control:
        donors = Setting(model, source, metric, read, attention_mask)
        runs = donors.outputs()
        ends = donors.measure(runs, "the donor's run"), donors.measure(runs[others], "another donor's run")
    way = _fast if fast and setting.can_rerun else _slow
    rounds = [donor, {name: value[others] for name, value in donor.items()}][: 1 + control]
    size, found = cfg.n_layers * cfg.n_heads, []
    for turn, values in enumerate(rounds):
        after = before.expand(len(targets), cfg.n_layers, cfg.n_heads, -1).clone()
        for place, target in enumerate(targets):
            for layer, head, outputs in way(setting, target, values, through_mlps):
                after[place, layer, head] = setting.measure(outputs, f"the path from L{layer}H{head}")
            if progress is not None:
                progress((turn * len(targets) + place + 1) * size, len(rounds) * len(targets) * size)
        found.append(after)
    axes = {
        "receiver": ["logits" if t is None else f"L{t[0]}H{t[1]}.{t[2]}" for t in targets],
        "layer": list(range(cfg.n_layers)),
        "head": list(range(cfg.n_heads)),
    }
    mlps = "answering" if through_mlps else "frozen"
    return effects_result(
        "path_patching", found[0], before, axes,
        gated(gate, {"direction": direction, "MLPs on the way": mlps, "seed": seed}),
        other=found[1] if control else None,
        sample=setting.sample(before, pairs, ends, seed),
        control_kind="the same path from another example, drawn at random", seed=seed,
    )  # fmt: skip


def _checked(model: Any, receiver: Any) -> Receiver:
    cfg = model.cfg
    if isinstance(receiver, str) or len(receiver) != 3:
        raise ValueError(f'expected "logits" or receivers (layer, head, "q" | "k" | "v"), got {receiver!r}')
    layer, head, activation = receiver
    if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads and activation in ("q", "k", "v")):
        raise ValueError(
            f"expected a receiver (layer, head, 'q' | 'k' | 'v') within {cfg.n_layers} layers of "
            f"{cfg.n_heads} heads, got {receiver!r}"
        )
    return receiver


def _fast(
    setting: Setting, target: Receiver | None, donor: Mapping[str, Tensor], through_mlps: bool
) -> Iterator[tuple[int, int, Tensor]]:
    """All heads of a layer at once, from where their outputs enter the stream."""
    rerun = setting.model.rerun(setting.inputs, read=setting.read, attention_mask=setting.attention_mask)
    everywhere = torch.arange(setting.inputs.shape[1], device=setting.inputs.device)
    for layer in range(setting.model.cfg.n_layers if target is None else target[0]):
        with torch.no_grad():
            at = rerun.needed if target is None else everywhere
            change = rerun.enter_heads(layer, "z", at, donor[hook_of("z", layer)])
        if target is None:
            found = rerun.direct_outputs(change, through_mlps)
            yield from ((layer, head, outputs) for head, outputs in enumerate(found))
            continue
        to, which, activation = target
        for head, values in enumerate(rerun.received(change, to, which, activation, through_mlps)):
            with torch.no_grad():
                outputs = rerun.outputs(rerun.enter_heads(to, activation, everywhere, values)[[which]])
            yield layer, head, rerun.intact if outputs is None else outputs[0]


def _slow(
    setting: Setting, target: Receiver | None, donor: Mapping[str, Tensor], through_mlps: bool
) -> Iterator[tuple[int, int, Tensor]]:
    """Runs with hooks: one that freezes all but the sender, and one that patches what it brought."""
    cfg = setting.model.cfg
    frozen = [hook_of("z", layer) for layer in range(cfg.n_layers)]
    if not through_mlps and not cfg.attn_only:
        frozen += [hook_of("mlp_out", layer) for layer in range(cfg.n_layers)]
    intact = setting.activations(frozen)
    freeze = [Edit(Site(name), lambda _, name: intact[name], "freeze") for name in frozen]
    for layer in range(cfg.n_layers if target is None else target[0]):
        for head in range(cfg.n_heads):
            edits = [*freeze, patch(Site.at(hook_of("z", layer), head=head), donor)]
            if target is None:
                yield layer, head, setting.outputs(edits=edits)
                continue
            name = hook_of(target[2], target[0])
            model, forward = setting.model, setting.masked()
            with torch.no_grad():
                _, brought = run_with_cache(model, setting.inputs, edits=edits, names=name, **forward)
            yield layer, head, setting.outputs(edits=[patch(Site.at(name, head=target[1]), brought)])
