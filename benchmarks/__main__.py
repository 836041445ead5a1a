"""Run every benchmark, one after the other; ``calibration``, which is none, has a page of its own."""

import importlib

for name in (
    "import_time",
    "step_time",
    "time_to_grok",
    "patching",
    "ablation",
    "probes",
    "cache_memory",
    "automata",
    "regex_language",
    "digit_addition",
    "linear_regression",
    "state_machine",
    "text_arithmetic",
    "sortedness",
):
    importlib.import_module(f"benchmarks.{name}").main()
