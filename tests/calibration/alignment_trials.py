"""Trials of whether heads look at the column that is asked for."""

from __future__ import annotations

import torch
from planted_networks import random_network, tokens
from trial import Trial, before_correction

from mechinterp.analysis import alignment
from mechinterp.analysis.alignment import column_alignment

COLUMNS, PLACES = 3, 6


def random_columns(seed: int) -> Trial:
    """A random network, and columns drawn at random for what its positions ask for and hold."""
    generator = torch.Generator().manual_seed(seed)
    asked, held = torch.randint(COLUMNS, (2, PLACES), generator=generator).tolist()
    asked[-1] = held[0]  # one query at least can see a key of its column
    with before_correction(alignment) as seen:
        found = column_alignment(
            random_network(seed), tokens(seed, length=PLACES), {"": (asked, held)}, offsets=(0,), draws=199,
            seed=seed,
        )  # fmt: skip
    there = found.extra["p_adjusted"].values
    return Trial.of(there[there == there], seen[-1])
