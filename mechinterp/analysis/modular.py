"""What a network that adds mod p does with Fourier frequencies, each measure beside its null.

All functions take tensors that the network gives on all p x p pairs (a, b): ``logits [p, p, p]``
and ``neurons [p, p, neuron]`` at the position read, and ``embedding [p, d_model]``. Where a
function takes ``untrained``, that is the same tensor of the network before training.

Source: Nanda et al. (2023), "Progress measures for grokking via mechanistic interpretability".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.fourier import (
    frequency_power,
    gini,
    key_frequencies,
    pair_frequency_share,
    trigonometric_share,
)
from mechinterp.analysis.geometry import axis_ratio, circularity, frequency_plane, pca
from mechinterp.analysis.progress import excluded, pair_loss, random_frequencies, restricted
from mechinterp.analysis.statistics import bootstrap_interval, proportion_interval
from mechinterp.result import Result

Provenance = Mapping[str, Any]


@checked
def spectrum(
    matrix: Float[Tensor, "p d"], untrained: Float[Tensor, "p d"], name: str, provenance: Provenance
) -> Result:
    """The share of each frequency in a matrix's power along its first axis, and its Gini.

    The Gini coefficient of the frequencies' norms says how few of them the matrix uses: 0 if all
    alike. The numbers' mean vector (frequency 0) is left out.

    Args:
        matrix: ``W_E`` of the numbers, or ``(W_out W_U).T``: the neurons' effect on the answers.
        name: what to call the result.
    """
    _check(matrix, untrained)
    powers = [frequency_power(each) for each in (matrix, untrained)]
    shares = [power.sum(1) / power.sum() for power in powers]
    ginis = [gini(power.sum(1).sqrt()).item() for power in powers]
    return Result(
        name=name,
        values=by_frequency(shares[0], "share of power"),
        trivial=1 / len(shares[0]),
        control=by_frequency(shares[1], "share of power"),
        control_kind="untrained network",
        provenance={**provenance, "gini": round(ginis[0], 4), "gini untrained": round(ginis[1], 4)},
    )


@checked
def logit_frequencies(
    logits: Float[Tensor, "p p p"], untrained: Float[Tensor, "p p p"], provenance: Provenance
) -> Result:
    """The share of the logits' variance that cos(2 pi k (a + b - c) / p) explains, for each k."""
    _check(logits, untrained, cube=True)
    shares, before = trigonometric_share(logits), trigonometric_share(untrained)
    keys = key_frequencies(shares)
    return Result(
        name="logit_frequencies",
        values=by_frequency(shares, "share of variance"),
        trivial=0.0,
        control=by_frequency(before, "share of variance"),
        control_kind="untrained network",
        interval=_explained_interval(logits, keys),
        provenance={**provenance, "key frequencies": keys.tolist()},
    )


def _explained_interval(
    logits: Float[Tensor, "p p p"], keys: Int[Tensor, " k"], draws: int = 500
) -> tuple[float, float]:
    """Bootstrap over a of the variance that all key frequencies together explain."""
    p = len(logits)
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    x = torch.arange(p, dtype=torch.float64)
    left = centred.clone()
    for k in keys:
        cosine = (2 * torch.pi / p * k * (x[:, None, None] + x[:, None] - x)).cos()
        left -= (centred * cosine).sum() / (cosine**2).sum() * cosine
    rows = np.random.default_rng(0).integers(p, size=(draws, p))
    unexplained, total = ((each**2).sum((1, 2)).numpy()[rows].sum(1) for each in (left, centred))
    low, high = np.quantile(1 - unexplained / total, [0.025, 0.975])
    return float(low), float(high)


@checked
def neuron_frequencies(
    neurons: Float[Tensor, "p p neuron"], untrained: Float[Tensor, "p p neuron"], provenance: Provenance
) -> Result:
    """For each neuron and frequency, the share of the neuron's variance over pairs."""
    _check(neurons, untrained, square=True)
    shares, before = pair_frequency_share(neurons), pair_frequency_share(untrained)
    best = shares.max(0).values
    single = (best > 0.85).double()
    return Result(
        name="neuron_frequencies",
        values=xr.DataArray(
            shares.float().numpy(),
            dims=("frequency", "neuron"),
            coords={"frequency": np.arange(1, len(shares) + 1)},
            attrs={"units": "share of variance"},
        ),
        trivial=1 / len(shares),
        control=xr.DataArray(before.max(0).values.float().numpy(), dims=("neuron",)),
        control_kind="best frequency of each neuron in the untrained network",
        interval=proportion_interval(int(single.sum()), len(single)),
        provenance={**provenance, "neurons > 85 % one frequency": round(single.mean().item(), 4)},
    )


@checked
def circles(
    embedding: Float[Tensor, "p d"],
    untrained: Float[Tensor, "p d"],
    frequencies: Int[Tensor, " k"],
    provenance: Provenance,
) -> Result:
    """The share of the embedding's variance in the planes in which given frequencies turn.

    ``extra`` has the numbers' coordinates in each plane, how round each ring is, and the first four
    principal components with their circularity. The roundness alone shows nothing: in many
    dimensions random directions make round rings too, as the control's does.
    """
    _check(embedding, untrained, frequencies=frequencies)
    p = len(embedding)
    index = frequencies - 1

    def share(matrix: Tensor) -> Tensor:
        power = frequency_power(matrix).sum(1)
        return power[index] / power.sum()

    turning = [k for k in frequencies.tolist() if 2 * k != p]
    planes = torch.stack([frequency_plane(embedding, k) for k in turning])
    components, _, explained = pca(embedding, min(4, *embedding.shape))
    round_now = [axis_ratio(embedding, k) for k in turning]
    round_before = [axis_ratio(untrained, k) for k in turning]
    return Result(
        name="circles",
        values=by_frequency(share(embedding), "share of variance", frequencies),
        trivial=1 / (p // 2),
        control=by_frequency(share(untrained), "share of variance", frequencies),
        control_kind="untrained network",
        provenance={
            **provenance,
            "circularity of the first 4 components": round(circularity(embedding), 4),
            "untrained": round(circularity(untrained), 4),
        },
        extra={
            "planes": xr.DataArray(
                planes.float().numpy(),
                dims=("frequency", "number", "axis"),
                coords={"frequency": turning, "number": np.arange(p)},
            ),
            "roundness": xr.DataArray(
                [round_now, round_before],
                dims=("network", "frequency"),
                coords={"network": ["trained", "untrained"], "frequency": turning},
            ),
            "components": xr.DataArray(components.float().numpy(), dims=("number", "component")),
            "explained": xr.DataArray(explained.float().numpy(), dims=("component",)),
        },
    )


@checked
def sufficiency(
    logits: Float[Tensor, "p p p"],
    targets: Int[Tensor, "p p"],
    frequencies: Int[Tensor, " k"],
    train: Int[Tensor, " train"],
    test: Int[Tensor, " test"],
    provenance: Provenance,
    draws: int = 10,
) -> Result:
    """Loss with only the given frequencies of a + b (on test pairs), and without them (on train).

    Restricted and excluded loss of Nanda et al. (2023); the null does the same with as many random
    other frequencies, and there is none where no other frequency is left. Values in nats, dims
    ``measure``: full_test, restricted_test, full_train, excluded_train; the interval is that of the
    null's restricted losses.
    """
    _check(logits, logits, cube=True, frequencies=frequencies)
    p = len(logits)
    wanted = {"targets": (targets, p), "train": (train, p * p), "test": (test, p * p)}
    if targets.shape != (p, p) or draws < 1:
        raise ValueError(
            f"expected targets [{p}, {p}] and at least 1 draw, got {tuple(targets.shape)}, {draws}"
        )
    for each, (x, size) in wanted.items():
        if not x.numel() or int(x.min()) < 0 or int(x.max()) >= size:
            raise ValueError(f"expected {each} in [0, {size}), at least one, got {x.flatten().tolist()[:8]}")
    null = random_frequencies(p, len(frequencies), frequencies.tolist(), draws)
    values = {
        "full_test": pair_loss(logits, targets, test),
        "restricted_test": pair_loss(restricted(logits, frequencies), targets, test),
        "full_train": pair_loss(logits, targets, train),
        "excluded_train": pair_loss(excluded(logits, frequencies), targets, train),
    }
    measures = {"measure": list(values)}
    found = Result(
        name="sufficiency",
        values=xr.DataArray(
            list(values.values()), dims=("measure",), coords=measures, attrs={"units": "nats"}
        ),
        trivial=float(np.log(p)),
        control_kind="no other frequency left",
        provenance=provenance,
    )
    if not null:
        return found
    random = {
        "restricted_test": [pair_loss(restricted(logits, k), targets, test) for k in null],
        "excluded_train": [pair_loss(excluded(logits, k), targets, train) for k in null],
    }
    control = values | {measure: np.mean(losses) for measure, losses in random.items()}
    return replace(
        found,
        control=xr.DataArray(list(control.values()), dims=("measure",), coords=measures),
        control_kind=f"{len(null[0])} random other frequencies, mean of {draws} draws",
        interval=bootstrap_interval(random["restricted_test"]),
        extra={
            "null": xr.DataArray(
                list(random.values()), dims=("measure", "draw"), coords={"measure": list(random)}
            )
        },
    )


def _check(
    trained: Tensor,
    untrained: Tensor,
    *,
    square: bool = False,
    cube: bool = False,
    frequencies: Tensor | None = None,
) -> None:
    """Refuse arrays over numbers mod p that are none.

    Args:
        square: the first two axes are pairs of numbers.
        cube: so are all three.

    Raises:
        ValueError: fewer than 3 numbers, other axes, different shapes, numbers that are not finite, or
            frequencies that there are not.
    """
    p, same = len(trained), 3 if cube else 2 if square else 1
    if (
        trained.shape != untrained.shape
        or trained.shape[:same] != (p,) * same
        or p < 3
        or not trained.numel()
    ):
        raise ValueError(
            f"expected arrays of one shape, {', '.join('p' * same)} first, of at least 3 numbers, got "
            f"{tuple(trained.shape)} and {tuple(untrained.shape)}; give both networks' values on all pairs"
        )
    if not bool(trained.isfinite().all() and untrained.isfinite().all()):
        raise ValueError("expected finite numbers, got NaN or infinity; look at the network's outputs")
    if frequencies is None:
        return
    if not frequencies.numel() or int(frequencies.min()) < 1 or int(frequencies.max()) > p // 2:
        raise ValueError(
            f"expected frequencies in [1, {p // 2}], at least one, got {frequencies.tolist()}; choose some"
        )


def by_frequency(
    values: Float[Tensor, " frequency"], units: str, frequencies: Int[Tensor, " frequency"] | None = None
) -> xr.DataArray:
    """A vector over frequencies, labelled: 1, 2, ... unless others are named."""
    names = np.arange(1, len(values) + 1) if frequencies is None else frequencies.numpy()
    return xr.DataArray(
        values.float().numpy(), dims=("frequency",), coords={"frequency": names}, attrs={"units": units}
    )
