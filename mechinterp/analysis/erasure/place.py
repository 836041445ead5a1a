"""One place in a network where concepts are erased.

Half of the examples are for erasers to be fitted on; on the other half the network runs with them in place,
and fresh readers look for what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from mechinterp.analysis.checks import check_model
from mechinterp.analysis.erasure.concepts import kind_of
from mechinterp.analysis.erasure.erasers import Eraser
from mechinterp.analysis.erasure.readout import decodability, distinct_inputs, halve
from mechinterp.analysis.repeats import RepeatedRows
from mechinterp.analysis.statistics import bootstrap_interval
from mechinterp.analysis.tensors import said, vectors_of
from mechinterp.analysis.warn import warn
from mechinterp.hooks import HookedRootModule, Site, axes_of, resolve, run, run_with_cache

Metric = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site of one hook point, and what the intact network has there.

    Args:
        vectors: that the site covers, ``[n, v, d]``, v of each example.
        fit, held: the examples to fit erasers on, and those to score with.
        unit: of which examples belong together, since they are one input as far as the site tells, or
            altogether; ``repeats`` says how many there are.
        intact: the metric of the held-out examples.
    """

    model: HookedRootModule
    inputs: Tensor
    site: Site
    metric: Metric
    forward: Mapping[str, Any]
    seed: int
    vectors: Float[Tensor, "n v d"]
    fit: Int[Tensor, " fit"]
    held: Int[Tensor, " held"]
    intact: NDArray[np.float64]
    unit: Int[Tensor, " n"]
    repeats: str = ""

    @classmethod
    def of(
        cls,
        model: HookedRootModule,
        inputs: Tensor,
        site: Site,
        metric: Metric,
        seed: int,
        forward: Mapping[str, Any],
        concept: Shaped[Tensor, " n *more"],
    ) -> Place:
        """Run the intact network.

        Args:
            concept: of each example, or its vectors, which tells whether examples can be kept apart.

        Raises:
            ValueError: a site of several hook points, of single examples or with padding; a model that drops
                out at random; or a metric that is not one finite number an example.
        """
        check_model(model)
        if not isinstance(site, Site) or not callable(metric):
            raise TypeError(
                f"expected a Site and a metric of the outputs, got {type(site).__name__} and "
                f"{type(metric).__name__}; give Site.at(name, position=-1) and a function"
            )
        names = resolve(model, site)
        if len(names) > 1 or "batch" in dict(site.index):
            raise ValueError(
                f"expected a site of one hook point and of all examples, got {site}, which covers "
                f"{len(names)}; fit an eraser for each, and pass their edits to run"
            )
        outputs, cache = run_with_cache(model, inputs, names=names[0], **forward)
        _check_real(site, names[0], cache[names[0]], forward.get("attention_mask"))
        vectors = site.read(names[0], cache[names[0]]).flatten(1, -2).cpu()
        vectors_of(vectors.flatten(0, 1))
        unit, repeats = _units(vectors, inputs, concept, str(site))
        every = torch.arange(len(inputs))
        fit, held = halve(every, seed)
        if unit is not None:
            fit, held = (every[torch.isin(unit, half)] for half in halve(unit.unique(), seed))
        return cls(
            model=model, inputs=inputs, site=site, metric=metric, forward=forward, seed=seed,
            vectors=vectors, fit=fit, held=held, unit=every if unit is None else unit, repeats=repeats,
            intact=_one_each(metric(outputs), len(inputs))[held],
        )  # fmt: skip

    def interval(self, change: NDArray[np.float64]) -> tuple[float, float]:
        """A bootstrap interval of the mean over held-out examples, or over inputs where they repeat."""
        unit = self.unit[self.held].unique(return_inverse=True)[1].numpy()
        if unit.max() + 1 == len(unit):
            return bootstrap_interval(change)
        total, count = np.bincount(unit, change), np.bincount(unit)

        def mean(drawn: NDArray, axis: int) -> NDArray:
            which = drawn.astype(int)
            return total[which].sum(axis) / count[which].sum(axis)

        return bootstrap_interval(np.arange(len(total)), mean)

    @property
    def said(self) -> dict[str, str]:
        """What provenance says of inputs that repeat."""
        return {"repeats": self.repeats} if self.repeats else {}

    @property
    def fitted_on(self) -> Float[Tensor, "row d"]:
        """The vectors that erasers are fitted on."""
        return self.vectors[self.fit].flatten(0, 1)

    def scores(self, eraser: Eraser) -> NDArray[np.float64]:
        """The metric of the held-out examples, with an eraser in place."""
        edited = run(self.model, self.inputs, edits=[eraser.edit(self.site)], **self.forward)
        return _one_each(self.metric(edited), len(self.inputs))[self.held]

    def readable(self, eraser: Eraser | None, concept: Shaped[Tensor, "n v *k"]) -> float:
        """What a fresh linear reader finds of a concept in the held-out vectors, erased or not."""
        left = self.vectors[self.held]
        left = left if eraser is None else eraser(left)
        group = self.unit[self.held][:, None].expand(left.shape[:2]).flatten()
        about = concept[self.held].flatten(0, 1)
        return decodability(left.flatten(0, 1), about, group, self.seed, z_as=kind_of(about))

    def for_each_vector(self, z: Tensor) -> Shaped[Tensor, "n v *k"]:
        """A concept of examples, or of their vectors, as one of vectors.

        Raises:
            ValueError: another shape.
        """
        n, v, _ = self.vectors.shape
        own = 3 if z.is_floating_point() else 2
        if len(z) != n or z.ndim > own or (z.ndim == own and z.shape[1] != v):
            raise ValueError(
                f"expected z of classes [n] or [n, v] or of numbers [n], [n, k] or [n, v, k], with n = {n} "
                f"examples and v = {v} vectors each at this site, got {z.dtype} {tuple(z.shape)}"
            )
        return z if z.ndim == own else z[:, None].expand(n, v, *z.shape[1:])


def _units(
    vectors: Float[Tensor, "n v d"], inputs: Tensor, concept: Shaped[Tensor, " n *more"], site: str
) -> tuple[Int[Tensor, " n"] | None, str]:
    """The input of each example, if some repeat and there are enough of them, and what there is to say.

    Warns:
        RepeatedRows: the concept is attached to inputs of which there are too few to hold some out, or to
            vectors at several positions, which cannot be held out by examples.
    """
    found, whole = distinct_inputs(vectors.flatten(1), concept), distinct_inputs(inputs, concept)
    said, mixed = found.said, found.mixed
    if vectors.shape[1] > 1:
        rows = concept if concept.ndim > (2 if concept.is_floating_point() else 1) else None
        if rows is None:
            rows = concept[:, None].expand(len(concept), vectors.shape[1], *concept.shape[1:])
        each = distinct_inputs(vectors.flatten(0, 1), rows.flatten(0, 1))
        if each.of_row is not None and each.attached:
            said, mixed = each.said, True
    if mixed:
        warn(
            f"expected vectors at {site} that can be held out, as the concept is attached to them, got "
            f"{said}; what a reader finds says that they are remembered, not that the concept is there",
            RepeatedRows,
        )
    how = f"{said}, {'on both sides of the split' if mixed else 'held out whole'}"
    if found.apart:
        return found.of_row, how
    return (whole.of_row if whole.apart else None), how if mixed else ""


def check_enough(inputs: Tensor, z: Tensor, draws: int) -> None:
    """Refuse too few examples, or none to set beside.

    Raises:
        ValueError: as said.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim == 0:
        got = type(inputs).__name__ if not isinstance(inputs, Tensor) else "a scalar"
        raise TypeError(
            f"expected inputs as a tensor, one row an example, got {got}; of a batch give its inputs"
        )
    if len(inputs) < 8 or len(z) != len(inputs):
        raise ValueError(
            f"expected at least 8 examples, half to fit and half to score on, and a z for each, got "
            f"{len(inputs)} examples and {len(z)} z"
        )
    if not isinstance(draws, int) or draws < 1:
        raise ValueError(f"expected at least 1 random eraser as a control, got draws={said(draws)}")


def _check_real(site: Site, name: str, x: Tensor, mask: Tensor | None) -> None:
    """Refuse a site that covers padding."""
    axes = axes_of(name, x.ndim)
    if mask is None or "position" not in axes:
        return
    at = [1] * x.ndim
    at[0], at[axes.index("position")] = mask.shape
    covered = site.read(name, mask.bool().to(x.device).reshape(at).expand(x.shape))
    if not bool(covered.all()):
        raise ValueError(
            f"expected a site of real tokens, got {site}, which covers padding in "
            f"{int((~covered.flatten(1).all(1)).sum())} of {len(mask)} examples; choose a position that is "
            "real in all, or pad on the other side"
        )


def _one_each(scores: Tensor, n: int) -> NDArray[np.float64]:
    if not isinstance(scores, Tensor):
        raise TypeError(f"expected a metric that gives a tensor [{n}], got {type(scores).__name__}")
    if scores.shape != (n,) or not bool(scores.isfinite().all()):
        problem = "NaN or infinity" if scores.shape == (n,) else f"shape {tuple(scores.shape)}"
        raise ValueError(
            f"expected a metric of one finite number for each of {n} examples, got {problem}; "
            "for example outputs[:, -1].log_softmax(-1)[range(n), targets]"
        )
    return scores.double().cpu().numpy()
