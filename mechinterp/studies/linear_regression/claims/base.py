"""What the claims have in common: they are of one kind of network, in the seeds in which it learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.base import Measure, claim_over_seeds
from mechinterp.studies.linear_regression.anatomy import Anatomy

OSWALD = "von Oswald et al. (2023), section 3"
ZHANG = "Zhang, Frei & Bartlett (2024), theorem 4.1"
AHN = "Ahn et al. (2023); von Oswald et al. (2023), section 4"
GARG = "Garg et al. (2022), section 3"
SMOOTHER = "after Nadaraya (1964) and Watson (1964)"
DONG = "Dong et al. (2021), sections 2 and 3"


def claim_of(
    id: str,
    statement: str,
    found: Sequence[Anatomy],
    measure: Measure,
    *,
    of: str,
    control_kind: str,
    source: str,
    gated: bool = True,
    within: tuple[float, float] = (0.0, float("inf")),
) -> Claim:
    """Of one kind of network, in the seeds in which it learned."""

    def learned(one: Anatomy) -> bool:
        return of in one.networks and (one.networks[of].gate.learned or not gated)

    return claim_over_seeds(
        id,
        statement,
        found,
        measure,
        learned=learned,
        within=within,
        control_kind=control_kind,
        source=source,
    )


def mean_over(found: Sequence[Anatomy], number: Callable[[Anatomy], float]) -> float:
    """The mean of a number over seeds."""
    return float(np.mean([number(one) for one in found]))
