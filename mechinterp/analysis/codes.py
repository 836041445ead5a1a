"""Codes of codebooks against the states of a machine.

A code that is active in one state only is pure, and so is one that is active once: with many codes, or dead
ones, purity is high by chance. So it stands here beside measures that are not (V-measure, Rosenberg &
Hirschberg 2007; adjusted mutual information, Vinh, Epps & Bailey 2010), and all beside the states of
other sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.jackknife import jackknife_interval
from mechinterp.analysis.statistics import benjamini_hochberg, permutation_p_value
from mechinterp.devices import cpu_default
from mechinterp.hooks import HookedRootModule, run_with_cache
from mechinterp.result import Result

MEASURES = ("purity", "v_measure", "ami")
"""Mean over codes of the share of each one's most frequent state, as published; V-measure and adjusted mutual
information of the strongest code with the state. The latter is 0 by chance; all are at most 1."""
PURE = 0.95
"""The share of a code's occurrences that are in one state, and of a state's that have such a code, from which
codes fix a state."""


@dataclass(frozen=True)
class Codes:
    """Which codes are active where.

    Args:
        strongest: by site, the code with the largest weight at each token.
        active: by site, all that are.
    """

    strongest: Mapping[str, Int[Tensor, " token"]]
    active: Mapping[str, Bool[Tensor, "token code"]]

    @classmethod
    def of(
        cls, model: HookedRootModule, inputs: Tensor, where: Bool[Tensor, "batch pos"], **forward: Any
    ) -> Codes:
        """The codes of a network at the tokens chosen, by site: ``L0 attn``, ``L0 mlp`` and so on.

        Raises:
            ValueError: a network without codebooks, or in training mode.
        """
        names = {site_of(name): name for name in model.hook_dict if name.endswith("hook_code")}
        if not names:
            raise ValueError("expected a network with codebooks, got none; build it with codebook_size > 0")
        if model.training:
            raise ValueError("expected a network in evaluation mode, got training; call model.eval()")
        wanted = [name for hook in names.values() for name in (hook, f"{hook}_soft")]
        _, cache = run_with_cache(model, inputs, names=wanted, **forward)
        at = where.to(inputs.device)
        return cls(
            {site: cache[f"{name}_soft"][at].argmax(-1).cpu() for site, name in names.items()},
            {site: (cache[name][at] > 0.5).cpu() for site, name in names.items()},
        )

    def agreement(self, label: np.ndarray) -> dict[str, list[float]]:
        """``MEASURES`` at each site, beside the states of the tokens."""
        return {site: _measures(self.strongest[site], self.active[site], label) for site in self.strongest}

    def __getitem__(self, tokens: Any) -> Codes:
        """Those of some of the tokens."""
        return Codes(
            {site: x[tokens] for site, x in self.strongest.items()},
            {site: x[tokens] for site, x in self.active.items()},
        )


def site_of(hook: str) -> str:
    """``blocks.0.codebook_attn.hook_code`` is ``L0 attn``."""
    _, layer, module, _ = hook.split(".")
    return f"L{layer} {module.removeprefix('codebook_')}"


def hook_of_site(site: str) -> str:
    """The other way round."""
    layer, sublayer = site.split()
    return f"blocks.{layer[1:]}.codebook_{sublayer}.hook_code"


@torch.no_grad()
@cpu_default
def code_alignment(
    model: HookedRootModule,
    inputs: Int[Tensor, "_ _"],
    states: Int[Tensor, "_ _"],
    *,
    where: Bool[Tensor, "_ _"] | None = None,
    untrained: HookedRootModule | None = None,
    permutations: int = 100,
    seed: int = 0,
    gate: Gate | None = None,
    **forward: Any,
) -> Result:
    """How well the codes at each site stand for the states of a machine.

    Args:
        inputs: token ids; ``forward`` is passed on to the model.
        states: of each token, from 0.
        where: the tokens that count; ``None``: all.
        untrained: the network before training, which has codes too.
        permutations: orders of the sequences behind the control and the p-values.

    Returns:
        Dims ``site``, ``measure`` (``MEASURES``). Trivial is 0, the control the mean over states of other
        sequences, put in whole, since the states of one hang together, the interval that of the best site's
        adjusted mutual information (jackknife over sequences). ``extra``: ``null_high`` (the 95 % quantile of
        that), ``p`` and ``p_adjusted`` (for how many cells there are) (site, measure);
        ``untrained`` likewise; ``table`` (site, state, code), how often each strongest code stands with each
        state; ``active`` (site), how many codes are ever active; ``fixing`` (site, state), the fewest codes
        that fix a state, of which each is in that state in at least 95 % of cases and all together in 95 % of
        the state's; NaN where there are none.

    Raises:
        ValueError: no codebooks, a network in training mode, or states that do not fit.
    """
    at = torch.ones(states.shape, dtype=torch.bool) if where is None else where
    if states.shape != inputs.shape or at.shape != inputs.shape or not bool(at.any()):
        raise ValueError(
            f"expected states, and where they count, of the shape of the inputs {tuple(inputs.shape)}, got "
            f"{tuple(states.shape)} and {tuple(at.shape)} with {int(at.sum())} that count"
        )
    if at.dtype != torch.bool or states.is_floating_point() or int(states.min()) < 0:
        raise ValueError(
            f"expected states as whole numbers from 0 and true or false where they count, got {states.dtype} "
            f"from {states.min().item()} and {at.dtype}; convert them"
        )
    if untrained is not None and set(untrained.hook_dict) != set(model.hook_dict):
        raise ValueError(
            "expected an untrained network with the codebooks of the trained one, got others; build it alike"
        )
    if len(states) < 2 or permutations < 1:
        raise ValueError(
            f"expected at least two sequences, and one order of them, got {len(states)} and {permutations}"
        )
    states, at = states.cpu(), at.cpu()
    codes, label = Codes.of(model, inputs, at, **forward), states[at].numpy()
    generator = np.random.default_rng(seed)
    own, drawn = codes.agreement(label), []
    for _ in range(permutations):
        other = torch.from_numpy(generator.permutation(len(states)))
        both = at[other][at]  # of the tokens that count, those that do in the other sequence too
        drawn.append(codes[both].agreement(states[other][at][both].numpy()))
    null = {site: np.array([draw[site] for draw in drawn]) for site in own}
    p = {site: [permutation_p_value(x, draws) for x, draws in zip(own[site], null[site].T)] for site in own}
    coords = {"site": list(own), "measure": list(MEASURES)}

    def array(rows: Mapping[str, Any]) -> xr.DataArray:
        return xr.DataArray(np.array(list(rows.values())), dims=list(coords), coords=coords)

    values = array(own)
    values.attrs["units"] = "share, or information"
    n_states = int(states.max()) + 1
    tables = {
        site: _table(codes.strongest[site].numpy(), label, n_states, x.shape[1])
        for site, x in codes.active.items()
    }
    best = max(own, key=lambda site: own[site][-1])
    sequence = torch.arange(len(inputs))[:, None].expand(inputs.shape)[at].numpy()
    extra = {
        "null_high": array({site: np.quantile(draws, 0.95, axis=0) for site, draws in null.items()}),
        "p": array(p),
        "p_adjusted": array(dict(zip(own, benjamini_hochberg(list(p.values()))))),
        "table": xr.DataArray(
            np.array(list(tables.values())), dims=("site", "state", "code"), coords={"site": list(own)}
        ),
        "active": xr.DataArray(
            [int(codes.active[site].any(0).sum()) for site in own], dims="site", coords={"site": list(own)}
        ),
        "fixing": xr.DataArray(
            [fixing(tables[site]) for site in own], dims=("site", "state"), coords={"site": list(own)}
        ),
    }
    if untrained is not None:
        extra["untrained"] = array(Codes.of(untrained, inputs, at, **forward).agreement(label))
    return Result(
        name="code_alignment",
        values=values,
        trivial=0.0,
        control=array({site: draws.mean(0) for site, draws in null.items()}),
        control_kind=f"states of other sequences, mean of {permutations}",
        interval=_interval(codes.strongest[best], codes.active[best], label, sequence, seed),
        provenance=gated(gate, {"n": len(label), "best": best, "permutations": permutations, "seed": seed}),
        extra=extra,
    )


def _table(strongest: np.ndarray, label: np.ndarray, n_states: int, n_codes: int) -> np.ndarray:
    """How often each state stands with each strongest code, ``[state, code]``."""
    cells = np.bincount(label * n_codes + strongest, minlength=n_states * n_codes)
    return cells.reshape(n_states, n_codes)


def fixing(counts: np.ndarray) -> list[float]:
    """For each state the fewest codes that fix it; one token has one code, so the most frequent pure ones."""
    of_code, of_state = counts.sum(0), counts.sum(1)
    found = []
    for row, whole in zip(counts, of_state):
        pure = np.sort(row[(row >= PURE * of_code) & (row > 0)])[::-1].cumsum()
        enough = np.flatnonzero(pure >= PURE * whole)
        found.append(float(enough[0] + 1) if len(enough) and whole else np.nan)
    return found


def _measures(strongest: Tensor, active: Tensor, label: np.ndarray) -> list[float]:
    """``MEASURES`` of the codes at some tokens, beside their states."""
    from sklearn.metrics.cluster import expected_mutual_information

    n_states, n_codes = int(label.max()) + 1, active.shape[1]
    at, code = np.nonzero(active.numpy())
    together = np.bincount(code * n_states + label[at], minlength=n_codes * n_states).reshape(-1, n_states)
    together = together[together.sum(1) > 0]
    counts = _table(strongest.numpy(), label, n_states, n_codes)
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    half = (_entropy(counts.sum(0)) + _entropy(counts.sum(1))) / 2
    information = 2 * half - _entropy(counts.ravel())
    expected = float(expected_mutual_information(counts, len(label)))
    same = half - expected < 1e-12  # one state, or one code: nothing can be told
    return [
        float((together.max(1) / together.sum(1)).mean()),
        float(information / half) if half > 0 else 1.0,
        0.0 if same else float((information - expected) / (half - expected)),
    ]


def _entropy(counts: np.ndarray) -> float:
    """In nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _interval(
    strongest: Tensor, active: Tensor, label: np.ndarray, sequence: np.ndarray, seed: int
) -> tuple[float, float] | None:
    """Of the adjusted mutual information, whole sequences left out; none of fewer than three.

    Sequences drawn with repeats would have the bias twice that is taken off once.
    """
    rows = [np.flatnonzero(sequence == each) for each in np.unique(sequence)]

    def agreement(which: Tensor) -> float:
        some = np.concatenate([rows[i] for i in which.tolist()])
        return float(_measures(strongest[some], active[some], label[some])[-1])

    return jackknife_interval(agreement, len(rows), seed=seed) if len(rows) > 2 else None
