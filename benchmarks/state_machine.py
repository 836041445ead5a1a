"""State machines with codebooks: how well they are predicted, how codes align and steer, and how fast."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.measure import show
from mechinterp.studies.base import silent
from mechinterp.studies.networks import train_kind
from mechinterp.studies.state_machine.anatomy import aligned, chosen_site, steered
from mechinterp.studies.state_machine.networks import KINDS, ONE_CODE, PUBLISHED, SHARED
from mechinterp.tasks import StateMachine


def main(seeds: int = 3) -> None:
    show("state_machine", {name: measured(name, seeds) for name in (PUBLISHED, ONE_CODE, SHARED)})


def measured(name: str, seeds: int) -> dict[str, Any]:
    """By seed: the share of the ceiling that is reached, agreement of codes and states at the site that is
    best on other sequences, success of steering at all sites beside random codes, and seconds of training."""
    found: dict[str, list[Any]] = {
        key: []
        for key in ("of_ceiling", "site", "ami", "purity", "purity_null", "steering", "random", "seconds")
    }
    for seed in range(seeds):
        one = train_kind(name, KINDS[name], StateMachine(seed=seed), None, silent)
        site, codes = chosen_site(one, 400), aligned(one, 400, name)
        success = steered(one, name).extra["success"][-1]
        row = {
            "of_ceiling": one.gate.score / one.task.ceiling,
            "ami": float(codes.values.sel(site=site, measure="ami")),
            "purity": float(codes.values.sel(site=site, measure="purity")),
            "purity_null": float(codes.extra["null_high"].sel(site=site, measure="purity")),
            "steering": float(success.sel(of="codes")),
            "random": float(success.sel(of="random")),
            "seconds": one.job.history.seconds,
        }
        for key, value in row.items():
            found[key].append(round(value, 4))
        found["site"].append(site)
    return found


if __name__ == "__main__":
    main(1 if "--quick" in sys.argv else 3)
