"""Run every benchmark, one after the other."""

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
):
    importlib.import_module(f"benchmarks.{name}").main()
