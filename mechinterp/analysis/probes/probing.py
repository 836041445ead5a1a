"""Probes of a cache of activations, with every control, as one Result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.probes.classifiers import MLP, Logistic, MLPRegression
from mechinterp.analysis.probes.given import Cache, Given, gather, tensors_of
from mechinterp.analysis.probes.kinds import RISE, Probe, Ridge, Simplex
from mechinterp.analysis.probes.layout import split_rows
from mechinterp.analysis.probes.measure import Measured, measure
from mechinterp.analysis.probes.scores import bootstrap
from mechinterp.analysis.probes.targets import Variable
from mechinterp.analysis.statistics import benjamini_hochberg
from mechinterp.analysis.tensors import said, tensor_of, whole_of
from mechinterp.analysis.warn import warn
from mechinterp.devices import cpu_default
from mechinterp.result import Result

NOTICED = 0.01
"""A rise of R² between the last two penalties of the grid that is told."""


class PenaltyAtEnd(UserWarning):
    """The best penalty of a grid is at its end, and the score still rises there."""


KINDS: dict[str, Callable[[], Probe]] = {
    "ridge": Ridge,
    "logistic": Logistic,
    "mlp": MLP,
    "mlp_regression": MLPRegression,
    "simplex": Simplex,
}


@cpu_default
def probe(
    activations: Cache,
    variable: Variable,
    kind: str | Probe = "ridge",
    *,
    mask: Bool[Tensor, "_ _"] | None = None,
    positions: Sequence[int] | None = None,
    pool: bool = False,
    test: float | Bool[Tensor, " _"] = 0.25,
    together: Int[Tensor, " _"] | None = None,
    within: bool = False,
    seed: int = 0,
    untrained: Cache | None = None,
    inputs: Tensor | None = None,
    types: Tensor | None = None,
    shuffles: int | None = None,
    permutations: int = 1000,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """How well a variable can be read from activations, hook by hook and position by position.

    Fits see training examples only, and scores are of held-out ones. p-values say how often the
    held-out labels in another order agree with the predictions as well; ``p_adjusted`` counts in how
    many cells were looked at. The interval is that of the best cell, given its fit; the best of many
    cells is flattered a little by being the best.

    Neither the scale of activations matters nor a constant added to them. Rows with the same activations are
    one input: cell by cell they are held out whole, which ``provenance["repeats"]`` says. Scores depend on
    ``seed`` alone, never on global generators. Those of linear regression on several cells are the same to
    the bit for any number of threads; of a single cell, and of other kinds, in all but their last bits.

    Args:
        activations: by hook name, each ``[batch, pos, d]``, as ``run_with_cache`` gives them.
        variable: ``[batch]``, ``[batch, pos]``, ``[batch, pos or 1, target]``, or a mapping of names to
            either of the first two; beliefs are ``[batch, state]`` or ``[batch, pos, state]``.
        kind: ``"ridge"``, ``"logistic"``, ``"mlp"``, ``"mlp_regression"``, ``"simplex"``, or a probe with
            settings of your own, such as ``Fourier(p=113)`` or ``Ridge(penalties=[1.0])``.
        mask: True at real tokens, ``[batch, pos]``; padding enters no fit and no score.
        positions: those to probe; ``None``: all.
        pool: one probe of all positions' tokens together; sequences are held out whole.
        test: the share of sequences held out by ``seed``, or True for those that are.
        together: the group of each sequence, where some are copies of one another, such as the residue:
            groups are held out whole, and so are their labels dealt out, since what is read off one
            copy says nothing new about the next. Else probes read any residue off random embeddings.
            The interval is over groups, too. ``None``: cell by cell, rows with the same activations;
            ``torch.arange(batch)``: every row is one of its own.
        within: deal labels out within groups instead, whose members have different ones by design, as the
            two of a pair do.
        untrained: a second set of activations of the same inputs, such as the untrained network's.
        inputs: tokens ``[batch, pos]`` or vectors ``[batch, pos, d_input]``: a probe of the raw input, and
            with tokens the control task.
        types: input types of the control task, ``[batch]`` or ``[batch, pos]``; ``None``: the tokens.
        shuffles: fits to shuffled labels and to control tasks; ``None``: the probe's own number.
        permutations: orders of held-out labels behind each p-value; 0 for none.

    Returns:
        Dims ``hook``, ``position`` and, where there are several targets, ``target``, ``frequency`` or
        ``period``. ``trivial``: the best constant answer, at the best cell. ``control``: the mean over
        shuffles. ``extra``: ``p_value``, ``p_adjusted``, ``shuffled_low`` and ``shuffled_high`` (95 % of
        the shuffles), ``untrained``, ``raw_input``, ``control_task``, ``selectivity`` (score minus that of
        the control task; NaN where a position has one input type only), ``most_frequent`` for classes,
        and what the probe notes, such as ``penalty``.

    Raises:
        TypeError: something else than tensors or arrays.
        ValueError: a target that is constant, too few examples, no real tokens, NaN, activations that are
            not floating-point, lengths that differ, or a variable attached to fewer distinct inputs than can
            be held out, in every cell.

    Warns:
        RepeatedRows: the same in some cells.
        PenaltyAtEnd: the best penalty is at an end of its grid, and the score still rises there.
    """
    chosen = _kind(kind)
    permutations = whole_of(permutations, "permutations")
    shuffles = None if shuffles is None else whole_of(shuffles, "shuffles")
    read = tensors_of(mask=mask, together=together, inputs=inputs, types=types)
    mask, together, inputs, types = read.values()
    test = test if isinstance(test, (int, float, str)) else tensor_of(test, "test")
    given = gather(
        activations, variable, chosen.encode,
        lambda n, alike: split_rows(n, test, seed, together, repeats=alike), mask=mask,
        positions=positions, pool=pool, untrained=untrained, inputs=inputs, types=types, together=together,
        within=within,
    )  # fmt: skip
    draws = chosen.shuffles if shuffles is None else shuffles
    found = measure(
        chosen, given.activations, given.targets.values, given.layout, shuffles=draws,
        permutations=permutations, types=given.types, seed=seed,
    )  # fmt: skip
    others = {
        name: measure(chosen, x, given.targets.values, layout, seed=seed).score
        for name, (x, layout) in given.others.items()
    }
    settings = {"probe": str(chosen), "seed": seed, "shuffles": draws, "permutations": permutations}
    sizes = {f"n {split}": given.layout.sizes(split) for split in ("train", "test")}
    told = given.told() | _at_the_end(found)
    return _as_result(
        chosen, given, found, others, gated(gate, {**(provenance or {}), **settings, **sizes, **told})
    )


def _at_the_end(found: Measured) -> dict[str, str]:
    """Say where R² rises still at an end of the penalties."""
    rise = found.notes.get(RISE)
    if rise is None or not bool((rise > NOTICED).any()):
        return {}
    words = (
        f"at an end of the grid in {int((rise > NOTICED).sum())} of {rise.numel()} fits, where R² rises by "
        f"up to {float(rise.nan_to_num(0.0).max()):.2g}"
    )
    warn(
        f"expected the best penalty within the grid, got it {words}; give more of them: Ridge(penalties=...)",
        PenaltyAtEnd,
    )
    return {"penalty": words}


def _kind(kind: str | Probe) -> Probe:
    if isinstance(kind, Probe):
        return kind
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"expected a kind of {sorted(KINDS)}, or a probe such as Fourier(p=113), got {said(kind)}; "
            "Fourier and Periods need settings, and online_code is a function of its own"
        )
    return KINDS[kind]()


def _as_result(
    chosen: Probe, given: Given, found: Measured, others: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> Result:
    (hook, position, target), best = given.at(int(found.score.argmax()))
    prediction, truth, sequence = found.held_out[hook, position]
    own = prediction[:, target : target + 1], truth[:, target : target + 1]
    extra = {name: given.label(x, chosen.units) for name, x in _beside(found, others).items()}
    if isinstance(chosen, Simplex):
        pair = torch.stack(own)[:, :2000, 0].numpy()
        extra["beliefs"] = xr.DataArray(
            pair, dims=("of", "example", "state"), coords={"of": ["probe", "truth"]}
        )
    draws = found.shuffled.shape[2]
    return Result(
        name=chosen.name,
        values=given.label(found.score, chosen.units),
        trivial=found.trivial[hook, position, target].item(),
        control=given.label(found.shuffled.mean(2), chosen.units) if draws else None,
        control_kind=f"shuffled labels, mean of {draws} fits" if draws else "",
        interval=bootstrap(chosen.score, *own, sequence, seed=provenance["seed"]),
        provenance={**provenance, "best": best},
        extra=extra,
    )


def _beside(found: Measured, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that stands beside the scores, by name."""
    extra = {name: x for name, x in found.notes.items() if name != RISE}
    if not found.p_value.isnan().all():
        adjusted = torch.from_numpy(np.asarray(benjamini_hochberg(found.p_value.numpy())))
        extra |= {"p_value": found.p_value, "p_adjusted": adjusted}
    if found.shuffled.shape[2]:
        low, high = found.shuffled.quantile(torch.tensor([0.025, 0.975]).double(), dim=2)
        extra |= {"shuffled_low": low, "shuffled_high": high}
    if found.control_task.shape[2]:
        task = found.control_task.nanmean(2)
        extra |= {"control_task": task, "selectivity": found.score - task}
    if bool((found.trivial != 0).any()):
        extra["most_frequent"] = found.trivial
    return extra | {name: score[0] if name == "raw_input" else score for name, score in others.items()}
