"""Do codes cause the prediction? Put the code of another state in the place of the active one, and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.codes import Codes, hook_of_site
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import bootstrap_interval
from mechinterp.hooks import Edit, HookedRootModule, Site, run
from mechinterp.result import Result

EVERYWHERE = "all sites"


@torch.no_grad()
def code_steering(
    model: HookedRootModule,
    inputs: Int[Tensor, "_ _"],
    states: Int[Tensor, " _"],
    following: Float[Tensor, "_ _"],
    *,
    draws: int = 4,
    seed: int = 0,
    gate: Gate | None = None,
    **forward: Any,
) -> Result:
    """How often the next token is predicted as in another state, once that state's code is active.

    A state's code at a site is the one (with ``top_k`` codes, those) most often active there at the last
    position in one half of the sequences; it is put in the place of the active one at the last position of
    the other half. A prediction is that of the state whose distribution of the next token is nearest (total
    variation); states with the same distribution count alike.

    Args:
        inputs: token ids of sequences that end where the state is known; ``forward`` is passed on to the
            model, whose outputs are read at the last position.
        states: of the last token.
        following: the distribution of the next token in each state, ``[state, token]``.
        draws: random codes in the control, of those that are ever active there.

    Returns:
        Dims ``site`` (each, then all at once), ``source``, ``target``: the share of sequences that end in the
        source state whose prediction is that of the target state; NaN where none does. The control is the
        same with random codes; trivial is the mean over other targets without any change. The interval is
        that of the best site's mean over other targets (bootstrap over sequences). ``extra``: ``success``
        (site, of: codes, random): those means; ``code`` (site, state), the strongest code of each state.

    Raises:
        ValueError: no codebooks, fewer than two states in either half, or shapes that do not fit.
    """
    n_states = len(following)
    if len(states) != len(inputs) or int(states.max()) >= n_states or len(inputs) < 8:
        raise ValueError(
            f"expected at least 8 sequences, a state of 0 to {n_states - 1} for each, got {len(inputs)} and "
            f"{len(states)}"
        )
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    found_on, tried_on = order[: len(order) // 2], order[len(order) // 2 :]
    last = torch.zeros(inputs[found_on].shape, dtype=torch.bool)
    last[:, -1] = True
    seen = Codes.of(model, inputs[found_on], last, **forward)
    known = states[found_on].unique()
    if len(known) < 2:
        raise ValueError(f"expected at least two states to steer between, got {known.tolist()}")
    own = {site: _of_states(active, states[found_on], n_states) for site, active in seen.active.items()}
    sites = {site: [site] for site in own} | {EVERYWHERE: list(own)}
    given, source = inputs[tried_on], states[tried_on]
    same = torch.cdist(following.double(), following.double(), p=1) < 1e-9

    def nearest(edits: Sequence[Edit]) -> Float[Tensor, "n state"]:
        """Whether each prediction is that of each state."""
        logits = run(model, given, edits=edits, read=(-1,), **forward)[:, 0].cpu()
        apart = torch.cdist(logits.double().softmax(-1), following.double(), p=1)
        return same[apart.argmin(1)].double()

    intact = nearest([])
    steered = torch.full((len(sites), len(given), n_states), torch.nan, dtype=torch.float64)
    random = torch.zeros_like(steered)
    for i, members in enumerate(sites.values()):
        for target in known.tolist():
            edits = [_hold(site, own[site][target].expand(len(given), -1)) for site in members]
            steered[i, :, target] = nearest(edits)[:, target]
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed + 1 + draw)
            edits = [_hold(site, _drawn(seen.active[site], len(given), generator)) for site in members]
            random[i] += nearest(edits) / draws
    there = torch.zeros(n_states, dtype=torch.bool)
    there[known] = True
    other = there[None] & ~same[source]
    coords = {"site": list(sites), "source": list(range(n_states)), "target": list(range(n_states))}

    def matrix(x: Tensor) -> xr.DataArray:
        rows = [x[:, source == state].mean(1) for state in range(n_states)]
        return xr.DataArray(torch.stack(rows, 1).numpy(), dims=list(coords), coords=coords)

    def success(x: Tensor) -> Float[np.ndarray, "site n"]:
        """Of each sequence, over the other states."""
        return (x.nan_to_num() * other).sum(-1).numpy() / other.sum(1).numpy()

    by_site = {"codes": success(steered), "random": success(random)}
    best = int(by_site["codes"].mean(1).argmax())
    values = matrix(steered)
    values.attrs["units"] = "share predicted as in the target state"
    return Result(
        name="code_steering",
        values=values,
        trivial=float(success(intact[None]).mean()),
        control=matrix(random),
        control_kind=f"random active codes, mean of {draws} draws",
        interval=bootstrap_interval(by_site["codes"][best]),
        provenance=gated(
            gate,
            {"n codes": len(found_on), "n": len(given), "best": list(sites)[best], "seed": seed, "draws":
            draws},
        ),
        extra={
            "success": xr.DataArray(
                np.stack([x.mean(1) for x in by_site.values()], 1), dims=("site", "of"),
                coords={"site": list(sites), "of": list(by_site)},
            ),
            "code": xr.DataArray(
                np.array([x.argmax(1).numpy() for x in own.values()]), dims=("site", "state"),
                coords={"site": list(own)},
            ),
        },
    )  # fmt: skip


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
