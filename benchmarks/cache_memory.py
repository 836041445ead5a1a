"""Memory of an activation cache: all of it, filtered by name, and in half precision.

What the cache holds, and the peak of resident memory above that before the run, a process each.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import torch

from benchmarks.measure import show
from mechinterp.hooks import run_with_cache
from mechinterp.models import HookedTransformer, TransformerConfig

WAYS = {
    "full": {},
    "half_precision": {"dtype": torch.bfloat16},
    "residual_stream": {"names": "blocks.*.hook_resid_post"},
    "both": {"names": "blocks.*.hook_resid_post", "dtype": torch.bfloat16},
}


def measure(way: str) -> dict[str, float]:
    """MiB held, and MiB of peak memory above the start."""
    cfg = TransformerConfig(n_layers=6, n_heads=8, d_model=256, d_head=32, d_mlp=1024, n_ctx=64, d_vocab=100)
    model = HookedTransformer(cfg).eval()
    inputs = torch.randint(100, (64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(inputs[:2])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _, cache = run_with_cache(model, inputs, **WAYS[way])
    held = sum(tensor.numel() * tensor.element_size() for tensor in cache.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"held_mib": held / 2**20, "peak_mib": peak / 1024}


def main() -> None:
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.cache_memory", "--way", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    figures = {f"{way}_{key}": value for way, record in found.items() for key, value in record.items()}
    ratios = {
        f"{way}_held_ratio": found["full"]["held_mib"] / found[way]["held_mib"]
        for way in WAYS
        if way != "full"
    }
    show("cache_memory", {**ratios, **figures})


if __name__ == "__main__":
    if "--way" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--way") + 1])))
    else:
        main()
