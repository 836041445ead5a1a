"""Ridge probes of every layer and position against scikit-learn's ``RidgeCV`` in a loop.

Both fit the same activations on two cores, choose among seven penalties by exact leave-one-out, and
predict held-out examples; one loop over layers and positions against one call. ``ridge_ratio`` is the
loop's time over the call's, for one target and 2,000 training examples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from benchmarks.measure import alternate, show
from mechinterp.analysis.probes import fit_ridge
from mechinterp.analysis.probes.ridge import PENALTIES
from mechinterp.analysis.probes.scores import r_squared

LAYERS, POSITIONS, D_MODEL, HELD_OUT = 4, 16, 128, 500
SIZES = {"": (2000, 1), "_1500": (1500, 1), "_1000": (1000, 1), "_8_targets": (2000, 8), "_100": (100, 1)}


def planted(n: int, targets: int) -> tuple[torch.Tensor, ...]:
    """Activations in single precision, as caches have them, and targets that cells know more or less of."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(n + HELD_OUT, targets, generator=generator)
    x = torch.randn(LAYERS * POSITIONS, n + HELD_OUT, D_MODEL, generator=generator)
    known = torch.linspace(0, 0.5, len(x))[:, None, None]
    x += known * (y @ torch.randn(targets, D_MODEL, generator=generator))
    return x[:, :n].contiguous(), y[:n].double(), x[:, n:].contiguous(), y[n:].double()


def contestants(n: int, targets: int) -> tuple[Callable, Callable, torch.Tensor]:
    """The loop and the call, each returning predictions, and what they are to predict."""
    x, y, new, truth = planted(n, targets)
    arrays = [(old.numpy(), held_out.numpy()) for old, held_out in zip(x, new)]

    def loop() -> torch.Tensor:
        fits = [RidgeCV(PENALTIES, alpha_per_target=targets > 1).fit(old, y.numpy()) for old, _ in arrays]
        predicted = [fit.predict(held_out).reshape(-1, targets) for fit, (_, held_out) in zip(fits, arrays)]
        return torch.from_numpy(np.stack(predicted))

    def call() -> torch.Tensor:
        return fit_ridge(x, y[None], new)[0]

    return loop, call, truth


def main(rounds: int = 7) -> None:
    torch.set_num_threads(2)  # a contest on two cores; the loop's algebra takes the threads that it is given
    figures = {}
    for size, (n, targets) in SIZES.items():
        loop, call, truth = contestants(n, targets)
        theirs, ours = (r_squared(found()[..., None], truth[None, ..., None]) for found in (loop, call))
        figures[f"r_squared_difference{size}"] = (ours - theirs).abs().max().item()
        seconds = alternate({"loop": loop, "call": call}, rounds, warmup=1)
        figures[f"ridge_ratio{size}"] = seconds["loop"]["median"] / seconds["call"]["median"]
        figures |= {f"{name}_ms{size}": 1e3 * time["median"] for name, time in seconds.items()}
    show("probes", figures)


if __name__ == "__main__":
    main()
