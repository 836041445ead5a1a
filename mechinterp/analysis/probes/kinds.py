"""Linear probes: what they regress on, and how they predict held-out examples.

A probe is a frozen record of its settings. It encodes a variable as target vectors and predicts
those of held-out examples, for many cells and many draws of the targets at a time; layouts,
controls and statistics are the same for all probes. A new probe is a subclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.probes.layout import Layout
from mechinterp.analysis.probes.ridge import PENALTIES, fit_cells
from mechinterp.analysis.probes.scores import Score, r_squared
from mechinterp.analysis.probes.simplex import project_to_simplex
from mechinterp.analysis.probes.targets import Targets, beliefs, numbers, waves

RISE = "rise at the end of the penalties"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The base of all probes."""

    name: ClassVar[str]
    """The name of the result, which picks its figure."""

    units: ClassVar[str] = "R², held out"
    score: ClassVar[Score] = staticmethod(r_squared)
    shuffles: ClassVar[int] = 1
    """How many draws of shuffled labels the control takes unless it is told: as many as are cheap."""

    leaves_out: ClassVar[bool] = False
    """Whether ``predict`` takes ``alike``, the input of each training row, to leave out all rows of one."""

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """The variable as target vectors.

        Raises:
            ValueError: a variable that this probe cannot read.
        """
        raise NotImplementedError

    def predict(
        self,
        train_x: Float[Tensor, "#cell n d"],
        train_y: Float[Tensor, "#cell draw n target component"],
        test_x: Float[Tensor, "#cell m d"],
        seed: int = 0,
    ) -> tuple[Float[Tensor, "cell draw m target component"], dict[str, Float[Tensor, "cell target"]]]:
        """Predictions of held-out targets for each draw of training targets, and notes on the first draw."""
        raise NotImplementedError

    def trivial(
        self,
        train_y: Float[Tensor, "cell n target component"],
        test_y: Float[Tensor, "cell m target component"],
    ) -> Float[Tensor, "cell target"]:
        """The score of the best constant answer: R² of the held-out mean is 0."""
        return torch.zeros(len(test_y), test_y.shape[2], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Ridge(Probe):
    """Linear regression on numbers, with a penalty chosen by leave-one-out for each target.

    Penalties are in units of the activations' mean variance over features, in the training examples: one
    scale for all, since a stream has no axes of its own. So neither the scale of activations or targets
    matters, nor a constant added to them, nor a rotation.

    Args:
        penalties: to choose from.
    """

    name: ClassVar[str] = "ridge_probe"
    shuffles: ClassVar[int] = 100
    leaves_out: ClassVar[bool] = True

    penalties: Sequence[float | int] = PENALTIES

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Each variable as the number that it is; see ``targets.numbers``."""
        return numbers(variable, layout)

    def predict(
        self,
        train_x: Float[Tensor, "#cell n d"],
        train_y: Float[Tensor, "#cell draw n target component"],
        test_x: Float[Tensor, "#cell m d"],
        seed: int = 0,
        alike: Int[Tensor, " n"] | None = None,
    ) -> tuple[Float[Tensor, "cell draw m target component"], dict[str, Float[Tensor, "cell target"]]]:
        """All draws from one decomposition; notes are one for all components of a target.

        They are ``penalty``, and ``RISE``: by how much R² still rises there, if that is an end of the grid.
        """
        sizes = _, _, components = train_y.shape[1], *train_y.shape[3:]
        columns = train_y.movedim(1, 2).flatten(2).to(train_x.device)
        found = fit_cells(train_x, columns, test_x, self.penalties, components, True, alike)
        predicted, penalty, rise = (each.cpu().unflatten(-1, sizes) for each in found)
        return predicted.movedim(2, 1), {"penalty": penalty[:, 0, :, 0], RISE: rise[:, 0, :, 0]}


@dataclass(frozen=True, kw_only=True)
class Fourier(Ridge):
    """Cosine and sine of 2 pi k s / p of an integer s mod p, for each frequency k; R² pools the two.

    A cloud of as many independent directions as residues holds every function of s: give the residues as
    ``types`` to compare with random functions, or hold out whole residues with ``test``.

    Args:
        p: the modulus.
        frequencies: those to try, multiples included; ``None``: 1 .. p // 2, all there are.

    Raises:
        ValueError: p < 2, or frequencies that repeat or are multiples of p.
    """

    name: ClassVar[str] = "fourier_probe"
    shuffles: ClassVar[int] = 10

    p: int
    frequencies: Sequence[int] | None = None

    def __post_init__(self) -> None:
        wanted = self._frequencies
        if self.p < 2 or not wanted or len(set(wanted)) < len(wanted) or not all(k % self.p for k in wanted):
            raise ValueError(
                f"expected p >= 2 and distinct frequencies that are no multiples of p, got p {self.p} and "
                f"{wanted}; cos of frequency 0 is constant"
            )

    @property
    def _frequencies(self) -> list[int]:
        return list(range(1, self.p // 2 + 1)) if self.frequencies is None else list(self.frequencies)

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Cosines and sines of an integer variable."""
        if isinstance(variable, Mapping):
            raise ValueError(
                "expected one variable to take waves of, got a mapping; probe one after the other"
            )
        if variable.is_floating_point():
            raise ValueError(
                f"expected integers mod {self.p}, got {variable.dtype}; Periods takes real numbers"
            )
        turns = [k / self.p for k in self._frequencies]
        return waves(variable % self.p, layout, turns, "frequency", self._frequencies)


@dataclass(frozen=True, kw_only=True)
class Periods(Ridge):
    """Cosine and sine of 2 pi s / T of an unbounded number s, for each period T; R² pools the two.

    Raises:
        ValueError: no periods, or some that repeat or are not positive.
    """

    name: ClassVar[str] = "period_probe"
    shuffles: ClassVar[int] = 10

    periods: Sequence[float | int] = (2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 50, 100)

    def __post_init__(self) -> None:
        if not self.periods or len(set(self.periods)) < len(self.periods) or min(self.periods) <= 0:
            raise ValueError(f"expected distinct periods > 0, got {list(self.periods)}")

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Cosines and sines of a variable."""
        return waves(variable, layout, [1 / T for T in self.periods], "period", list(self.periods))


@dataclass(frozen=True, kw_only=True)
class Simplex(Ridge):
    """Linear regression on beliefs over hidden states, its predictions moved to the nearest distribution.

    R² pools the states. Source: Shai et al. (2024), "Transformers represent belief state geometry in
    their residual stream"; there positions are pooled (``pool=True``).
    """

    name: ClassVar[str] = "simplex_probe"
    shuffles: ClassVar[int] = 20

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Beliefs ``[batch, state]`` or ``[batch, pos, state]``."""
        return beliefs(variable, layout)

    def predict(
        self,
        train_x: Float[Tensor, "#cell n d"],
        train_y: Float[Tensor, "#cell draw n target component"],
        test_x: Float[Tensor, "#cell m d"],
        seed: int = 0,
        alike: Int[Tensor, " n"] | None = None,
    ) -> tuple[Float[Tensor, "cell draw m target component"], dict[str, Float[Tensor, "cell target"]]]:
        """As ridge regression, projected."""
        predicted, notes = Ridge.predict(self, train_x, train_y, test_x, seed, alike)
        return project_to_simplex(predicted), notes
