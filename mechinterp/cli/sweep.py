"""``mechinterp sweep``: networks of many sizes, each trained and analysed once."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from mechinterp.cli.names import SWEEPS, folder_name, options_of


@dataclass(frozen=True, kw_only=True)
class SweepOutput:
    """Where a sweep's runs go, and who does them."""

    out: Path | None = None
    """Folder of the runs; by default one below ``runs/`` named after the sweep and its options."""

    workers: int = 1
    """Processes of this machine that share its cores."""

    cluster: str | None = None
    """Address of a dask scheduler whose workers do the runs instead, such as tcp://10.0.0.5:8786."""

    json: bool = False
    """Print the result as one JSON object, and no progress."""


def sweep(words: list[str]) -> int:
    """Do the runs of the sweep that is named first, but those that are done."""
    name, module, config, output = options_of("sweep", words, SWEEPS, SweepOutput)
    config.settings()  # what cannot be is refused before anything is written
    out = output.out or Path("runs") / f"sweep_{folder_name(name, config)}"

    def told(run: str, done: int, of: int) -> None:
        print(f"{done}/{of}  {run}", file=sys.stderr)

    silent = {} if output.json else {"told": told}
    run = import_module("mechinterp.runs").Run.create(out, {"kind": "sweep", "sweep": name, **asdict(config)})
    result = module.grid(config, run.path / "cells", workers=output.workers, cluster=output.cluster, **silent)
    run.save_results([result])
    run.finish(module.headline(result))
    if output.json:
        print(json.dumps(result.to_json(), allow_nan=False))
        return 0
    print(result)
    print(f"Results and runs: {out}")
    return 0
