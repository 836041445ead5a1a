"""What all patches of a sweep share: the network, its inputs, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.checks import check_masked, check_metric, check_read, said
from mechinterp.analysis.effects import HALF, Sample, donors_differ
from mechinterp.devices import callers_default
from mechinterp.hooks import Edit, Site, run, run_with_cache

Metric = Callable[[Tensor], Tensor]
"""Takes outputs ``[batch, read, d_out]``, gives one number for each example, ``[batch]``."""
Progress = Callable[[int, int], None]
"""Told how many patches are done, of how many."""

MEMORY = 4 << 20
"""Bytes for the activations of one batch of patches: about what stays in a processor's cache."""
ROUNDINGS = 16
"""Effects up to so many times a jitter of the last bit count as none; in half precision up to ``JITTERS``'s
root mean square: a jitter by the whole last bit is 3.5 times what rounding to it is."""
JITTERS = 8


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
        check_read(self.read, self.inputs, self.attention_mask)
        check_masked(self.model, self.attention_mask)

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
        if hasattr(self.model, "reads_positions"):
            # Without any hook it would compute less and round otherwise: an intact run has one too.
            own = "blocks.0.hook_resid_pre"
            return run_with_cache(self.model, inputs, edits=edits, names=own, read=read, **forward)[0]
        logits = run(self.model, inputs, edits=edits, **forward)
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != inputs.shape[:2]:
            raise ValueError(
                f"expected a model that returns outputs [batch, pos, d_out] of inputs {tuple(inputs.shape)}, "
                f"got {said(logits)}; return logits alone, of all positions"
            )
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
        with torch.no_grad(), callers_default():
            values = self.metric(outputs)
        return check_metric(values, len(self.inputs), what).cpu().double()

    def intact(self) -> Float[Tensor, " batch"]:
        """The metric of the run without patches.

        Raises:
            ValueError: a metric that is not one finite number an example, or in which examples mix.
        """
        outputs = self.outputs()
        try:
            values = self.measure(outputs, "the intact run")
        except (IndexError, RuntimeError) as error:
            error.add_note(
                f"The metric got outputs {list(outputs.shape)}, [batch, read, d_out], of read={self.read}: "
                "only those positions are there; [:, -1] is the last of them."
            )
            raise
        moved = outputs.clone()
        moved[0] += torch.linspace(-1, 1, moved[0].numel()).view_as(moved[0]).to(moved)
        others = self.measure(moved, "the intact run")[1:]
        if not torch.allclose(others, values[1:], rtol=1e-4, atol=1e-6 * values.abs().max().item()):
            raise ValueError(
                "expected a metric of each example by itself, got one whose values change when the outputs "
                "of another example do; leave out the mean over examples"
            )
        return values

    def rounding(self, before: Float[Tensor, " batch"]) -> float:
        """What counts as rounding in the metric, when every residual stream is jittered by the last bit of
        its numbers: ``ROUNDINGS`` times the most by which it changes in any example. In half precision,
        where so much exceeds every effect, the root mean square over examples and ``JITTERS`` jitters."""
        if torch.finfo(self.dtype).eps < HALF:
            return ROUNDINGS * (self._jittered(0) - before).abs().max().item()
        changes = torch.stack([self._jittered(seed) - before for seed in range(JITTERS)])
        return changes.square().mean().sqrt().item()

    def _jittered(self, seed: int) -> Float[Tensor, " batch"]:
        return self.measure(self.jittered(seed), "the jittered run")

    def jittered(self, seed: int) -> Float[Tensor, "batch read out"]:
        """Outputs with every residual stream jittered by its last bit; where there is none, every vector."""

        def jitter(stream: Tensor, _: str) -> Tensor:
            signs = (
                torch.randint(2, stream.shape, generator=torch.Generator().manual_seed(seed), device="cpu")
                * 2
                - 1
            )
            return stream * (1 + torch.finfo(stream.dtype).eps * signs.to(stream))

        stacks = ("blocks.*", "encoder.blocks.*") if hasattr(self.model, "encoder") else ("blocks.*",)
        sites = [Site(f"{stack}.hook_resid_p*") for stack in stacks]
        if not any(".hook_resid_p" in name for name in self.model.hook_dict):
            sites = [Site(name) for name in self._reached]
        return self.outputs(edits=[Edit(site, jitter, "rounding") for site in sites])

    @cached_property
    @torch.no_grad()
    def _reached(self) -> list[str]:
        """The hook points of vectors in floating point that a run passes, all of them."""
        _, cache = self.model.run_with_cache(self.inputs, **self.masked())
        return [name for name, x in cache.items() if x.is_floating_point()]

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model runs: that of its parameters of fewest bits."""
        kinds = {x.dtype for x in self.model.parameters() if x.is_floating_point()}
        return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.get_default_dtype())

    def sample(
        self,
        before: Float[Tensor, " batch"],
        groups: Tensor | None,
        ends: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]] | None = None,
        seed: int = 0,
    ) -> Sample:
        """What tests must know of the examples.

        Args:
            groups: of ``distinct`` inputs.
            ends: the metric of the donors' runs and of other examples' donors', where these are the control.
        """
        found = Sample(groups, self.rounding(before), self.dtype)
        if ends is None:
            return found
        return replace(found, control_tells=donors_differ(before, *ends, found, seed))

    @property
    def can_rerun(self) -> bool:
        """Whether patched runs can be worked out from the intact one: a network of ours without hooks."""
        if not hasattr(self.model, "rerun") or self.model.hooked:
            return False
        return not getattr(self.model.cfg, "codebook_size", 0)  # codes are chosen anew after a change

    @property
    def bytes_a_position(self) -> int:
        """What one patch takes at one position, at the widest place; a few such are alive at a time."""
        cfg = self.model.cfg
        wide = max(cfg.d_mlp or 0, 4 * cfg.d_model, cfg.n_heads * self.inputs.shape[1], cfg.d_vocab_out)
        return next(self.model.parameters()).element_size() * len(self.inputs) * wide


@torch.no_grad()
def activations(
    model: Any, inputs: Tensor, names: Sequence[str], attention_mask: Tensor | None = None
) -> dict[str, Float[Tensor, "batch ..."]]:
    """Activations of a run, by hook name."""
    masked = {} if attention_mask is None else {"attention_mask": attention_mask}
    _, cache = run_with_cache(model, inputs, names=names, **masked)
    return {name: cache[name] for name in names}
