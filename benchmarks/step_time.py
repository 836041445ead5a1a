"""One training step of modular addition against the matrix products it cannot do without.

The products are those of the full step, forward and backward, at the position read: the heads'
output, the MLP and the readout. They are timed alone, on tensors of the same shapes, in turns
with the step. Above 1 would mean that the step is faster than its products, so
``products_over_step_ratio`` is below 1 by what else the step does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.measure import alternate, show
from mechinterp.models import modular_addition
from mechinterp.tasks import ModularAddition
from mechinterp.training.fit import Stepper
from mechinterp.training.recipes import MODULAR_ADDITION


def products(n: int, d_model: int, d_heads: int, d_mlp: int, d_out: int) -> Callable[[], None]:
    """The step's matrix products: out of each weight matrix one forward and two backward."""
    shapes = [(d_heads, d_model), (d_model, d_mlp), (d_mlp, d_model), (d_model, d_out)]
    operands = [(torch.randn(n, i), torch.randn(i, o) / i**0.5, torch.randn(n, o)) for i, o in shapes]

    def run() -> None:
        for x, weight, _ in operands:
            torch.mm(x, weight)
        for x, weight, grad in reversed(operands):
            torch.mm(grad, weight.T)
            torch.mm(x.T, grad)

    return run


def main(rounds: int = 60) -> None:
    task = ModularAddition()
    recipes = {
        name: Stepper(modular_addition(task), task, MODULAR_ADDITION[name]) for name in MODULAR_ADDITION
    }
    n, cfg = task.n_train, next(iter(recipes.values())).model.cfg
    alone = products(n, cfg.d_model, cfg.n_heads * cfg.d_head, cfg.d_mlp, cfg.d_vocab_out)
    times = alternate({"products": alone, **{name: s.step for name, s in recipes.items()}}, rounds)
    milliseconds = {f"{name}_ms": 1e3 * t["median"] for name, t in times.items()}
    over = {
        f"{name}_step_over_products": times[name]["median"] / times["products"]["median"] for name in recipes
    }
    show("step_time", {**milliseconds, **over,
         "products_over_step_ratio": times["products"]["median"] / times["fast"]["median"]})  # fmt: skip


if __name__ == "__main__":
    main()
