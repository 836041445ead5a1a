"""Networks of the study of sortedness: trained side by side or one after the other on all cores; a step
beside the products that it takes; and one of those that learn late, by Muon and by AdamW alone."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import alternate, show
from mechinterp.models.factories import sortedness
from mechinterp.studies.base import silent
from mechinterp.studies.seeds import train_side_by_side
from mechinterp.studies.sortedness.networks import KINDS
from mechinterp.tasks import Sortedness
from mechinterp.training import Fit, Recipe, fit
from mechinterp.training.recipes import SORTEDNESS
from mechinterp.training.step import Stepper

LENGTH, BATCH = 12, 128
ADAMW = replace(SORTEDNESS["medium"], optimizer="adamw", steps=12_000, lr=2e-3)
"""The shortest by which learned positions in both directions came beyond 95 % without Muon (LOG.md)."""


def main(rounds: int = 3, steps: int = 300) -> None:
    cores = os.cpu_count() or 1
    kinds = dict(list(KINDS.items())[:4])
    share = steps / SORTEDNESS["fast"].steps

    def train(workers: int) -> Callable[[], None]:
        def go() -> None:
            with tempfile.TemporaryDirectory() as folder:
                train_side_by_side([Sortedness()], kinds, Path(folder), silent, share, workers)

        return go

    together = alternate({"one by one": train(1), "side by side": train(cores)}, rounds, warmup=1)
    torch.set_num_threads(1)
    task = Sortedness(train_lengths=(LENGTH, LENGTH))
    stepper = Stepper(sortedness(task), task, replace(SORTEDNESS["fast"], batch_size=BATCH))
    step = alternate({"step": stepper.step, "products": products()}, 20 * rounds, warmup=20)
    muon, adamw = late(SORTEDNESS["medium"]), late(ADAMW)
    both = muon.stopped == adamw.stopped == "score"
    show(
        "sortedness",
        {
            "side_by_side_ratio": together["one by one"]["median"] / together["side by side"]["median"],
            "step_over_products": step["step"]["median"] / step["products"]["median"],
            "step_ms": 1000 * step["step"]["median"],
            "adamw_over_muon": adamw.history.seconds / muon.history.seconds if both else "not learned",
            "muon_learned_at": muon.step if muon.stopped == "score" else "never",
            "adamw_learned_at": adamw.step if adamw.stopped == "score" else "never",
            "networks": len(kinds),
            "steps": steps,
        },
    )


def late(recipe: Recipe) -> Fit:
    """Learned positions in both directions, trained until 90 % are right."""
    task, kind = Sortedness(), KINDS["learned, bidirectional"]
    return fit(kind.network(task), task, replace(recipe, stop_at_score=0.9))


def products() -> Callable[[], list[Tensor]]:
    """The products of a step, without those of the optimiser, forwards and twice backwards: the first layer
    at every token, the second's keys and values there, and the rest of it at the last token; attention's own
    are small."""
    d, mlp, tokens = 64, 256, BATCH * LENGTH
    shapes = [(tokens, d, 3 * d), (tokens, d, d), (tokens, d, mlp), (tokens, mlp, d), (tokens, d, 2 * d)]
    shapes += [(BATCH, d, d), (BATCH, d, d), (BATCH, d, mlp), (BATCH, mlp, d)]
    pairs = [(torch.randn(n, a), torch.randn(a, b), torch.randn(n, b)) for n, a, b in shapes]

    def go() -> list[Tensor]:
        return [y for x, w, g in pairs for y in (x @ w, g @ w.T, x.T @ g)]

    return go


if __name__ == "__main__":
    main(1 if "--quick" in sys.argv else 3)
