"""Linear regression in context: pairs (x, y) of a task drawn anew for every prompt, then an x to answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task
from mechinterp.tasks.regression_methods import descent, least_norm, ridge

METHODS = ("gd", "ols", "ridge")
"""One step of gradient descent, least squares, and Bayes' optimum."""


@cpu_default
@dataclass(frozen=True, kw_only=True)
class LinearRegression(Task):
    """Answer ``w . x`` for a query, from k examples of a ``w`` that no other prompt has.

    Joint tokens are ``(x_i, y_i)``, and a query is ``(x, 0)``; queries come last and are read at their own
    places. Separate tokens are ``(x_i, 0)`` and ``(0, y_i)`` in turns. Prompts with fewer examples than the
    longest have zeros before the queries, masked; so are queries, which then are no keys (Garg et al. 2022;
    von Oswald et al. 2023). x is normal with the given covariance, w normal with ``w_scale`` in each entry,
    and y has normal noise; what is to be answered has none.

    Variables of a batch, by prompt: ``w``, ``k``, and for each of ``METHODS`` its weights, such as
    ``w_ridge`` [prompt, d], and what it answers, such as ``ridge`` [prompt, query]: ``ols`` is least squares
    (of least norm where k < d), ``ridge`` Bayes' optimum, and ``gd`` a step of gradient descent from 0 at
    ``best_rate``.

    Raises:
        ValueError: sizes, noise or scales that cannot be; a covariance that is none.
    """

    name: ClassVar[str] = "linear_regression"
    samples: ClassVar[bool] = True
    score_name: ClassVar[str] = "r2"

    d: int = 5
    """Entries of x."""

    n_context: int = 10
    """Examples in a prompt; the fewest, if ``max_context`` is given."""

    max_context: int | None = None
    """The most examples in a prompt; each number from ``n_context`` on is as likely."""

    noise: float = 0.0
    """Standard deviation of the noise in y."""

    x_scale: float = 1.0
    """Multiplies x."""

    w_scale: float = 1.0
    """Standard deviation of the entries of w."""

    covariance: tuple[tuple[float, ...], ...] | None = None
    """Of x before ``x_scale``; by default the identity."""

    tokens: str = "joint"
    """Whether x and y of an example share a token."""

    n_queries: int = 1
    """Queries a prompt; they share its examples and do not see each other."""

    query_is_key: bool = False
    """Whether the query may be attended to, by itself."""

    width: int | None = None
    """Entries of x in a token, zeros behind the d that there are; by default d."""

    n_test: int = 4096
    """Prompts of the test split; their numbers of examples are spread evenly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("d", 1), ("n_context", 1), ("n_queries", 1), ("n_test", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}; raise it")
        if self.longest < self.n_context:
            raise ValueError(
                f"expected max_context >= n_context, got {self.max_context} and {self.n_context}; swap them?"
            )
        for name, least in (("noise", 0.0), ("x_scale", 1e-12), ("w_scale", 1e-12)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"expected a finite {name} >= {least:g}, got {getattr(self, name)}; change it"
                )
        if self.tokens not in ("joint", "separate"):
            raise ValueError(f"expected tokens joint or separate, got {self.tokens!r}; choose one")
        if self.token_width < self.d:
            raise ValueError(f"expected width >= d, got {self.width} and {self.d}; raise width")
        if self.query_is_key and self.n_queries > 1:
            raise ValueError(
                f"expected one query where it is a key, got {self.n_queries}; they would see each other"
            )
        widths = [len(row) for row in self.covariance or ()]
        if self.covariance is not None and widths != [self.d] * self.d:
            raise ValueError(
                f"expected a covariance of {self.d} rows of {self.d} numbers, got rows of {widths}; mend it"
            )
        assert len(self._root)  # a wrong covariance is refused here

    @property
    def longest(self) -> int:
        """The most examples in a prompt."""
        return self.n_context if self.max_context is None else self.max_context

    @property
    def token_width(self) -> int:
        """Entries of x in a token."""
        return self.d if self.width is None else self.width

    @property
    def d_input(self) -> int:
        """Entries of a token: those of x, then y."""
        return self.token_width + 1

    @property
    def n_ctx(self) -> int:
        """Tokens of a prompt, the queries included."""
        return self.n_queries + self.longest * (1 if self.tokens == "joint" else 2)

    @property
    def read(self) -> tuple[int, ...]:
        """The places of the queries."""
        return tuple(range(-self.n_queries, 0))

    @cached_property
    def spread(self) -> Float[Tensor, "d d"]:
        """The covariance of x, in float64."""
        own = self.covariance
        matrix = torch.eye(self.d).double() if own is None else torch.tensor(own, dtype=torch.float64)
        return self.x_scale**2 * matrix

    @cached_property
    def _root(self) -> Float[Tensor, "d d"]:
        if not bool(self.spread.isfinite().all()) or not torch.equal(self.spread, self.spread.mT):
            raise ValueError(f"expected a finite, symmetric covariance, got {self.covariance}; mend it")
        root, wrong = torch.linalg.cholesky_ex(self.spread)
        if int(wrong) or not bool(root.isfinite().all()):
            raise ValueError(
                "expected a covariance whose eigenvalues are positive, got "
                f"{[round(x, 4) for x in torch.linalg.eigvalsh(self.spread.nan_to_num()).tolist()]}; mend it"
            )
        return root

    @property
    def best_rate(self) -> float:
        """The rate of the step of gradient descent, on half the mean squared error, with the least loss.

        ``E[p y] / E[p^2]`` of ``p = w . S x`` with the sample covariance S; for x whose covariance is the
        identity it is ``k / (k + d + 1 + noise^2 / w_scale^2)`` (Zhang, Frei & Bartlett 2024, section 4).
        """
        second = torch.trace(self.spread @ self.spread)
        return (second / torch.trace(self.spread @ self.spread @ self._gamma)).item()

    @property
    def one_step_loss(self) -> float:
        """The least mean squared error of one step of gradient descent: ``E[y^2] - rate E[p y]``."""
        second = torch.trace(self.spread @ self.spread).item()
        return self.variance - self.w_scale**2 * self.best_rate * second

    def step_loss(self, rate: float, k: int) -> float:
        """The mean squared error of one step of gradient descent at some rate, from k examples.

        ``E[(w . x)^2] - 2 rate E[p w . x] + rate^2 E[p^2]``, as in ``best_rate``.
        """
        second = self.spread @ self.spread
        rest = (torch.trace(self.spread) + self.penalty) / k
        gamma = (1 + 1 / k) * self.spread + rest * torch.eye(self.d, dtype=torch.float64)
        more = rate**2 * torch.trace(second @ gamma) - 2 * rate * torch.trace(second)
        return self.variance + self.w_scale**2 * more.item()

    @property
    def preconditioner(self) -> Float[Tensor, "d d"]:
        """What multiplies the gradient in the best single step, ``Gamma^-1``.

        With Lambda the covariance of x, ``Gamma = (1 + 1/k) Lambda + (tr Lambda + noise^2 / w_scale^2) I /
        k``; of several k, 1/k is their mean. ``best_rate`` times the identity where the covariance is that
        (Zhang, Frei & Bartlett 2024, theorem 4.1).
        """
        return torch.linalg.inv(self._gamma)

    @property
    def one_layer_loss(self) -> float:
        """The least mean squared error of one layer of linear attention, that of the preconditioned step.

        Where the query is a key too, a mean over keys is ``k / (k + 1)`` of that over examples.
        """
        shares = [k / (k + self.query_is_key) for k in self.lengths]
        second = sum(c**2 * self._gamma_of(1 / k) for c, k in zip(shares, self.lengths)) / len(shares)
        mean = sum(shares) / len(shares)
        explained = mean**2 * torch.trace(self.spread @ self.spread @ torch.linalg.inv(second)).item()
        return self.variance - self.w_scale**2 * explained

    @property
    def _gamma(self) -> Float[Tensor, "d d"]:
        """``E[g g'] = w_scale^2 Lambda Gamma`` for the mean g of ``x y`` over the examples."""
        return self._gamma_of(sum(1 / k for k in self.lengths) / len(self.lengths))

    def _gamma_of(self, inverse: float) -> Float[Tensor, "d d"]:
        """The same for one k, or for the mean of 1/k."""
        rest = torch.trace(self.spread) + self.penalty
        return (1 + inverse) * self.spread + inverse * rest * torch.eye(self.d, dtype=torch.float64)

    @property
    def variance(self) -> float:
        """The mean square of the answers, which is the loss of always answering 0."""
        return self.w_scale**2 * torch.trace(self.spread).item()

    @property
    def trivial(self) -> float:
        """The score of always answering 0."""
        return 0.0

    @property
    def learned_at(self) -> float:  # type: ignore[override]
        """Two thirds of what one layer of linear attention can explain: a layer of softmax attention, which
        has another optimum, comes to some three quarters of it."""
        return 2 / 3 * self.ceiling

    @property
    def ceiling(self) -> float:  # type: ignore[override]
        """The score of the best that one layer of linear attention can do; deeper networks do better."""
        return 1 - self.one_layer_loss / self.variance

    @property
    def penalty(self) -> float:
        """Bayes' penalty of ridge: the variance of the noise over that of an entry of w."""
        return (self.noise / self.w_scale) ** 2

    @property
    def lengths(self) -> range:
        """Each number of examples that a prompt may have."""
        return range(self.n_context, self.longest + 1)

    def stages(self, n: int = 4) -> list[LinearRegression]:
        """A curriculum: the same task with up to more and more examples, at last with all.

        Raises:
            ValueError: no stages, or more than there are numbers of examples.
        """
        if not 1 <= n <= len(self.lengths):
            raise ValueError(
                f"expected 1 to {len(self.lengths)} stages, got {n}; each needs further numbers of examples"
            )
        most = [self.n_context + (len(self.lengths) * (i + 1)) // n - 1 for i in range(n)]
        return [replace(self, max_context=each) for each in most]

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n prompts whose numbers of examples are spread evenly; without variables, with nothing beside."""
        spread = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        k = self.n_context + (spread * len(self.lengths)).long().clamp(max=len(self.lengths) - 1)
        return self.prompts(k, generator, variables)

    def prompts(self, k: Int[Tensor, " n"], generator: torch.Generator, variables: bool = True) -> Batch:
        """New prompts of so many examples each; k = 0 leaves the bare query.

        Raises:
            ValueError: no prompts, or k < 0.
        """
        if len(k) == 0 or int(k.min()) < 0:
            raise ValueError(f"expected prompts of k >= 0 examples, got k = {k.tolist()[:8]}; raise them")
        n, most = len(k), int(k.max())
        x = torch.randn(n, most + self.n_queries, self.d, generator=generator)
        if self.covariance is not None or self.x_scale != 1:
            x = x @ self._root.mT.float()
        w = self.w_scale * torch.randn(n, self.d, generator=generator)
        y = _answers(w, x[:, :most])
        if self.noise:
            y = y + self.noise * torch.randn(n, most, generator=generator)
        there = torch.arange(most) < k[:, None]
        if int(k.min()) == most:
            return self.batch(x[:, :most], y, x[:, most:], w, variables=variables)
        return self.batch(x[:, :most] * there[..., None], y * there, x[:, most:], w, there, variables)

    def batch(
        self,
        x: Float[Tensor, "n k d"],
        y: Float[Tensor, "n k"],
        query: Float[Tensor, "n query d"],
        w: Float[Tensor, "n d"],
        there: Bool[Tensor, "n k"] | None = None,
        variables: bool = True,
    ) -> Batch:
        """Prompts from their parts.

        Args:
            there: false where a prompt has no such example, and x and y are 0; ``None``: all are there.
            variables: work out what the methods answer.

        Raises:
            ValueError: numbers that are not finite, if the methods are asked.
        """
        n, k = y.shape
        inputs = x.new_zeros(n, k + query.shape[1], self.d_input)
        inputs[:, :k, : self.d], inputs[:, :k, -1], inputs[:, k:, : self.d] = x, y, query
        real = torch.ones(n, k, dtype=torch.bool) if there is None else there
        variable = {"w": w, "k": real.sum(1)} if variables else {}
        if variables:
            for name, weights in self.weights(x, y, variable["k"]).items():
                variable[f"w_{name}"], variable[name] = weights.float(), _answers(weights, query)
        mask = torch.cat((real, real.new_full((n, query.shape[1]), self.query_is_key)), 1)
        if self.tokens == "separate":
            twice = [1 + (place < k) for place in range(k + query.shape[1])]
            second = torch.tensor([i for copies in twice for i in range(copies)], dtype=torch.bool)
            inputs, mask = (z.repeat_interleave(torch.tensor(twice), 1) for z in (inputs, mask))
            inputs[:, second, :-1] = 0.0
            inputs[:, ~second, -1] = 0.0
        return Batch(
            inputs=inputs, targets=_answers(w, query), read=self.read, mask=mask, variables=variable
        )  # fmt: skip

    def weights(
        self, x: Float[Tensor, "n k d"], y: Float[Tensor, "n k"], k: Tensor | int
    ) -> dict[str, Float[Tensor, "n d"]]:
        """What each of ``METHODS`` takes for w, in float64.

        Raises:
            ValueError: numbers that are not finite.
        """
        return {
            "gd": descent(x, y, k, [self.best_rate]),
            "ols": least_norm(x, y),
            "ridge": ridge(x, y, self.penalty),
        }

    def dataset(self, split: Split) -> Batch:
        """Fixed prompts: as many for train, where they only measure, as for test; drawn apart.

        Raises:
            ValueError: no such split.
        """
        if split not in ("train", "test"):
            raise ValueError(f"expected split train or test, got {split!r}; there is no other")
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "test") + 10**6)
        return self.sample(self.n_test, generator)

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Mean squared error."""
        return ((outputs[..., 0].to(dtype) - batch.targets.to(dtype)) ** 2).mean()

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """1 less the mean squared error over the mean square of these answers: 0 for always answering 0."""
        size = batch.targets.double().square().mean().clamp_min(1e-300).item()
        return 1 - self.loss(outputs, batch, torch.float64).item() / size

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """The mean squared errors of the network and, on the same prompts, of each method."""
        found = {"mse": self.loss(outputs, batch, torch.float64).item()}
        for name in METHODS:
            error = batch.variables[name].double() - batch.targets.double()
            found[f"mse_{name}"] = (error**2).mean().item()
        return found


def _answers(w: Float[Tensor, "n d"], query: Float[Tensor, "n query d"]) -> Float[Tensor, "n query"]:
    return (query.to(w.dtype) @ w[..., None])[..., 0].float()
