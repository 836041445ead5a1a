"""The shape of a cloud of vectors: principal axes, and circles in it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.fourier import fourier_basis, frequency_power


def pca(
    x: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """The first k principal components of n vectors.

    Returns:
        Coordinates, unit axes, and each axis's share of the variance.

    Raises:
        ValueError: k larger than the smaller side of ``x``.
    """
    if not 1 <= k <= min(x.shape):
        raise ValueError(f"expected 1 <= k <= {min(x.shape)} components of {tuple(x.shape)}, got {k}")
    centred = x.double() - x.double().mean(0)
    u, size, axes = torch.linalg.svd(centred, full_matrices=False)
    share = size**2 / (size**2).sum()
    return (u * size)[:, :k], axes[:k], share[:k]


def circularity(embedding: Float[Tensor, "p d"], components: int = 4) -> float:
    """How purely the first principal components follow single frequencies, 0 to 1.

    The largest share of a component's power that one Fourier frequency holds, averaged over the
    components (Zhong et al. 2023, section 4). Random vectors give a few multiples of 2 / p.
    """
    coordinates, _, _ = pca(embedding, min(components, *embedding.shape))
    power = frequency_power(coordinates)
    return (power.max(0).values / power.sum(0)).mean().item()


def frequency_plane(embedding: Float[Tensor, "p d"], k: int) -> Float[Tensor, "p 2"]:
    """The vectors seen in the plane in which frequency k turns.

    The plane is spanned by the vectors' components along cos k and sin k. On a perfect circle of
    frequency k the points have one radius and angles 2 pi k a / p.
    """
    p = len(embedding)
    if not 1 <= k <= p // 2 or 2 * k == p:
        raise ValueError(f"expected a frequency in 1..{(p - 1) // 2} with a sine, got {k}")
    directions = fourier_basis(p)[2 * k - 1 : 2 * k + 1] @ embedding.double()
    axes = torch.linalg.qr(directions.mT).Q
    return (embedding.double() - embedding.double().mean(0)) @ axes


def axis_ratio(embedding: Float[Tensor, "p d"], k: int) -> float:
    """Short over long axis of the ellipse that frequency k draws: 1 for a circle, 0 for a line.

    Two random directions in many dimensions are nearly orthogonal and equally long, so random
    embeddings come close to 1 too: this says how round a ring is, not that there is one.
    """
    p = len(embedding)
    if not 1 <= k <= p // 2 or 2 * k == p:
        raise ValueError(f"expected a frequency in 1..{(p - 1) // 2} with a sine, got {k}")
    directions = fourier_basis(p)[2 * k - 1 : 2 * k + 1] @ embedding.double()
    sizes = torch.linalg.svdvals(directions)
    return (sizes[1] / sizes[0]).item()
