"""Do codes cause the prediction? Put the code of another state in the place of the active one, and read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.codes import Codes, hook_of_site
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_interval, permutation_p_value
from mechinterp.devices import cpu_default
from mechinterp.hooks import Edit, HookedRootModule, Site, run
from mechinterp.result import Result

EVERYWHERE = "all sites"
MAPS = 2000
"""Of codes to states, dealt out at random; fewer states have all of theirs tried."""


@torch.no_grad()
@cpu_default
def code_steering(
    model: HookedRootModule,
    inputs: Int[Tensor, "_ _"],
    states: Int[Tensor, " _"],
    following: Float[Tensor, "_ _"],
    *,
    draws: int = 4,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """How often the next token is predicted as in another state, once that state's code is active.

    A state's code at a site is the one (with ``top_k`` codes, those) most often active there at the last
    position in one half of the sequences; it is put in the place of the active one at the last position of
    the other half. A prediction is that of the state whose distribution of the next token is nearest (total
    variation); states with the same distribution count alike.

    Args:
        inputs: token ids of sequences without padding that end where the state is known; outputs are read at
            the last position.
        states: of the last token.
        following: the distribution of the next token in each state, ``[state, token]``.
        draws: random codes in the control, of those that are ever active there.

    Returns:
        Dims ``site`` (each, then all at once), ``source``, ``target``: the share of sequences that end in the
        source state whose prediction is that of the target state; NaN where none does. The control is the
        same with random codes; trivial is the mean over other targets without any change. The interval is
        that of the best site's mean over other targets (bootstrap over sequences). ``extra``: ``success``
        (site, of: codes, random, another state's): those means, the last with the codes of a third state;
        ``p`` and ``p_adjusted`` (site), that codes bring their own states no more often than codes dealt out
        to states at random; ``code`` (site, state), the strongest code of each state.

    Raises:
        ValueError: no codebooks, fewer than two states in either half, or shapes that do not fit.
    """
    if following.ndim != 2 or following.shape[1] != model.cfg.d_vocab_out:
        raise ValueError(
            f"expected distributions of {model.cfg.d_vocab_out} tokens by state, got {tuple(following.shape)}"
        )
    n_states, same = len(following), torch.cdist(following.double(), following.double(), p=1) < 1e-9
    if states.shape != (len(inputs),) or states.is_floating_point():
        raise ValueError(
            f"expected the state of the last token of each of {len(inputs)} sequences, whole numbers, got "
            f"{states.dtype} {tuple(states.shape)}; states of every token are [:, -1]"
        )
    if not 0 <= int(states.min()) <= int(states.max()) < n_states or len(inputs) < 8:
        raise ValueError(
            f"expected at least 8 sequences, a state of 0 to {n_states - 1} for each, got {len(inputs)} and "
            f"{int(states.min())} to {int(states.max())}"
        )
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    found_on, tried_on = order[: len(order) // 2], order[len(order) // 2 :]
    known = states[found_on].unique()
    if bool(same[known][:, known].all()):
        raise ValueError(
            f"expected at least two states to steer between, after which different tokens come, got "
            f"{known.tolist()}"
        )
    last = torch.zeros(inputs[found_on].shape, dtype=torch.bool)
    last[:, -1] = True
    seen = Codes.of(model, inputs[found_on], last)
    own = {site: _of_states(active, states[found_on], n_states) for site, active in seen.active.items()}
    given, source, n = inputs[tried_on], states[tried_on], len(tried_on)

    def predicted(codes: Mapping[str, Tensor]) -> Float[Tensor, "n state"]:
        """Whether each prediction is that of each state, with codes held at some sites."""
        edits = [_hold(site, rows) for site, rows in codes.items()]
        logits = run(model, given, edits=edits, read=(-1,))[:, 0].cpu()
        apart = torch.cdist(logits.double().softmax(-1), following.double(), p=1)
        return same[apart.argmin(1)].double()

    sites = {site: [site] for site in own} | {EVERYWHERE: list(own)}
    steered = torch.zeros(len(sites), n_states, n, n_states, dtype=torch.float64)
    random = torch.zeros(len(sites), n, n_states, dtype=torch.float64)
    for i, members in enumerate(sites.values()):
        for state in known.tolist():
            steered[i, state] = predicted({site: own[site][state].expand(n, -1) for site in members})
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed + 1 + draw)
            random[i] += (
                predicted({site: _drawn(seen.active[site], n, generator) for site in members}) / draws
            )
    there = torch.zeros(n_states, dtype=torch.bool)
    there[known] = True
    other = (there & ~same[source]).double()
    provenance = {"n codes": len(found_on), "n": n, "seed": seed, "draws": draws}
    codes = xr.DataArray(
        np.array([rows.argmax(1).numpy() for rows in own.values()]), dims=("site", "state"),
        coords={"site": list(own)},
    )  # fmt: skip
    return _result(
        list(sites),
        steered,
        random,
        predicted({}),
        source,
        other,
        there,
        codes,
        gated(gate, provenance),
        seed,
    )


def _result(
    sites: list[str],
    steered: Float[Tensor, "site code n state"],
    random: Float[Tensor, "site n state"],
    intact: Float[Tensor, "n state"],
    source: Int[Tensor, " n"],
    other: Float[Tensor, "n state"],
    there: Bool[Tensor, " state"],
    codes: xr.DataArray,
    provenance: dict[str, Any],
    seed: int,
) -> Result:
    """From what is predicted with each state's codes to rates, their chance and their control."""
    n_states = len(there)
    each = list(range(n_states))
    coords = {"site": sites, "source": each, "target": each}
    hits = steered.diagonal(dim1=1, dim2=3)

    def success(x: Float[Tensor, "*any n state"]) -> Float[Tensor, "*any n"]:
        """Of each sequence, over the other states."""
        return (x * other).sum(-1) / other.sum(-1)

    def matrix(x: Float[Tensor, "site n state"]) -> xr.DataArray:
        rows = torch.stack([x[:, source == state].mean(1) for state in each], 1)
        rows[..., ~there] = torch.nan
        return xr.DataArray(rows.numpy(), dims=list(coords), coords=coords)

    by_site = torch.stack((success(hits), success(random)), 1)
    mean = by_site.mean(-1)
    best = int(by_site[:, 0].mean(1).argmax())
    rates = (steered * other).sum(2) / other.sum(0).clamp_min(1e-9)
    p = [_p_of_map(rate[there][:, there], seed) for rate in rates]
    own = torch.eye(n_states, dtype=torch.bool)
    third = rates[:, (there[:, None] & there & ~own)].mean(1)  # codes of one state, predictions of another
    values = matrix(hits)
    values.attrs["units"] = "share predicted as in the target state"

    def of_site(x: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(x), dims="site", coords={"site": sites})

    return Result(
        name="code_steering",
        values=values,
        trivial=float(success(intact).mean()),
        control=matrix(random),
        control_kind=f"random active codes, mean of {provenance['draws']} draws",
        interval=bootstrap_interval(by_site[best, 0].numpy()),
        provenance={**provenance, "best": sites[best]},
        extra={
            "success": xr.DataArray(
                torch.cat((mean, third[:, None]), 1).numpy(),
                dims=("site", "of"),
                coords={"site": sites, "of": ["codes", "random", "another state's"]},
            ),
            "p": of_site(p),
            "p_adjusted": of_site(benjamini_hochberg(p)),
            "code": codes,
        },
    )


def _p_of_map(rates: Float[Tensor, "code state"], seed: int) -> float:
    """Whether codes bring their own states more often than codes dealt out to states at random."""
    n = len(rates)
    if math.factorial(n) <= MAPS:
        maps = np.array(list(itertools.permutations(range(n))))
        found = rates.numpy()[maps, np.arange(n)].mean(1)
        return float((found >= found[0] - 1e-12).mean())  # the first is the map as it is
    generator = np.random.default_rng(seed)
    maps = np.array([generator.permutation(n) for _ in range(MAPS)])
    return permutation_p_value(float(rates.diagonal().mean()), rates.numpy()[maps, np.arange(n)].mean(1))


def _of_states(active: Tensor, states: Tensor, n_states: int) -> Float[Tensor, "state code"]:
    """As many codes as are active at a time, those most often so in each state, as ones."""
    counts = torch.zeros(n_states, active.shape[1]).index_add(0, states, active.float())
    chosen = counts.topk(int(active[0].sum()), dim=1).indices
    return torch.zeros_like(counts).scatter_(1, chosen, 1.0)


def _drawn(active: Tensor, n: int, generator: torch.Generator) -> Float[Tensor, "n code"]:
    """As many codes as are active at a time, at random from those that ever are, as ones."""
    weights = active.any(0).float().expand(n, -1)
    chosen = torch.multinomial(weights, int(active[0].sum()), generator=generator)
    return torch.zeros(n, active.shape[1]).scatter_(1, chosen, 1.0)


def _hold(site: str, codes: Float[Tensor, "n code"]) -> Edit:
    """Codes that are active at the last position, whatever the network would choose."""
    return Edit(Site.at(hook_of_site(site), position=-1), lambda old, _: codes[:, None].to(old), "codes held")
