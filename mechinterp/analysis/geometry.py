"""The shape of a cloud of vectors: principal axes, circles in it, and how many dimensions it fills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.fourier import fourier_basis, frequency_power
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.jackknife import jackknife_interval
from mechinterp.analysis.statistics import null_interval
from mechinterp.analysis.tensors import tensor_of, vectors_of, whole_of
from mechinterp.devices import cpu_default
from mechinterp.result import Result


@cpu_default
def pca(
    x: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """The first k principal components of n vectors.

    Returns:
        Coordinates, unit axes, and each axis's share of the variance.

    Raises:
        ValueError: k larger than the smaller side of ``x``.
    """
    x = vectors_of(x, "vectors")
    whole_of(k, "k, how many components,", 1, min(x.shape))
    if not 1 <= k <= min(x.shape):
        raise ValueError(f"expected 1 <= k <= {min(x.shape)} components of {tuple(x.shape)}, got {k}")
    if bool((x == x[:1]).all()):
        raise ValueError("expected vectors that differ, got the same for every row; it has no axes")
    centred = x.double() - x.double().mean(0)
    u, size, axes = torch.linalg.svd(centred, full_matrices=False)
    share = size**2 / (size**2).sum()
    return (u * size)[:, :k], axes[:k], share[:k]


@cpu_default
def circularity(embedding: Float[Tensor, "p d"], components: int = 4) -> float:
    """How purely the first principal components follow single frequencies, 0 to 1.

    The largest share of a component's power that one Fourier frequency holds, averaged over the
    components (Zhong et al. 2023, section 4). Random vectors give a few multiples of 2 / p.
    """
    embedding = vectors_of(embedding, "vectors")
    whole_of(components, "components", 1)
    coordinates, _, _ = pca(embedding, min(components, *embedding.shape))
    power = frequency_power(coordinates)
    return (power.max(0).values / power.sum(0)).mean().item()


@cpu_default
def frequency_plane(embedding: Float[Tensor, "p d"], k: int) -> Float[Tensor, "p 2"]:
    """The vectors seen in the plane in which frequency k turns.

    The plane is spanned by the vectors' components along cos k and sin k. On a perfect circle of
    frequency k the points have one radius and angles 2 pi k a / p.
    """
    embedding = vectors_of(embedding, "vectors")
    p, k = len(embedding), whole_of(k, "a frequency", 1)
    if not 1 <= k <= p // 2 or 2 * k == p:
        raise ValueError(f"expected a frequency in 1..{(p - 1) // 2} with a sine, got {k}")
    directions = fourier_basis(p)[2 * k - 1 : 2 * k + 1] @ embedding.double()
    axes = torch.linalg.qr(directions.mT).Q
    return (embedding.double() - embedding.double().mean(0)) @ axes


@cpu_default
def axis_ratio(embedding: Float[Tensor, "p d"], k: int) -> float:
    """Short over long axis of the ellipse that frequency k draws: 1 for a circle, 0 for a line.

    Two random directions in many dimensions are nearly orthogonal and equally long, so random
    embeddings come close to 1 too: this says how round a ring is, not that there is one.
    """
    embedding = vectors_of(embedding, "vectors")
    p, k = len(embedding), whole_of(k, "a frequency", 1)
    if not 1 <= k <= p // 2 or 2 * k == p:
        raise ValueError(f"expected a frequency in 1..{(p - 1) // 2} with a sine, got {k}")
    directions = fourier_basis(p)[2 * k - 1 : 2 * k + 1] @ embedding.double()
    sizes = torch.linalg.svdvals(directions)
    return (sizes[1] / sizes[0]).item()


def participation_ratio(variances: Float[Tensor, "*at k"]) -> Float[Tensor, "*at"]:
    """How many directions share the variance: (sum l)² / sum l², from 1 to k.

    k if all variances are equal, 1 if one direction has everything.

    Raises:
        ValueError: a negative variance, or nothing but zeros.
    """
    if bool((variances < 0).any()) or bool((variances.sum(-1) == 0).any()):
        raise ValueError(
            "expected variances >= 0, not all zero, for a participation ratio; give squared singular values "
            "of vectors that differ"
        )
    relative = variances / variances.amax(-1, keepdim=True)  # squares of small numbers vanish
    return relative.sum(-1) ** 2 / (relative**2).sum(-1)


@checked
def spectrum(
    x: Any,  # a tensor or an array [n, d], checked below
    *,
    centre: bool = True,
    sampled: bool = True,
    draws: int = 100,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The singular values of n vectors, beside those of random ones of the same total variance.

    Args:
        x: activations of n examples, or the rows of a weight matrix.
        centre: subtract the mean vector first.
        sampled: whether the rows are a sample of more, as activations are, or all there are, as those of a
            weight matrix: of these there is no interval.
        draws: random matrices, of independent normal entries, in the control.

    Returns:
        Dim ``index``, from the largest. The trivial value is what each would be if all were equal. The
        provenance has the participation ratio of the squared singular values, and of random ones; the
        interval is the participation ratio's, by leaving rows out. Its middle is corrected for how few
        rows there are: few seem to fill fewer dimensions than many do. ``extra``: the control's middle 95 %,
        ``null`` (end, index).

    Raises:
        ValueError: fewer than 3 vectors, vectors that are all alike, or not finite.
    """
    x, whole = tensor_of(x, "vectors"), whole_of(draws, "draws", 1)
    if x.ndim == 2 and (len(x) < 3 or not bool(x.isfinite().all())):
        raise ValueError(
            f"expected at least 3 finite vectors and 1 draw, got {len(x)} vectors and {whole} draws; "
            "look for NaN, or give more"
        )
    x = vectors_of(x, "vectors")
    if bool((x == x[:1]).all()) and (centre or not bool(x.any())):
        raise ValueError("expected vectors that differ, got the same for every row; it has no shape")

    def sizes_of(rows: Float[Tensor, "n d"]) -> Float[Tensor, " k"]:
        return torch.linalg.svdvals(rows - rows.mean(0) if centre else rows)

    vectors = x.double().cpu()
    n = len(x) - centre  # centring takes one dimension of the examples
    sizes = sizes_of(vectors)[: min(n, x.shape[1])]
    ratio = participation_ratio(sizes**2).item()
    null = random_singular_values(n, x.shape[1], draws, seed) * float(sizes.norm())
    own = {
        "participation ratio": round(ratio, 4),
        "of random": round(participation_ratio(torch.tensor(null**2)).mean().item(), 4),
        "n": len(x), "d": x.shape[1], "centred": centre, "draws": draws, "seed": seed,
    }  # fmt: skip
    interval = None
    if sampled:
        interval = jackknife_interval(
            lambda rows: participation_ratio(sizes_of(vectors[rows]) ** 2).item(), len(x), seed=seed
        )
        own["corrected for n"] = round(sum(interval) / 2, 4)
    index = {"index": np.arange(1, len(sizes) + 1)}
    return Result(
        name="singular_values",
        values=xr.DataArray(sizes.numpy(), dims="index", coords=index, attrs={"units": "singular value"}),
        trivial=float(sizes.norm()) / len(sizes) ** 0.5,
        control=xr.DataArray(null.mean(0), dims="index", coords=index),
        control_kind=f"normal entries of the same total variance, mean of {draws} draws",
        interval=interval,
        provenance=gated(gate, {**(provenance or {}), **own}),
        extra={"null": xr.DataArray(np.stack(list(map(null_interval, null.T)), 1), dims=("end", "index"))},
    )


def random_singular_values(n: int, d: int, draws: int, seed: int = 0) -> Float[np.ndarray, "draw k"]:
    """Singular values of n x d matrices of independent normal entries, scaled to a sum of squares of 1.

    A triangular matrix has the same ones (Bartlett 1933): it is drawn, whatever n is, at the cost of d x d.
    """
    long, short = max(n, d), min(n, d)
    rng = np.random.default_rng(seed)
    found = np.empty((draws, short))
    for draw in range(draws):
        triangle = np.triu(rng.normal(size=(short, short)), 1)
        triangle[np.diag_indices(short)] = np.sqrt(rng.chisquare(long - np.arange(short)))
        found[draw] = np.linalg.svd(triangle, compute_uv=False)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
