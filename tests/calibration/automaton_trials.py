"""Trials of what sets a network beside an automaton: transition matrices, and states that are swapped."""

from __future__ import annotations

import torch
from planted_networks import random_network, tokens
from trial import Trial, before_correction

from mechinterp.analysis import behaviour
from mechinterp.analysis.behaviour import state_swap
from mechinterp.analysis.transitions import compare_transitions
from mechinterp.automata import random_dfa

STATES, SYMBOLS, PLACES = 5, 2, 6


def compare(seed: int, null: str, noise: float | None = None, match: bool = True) -> Trial:
    """Three heads beside two symbols: normal entries, or the transitions and so much ``noise``."""
    transitions = random_dfa(STATES, SYMBOLS, seed).matrices
    generator = torch.Generator().manual_seed(10**6 + seed)
    heads = torch.randn(3, STATES, STATES, generator=generator)
    if noise is not None:
        heads = noise * heads + torch.cat((torch.zeros(1, STATES, STATES), transitions))
    found = compare_transitions(heads, transitions, match=match, draws=99, seed=seed)
    p = found.extra["p"].sel(null=null, measure="cosine", head="all").item()
    return Trial.of([p], planted=[noise is not None])


def swap(seed: int, strength: float | None = None) -> Trial:
    """Directions put into a random network's last stream; which answer follows is drawn at random.

    With ``strength`` the directions are random, plus that much of what the readout reads as the state.
    """
    n, planted = 40, strength is not None
    model = random_network(seed, d_head=4)
    inputs, generator = tokens(seed, n=n, length=PLACES), torch.Generator().manual_seed(seed)
    source, target, wrong = torch.rand(n, STATES, generator=generator).argsort(1)[:, :3].T
    directions = torch.randn(STATES, model.cfg.d_model, generator=generator)
    if strength is not None:
        directions = directions + strength * model.W_U.detach().mT[:STATES]
    at, random = (torch.randint(high, (n,), generator=generator) for high in (PLACES, STATES))

    def follows(outputs: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        answers = outputs[torch.arange(n), at][:, :STATES].argmax(-1)
        return (answers == (goal if planted else random)).double()[:, None]

    with before_correction(behaviour) as seen:
        found = state_swap(
            model, inputs, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", at, directions, source, target,
            wrong, follows, seed=seed,
        )  # fmt: skip
    return Trial.of(found.extra["p"], seen[-1], planted=[planted])
