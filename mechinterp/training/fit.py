"""The training loop: one for every task, resumable to the bit."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.files import folder_lock, write_json
from mechinterp.tasks.base import Task
from mechinterp.training.checkpoint import STATE, CheckpointSeries, load_state, save_state, state_file
from mechinterp.training.loading import record_network, record_training
from mechinterp.training.recipe import Recipe
from mechinterp.training.resuming import check_state, largest_state
from mechinterp.training.step import Penalty, Stepper


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass
class History:
    """What was measured along training.

    ``train_loss`` has a value a step, before the step's update; the others have one for each of
    ``steps``. ``tracked`` is what callbacks have kept, by name. What is called test is measured on the task's
    ``watched`` split, which for tasks that have one is ``val``. ``seconds`` is the time spent in ``fit``,
    over all resumptions.
    """

    train_loss: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    train_score: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_score: list[float] = field(default_factory=list)
    weight_norm: list[float] = field(default_factory=list)
    tracked: dict[str, list[float]] = field(default_factory=dict)
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
        best: the weights with the lowest watched loss, if the recipe keeps them.
    """

    model: nn.Module
    task: Task
    recipe: Recipe
    history: History
    checkpoints: CheckpointSeries
    step: int = 0
    stopped: str = ""
    best: dict[str, Tensor] = field(default_factory=dict)


Callback = Callable[[Fit], bool | None]


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    penalty: Penalty | None = None,
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
        penalty: what the weights cost besides the task's loss; added to the gradient, not to the history.

    Returns:
        The finished ``Fit``. Ctrl-C ends training as a stop would, with the state saved and
        ``stopped == "interrupted"``.

    Raises:
        Diverged: the loss is not finite; the message names the step, the last good checkpoint
            and what to try.
        ValueError: the folder holds the state of another task or recipe, or a damaged one.
    """
    place = None if folder is None else Path(folder)
    series = CheckpointSeries(None if place is None else place / "checkpoints")
    job = Fit(model, task, recipe, History(), series)
    loop = _Loop(job, place, callbacks, penalty)
    # Dropout draws from torch's own generators: they are seeded here, and left as they were found.
    with folder_lock(place), torch.random.fork_rng(loop.stepper.cuda):
        torch.manual_seed(recipe.seed + 1_000_003)  # not the stream that orders the examples
        loop.resume()
        record_training(place, job)
        began = time.perf_counter() - job.history.seconds
        try:
            with between_steps() as interrupted:
                while not job.stopped:
                    loop.advance()
                    job.history.seconds = time.perf_counter() - began
                    if interrupted():
                        job.stopped = job.stopped or "interrupted"
        except KeyboardInterrupt:  # within a step: what was saved before it is whole, and stays
            job.stopped = "interrupted"
            return job
        loop.save()
    return job


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C until asked for, so that no step is left half taken; a second one acts at once.

    Elsewhere than in the main thread signals cannot be held back, and this does nothing.
    """
    asked: list[bool] = []

    def hold(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


class _Loop:
    """Steps, measurements, and when to stop."""

    def __init__(
        self, job: Fit, place: Path | None, callbacks: Sequence[Callback], penalty: Penalty | None
    ) -> None:
        self.job, self.place, self.callbacks = job, place, callbacks
        self.stepper = Stepper(job.model, job.task, job.recipe, penalty)
        self.test = job.task.dataset(job.task.watched).to(next(job.model.parameters()).device)
        self.kept_at = job.recipe.checkpoint_steps()
        self.end, self.best, self.since_best = job.recipe.steps, math.inf, 0

    def advance(self) -> None:
        """Take one step, and measure when it is time."""
        job, recipe = self.job, self.job.recipe
        if job.step == 0 and not job.history.steps:
            self.measure()
        job.model.train()
        loss = self.stepper.step()
        if not math.isfinite(loss):
            raise Diverged(
                f"expected a finite loss, got {loss} at step {job.step}; the last good checkpoint is "
                f"of step {max(job.checkpoints.steps, default=None)}; lower lr ({recipe.lr}), set "
                f"clip_norm ({recipe.clip_norm}) or lengthen warmup ({recipe.warmup})"
            )
        job.history.train_loss.append(loss)
        job.step += 1
        if job.step in self.kept_at:
            job.checkpoints.add(job.step, job.model)
        if job.step % recipe.eval_every == 0 or job.step == self.end:
            self.measure()
            self.decide()
        if job.stopped and self.kept_at:
            job.checkpoints.add(job.step, job.model)
        if not job.stopped and job.step % recipe.save_every == 0:
            self.save()

    @torch.no_grad()
    def measure(self) -> None:
        """Test loss and score, train score, and the norm of the trained weights."""
        job, history, stepper = self.job, self.job.history, self.stepper
        job.model.eval()
        outputs = job.task.outputs(job.model, self.test)
        history.steps.append(job.step)
        history.test_loss.append(job.task.loss(outputs, self.test, stepper.dtype).item())
        history.test_score.append(job.task.score(outputs, self.test))
        history.train_score.append(job.task.score(job.task.outputs(job.model, stepper.train), stepper.train))
        squares = sum(weight.double().square().sum().item() for weight in stepper.weights)
        history.weight_norm.append(math.sqrt(squares))
        if job.step == 0 and 0 in self.kept_at:
            job.checkpoints.add(0, job.model)
        if history.test_loss[-1] < self.best:
            self.best, self.since_best = history.test_loss[-1], 0
            if job.recipe.keep_best:
                job.best = {name: x.detach().clone() for name, x in job.model.state_dict().items()}
        else:
            self.since_best += 1

    def decide(self) -> None:
        """Whether to stop, and when."""
        job, recipe, history = self.job, self.job.recipe, self.job.history
        reached = recipe.stop_at_score is not None and history.test_score[-1] >= recipe.stop_at_score
        if reached and self.end == recipe.steps and job.step < self.end:
            self.clean_up()
        goal = recipe.cleanup_until_score
        if (
            self.end < recipe.steps
            and job.step >= self.end
            and goal is not None
            and history.test_score[-1] < goal
        ):
            self.end = min(recipe.steps, job.step + recipe.eval_every)
        asked = [callback(job) for callback in self.callbacks]  # all of them, whichever asks
        if any(asked):
            job.stopped = "callback"
        elif recipe.patience is not None and self.since_best >= recipe.patience:
            job.stopped = "patience"
        elif job.step >= self.end:
            job.stopped = "score" if self.end < recipe.steps or reached else "steps"

    def clean_up(self) -> None:
        """The score is reached: set the end, and the optimiser for the steps up to it."""
        recipe = self.job.recipe
        self.end = min(recipe.steps, self.job.step + recipe.cleanup_steps)
        for group in self.stepper.groups():
            if recipe.cleanup_weight_decay is not None:
                group["weight_decay"] = recipe.cleanup_weight_decay
            if recipe.cleanup_eps is not None and "eps" in group:
                group["eps"] = recipe.cleanup_eps

    def save(self) -> None:
        """Write what ``resume`` reads."""
        if self.place is None:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        job = self.job
        state = {
            "of": self.identity(),
            "stepper": self.stepper.state(),
            "history": job.history.to_json(),
            "loop": [job.stopped, self.end, self.best, self.since_best],
            "best": job.best,
        }
        save_state(self.place / STATE, state)
        write_json(self.place / "history.json", job.history.to_json())
        if job.stopped:
            record_network(self.place, job)

    def resume(self) -> None:
        """Go on from a saved state, if there is one."""
        file = None if self.place is None else state_file(self.place)
        if file is None:
            return
        state = load_state(file, at_most=largest_state(self.stepper))
        if state.get("of") != self.identity():
            raise ValueError(
                f"expected {self.place} to hold the training of this task and recipe, got another; "
                "choose an empty folder"
            )
        job = self.job
        check_state(state, file, self.stepper, job.history.to_json())
        self.stepper.load(state["stepper"])
        job.history = History(**state["history"])
        stopped, self.end, self.best, self.since_best = state["loop"]
        job.step, job.best = self.stepper.steps, state["best"]
        job.stopped = "" if stopped == "interrupted" else stopped
        job.checkpoints.drop_after(job.step)

    def identity(self) -> str:
        """What must agree between a saved state and the training that goes on from it.

        Fields at their defaults are left out, so that a new one does not make old states strange.
        """
        parts = [self.job.task, self.job.recipe, getattr(self.job.model, "cfg", None)]
        task, recipe, *network = [_changed(part) for part in parts if hasattr(part, "to_json")]
        for config in network:
            config.pop("seed", None)  # of weights that the state replaces
        settings = [each for each in (*self.callbacks, self.stepper.penalty) if is_dataclass(each)]
        return repr((task, recipe, network, *([repr(settings)] if settings else ())))


def _changed(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, as JSON, that are not at their defaults."""
    default = {field.name: field.default for field in fields(record) if field.default is not MISSING}
    return {name: x for name, x in record.to_json().items() if name not in default or default[name] != x}
