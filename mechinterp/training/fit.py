"""The training loop: one for every task, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mechinterp.files import folder_lock, write_json
from mechinterp.tasks.base import Batch, Task
from mechinterp.training.checkpoint import (
    STATE,
    CheckpointSeries,
    check_savable,
    load_state,
    save_state,
    state_file,
)
from mechinterp.training.checks import check_given, check_step, score_of
from mechinterp.training.identity import (
    FORMAT,
    at_default,
    bare,
    differences,
    identity,
    refusal,
    weights_digest,
)
from mechinterp.training.interruption import between_steps
from mechinterp.training.loading import record_network, record_training
from mechinterp.training.recipe import Recipe
from mechinterp.training.resuming import check_state, largest_state
from mechinterp.training.step import Penalty, Stepper

FIRST = 64
"""Examples on which the loss is tried before training, and compared before it goes on."""

_LEFT: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()
"""Networks that an error took out of training: hashes of their weights before it, and as they were left."""


class Diverged(RuntimeError):
    """The loss, or a weight, is no longer a finite number."""


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

    def __repr__(self) -> str:
        """How much was measured, and what came last."""
        if not self.steps:
            return f"History({len(self.train_loss)} steps, no measurements)"
        last = [
            f"{name} {values[-1]:.4g}"
            for name in ("test_loss", "test_score", "train_score", "weight_norm")
            if (values := getattr(self, name))
        ]
        tracked = f", tracked {', '.join(self.tracked)}" if len(self.tracked) in range(1, 9) else ""
        return (
            f"History({len(self.train_loss)} steps, {len(self.steps)} measurements, the last at step "
            f"{self.steps[-1]}: {', '.join(last)}{tracked}; {self.seconds:.1f} s)"
        )


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

    def __repr__(self) -> str:
        """What was trained on what, how far it came and why it ended."""
        ended = f"stopped: {self.stopped}" if self.stopped else "not stopped"
        return (
            f"Fit({type(bare(self.model)).__name__} on {self.task.name}, step {self.step} of "
            f"{self.recipe.steps}, {ended}, {len(self.checkpoints)} checkpoints, outputs by "
            f"{self.task.outputs_by(self.model)})\n  {self.history!r}"
        )


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
        ``stopped == "interrupted"``. So does SIGTERM; then the process's handler for it is called, and
        without one the process exits with status 143.

    Raises:
        Diverged: the loss is not finite; the message names the step, the last good checkpoint
            and what to try.
        TypeError, ValueError: something given that cannot be trained, or trained with; the folder holds the
            state of another training, whose differences the message names, or a damaged one.
    """
    place, callbacks, batches = check_given(model, task, recipe, folder, callbacks, penalty)
    series = CheckpointSeries(None if place is None else place / "checkpoints")
    job = Fit(model, task, recipe, History(), series)
    loop = _Loop(job, place, callbacks, penalty, batches)
    # Dropout draws from torch's own generators: they are seeded here, and left as they were found.
    with folder_lock(place), torch.enable_grad(), torch.random.fork_rng(loop.stepper.cuda):
        loop.begin()
        torch.manual_seed(recipe.seed + 1_000_003)  # not the stream that orders the examples
        loop.resume()
        record_training(place, job)
        began = time.perf_counter() - job.history.seconds
        try:
            with between_steps() as held, loop.remembered():
                while not job.stopped:
                    loop.advance()
                    job.history.seconds = time.perf_counter() - began
                    if held:
                        job.stopped = job.stopped or "interrupted"
                loop.save()
        except KeyboardInterrupt:  # within a step: what was saved before it is whole, and stays
            job.stopped = "interrupted"
    return job


class _Loop:
    """Steps, measurements, and when to stop."""

    def __init__(
        self,
        job: Fit,
        place: Path | None,
        callbacks: Sequence[Callback],
        penalty: Penalty | None,
        batches: Mapping[str, Batch],
    ) -> None:
        self.job, self.place, self.callbacks = job, place, callbacks
        self.stepper = Stepper(job.model, job.task, job.recipe, penalty, batches["train"])
        device = self.stepper.train.inputs.device
        self.splits = {"train": self.stepper.train}
        if job.task.watched != "train":
            self.splits["test"] = batches[job.task.watched].to(device)
        self.first = self.stepper.train[: min(FIRST, len(self.stepper.train))]
        # Kept, for what layers remember of a batch hangs on its tensors. On a GPU small parts would wait for
        # one another.
        positions = 2**14 if device.type == "cpu" else 2**17
        self.parts = {name: list(batch.split(positions)) for name, batch in self.splits.items()}
        self.kept_at = job.recipe.checkpoint_steps()
        self.end, self.best, self.since_best = job.recipe.steps, math.inf, 0
        self.identity: dict[str, Any] = {}

    def begin(self) -> None:
        """Try the loss of a few examples, and note down what training this is."""
        job, stepper = self.job, self.stepper
        with _evaluating(job.model):
            parted = check_step(bare(job.model), job.task, self.first, stepper.dtype)
        if not parted or bare(job.model) is not job.model:  # each size would be compiled for itself
            self.parts = {name: [batch] for name, batch in self.splits.items()}
        if self.place is not None:
            check_savable(bare(job.model).state_dict())
            data = list(self.splits.values())
            if job.task.samples:
                n = job.recipe.batch_size or len(stepper.train)
                data.append(job.task.sample(n, torch.Generator().manual_seed(0), variables=False))
            found = identity(job.model, job.task, job.recipe, self.callbacks, stepper.penalty, data)
            self.identity = {**found, **self.numbers("untrained network", penalty=True)}

    @torch.no_grad()
    def numbers(self, name: str, penalty: bool = False) -> dict[str, Any]:
        """Loss and score of the network on the first examples, by which another loss is known."""
        job, stepper = self.job, self.stepper
        with torch.random.fork_rng(stepper.cuda), _evaluating(job.model):
            torch.manual_seed(0)
            outputs = job.task.outputs(bare(job.model), self.first)
            found = {
                f"{name}.loss": job.task.loss(outputs, self.first, stepper.dtype).item(),
                f"{name}.score": score_of(job.task, outputs, self.first),
            }
            # Of a dataclass the fields are known already, and it may ask for a run in training mode.
            if penalty and stepper.penalty is not None and not is_dataclass(stepper.penalty):
                try:
                    found[f"{name}.penalty"] = stepper.penalty(job.model).item()
                except Exception:  # it asks for such a run, too
                    found[f"{name}.penalty"] = None
        return {key: x if x is None or math.isfinite(x) else repr(x) for key, x in found.items()}

    def advance(self) -> None:
        """Take one step, and measure when it is time."""
        job, recipe = self.job, self.job.recipe
        if job.step == 0 and not job.history.steps:
            self.measure()
        job.model.train()
        loss = self.stepper.step()
        if not math.isfinite(loss):
            raise self.diverged(f"{loss}")
        job.history.train_loss.append(loss)
        job.step += 1
        if job.step in self.kept_at:
            job.checkpoints.add(job.step, bare(job.model))
        if job.step % recipe.eval_every == 0 or job.step == self.end:
            self.measure()
            self.decide()
        if job.stopped and self.kept_at:
            job.checkpoints.add(job.step, bare(job.model))
        if not job.stopped and job.step % recipe.save_every == 0:
            self.save()

    def diverged(self, got: str) -> Diverged:
        """The error that says what is not finite, where, and what to try."""
        job, recipe = self.job, self.job.recipe
        kept = ((step, job.checkpoints[step].values()) for step in reversed(job.checkpoints.steps))
        last = next((step for step, weights in kept if all(bool(x.isfinite().all()) for x in weights)), None)
        return Diverged(
            f"expected a finite loss, got {got} at step {job.step}; the last good checkpoint is "
            f"of step {last}; lower lr ({recipe.lr}), set "
            f"clip_norm ({recipe.clip_norm}) or lengthen warmup ({recipe.warmup})"
        )

    def outputs(self, split: str) -> Any:
        """What the network answers to a split: by parts, for those of a large batch fill the memory."""
        task, model, parts = self.job.task, self.job.model, self.parts[split]
        if len(parts) == 1:
            return task.outputs(model, self.splits[split])
        return torch.cat([task.outputs(model, part) for part in parts])

    @torch.no_grad()
    def measure(self) -> None:
        """Test loss and score, train score, and the norm of the trained weights."""
        job, history, stepper = self.job, self.job.history, self.stepper
        job.model.eval()
        outputs = self.outputs(list(self.splits)[-1])
        test = self.splits[list(self.splits)[-1]]
        loss, score = job.task.loss(outputs, test, stepper.dtype).item(), score_of(job.task, outputs, test)
        norm = math.sqrt(sum(weight.double().square().sum().item() for weight in stepper.weights))
        for number, what in ((norm, "weights of norm"), (loss, f"a loss on {job.task.watched} of")):
            if not math.isfinite(number):
                raise self.diverged(f"{what} {number}")
        history.steps.append(job.step)
        history.test_loss.append(loss)
        history.test_score.append(score)
        history.train_score.append(score_of(job.task, self.outputs("train"), stepper.train))
        history.weight_norm.append(norm)
        if job.step == 0 and 0 in self.kept_at:
            job.checkpoints.add(0, bare(job.model))
        if history.test_loss[-1] < self.best:
            self.best, self.since_best = history.test_loss[-1], 0
            if job.recipe.keep_best:
                job.best = {name: x.detach().clone() for name, x in bare(job.model).state_dict().items()}
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
        job = self.job
        state = {
            "format": FORMAT,
            "of": self.identity,
            "now": self.numbers("saved network"),
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
        if not isinstance(of := state.get("format"), int) or of != FORMAT:
            raise ValueError(
                f"expected a training state of format {FORMAT} at {file}, got one of another version of "
                "mechinterp, whose training cannot be compared with this one; choose an empty folder"
            )
        try:
            found = self.compare(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"expected a training state at {file}, got a damaged one ({type(error).__name__}: {error}); "
                "delete the file to train from the start"
            ) from None
        if found:
            raise ValueError(refusal(self.place, found))
        job = self.job
        check_state(state, file, self.stepper, job.history.to_json())
        self.stepper.load(state["stepper"])
        job.history = History(**state["history"])
        stopped, self.end, self.best, self.since_best = state["loop"]
        job.step, job.best = self.stepper.steps, state["best"]
        job.stopped = "" if stopped == "interrupted" else stopped
        job.checkpoints.drop_after(job.step)

    def compare(self, state: Mapping[str, Any]) -> list[str]:
        """What differs between a saved training and the one asked for.

        A network need not be as it was before training: it may hold what the state does, as when a cell of a
        notebook is run again, or what an error has left of the same training.
        """
        job = self.job
        saved, given = dict(state["of"]), dict(self.identity)
        if not isinstance(state["now"], dict):
            raise TypeError("no numbers of the network")
        if saved["initial weights"] != given["initial weights"]:
            holds = weights_digest(state["stepper"]["model"]) == given["initial weights"]
            if holds or _left_by_error(job.model, state):
                names = [name for name in given if name.startswith("untrained network.")]
                for name in ("initial weights", *names):
                    given[name] = saved.get(name)
                self.identity = given
            if holds:
                saved, given = {**saved, **state["now"]}, {**given, **self.numbers("saved network")}
        model = getattr(bare(job.model), "cfg", None)
        return differences(saved, given, at_default(job.task, job.recipe, model))

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Know a network again that an error takes out of training."""
        try:
            yield
        except BaseException:
            if self.identity:
                now = weights_digest(bare(self.job.model).state_dict())
                _LEFT[self.job.model] = (self.identity["initial weights"], now)
            raise


def _left_by_error(model: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether a network is as an error left it that ended the training of a state."""
    if model not in _LEFT:
        return False
    return _LEFT[model] == (state["of"]["initial weights"], weights_digest(bare(model).state_dict()))


def return_to(first: Path, later: Sequence[Path], model: nn.Module) -> None:
    """Give a network that holds the weights of a later training those that the first one ended with.

    Args:
        first, later: folders of trainings that went on from one another.
    """
    files = [file for each in (first, *later) if (file := state_file(each)) is not None]
    if len(files) < 2 or files[0].parent != first:
        return
    try:
        states = [load_state(file) for file in files]
        now = weights_digest(bare(model).state_dict())
        if any(
            weights_digest(state["stepper"]["model"]) == now or _left_by_error(model, state)
            for state in states[1:]
        ):
            bare(model).load_state_dict(states[0]["stepper"]["model"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        return  # of another format, or damaged: training says so


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, and as it was afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, before in training.items():
            module.training = before
