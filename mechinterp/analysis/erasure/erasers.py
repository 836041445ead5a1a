"""Maps that take a concept out of activations: LEACE, projections, and a random control.

All of them are oblique projections about the mean of the fitting data. Which directions go is
decided by the covariance of activations and concept, not by the weights of a trained reader: where
features are correlated, a ridge or logistic reader uses one of many directions that tell the same.
Projecting that one out is no removal, and a fresh reader finds the concept with R² near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mechinterp.analysis.erasure.concepts import ReadAs, as_concept
from mechinterp.analysis.randomness import global_generators_kept
from mechinterp.analysis.tensors import said, tensor_of, vectors_of, whole_of
from mechinterp.devices import cpu_default
from mechinterp.hooks import Edit, Site

Shrinkage = float | int | Literal["ledoit-wolf"]

_NO_CORRELATION = 1e-9  # canonical correlations below this are rounding


@dataclass(frozen=True, eq=False)
class Eraser:
    """An affine map without the concept it was fitted to: ``mean + matrix (x - mean)``.

    Args:
        matrix: ``[d, d]``, float64, a projection: applied twice it does what it does once.
        mean: ``[d]``, of the fitting data.
        rank: how many dimensions are gone.
        kind: what made it, for messages.
    """

    matrix: Float[Tensor, "d d"]
    mean: Float[Tensor, " d"]
    rank: int
    kind: str = "eraser"

    def __call__(self, x: Float[Tensor, "*at d"]) -> Float[Tensor, "*at d"]:
        """The vectors without the concept, computed in float64 and returned in the dtype given.

        Raises:
            ValueError: vectors of another length than the eraser was fitted on.
        """
        x = tensor_of(x, "vectors")
        if x.ndim == 0 or x.shape[-1] != len(self.mean) or not x.is_floating_point():
            raise ValueError(
                f"expected vectors of length {len(self.mean)}, which {self} was fitted on, got "
                f"{x.shape[-1] if x.ndim else 'a scalar'} of {x.dtype}; fit one on activations of this site"
            )
        matrix, mean = self.matrix.to(x.device), self.mean.to(x.device)
        return (mean + (x.double() - mean) @ matrix.mT).to(x.dtype)

    def edit(self, site: Site) -> Edit:
        """An edit that erases along the last axis of a site, at every position and head it covers."""
        return Edit(site, lambda old, _: self(old), str(self))

    def __str__(self) -> str:
        return f"{self.kind} of rank {self.rank}"


class _Spread(NamedTuple):
    """Activations as ``mean + coordinates @ axes``, empty directions left out."""

    mean: Float[Tensor, " d"]
    coordinates: Float[Tensor, "n r"]
    axes: Float[Tensor, "r d"]
    scale: Float[Tensor, " r"]  # (shrunk) standard deviation along each axis


@cpu_default
def leace(
    x: Float[Tensor, "n d"],
    z: Shaped[Tensor, " m *k"],
    *,
    shrinkage: Shrinkage = 0.0,
    z_as: ReadAs | None = None,
) -> Eraser:
    """Least-squares concept erasure: no linear reader of what is left beats a constant, on these data.

    With W the whitening ``(Sxx^(1/2))^+`` and P the orthogonal projection on the columns of ``W Sxz``,
    ``r(x) = x - W^+ P W (x - mean)``. Of all affine maps after which x and z do not covary this one
    changes x the least, in mean square; features of x that do not covary with z stay as they are.
    Directions that vary by less than the rounding of x's dtype count as empty and are left alone.

    Shrinkage, ``Sxx -> (1 - s) Sxx + s tr(Sxx) / d``, keeps the covariance exactly zero on the fitting
    data, since any invertible W does; which features of x survive (those that do not covary with z) does
    not depend on s either. Where the rest is moved does: the change is no longer the smallest on these
    data, and follows chance less when examples are few. At s = 1 the map is ``mean_projection``.

    Args:
        x: activations.
        z: the concept, one row an example: classes (integers or booleans, ``[n]``) or numbers (``[n]`` or
            ``[n, k]``).
        shrinkage: s, from 0 to 1, or ``"ledoit-wolf"`` for the coefficient of Ledoit & Wolf (2004).
        z_as: ``"classes"`` or ``"values"``, whatever z's dtype; what may be either is refused without it.

    Raises:
        ValueError: lengths that differ, a z that does not vary, numbers that are not finite, no more
            examples than dimensions without shrinkage (then any z is a linear function of x), or a z of
            which its dtype does not tell how to read it; see ``as_concept``.

    Source: Belrose et al. (2023), "LEACE: Perfect linear concept erasure in closed form", section 4.
    """
    x, z = _check(x, z, z_as)
    s = _coefficient(x, shrinkage)
    spread = _spread(x, s)
    if s == 0 and len(spread.scale) >= len(x) - 1:
        raise ValueError(
            f"expected more examples than dimensions in use, got {len(x)} examples that span "
            f"{len(spread.scale)} dimensions; give more examples, or shrinkage='ledoit-wolf'"
        )
    return _without(spread, _concept_axes(spread, z), "leace" if s == 0 else f"leace, shrinkage {s:.3g}")


@cpu_default
def mean_projection(
    x: Float[Tensor, "n d"], z: Shaped[Tensor, " m *k"], *, z_as: ReadAs | None = None
) -> Eraser:
    """Project out the span of the differences of class means; of numbers, the directions of covariance.

    The orthogonal projection that leaves no covariance of x and z. It changes x more than ``leace``
    does, features included that only covary with what it takes.

    Args:
        x, z, z_as: as in ``leace``.

    Raises:
        ValueError: lengths that differ, a z that does not vary, or numbers that are not finite.
    """
    x, z = _check(x, z, z_as)
    spread = _spread(x, 1.0)
    return _without(spread, _concept_axes(spread, z), "mean projection")


@cpu_default
def probe_projection(
    x: Float[Tensor, "n d"], z: Shaped[Tensor, " m *k"], *, z_as: ReadAs | None = None
) -> Eraser:
    """Project out the weights of a linear reader (least squares): what removing "the probe's direction" is.

    No erasure: where features are correlated, what is left tells the same, and a fresh reader finds it.

    Args:
        x, z, z_as: as in ``leace``.

    Raises:
        ValueError: lengths that differ, a z that does not vary, or numbers that are not finite.
    """
    x, z = _check(x, z, z_as)
    spread = _spread(x, 0.0)
    basis = _concept_axes(spread, z)
    weights = spread.axes.mT @ (basis / spread.scale[:, None])  # the span of Sxx^+ Sxz
    directions = torch.linalg.qr(weights).Q
    matrix = torch.eye(len(spread.mean), dtype=torch.float64) - directions @ directions.mT
    return Eraser(matrix, spread.mean, basis.shape[1], "probe projection")


@cpu_default
def random_erasers(
    x: Float[Tensor, "n d"], rank: int, draws: int = 1, *, shrinkage: Shrinkage = 0.0, seed: int = 0
) -> list[Eraser]:
    """The control: erasers that take out as many random features of the same activations.

    Each does what ``leace`` would do for ``rank`` uncorrelated features of x, drawn in random
    directions of the whitened activations; at ``shrinkage=1`` it is the orthogonal projection that
    takes out random directions among those in which x varies.

    Raises:
        ValueError: a rank below 0, or above the number of dimensions in which x varies.
    """
    x = vectors_of(x)
    whole_of(draws, "draws of random erasers", 1)
    spread = _spread(x, _coefficient(x, shrinkage))
    most = len(spread.scale)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= most:
        got = rank if isinstance(rank, (int, float)) else type(rank).__name__
        raise ValueError(f"expected a rank in 0..{most}, the dimensions in which x varies, got {got}")
    generator = torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(draws, most, rank, generator=generator, dtype=torch.float64)).Q
    return [_without(spread, basis, "random eraser") for basis in bases]


def dimensions(x: Float[Tensor, "n d"]) -> int:
    """In how many dimensions x varies by more than rounding."""
    return len(_spread(x, 0.0).scale)


def columns(z: Shaped[Tensor, " n *k"]) -> Float[Tensor, "n k"]:
    """A concept as columns of float64: one for each class of integers or booleans, numbers as they are."""
    if z.is_floating_point():
        return z.double().cpu().reshape(len(z), -1)
    classes, of_row = z.cpu().unique(return_inverse=True)
    return torch.nn.functional.one_hot(of_row, len(classes)).double()


def rounding(x: Float[Tensor, "n d"]) -> float:
    """The singular value of x below which there is only rounding, in float32 or finer."""
    coarsest = torch.finfo(torch.float32).eps  # the rounding of half precision is as large as real features
    epsilon = max(4 * min(torch.finfo(x.dtype).eps, coarsest), max(x.shape) * torch.finfo(torch.float64).eps)
    return epsilon * x.double().norm().item()


def _spread(x: Float[Tensor, "n d"], shrinkage: float) -> _Spread:
    vectors = x.double().cpu()
    mean = vectors.mean(0)
    left, sizes, axes = torch.linalg.svd(vectors - mean, full_matrices=False)
    there = sizes > rounding(x)
    variance = sizes**2 / len(x)
    shrunk = (1 - shrinkage) * variance + shrinkage * variance.sum() / x.shape[1]
    return _Spread(mean, left[:, there] * sizes[there], axes[there], shrunk[there].sqrt())


def _concept_axes(spread: _Spread, z: Shaped[Tensor, " n *k"]) -> Float[Tensor, "r rank"]:
    """An orthonormal basis of the columns of W Sxz, in the coordinates of the activations' axes."""
    numbers = columns(z)
    centred, sizes, _ = torch.linalg.svd(numbers - numbers.mean(0), full_matrices=False)
    concept = centred[:, sizes > 1e-9 * sizes[0]]  # uncorrelated features of z, of norm 1
    whitened = spread.coordinates / spread.scale / len(centred) ** 0.5
    basis, correlations, _ = torch.linalg.svd(whitened.mT @ concept, full_matrices=False)
    return basis[:, correlations > _NO_CORRELATION]


def _without(spread: _Spread, basis: Float[Tensor, "r rank"], kind: str) -> Eraser:
    into = (spread.axes.mT * spread.scale) @ basis
    out_of = basis.mT @ (spread.axes / spread.scale[:, None])
    matrix = torch.eye(len(spread.mean), dtype=torch.float64) - into @ out_of
    return Eraser(matrix, spread.mean, basis.shape[1], kind)


def _coefficient(x: Float[Tensor, "n d"], shrinkage: Shrinkage) -> float:
    if isinstance(shrinkage, str) and shrinkage == "ledoit-wolf":
        with global_generators_kept():
            from sklearn.covariance import ledoit_wolf_shrinkage

        exact = x.double().cpu() - x.double().cpu().mean(0)
        largest = exact.abs().max()  # fourth powers are taken
        return float(ledoit_wolf_shrinkage((exact / largest if largest > 0 else exact).numpy()))
    if isinstance(shrinkage, bool) or not isinstance(shrinkage, (int, float)) or not 0 <= shrinkage <= 1:
        raise ValueError(f"expected a shrinkage from 0 to 1 or 'ledoit-wolf', got {said(shrinkage)}")
    return float(shrinkage)


def _check(x: Any, z: Any, z_as: ReadAs | None) -> tuple[Float[Tensor, "n d"], Shaped[Tensor, " n *k"]]:
    x, z = tensor_of(x, "activations"), tensor_of(z, "a concept")
    if x.ndim < 1 or z.ndim < 1 or len(x) != len(z) or len(x) < 2:
        raise ValueError(
            f"expected as many rows of x as of z, at least 2, got {len(x) if x.ndim else 0} and "
            f"{len(z) if z.ndim else 0}; give one z for each example"
        )
    z = as_concept(z, z_as)
    check_concept(z)
    return vectors_of(x), z


def check_concept(z: Shaped[Tensor, " n *k"]) -> None:
    """Refuse a concept that no eraser can be fitted to.

    Raises:
        ValueError: numbers that are not finite, classes of several columns, or a z that does not vary.
    """
    if not z.is_floating_point() and z.ndim > 1:
        raise ValueError(
            f"expected classes [n], or real numbers [n] or [n, k], got {z.dtype} of shape {tuple(z.shape)}; "
            "give classes as one integer a row, or z_as='values'"
        )
    if z.is_floating_point() and not bool(z.isfinite().all()):
        raise ValueError(
            "expected finite values of the concept, got infinite ones or NaN; leave those rows out"
        )
    spread = z.amax(0) - z.amin(0)
    if bool((spread <= 1e-12 * z.abs().amax(0)).all()):
        raise ValueError(
            "expected a concept that varies, got the same value for every example; there is nothing to erase"
        )
