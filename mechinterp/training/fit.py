"""The training loop: one for every task, resumable to the bit."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.files import write_json
from mechinterp.tasks.base import Batch, Task
from mechinterp.training.checkpoint import CheckpointSeries, load_state, save_state
from mechinterp.training.recipe import Recipe


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass
class History:
    """What was measured along training.

    ``train_loss`` has a value a step, before the step's update; the others have one for each of
    ``steps``. ``seconds`` is the time spent in ``fit``, over all resumptions.
    """

    train_loss: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    train_score: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_score: list[float] = field(default_factory=list)
    weight_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The lists as plain JSON values."""
        return asdict(self)


@dataclass
class Fit:
    """A training in progress, or finished: what callbacks see and ``fit`` returns.

    Args:
        stopped: why training ended: ``"steps"``, ``"score"``, ``"patience"``, ``"callback"``
            or ``"interrupted"``; empty while it goes on.
    """

    model: nn.Module
    task: Task
    recipe: Recipe
    history: History
    checkpoints: CheckpointSeries
    step: int = 0
    stopped: str = ""


Callback = Callable[[Fit], bool | None]


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train a model on a task.

    Args:
        model: trained in place.
        task: gives the data, the loss and the score.
        recipe: how.
        folder: where checkpoints, history and the state to resume from are kept. If it holds
            the state of an earlier, unfinished call, training goes on from there and ends with
            the same bits as if it had not been interrupted. ``None`` keeps all in memory.
        callbacks: called after every measurement with the ``Fit``; one that returns True stops
            training.

    Returns:
        The finished ``Fit``. Ctrl-C ends training as a stop would, state saved,
        with ``stopped == "interrupted"``.

    Raises:
        Diverged: the loss is not finite; the message names the step, the last good checkpoint
            and what to try.
        ValueError: the folder holds the state of another task or recipe, or a damaged one.
    """
    _keep_freed_memory()
    place = None if folder is None else Path(folder)
    series = CheckpointSeries(None if place is None else place / "checkpoints")
    job = Fit(model, task, recipe, History(), series)
    loop = _Loop(job, place, callbacks)
    loop.resume()
    began = time.perf_counter() - job.history.seconds
    try:
        while not job.stopped:
            loop.advance()
            job.history.seconds = time.perf_counter() - began
            loop.keep()
    except KeyboardInterrupt:
        job.stopped = "interrupted"
    loop.save()
    return job


class _Loop:
    """The state that a step reads and writes."""

    def __init__(self, job: Fit, place: Path | None, callbacks: Sequence[Callback]) -> None:
        recipe = job.recipe
        self.job, self.place, self.callbacks = job, place, callbacks
        device = next(job.model.parameters()).device
        self.train, self.test = job.task.dataset("train").to(device), job.task.dataset("test").to(device)
        self.weights = [weight for weight in job.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay, fused=True
        )
        self.dtype = getattr(torch, recipe.loss_dtype)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.kept_at = recipe.checkpoint_steps()
        self.end, self.best, self.since_best = recipe.steps, math.inf, 0

    def advance(self) -> None:
        """Take one step, and measure when it is time."""
        job, recipe = self.job, self.job.recipe
        if job.step == 0 and not job.history.steps:
            self.measure()
        job.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(job.step)
        batch = self.next_batch()
        loss = job.task.loss(job.task.outputs(job.model, batch), batch, self.dtype)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(
                f"expected a finite loss, got {value} at step {job.step}; the last good checkpoint is "
                f"of step {max(job.checkpoints.steps, default=None)}; lower lr ({recipe.lr}), set "
                f"clip_norm ({recipe.clip_norm}) or lengthen warmup ({recipe.warmup})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, recipe.clip_norm)
        self.optimizer.step()
        job.history.train_loss.append(value)
        job.step += 1
        if job.step % recipe.eval_every == 0 or job.step == self.end:
            self.measure()
            self.decide()

    def next_batch(self) -> Batch:
        """The full batch, or the next rows of this epoch's order."""
        size = self.job.recipe.batch_size
        if size is None or size >= len(self.train):
            return self.train
        if len(self.order) < size:
            self.order = torch.randperm(len(self.train), generator=self.generator)
        rows, self.order = self.order[:size], self.order[size:]
        return self.train[rows]

    @torch.no_grad()
    def measure(self) -> None:
        """Test loss and score, train score, and the norm of the trained weights."""
        job, history = self.job, self.job.history
        job.model.eval()
        outputs = job.task.outputs(job.model, self.test)
        history.steps.append(job.step)
        history.test_loss.append(job.task.loss(outputs, self.test, self.dtype).item())
        history.test_score.append(job.task.score(outputs, self.test))
        history.train_score.append(job.task.score(job.task.outputs(job.model, self.train), self.train))
        history.weight_norm.append(math.sqrt(sum(w.double().square().sum().item() for w in self.weights)))
        if job.step == 0 and 0 in self.kept_at:
            job.checkpoints.add(0, job.model)

    def decide(self) -> None:
        """Whether to stop, and when."""
        job, recipe, history = self.job, self.job.recipe, self.job.history
        if history.test_loss[-1] < self.best:
            self.best, self.since_best = history.test_loss[-1], 0
        else:
            self.since_best += 1
        reached = recipe.stop_at_score is not None and history.test_score[-1] >= recipe.stop_at_score
        if reached and self.end == recipe.steps and job.step < self.end:
            self.end = min(recipe.steps, job.step + recipe.cleanup_steps)
            for group in self.optimizer.param_groups:
                if recipe.cleanup_weight_decay is not None:
                    group["weight_decay"] = recipe.cleanup_weight_decay
                if recipe.cleanup_eps is not None:
                    group["eps"] = recipe.cleanup_eps
        if any([callback(job) for callback in self.callbacks]):
            job.stopped = "callback"
        elif recipe.patience is not None and self.since_best >= recipe.patience:
            job.stopped = "patience"
        elif job.step >= self.end:
            job.stopped = "steps" if self.end == recipe.steps and not reached else "score"

    def keep(self) -> None:
        """Add to the checkpoint series, and save the state now and then."""
        job = self.job
        if job.step in self.kept_at or (job.stopped and self.kept_at):
            job.checkpoints.add(job.step, job.model)
        if job.step % job.recipe.save_every == 0 and not job.stopped:
            self.save()

    def save(self) -> None:
        """Write what ``resume`` reads."""
        if self.place is None:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        job = self.job
        state = {
            "of": self.identity(),
            "model": job.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": job.history.to_json(),
            "loop": [job.step, job.stopped, self.end, self.best, self.since_best],
            "order": self.order,
            "generator": self.generator.get_state(),
        }
        save_state(self.place / "state.pt", state)
        write_json(self.place / "history.json", job.history.to_json())

    def resume(self) -> None:
        """Go on from a saved state, if there is one."""
        if self.place is None or not (self.place / "state.pt").exists():
            return
        state = load_state(self.place / "state.pt")
        if state.get("of") != self.identity():
            raise ValueError(
                f"expected {self.place} to hold the training of this task and recipe, got another; "
                "choose an empty folder"
            )
        job = self.job
        job.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        job.history = History(**state["history"])
        job.step, stopped, self.end, self.best, self.since_best = state["loop"]
        job.stopped = "" if stopped == "interrupted" else stopped
        self.order = state["order"]
        self.generator.set_state(state["generator"])
        job.checkpoints.drop_after(job.step)

    def identity(self) -> str:
        """What must agree between a saved state and the training that goes on from it."""
        return repr((self.job.task.to_json(), self.job.recipe.to_json()))


def _keep_freed_memory() -> None:
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
