"""The published languages at the defaults: how well and how long, against the time of the products alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.measure import alternate, show
from mechinterp.studies.regex_language import RegexLanguageOptions, train
from mechinterp.training.step import Stepper

PATTERNS = ("a+", "a*b*", "(a|b)+", "ab")


def main(seeds: int = 3) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for pattern in PATTERNS:
            runs = [
                train(
                    RegexLanguageOptions(pattern=pattern, seed=seed), Path(folder) / f"{pattern}_{seed}"
                ).run
                for seed in range(seeds)
            ]
            metrics = [run.metrics for run in runs]
            found[pattern] = {
                "class_acc": min(each["class_acc"] for each in metrics),
                "token_share": min(each["token_share"] for each in metrics),
                "token_ceiling": metrics[0]["token_ceiling"],
                "seconds": [each["seconds"] for each in metrics],
                "steps": [each["steps"] for each in metrics],
            }
    show("regex_language", {**found, **step()})


def step(rounds: int = 50) -> dict[str, float]:
    """A step of the default training over its matrix products alone, in turns."""
    options = RegexLanguageOptions()
    task = options.task
    stepper = Stepper(options.network(task).train(), task, options.recipe(task))
    shapes = _products(stepper, len(task.dataset("train").read) * options.batch_size)
    left = [(torch.randn(a, b), torch.randn(b, c)) for a, b, c in shapes]

    def products() -> None:
        for x, y in left:
            x @ y

    seconds = alternate({"step": stepper.step, "products": products}, rounds, warmup=5)
    return {
        "step_ms": 1e3 * seconds["step"]["median"],
        "step_over_products": seconds["step"]["median"] / seconds["products"]["median"],
    }


def _products(stepper: Stepper, places: int) -> list[tuple[int, int, int]]:
    """Rows, inner size and columns of every product with a weight, forward and backward."""
    cfg = stepper.model.cfg
    weights = [(cfg.d_model, cfg.d_model)] * 4
    weights += [(cfg.d_model, cfg.d_mlp), (cfg.d_mlp, cfg.d_model), (cfg.d_model, cfg.d_vocab_out)]
    forward = [(places, into, out) for into, out in weights]
    back = [(places, out, into) for into, out in weights]
    return forward + back + [(into, places, out) for into, out in weights]


if __name__ == "__main__":
    main()
