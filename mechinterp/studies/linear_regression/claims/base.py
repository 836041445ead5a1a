"""What the claims have in common: they are of one kind of network, in the seeds in which it learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from mechinterp.result import Claim
from mechinterp.studies.base import Measure
from mechinterp.studies.linear_regression.anatomy import Anatomy
from mechinterp.studies.seeds import claim_of_networks, learned

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
    of: str | Sequence[str],
    control_kind: str,
    source: str,
    within: tuple[float, float] = (0.0, float("inf")),
) -> Claim:
    """``claim_of_networks`` of one kind of network or several; ratios of losses are positive."""
    return claim_of_networks(
        id, without_nan(statement), found, measure, of=[of] if isinstance(of, str) else of, within=within,
        control_kind=control_kind, source=source,
    )  # fmt: skip


def without_nan(text: str) -> str:
    """A dash in place of numbers that no network gave."""
    return re.sub(r"\bnan%?", "–", text)


def mean_over(found: Sequence[Anatomy], number: Callable[[Anatomy], float], *of: str) -> float:
    """The mean of a number over the seeds in which some networks learned; NaN if there is none."""
    known = [number(one) for one in found if learned(one, of)]
    return float(np.mean(known)) if known else float("nan")
