"""Patching every head at every position, against TransformerLens 4.3 on the same network.

Both start from the same tokens and the clean run's ``z``, under ``no_grad``, and measure a preference at the
last position: theirs is ``get_act_patch_attn_head_out_by_pos``, one forward pass a cell, averaged over
examples; ours is the sweep of ``activation_patching`` without its control, example by example.

For information: the whole of ``activation_patching``, clean run, intervals and tests counted,
without its control and with it, which patches everything twice. Peak memory is that above the start of the
sweep, a fresh process each (Linux); ``from_tokens`` counts the clean run too, theirs with the cache of all
activations that ``run_with_cache`` makes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import alternate, show
from mechinterp.analysis.patches import donor_names, patches_of
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.setting import Setting
from mechinterp.analysis.sweeps import sweep
from mechinterp.hooks import ActivationCache
from mechinterp.models import HookedTransformer, TransformerConfig

WORDS = 50


class Size(NamedTuple):
    """One entry of the grid."""

    layers: int
    heads: int
    width: int
    positions: int
    batch: int

    def __str__(self) -> str:
        return "_".join(map(str, self))


GRID = (Size(1, 4, 128, 3, 64), Size(2, 4, 64, 12, 32), Size(4, 4, 128, 16, 16), Size(6, 8, 256, 24, 8))
ROUNDS = (30, 15, 7, 3)


def preference(outputs: Tensor) -> Tensor:
    """How much token 1 is preferred to token 2 at the last position read, for each example."""
    return outputs[:, -1, 1] - outputs[:, -1, 2]


def sides(size: Size) -> dict[str, Callable[[], Tensor]]:
    """What is compared, each a function without arguments that gives a table ``[layer, position, head]``."""
    from transformer_lens.patching import get_act_patch_attn_head_out_by_pos

    layers, heads, width, positions, batch = size
    cfg = TransformerConfig(
        n_layers=layers, n_heads=heads, d_model=width, d_head=width // heads, d_mlp=4 * width,
        n_ctx=positions, d_vocab=WORDS, normalization_type="LN",
    )  # fmt: skip
    model, generator = HookedTransformer(cfg).eval(), torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(WORDS, (batch, positions), generator=generator) for _ in range(2))
    setting, axes = Setting(model, corrupted, preference), (range(layers), range(positions), range(heads))
    patches = patches_of(dict(zip(("layer", "position", "head"), axes)), positions)
    names = donor_names(model, "z", range(layers))
    with torch.no_grad():
        _, donor = model.run_with_cache(clean, names_filter=lambda name: name in names)

    def theirs(cache: ActivationCache = donor) -> Tensor:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return get_act_patch_attn_head_out_by_pos(
                model, corrupted, cache, lambda logits: preference(logits).mean()
            )

    def theirs_from_tokens() -> Tensor:
        with torch.no_grad():
            return theirs(model.run_with_cache(clean)[1])

    def ours() -> Tensor:
        return sweep(setting, "z", patches, donor).mean(-1).view(layers, positions, heads)

    def whole(control: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            found = activation_patching(model, clean, corrupted, preference, control=control)
            return torch.tensor(found.values.to_numpy())

        return run

    return {
        "theirs": theirs, "ours": ours, "whole": whole(False), "with_control": whole(True),
        "theirs_from_tokens": theirs_from_tokens,
    }  # fmt: skip


def peak_above_start(run: Callable[[], Tensor]) -> float:
    """MiB of peak resident memory while something runs, above what was resident when it started."""

    def resident(which: str) -> int:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[which].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def peak(size: Size, side: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.patching", "--peak", str(size), side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(size: Size, rounds: int) -> dict[str, float]:
    """Ratios above 1 are in our favour."""
    runs = sides(size)
    mib = {side: peak(size, side) for side in ("theirs", "ours", "theirs_from_tokens", "whole")}
    del runs["theirs_from_tokens"]
    tables = {side: run().double() for side, run in runs.items()}  # which is also the warm-up
    differences = [(table - tables["theirs"]).abs().max().item() for table in tables.values()]
    seconds = {side: times["median"] for side, times in alternate(runs, rounds, warmup=0).items()}
    return {
        "ratio": seconds["theirs"] / seconds["ours"],
        "peak_memory_ratio": mib["theirs"] / mib["ours"],
        "from_tokens_peak_memory_ratio": mib["theirs_from_tokens"] / mib["whole"],
        "whole_without_control_ratio": seconds["theirs"] / seconds["whole"],
        "whole_with_control_ratio": seconds["theirs"] / seconds["with_control"],
        "largest_difference": max(differences),
        **{f"{side}_ms": 1e3 * value for side, value in seconds.items()},
        **{f"{side}_peak_mib": value for side, value in mib.items()},
    }


def main(grid: Mapping[Size, int] | None = None) -> None:
    grid = dict(zip(GRID, ROUNDS)) if grid is None else grid
    found = {size: compare(size, rounds) for size, rounds in grid.items()}
    ratios = [figures["ratio"] for figures in found.values()]
    memory = {
        f"smallest_{name}": min(figures[name] for figures in found.values())
        for name in ("peak_memory_ratio", "from_tokens_peak_memory_ratio")
    }
    sizes = {f"size_{size}_{name}": value for size in found for name, value in found[size].items()}
    show(
        "patching",
        {
            "geometric_mean_ratio": math.prod(ratios) ** (1 / len(ratios)),
            "smallest_ratio": min(ratios),
            **memory,
            "largest_difference": max(figures["largest_difference"] for figures in found.values()),
            **sizes,
        },
    )


if __name__ == "__main__":
    if "--peak" in sys.argv:
        of, side = sys.argv[sys.argv.index("--peak") + 1 :][:2]
        size = Size(*map(int, of.split("_")))
        sides(Size(1, size.heads, size.width, 2, 2))[side]()  # what is loaded at the first use does not count
        print(peak_above_start(sides(size)[side]))
    else:
        main()
