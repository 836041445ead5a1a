"""Turn one cloud of vectors onto another, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.tensors import tensor_of
from mechinterp.devices import cpu_default


@dataclass(frozen=True, eq=False)
class Rotation:
    """Moves, turns and scales one cloud of vectors onto another.

    Args:
        matrix: ``[d, e]``, orthogonal where d = e; otherwise its rows or columns are orthonormal.
        scale: what the turned vectors are multiplied by.
        mean_x, mean_y: of the two clouds it was fitted on.
    """

    matrix: Float[Tensor, "d e"]
    scale: float
    mean_x: Float[Tensor, " d"]
    mean_y: Float[Tensor, " e"]

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Where the vectors of the first cloud come to lie, in float64."""
        return self.mean_y + self.scale * (x.double() - self.mean_x) @ self.matrix

    def score(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
        """R²: 1 if y is met exactly, 0 for always answering the mean of the y given here."""
        wrong, whole = self.errors(x, y)
        return (1 - wrong.sum() / whole.sum()).item()

    def errors(
        self, x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The squared distance of each y from where its x comes to lie, and from the mean of the y."""
        target = y.double()
        return ((target - self(x)) ** 2).sum(1), ((target - target.mean(0)) ** 2).sum(1)


@cpu_default
def procrustes(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"]) -> Rotation:
    """The rotation (or reflection) and scale that bring x nearest to y, both centred.

    ``R = U V'`` from the singular value decomposition ``U S V'`` of ``X'Y`` (Schönemann 1966), and the scale
    ``tr S / |X|²``. It fits noise: score it on rows that it was not fitted on.

    Raises:
        ValueError: different numbers of rows, fewer than 3, or vectors that are all alike.
    """
    x, y = tensor_of(x, "x"), tensor_of(y, "y")
    check_clouds(x, y)
    mean_x, mean_y = x.double().mean(0), y.double().mean(0)
    centred = x.double() - mean_x
    u, sizes, v = torch.linalg.svd(centred.mT @ (y.double() - mean_y), full_matrices=False)
    return Rotation(u @ v, (sizes.sum() / (centred**2).sum()).item(), mean_x, mean_y)


def check_clouds(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m e"], least: int = 3, names: tuple[str, str] = ("x", "y")
) -> None:
    """Refuse clouds that cannot be compared row by row.

    Raises:
        ValueError: different numbers of rows, fewer than ``least``, vectors that are all alike or not finite.
    """
    for cloud, name in zip((x, y), names):
        if (
            not isinstance(cloud, Tensor)
            or cloud.ndim != 2
            or not (cloud.is_floating_point() and cloud.shape[1])
        ):
            got = f"{cloud.dtype} {list(cloud.shape)}" if isinstance(cloud, Tensor) else type(cloud).__name__
            raise ValueError(
                f"expected floating-point vectors [n, d] of {name}, got {got}; put examples in rows"
            )
    if len(x) != len(y) or len(x) < least:
        raise ValueError(
            f"expected vectors of the same examples, at least {least}, got {len(x)} of {names[0]} and "
            f"{len(y)} of {names[1]}; give both the same inputs"
        )
    for cloud, name in zip((x, y), names):
        if not bool(cloud.isfinite().all()) or _alike(cloud):
            raise ValueError(
                "expected finite vectors that differ between examples, got NaN, infinity or one vector for "
                f"all in {name}; leave it out"
            )


def _alike(x: Float[Tensor, "n d"]) -> bool:
    """Whether all rows are one but for rounding."""
    exact = x.double()
    spread, size = exact.amax(0) - exact.amin(0), exact.abs().amax(0)
    return bool((spread <= 2 * torch.finfo(x.dtype).eps * size).all())
