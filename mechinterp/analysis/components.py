"""Every head of every stack at once: what answers become without it, and with what it did in another run.

One sweep keeps the answers themselves: whole answers, single places, and the loss, on all examples or some,
are all of the same forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model, check_pair
from mechinterp.analysis.effects import HALF, Sample, derangement, distinct, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.metrics import answered
from mechinterp.analysis.readouts import require_outputs
from mechinterp.analysis.references import REFERENCES, check_reference, random_signs, references
from mechinterp.analysis.sets import FIELDS, Component, ablate_sets, ablated, check_components, components_of
from mechinterp.analysis.setting import JITTERS, MEMORY, Metric, Progress, Setting
from mechinterp.result import Result

Measure = Callable[[Tensor, Tensor], Tensor]
"""Takes which answers are right and their losses in nats, both ``[..., example, read]``, gives a number an
example, ``[..., example]``."""


def exact_match(right: Bool[Tensor, "*cell example read"], _: Tensor) -> Float[Tensor, "*cell example"]:
    """1 where all answers are right: what greedy decoding writes right, and nothing else."""
    return right.all(-1).double()


def token_accuracy(right: Bool[Tensor, "*cell example read"], _: Tensor) -> Float[Tensor, "*cell example"]:
    """The share of right answers, each after the right ones before it."""
    return right.double().mean(-1)


def mean_loss(_: Tensor, loss: Float[Tensor, "*cell example read"]) -> Float[Tensor, "*cell example"]:
    """The mean loss in nats."""
    return loss.double().mean(-1)


@dataclass(frozen=True)
class Answers:
    """Which answers are right and what they cost: ``[..., example, read]``."""

    right: Bool[Tensor, "*cell example read"]
    loss: Float[Tensor, "*cell example read"]

    @classmethod
    def of(cls, outputs: Float[Tensor, "example read out"], targets: Int[Tensor, "example read"]) -> Answers:
        """From outputs of a classifier."""
        log_odds = outputs.double().log_softmax(-1)
        return cls(answered(outputs, targets), -log_odds.gather(-1, targets[..., None])[..., 0])

    @classmethod
    def stack(cls, some: Sequence[Answers]) -> Answers:
        """Several, along a new first axis."""
        return cls(torch.stack([one.right for one in some]), torch.stack([one.loss for one in some]))

    def by(self, measure: Measure, rows: Tensor | None = None) -> Float[Tensor, "*cell example"]:
        """A number for each example, of all of them or some."""
        found = measure(self.right, self.loss)
        return found if rows is None else found[..., rows]


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """Answers without each of some components, under each reference.

    Args:
        without: ``[reference, component, example, read]``.
        control: the same with changes of the same size and random signs.
        intact: ``[example, read]``.
        sample: which examples are the same, and what is rounding in a loss.
        jittered: answers when the streams are jittered, in half precision: ``[jitter, example, read]``.
    """

    components: tuple[Component, ...]
    references: tuple[str, ...]
    without: Answers
    control: Answers
    intact: Answers
    sample: Sample
    provenance: Mapping[str, Any]
    jittered: Answers | None = None

    def effect(self, measure: Measure, name: str, rows: Bool[Tensor, " example"] | None = None) -> Result:
        """What is lost of a measure, on all examples or on some.

        Args:
            name: of the result; ``head_exact_match``, ``head_token_accuracy`` and ``head_loss`` have a
                figure.

        Returns:
            As ``effects_result``, dims ``reference`` and ``component``.

        Raises:
            ValueError: fewer than 2 examples.
        """
        if rows is not None and int(rows.sum()) < 2:
            raise ValueError(f"expected at least 2 examples for {name}, got {int(rows.sum())}; take others")
        groups = self.sample.groups
        if rows is not None and groups is not None:
            groups = groups[rows].unique(return_inverse=True)[1]
        axes = {"reference": list(self.references), "component": [str(one) for one in self.components]}
        intact, rounding = self.intact.by(measure, rows), self.sample.rounding
        if self.jittered is not None:
            changes = self.jittered.by(measure, rows) - intact
            rounding = max(rounding, changes.square().mean().sqrt().item())
        return effects_result(
            name,
            self.without.by(measure, rows),
            intact,
            axes,
            self.provenance,
            other=self.control.by(measure, rows),
            sample=replace(self.sample, groups=groups, rounding=rounding),
            control_kind="a change of the same size with random signs",
        )

    def accuracy(self, reference: str = "mean") -> Float[Tensor, "component read"]:
        """The share of right answers at each place."""
        return self.without.right[self.references.index(reference)].double().mean(1)


@checked
@torch.no_grad()
def component_ablation(
    model: Any,
    inputs: Tensor,
    targets: Int[Tensor, "batch read"],
    components: Sequence[Component] | None = None,
    *,
    kinds: Sequence[str] = REFERENCES,
    held_out: Tensor | None = None,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Ablated:
    """Ablate every component by itself, under every reference.

    Args:
        targets: the right answers at the positions read; with teacher forcing these are in ``inputs`` too.
        components: all heads by default, of an encoder-decoder those of all three stacks.
        kinds: references, of ``REFERENCES``.
        held_out, held_out_mask: examples for means and resampling, as in ``ablation``.
        read, attention_mask, memory, progress, gate: as in ``activation_patching``.

    Raises:
        ValueError: as ``ablation``; components that the network does not have; targets that do not fit.
    """
    check_inputs(inputs, attention_mask)
    check_model(model, "ablating components", FIELDS)
    chosen = components_of(model) if components is None else list(components)
    check_components(model, chosen)
    if not kinds:
        raise ValueError(f"expected at least one reference of {REFERENCES}, got none; name some")
    for kind in kinds:
        check_reference(kind, inputs, held_out)
    groups = distinct(inputs, mask=attention_mask)
    setting = Setting(model, inputs, lambda outputs: outputs[:, 0, 0], read, attention_mask, memory)
    outputs = setting.outputs()
    if outputs.shape[:2] != targets.shape:
        raise ValueError(
            f"expected targets for the outputs read, {tuple(outputs.shape[:2])}, got {tuple(targets.shape)}; "
            "give read=, such as batch.read"
        )
    require_outputs("targets", targets, len(inputs), outputs.shape[-1])
    jittered = None
    if torch.finfo(setting.dtype).eps >= HALF:
        runs = [setting.jittered(draw) for draw in range(JITTERS)]
        jittered = Answers.stack([Answers.of(given, targets) for given in runs])
    names = sorted({one.hook for one in chosen})
    own = setting.activations(names)
    found: list[list[Answers]] = [[], []]
    total, done = 2 * len(kinds) * len(chosen), 0
    for kind in kinds:
        becomes = references(
            model, names, kind, inputs, held_out,
            attention_mask=attention_mask, held_out_mask=held_out_mask, seed=seed,
        )  # fmt: skip
        signed = {name: random_signs(own[name], becomes[name], seed) for name in names}
        for answers, donor in zip(found, (becomes, signed)):
            each: dict[int, Answers] = {}
            for which, given in ablated(setting, [(one,) for one in chosen], donor):
                each[which], done = Answers.of(given, targets), done + 1
                if progress is not None:
                    progress(done, total)
            answers.append(Answers.stack([each[which] for which in range(len(chosen))]))
    return Ablated(
        components=tuple(chosen),
        references=tuple(kinds),
        without=Answers.stack(found[0]),
        control=Answers.stack(found[1]),
        intact=Answers.of(outputs, targets),
        sample=Sample(groups, 1e-6, setting.dtype),
        jittered=jittered,
        provenance=gated(
            gate, {"teacher forced": True, "seed": seed, "held out": 0 if held_out is None else len(held_out)}
        ),
    )


@checked
@torch.no_grad()
def component_patching(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    metric: Metric,
    components: Sequence[Component] | None = None,
    *,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    memory: int = MEMORY,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Put each component's output of the clean run into the corrupted one, at all positions.

    Args:
        clean, corrupted: pairs, ``[batch, pos]``.
        metric: takes outputs ``[batch, read, d_out]``, gives one number for each example.
        components: all heads by default, of an encoder-decoder those of all three stacks.

    Returns:
        As ``effects_result``, dim ``component``; ``extra["recovered"]`` is the effect as a share of the
        difference between both intact runs, ``extra["recovered by control"]`` the control's. The control
        brings the output of another corrupted example: what comes of any other output, without what clean and
        corrupted examples differ in.

    Raises:
        ValueError: as ``activation_patching``; components that the network does not have.
    """
    check_pair(clean, corrupted, attention_mask)
    check_model(model, "patching components", FIELDS)
    chosen = components_of(model) if components is None else list(components)
    check_components(model, chosen)
    setting = Setting(model, corrupted, metric, read, attention_mask, memory)
    donors = Setting(model, clean, metric, read, attention_mask)
    before, other_end = setting.intact(), donors.intact()
    cache = donors.activations(sorted({one.hook for one in chosen}))
    pairs = distinct(clean, corrupted, mask=attention_mask)
    others = derangement(len(clean), seed, attention_mask, pairs)
    sets = [(one,) for one in chosen]
    after = ablate_sets(setting, sets, cache)
    own = setting.activations(sorted(cache))
    other = ablate_sets(setting, sets, {hook: x[others] for hook, x in own.items()})
    gap = (other_end - before).mean()
    coords = {"component": [str(one) for one in chosen]}
    recovered, by_other = (
        xr.DataArray(
            ((values - before).mean(-1) / gap).numpy(), dims="component", coords=coords,
            attrs={"units": "share of the difference"},
        )
        for values in (after, other)
    )  # fmt: skip
    return effects_result(
        "component_patching", after, before, coords, gated(gate, {"teacher forced": True, "seed": seed}),
        other=other,
        sample=setting.sample(before, pairs), control_kind="its output in another corrupted run, at random",
        extra={
            "recovered": recovered, "recovered by control": by_other,
            "donor": xr.DataArray(other_end.numpy(), dims=["example"]),
        },
        seed=seed,
    )  # fmt: skip
