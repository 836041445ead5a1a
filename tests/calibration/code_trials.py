"""Trials of codes: states of other sequences, and states that are a hand-built network's codes."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from torch import Tensor
from trial import Trial

from mechinterp import constructions, models
from mechinterp.analysis import codes
from mechinterp.analysis.codes import code_alignment
from mechinterp.analysis.steering import code_steering
from mechinterp.tasks import StateMachine

TASK = StateMachine(n_states=5, tokens_per_state=2, length=4)


def mixed(states: Tensor, right: float, seed: int) -> Tensor:
    """States of which only a share of the sequences has its own; the others have those of others."""
    generator = torch.Generator().manual_seed(seed)
    wrong = (torch.rand(len(states), generator=generator) >= right).nonzero()[:, 0]
    found = states.clone()
    found[wrong] = states[wrong[torch.randperm(len(wrong), generator=generator)]]
    return found


def aligned(seed: int, right: float = 0.0) -> Trial:
    """Two sites, three measures; with some states right a hand-built network, whose MLP's codes are
    states."""
    if right:
        model = constructions.state_machine(TASK)
    else:
        small = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_mlp": 8, "codebook_size": 6}
        model = models.state_machine(TASK, **small, seed=seed)
    batch = TASK.sample(80, torch.Generator().manual_seed(seed))
    states = mixed(batch.variables["state"], right, seed)
    with mock.patch.object(codes, "_interval", return_value=(0.0, 1.0)):  # which is not asked for here
        found = code_alignment(model.eval(), batch.inputs, states, permutations=59, seed=seed)
    planted = np.zeros(found.values.shape, dtype=bool)
    planted[1] = right > 0
    return Trial.of(found.extra["p_adjusted"], found.extra["p"], planted)


def steered(seed: int, right: float = 0.0) -> Trial:
    """Two sites of the hand-built network, of which the MLP's causes the prediction."""
    model = constructions.state_machine(TASK).eval()
    batch = TASK.sample(80, torch.Generator().manual_seed(seed))
    states = mixed(batch.variables["state"], right, seed)[:, -1]
    found = code_steering(model, batch.inputs, states, TASK.machine.emission, seed=seed)
    cells = [found.extra[name].isel(site=slice(0, 2)) for name in ("p_adjusted", "p")]
    return Trial.of(*cells, [False, right > 0])
