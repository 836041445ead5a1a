"""The parts of prompts of joint tokens, ``(x_i, y_i)`` and then queries ``(x, 0)``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.readouts import at_read, read_positions
from mechinterp.tasks.base import Batch


@dataclass(frozen=True)
class Prompts:
    """Examples and queries of a batch, in float64.

    Args:
        x: of the examples, 0 where there is none.
        y: of the examples.
        there: true where there is an example.
        query: the x asked about.
        at: the positions of the queries.
    """

    x: Float[Tensor, "n k d"]
    y: Float[Tensor, "n k"]
    there: Bool[Tensor, "n k"]
    query: Float[Tensor, "n q d"]
    at: Int[Tensor, "n q"]

    @classmethod
    def of(cls, batch: Batch, entries: int | None = None) -> Prompts:
        """Take a batch apart.

        Args:
            entries: how many entries of a token are x's; ``None``: all but the last, which is y.

        Raises:
            ValueError: tokens that are no vectors, numbers that are not finite, separate tokens, or queries
                that are not the last places.
        """
        inputs = batch.inputs
        if inputs.ndim != 3 or not inputs.is_floating_point() or not bool(inputs.isfinite().all()):
            raise ValueError(
                f"expected prompts of finite vectors [batch, pos, d_input], got {inputs.dtype} "
                f"{tuple(inputs.shape)}; give a batch of tasks.LinearRegression"
            )
        n, length, width = inputs.shape
        at = read_positions(batch.read, n, length)
        n_queries = at.shape[1]
        if not torch.equal(at, torch.arange(length - n_queries, length).expand(n, -1)):
            raise ValueError(
                f"expected queries at the last places of prompts, got them at {at[0].tolist()}; put them last"
            )
        entries = width - 1 if entries is None else entries
        k = length - n_queries
        there = torch.ones(n, k, dtype=torch.bool) if batch.mask is None else batch.mask[:, :k].bool()
        tokens = inputs.double().cpu()
        lone = (tokens[:, :k, :-1] == 0).all(-1) & (tokens[:, :k, -1] != 0)
        if bool(lone.any()):
            raise ValueError(
                "expected joint tokens (x, y), got some with a y and no x; ask the task for tokens='joint'"
            )
        return cls(tokens[:, :k, :entries], tokens[:, :k, -1], there.cpu(), tokens[:, k:, :entries], at)

    @property
    def similarity(self) -> Float[Tensor, "n q k"]:
        """The products of queries and examples."""
        return self.query @ self.x.mT

    def at_queries(self, x: Float[Tensor, "n pos d"]) -> Float[Tensor, "n q d"]:
        """What stands at the queries' places."""
        return at_read(x, self.at)
