"""Time things in turns, so that a machine whose speed drifts treats them alike."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from mechinterp.runs import environment


def alternate(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 3
) -> dict[str, dict[str, float]]:
    """Seconds of each callable, run in turns: median, least and most over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - began)
    return {
        name: {"median": statistics.median(times), "min": min(times), "max": max(times)}
        for name, times in seconds.items()
    }


def show(name: str, figures: dict[str, Any]) -> None:
    """Print a benchmark's figures: one JSON object with ``--json``, lines otherwise."""
    record = {"benchmark": name, **figures, "environment": environment()}
    if "--json" in sys.argv:
        print(json.dumps(record))
        return
    print(name)
    for key, value in figures.items():
        print(f"  {key:<28}{value:.3f}" if isinstance(value, float) else f"  {key:<28}{value}")
