"""Trials of leaks: views of noise, and one view of three that tells a little."""

from __future__ import annotations

import torch
from trial import Trial

from mechinterp.analysis.leaks import leaks


def leaked(seed: int, strength: float = 0.0) -> Trial:
    """Three views of noise; the first one leans towards the answer by so many deviations."""
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(2, (120,), generator=generator)
    views = {name: torch.randn(120, 3, generator=generator) for name in ("first", "second", "third")}
    views["first"] = views["first"] + strength * answers[:, None]
    found = leaks(views, answers, torch.arange(120), seed=seed)
    return Trial.of(found.extra["p_adjusted"], found.extra["p_value"], [strength > 0, False, False])


def leaked_pairs(seed: int) -> Trial:
    """Pairs of a right and a wrong one, of which every view is the other's negative."""
    generator = torch.Generator().manual_seed(seed)
    answers, pairs = torch.tensor([1, 0]).repeat(60), torch.arange(120) // 2
    halves = {name: torch.randn(60, 3, generator=generator) for name in ("first", "second")}
    views = {name: torch.stack((half, -half), 1).flatten(0, 1) for name, half in halves.items()}
    found = leaks(views, answers, pairs, seed=seed)
    return Trial.of(found.extra["p_adjusted"], found.extra["p_value"], [False, False])
