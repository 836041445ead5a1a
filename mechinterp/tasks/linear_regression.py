"""Linear regression in context: pairs (x, y) of a task drawn anew for every prompt, then an x to answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.tasks.base import Batch, Split, Task


@dataclass(frozen=True, kw_only=True)
class LinearRegression(Task):
    """Answer ``w . x`` for a query, from k examples of a ``w`` that no other prompt has.

    Joint tokens are ``(x_i, y_i)``, and the query is ``(x, 0)``, read at its place, the last. Separate
    tokens are ``(x_i, 0)`` and ``(0, y_i)`` in turns. Prompts with fewer examples than the longest have
    zeros before the query, masked; so is the query itself, which then is no key (Garg et al. 2022; von
    Oswald et al. 2023). x is normal with the given covariance, w normal with ``w_scale`` in each entry,
    and y has normal noise; what is to be answered has none.

    Variables of a batch, by prompt: ``w``, ``k``, and what three methods answer: ``ols`` (of least norm
    where k < d), ``ridge`` (Bayes' optimum) and ``gd``, a step of gradient descent from 0 at the best rate.

    Raises:
        ValueError: sizes, noise or scales that cannot be; a covariance that is none.
    """

    name: ClassVar[str] = "linear_regression"
    samples: ClassVar[bool] = True

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

    n_test: int = 4096
    """Prompts of the test split."""

    def __post_init__(self) -> None:
        for name, least in (("d", 1), ("n_context", 1), ("n_test", 2), ("seed", 0)):
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
        assert len(self._root)  # a wrong covariance is refused here

    @property
    def longest(self) -> int:
        """The most examples in a prompt."""
        return self.n_context if self.max_context is None else self.max_context

    @property
    def n_ctx(self) -> int:
        """Tokens of a prompt, the query's included."""
        return 1 + self.longest * (1 if self.tokens == "joint" else 2)

    @cached_property
    def spread(self) -> Float[Tensor, "d d"]:
        """The covariance of x, in float64."""
        own = torch.eye(self.d) if self.covariance is None else torch.tensor(self.covariance)
        return self.x_scale**2 * own.double()

    @cached_property
    def _root(self) -> Float[Tensor, "d d"]:
        if self.spread.shape != (self.d, self.d) or not torch.equal(self.spread, self.spread.mT):
            raise ValueError(
                f"expected a symmetric covariance of {self.d} rows and columns, got "
                f"{tuple(self.spread.shape)}; give d lists of d numbers"
            )
        root, wrong = torch.linalg.cholesky_ex(self.spread)
        if int(wrong) or not bool(root.isfinite().all()):
            raise ValueError(
                "expected a covariance whose eigenvalues are positive, got "
                f"{[round(x, 4) for x in torch.linalg.eigvalsh(self.spread.nan_to_num()).tolist()]}; mend it"
            )
        return root

    @property
    def best_rate(self) -> float:
        """The rate of the step of gradient descent, on the mean of the squared errors, with the least loss.

        ``E[p y] / E[p^2]`` of ``p = w . S x`` with the sample covariance S; for x of unit variances it is
        ``k / (k + d + 1 + noise^2 / w_scale^2)`` (Zhang, Frei & Bartlett 2024, section 4).
        """
        moments = [torch.trace(torch.linalg.matrix_power(self.spread, n)).item() for n in (1, 2, 3)]
        noise = (self.noise / self.w_scale) ** 2
        inverse = sum(1 / k for k in self._lengths) / len(self._lengths)
        square = moments[2] + inverse * (moments[2] + moments[0] * moments[1] + noise * moments[1])
        return moments[1] / square

    @property
    def one_step_loss(self) -> float:
        """The least mean squared error of one step of gradient descent: ``E[y^2] - rate E[p y]``."""
        first, second = (torch.trace(torch.linalg.matrix_power(self.spread, n)).item() for n in (1, 2))
        return self.w_scale**2 * (first - self.best_rate * second)

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
        """Nine tenths of the share of variance that the best step of gradient descent explains."""
        return 0.9 * (1 - self.one_step_loss / self.variance)

    @property
    def _lengths(self) -> range:
        return range(self.n_context, self.longest + 1)

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n prompts; without variables, without what least squares answer."""
        k = torch.randint(self.n_context, self.longest + 1, (n,), generator=generator)
        x = torch.randn(n, self.longest + 1, self.d, generator=generator) @ self._root.mT.float()
        w = self.w_scale * torch.randn(n, self.d, generator=generator)
        there = torch.arange(self.longest) < k[:, None]
        noise = self.noise * torch.randn(n, self.longest, generator=generator)
        context = x[:, :-1] * there[..., None]
        y = ((context @ w[..., None])[..., 0] + noise) * there
        return self.batch(context, y, x[:, -1], w, there, variables)

    def batch(
        self,
        x: Float[Tensor, "n k d"],
        y: Float[Tensor, "n k"],
        query: Float[Tensor, "n d"],
        w: Float[Tensor, "n d"],
        there: Bool[Tensor, "n k"],
        variables: bool = True,
    ) -> Batch:
        """Prompts from their parts; where an example is not there, x and y are 0."""
        answer = (query * w).sum(-1)
        k = there.sum(1)
        with_y = torch.cat((x, y[..., None]), -1)
        if self.tokens == "separate":
            alone = torch.zeros_like(with_y)
            alone[..., -1] = y
            first = with_y - alone
            with_y = torch.stack((first, alone), 2).flatten(1, 2)
            there = there.repeat_interleave(2, 1)
        asked = torch.cat((query, torch.zeros(len(query), 1)), -1)[:, None]
        mask = torch.cat((there, torch.zeros(len(x), 1, dtype=torch.bool)), 1)
        return Batch(
            inputs=torch.cat((with_y, asked), 1),
            targets=answer[:, None],
            read=(-1,),
            mask=mask,
            variables={"w": w, "k": k, **self._methods(x, y, query, k)} if variables else {},
        )

    def _methods(
        self,
        x: Float[Tensor, "n k d"],
        y: Float[Tensor, "n k"],
        query: Float[Tensor, "n d"],
        k: Int[Tensor, " n"],
    ) -> dict[str, Tensor]:
        gram, product = x.double().mT @ x.double(), (x.double().mT @ y.double()[..., None])[..., 0]
        # Bayes: w is normal with w_scale, so that the penalty is the ratio of the variances.
        penalty = (self.noise / self.w_scale) ** 2 * torch.eye(self.d, dtype=torch.float64)
        least_norm = (torch.linalg.pinv(gram, hermitian=True) @ product[..., None])[..., 0]
        ridge = torch.linalg.solve(gram + penalty, product) if self.noise else least_norm
        step = self.best_rate * product / k[:, None]
        each = {"ols": least_norm, "ridge": ridge, "gd": step}
        return {name: (weights * query).sum(-1).float() for name, weights in each.items()}

    def dataset(self, split: Split) -> Batch:
        """Fixed prompts: as many for train, where they only measure, as for test; drawn apart.

        Raises:
            ValueError: no such split.
        """
        if split not in ("train", "test"):
            raise ValueError(f"expected split train or test, got {split!r}; there is no other")
        seed = 2 * self.seed + (split == "test") + 10**6
        return self.sample(self.n_test, torch.Generator().manual_seed(seed))

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Mean squared error."""
        return ((outputs[..., 0].to(dtype) - batch.targets.to(dtype)) ** 2).mean()

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """1 less the mean squared error over the variance of the answers: 0 for always answering 0."""
        return 1 - self.loss(outputs, batch, torch.float64).item() / self.variance

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """The mean squared errors of the network and, on the same prompts, of each method."""
        found = {"mse": self.loss(outputs, batch, torch.float64).item()}
        for name in ("ols", "ridge", "gd"):
            error = batch.variables[name].double() - batch.targets[:, 0].double()
            found[f"mse_{name}"] = (error**2).mean().item()
        return found
