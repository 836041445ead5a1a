"""Neurons grouped by the frequency they follow: does a group carry its frequency, and only its?

Each group is mean-ablated and patched from other inputs, and what happens to each frequency of
the logits is measured; random groups of the same sizes are the control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_groups, check_inputs, check_model
from mechinterp.hooks import HookedRootModule, Site, mean, patch, run, run_with_cache
from mechinterp.result import Result


def amplitudes(
    logits: Float[Tensor, "n p"], sums: Int[Tensor, " n"], frequencies: Int[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """How strongly the logits follow cos(2 pi k (sum - c) / p), averaged over examples."""
    p = logits.shape[-1]
    phase = 2 * torch.pi / p * frequencies[:, None, None] * (sums[:, None] - torch.arange(p))
    return 2 / p * torch.einsum("nc,knc->k", logits.double(), phase.cos().double()) / len(logits)


def clusters_by_frequency(
    shares: Float[Tensor, "frequency neuron"], frequencies: Int[Tensor, " k"], least: float = 0.5
) -> list[Int[Tensor, " _"]]:
    """For each frequency, the neurons that it explains best, by at least ``least`` of their variance."""
    best, which = shares.max(0)
    return [((which + 1 == k) & (best >= least)).nonzero().squeeze(-1) for k in frequencies]


@checked
@torch.no_grad()
def cluster_effects(
    model: HookedRootModule,
    inputs: Int[Tensor, "n pos"],
    sums: Int[Tensor, " n"],
    clusters: Sequence[Int[Tensor, " _"]],
    frequencies: Int[Tensor, " k"],
    provenance: Mapping[str, Any],
    *,
    hook: str = "blocks.0.mlp.hook_post",
    draws: int = 5,
    seed: int = 0,
) -> Result:
    """What ablating and patching each cluster does to each frequency of the logits.

    Args:
        inputs: token ids; outputs are read at the last position.
        sums: a + b mod p of each example.
        clusters: neurons, one group for each frequency.
        draws: random groups of the same size, for each cluster, in the control.

    Returns:
        Dims ``operation``, ``cluster``, ``frequency``. ``"ablate"``: the share of the frequency's
        amplitude that is lost when the cluster takes its mean activation; ``"patch"``: the share
        that follows the sum of the example patched in. The interval is that of the control's
        own-frequency effects.

    Raises:
        ValueError: an empty cluster, or fewer than two examples.
    """
    if any(len(cluster) == 0 for cluster in clusters) or len(clusters) != len(frequencies):
        raise ValueError(
            f"expected a non-empty cluster for each of {len(frequencies)} frequencies, got sizes "
            f"{[len(cluster) for cluster in clusters]}; lower the share a neuron needs, or drop a frequency"
        )
    check_inputs(inputs)
    check_model(model, "clusters of neurons")
    if len(sums) != len(inputs) or draws < 1:
        raise ValueError(
            f"expected a sum for each of {len(inputs)} examples and at least 1 draw, got {len(sums)} and "
            f"{draws}"
        )
    intact, cache = run_with_cache(model, inputs, names=hook)
    check_groups(dict(enumerate(clusters)), cache[hook].shape[-1])
    generator = torch.Generator().manual_seed(seed)
    # Random donors: a neighbour's sum is near one's own, and would look like an effect of the patch.
    donors = torch.randperm(len(inputs), generator=generator)
    donor_cache = {hook: cache[hook][donors]}
    base = amplitudes(intact[:, -1], sums, frequencies)

    def ablate(neurons: Tensor) -> Tensor:
        logits = run(model, inputs, edits=[mean(Site.at(hook, neuron=neurons), cache)])
        return 1 - amplitudes(logits[:, -1], sums, frequencies) / base

    def swap(neurons: Tensor) -> Tensor:
        logits = run(model, inputs, edits=[patch(Site.at(hook, neuron=neurons), donor_cache)])
        return amplitudes(logits[:, -1], sums[donors], frequencies) / base

    def effects(groups: Sequence[Tensor]) -> Float[Tensor, "operation cluster frequency"]:
        return torch.stack([torch.stack([act(group) for group in groups]) for act in (ablate, swap)])

    n_neurons = cache[hook].shape[-1]
    values = effects(clusters)
    null = torch.stack(
        [
            effects([torch.randperm(n_neurons, generator=generator)[: len(c)] for c in clusters])
            for _ in range(draws)
        ]
    )
    own = null[:, 0].diagonal(dim1=-2, dim2=-1)
    names = frequencies.tolist()
    coords = {"operation": ["ablate", "patch"], "cluster": names, "frequency": names}
    dims = ("operation", "cluster", "frequency")
    return Result(
        name="neuron_clusters",
        values=xr.DataArray(values.numpy(), dims=dims, coords=coords, attrs={"units": "share of amplitude"}),
        trivial=0.0,
        control=xr.DataArray(null.mean(0).numpy(), dims=dims, coords=coords),
        control_kind=f"random neurons, as many, mean of {draws} draws",
        interval=(own.min().item(), own.max().item()),
        provenance={**provenance, "cluster sizes": [len(cluster) for cluster in clusters]},
    )
