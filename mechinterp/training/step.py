"""One optimiser step: the part of training that runs thousands of times."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.tasks.base import Batch, Task
from mechinterp.training.identity import bare
from mechinterp.training.muon import Muon, hidden_matrices
from mechinterp.training.recipe import Recipe

Penalty = Callable[[nn.Module], Float[Tensor, ""]]
"""What a model's weights cost, besides the task's loss."""


class Stepper:
    """A model, its data and its optimisers; each ``step`` takes one and returns the loss before it."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        penalty: Penalty | None = None,
        train: Batch | None = None,
    ) -> None:
        keep_freed_memory()
        self.model, self.task, self.recipe, self.steps = model, task, recipe, 0
        self.penalty = penalty
        device = next(model.parameters()).device
        self.train = (task.dataset("train") if train is None else train).to(device)
        self.autocast = torch.is_autocast_enabled(device.type)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        matrices = hidden_matrices(model) if recipe.optimizer == "muon" else []
        taken = set(map(id, matrices))
        rest = [weight for weight in self.weights if id(weight) not in taken]
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if rest:
            self.optimizers["optimizer"] = torch.optim.AdamW(
                rest, recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay, fused=True
            )
        if matrices:
            self.optimizers["muon"] = Muon(matrices, recipe.lr, recipe.weight_decay)
        self.dtype = getattr(torch, recipe.loss_dtype)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.order = torch.empty(0, dtype=torch.long, device="cpu")
        self.cuda = sorted({x.device.index or 0 for x in model.parameters() if x.device.type == "cuda"})

    def step(self) -> float:
        """Take one step; a loss that is not finite is returned and changes nothing."""
        if self.autocast:  # it keeps what it has cast: of a measurement's weights those without a gradient,
            torch.clear_autocast_cache()
        for group in self.groups():
            group["lr"] = self.recipe.lr_at(self.steps)
        batch = self.next_batch()
        loss = self.task.loss(self.task.outputs(self.model, batch), batch, self.dtype)
        value = loss.item()
        if value - value != 0:  # infinite or not a number
            return value
        self.model.zero_grad()
        if self.penalty is not None:
            loss = loss + self.cost()
        if self.autocast:
            with torch.autocast(loss.device.type, enabled=False):  # it is for forward passes
                loss.backward()
        else:
            loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.autocast:  # and of a step's those before it
            torch.clear_autocast_cache()
        self.steps += 1
        return value

    def cost(self) -> Tensor:
        """What the penalty says.

        Raises:
            TypeError: no number that the weights can be trained on.
        """
        cost = self.penalty(self.model)
        if not isinstance(cost, Tensor) or cost.numel() != 1:
            raise TypeError(
                f"expected the penalty to return a tensor of one number, got {type(cost).__name__}; sum it, "
                "and leave it a tensor, so that it has a gradient"
            )
        return cost

    def groups(self) -> list[dict[str, Any]]:
        """What the optimisers read at each step: learning rate, weight decay and the like."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def next_batch(self) -> Batch:
        """New examples, the full batch, or the next rows of this epoch's order."""
        size = self.recipe.batch_size
        if self.task.samples:
            fresh = self.task.sample(size or len(self.train), self.generator, variables=False)
            return fresh.to(self.train.inputs.device)
        if size is None or size >= len(self.train):
            return self.train
        if len(self.order) < size:
            self.order = torch.randperm(len(self.train), generator=self.generator, device="cpu")
        rows, self.order = self.order[:size], self.order[size:]
        return self.train[rows.to(self.train.inputs.device)]

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, besides the task and the recipe."""
        return {
            "model": bare(self.model).state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "steps": self.steps,
            "order": self.order,
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),  # dropout draws from it
            "cuda_generators": [torch.cuda.get_rng_state(device) for device in self.cuda],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        bare(self.model).load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
        self.steps, self.order = state["steps"], state["order"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        for device, generator in zip(self.cuda, state["cuda_generators"]):
            torch.cuda.set_rng_state(generator, device)


@functools.cache
def keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks of up to 32 MiB for the next step.

    By default glibc hands the activations' memory back to the system at every step and pays
    for fresh pages at the next. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 1 << 30)
    mallopt(mmap_threshold, 32 << 20)
