"""What is to be learned: a task samples batches and knows its loss, its score and the trivial score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.autograd import runs_eagerly

Split = Literal["train", "val", "test"]
"""``val`` is for choosing, where a task has one; what is reported is of ``test``."""


PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}
"""Types of fields that are checked when a task is made."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples and everything that is known about them.

    Args:
        inputs: what the network takes, ``[batch, pos]`` ids or ``[batch, pos, d_input]`` vectors.
        targets: what it should answer at the positions read, ``[batch, read]``.
        read: the positions read, as ``HookedTransformer.forward`` takes them.
        mask: True at real tokens, ``[batch, pos]``; ``None`` without padding.
        variables: named ground truths, each ``[batch]`` or ``[batch, pos]`` and more.
    """

    inputs: Tensor
    targets: Tensor
    read: tuple[int, ...] | Tensor
    mask: Tensor | None = None
    variables: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """The examples of the given rows."""
        per_row = isinstance(self.read, Tensor) and self.read.ndim == 2
        return replace(
            self,
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            read=self.read[rows] if per_row else self.read,
            mask=None if self.mask is None else self.mask[rows],
            variables={name: value[rows] for name, value in self.variables.items()},
        )

    def split(self, positions: int = 2**13) -> Iterator[Batch]:
        """The examples in order, about so many positions at a time: what a network works out of them is then
        small enough to be kept in fast memory and used again, where a large batch pays for new pages.
        """
        rows = max(1, positions // self.inputs.shape[1])
        return (self[start : start + rows] for start in range(0, len(self), rows))

    def to(self, device: str | torch.device) -> Batch:
        """The same examples on another device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            read=self.read.to(device) if isinstance(self.read, Tensor) else self.read,
            mask=None if self.mask is None else self.mask.to(device),
            variables={name: value.to(device) for name, value in self.variables.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """The base of all tasks: frozen, so that its fields say all that can differ.

    A subclass has a ``name``, a ``dataset`` and a ``trivial``; loss and score are those of
    classification unless it says otherwise.
    """

    name: ClassVar[str]
    learned_at: ClassVar[float]
    """The score from which a network counts as having learned the task."""
    score_name: ClassVar[str] = "accuracy"
    """What the score is called where it is shown."""
    ceiling: ClassVar[float] = 1.0
    """The score that learning the task comes to: 1 where every answer can be right."""
    watched: ClassVar[Split] = "test"
    """The split that training is followed, stopped and chosen by."""

    samples: ClassVar[bool] = False
    """Whether training draws new examples at every step, by ``sample``."""

    seed: int = 0
    """Seed of the split and of sampling."""

    def __post_init__(self) -> None:
        """Refuse fields of other types; subclasses begin with this.

        Raises:
            TypeError: a field that is not of its type.
        """
        for each in fields(self):
            value, kind = getattr(self, each.name), PLAIN.get(str(each.type))
            if kind and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise TypeError(
                    f"expected {each.name} of type {each.type}, got {value!r} of type "
                    f"{type(value).__name__}; convert it"
                )

    def dataset(self, split: Split) -> Batch:
        """All examples of a split, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__} has no dataset; it samples")

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """New examples, of tasks that draw them; without variables they are quicker to draw."""
        raise NotImplementedError(f"{type(self).__name__} has fixed examples; it gives a dataset")

    @property
    def trivial(self) -> float:
        """The score of the best constant answer."""
        raise NotImplementedError

    def outputs(self, model: Callable, batch: Batch) -> Tensor:
        """What the model answers at the positions read, ``[batch, read, out]``."""
        extra = {} if batch.mask is None else {"attention_mask": batch.mask}
        return model(batch.inputs, read=batch.read, **extra)

    @torch.no_grad()
    def answers(self, model: Callable, batch: Batch) -> Tensor:
        """``outputs`` without a graph, a part of the batch at a time, on the model's device; they come back
        to the batch's."""
        weights = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
        here = batch.inputs.device
        there = next((weight.device for weight in weights), here)
        parts = (part if there == here else part.to(there) for part in batch.split())
        return torch.cat([self.outputs(model, part).to(here) for part in parts])

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats, computed in ``dtype``."""
        return cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), dtype)

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """The share of right answers, 0 to 1."""
        return (outputs.argmax(-1) == batch.targets).double().mean().item()

    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> Mapping[str, float]:
        """Further scores by name, for tasks that have them."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, with the task's name."""
        return {"task": self.name, **asdict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Task:
        """A task from ``to_json``'s record."""
        return cls(**{key: tuples(value) for key, value in record.items() if key != "task"})


def tuples(value: Any) -> Any:
    """Lists of a JSON record as the tuples that they were."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def cross_entropy(
    logits: Float[Tensor, "row class"], targets: Int[Tensor, " row"], dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats; ``torch.float64`` keeps losses far below 1e-7 apart.

    In float32 a loss under about 1e-7 rounds to zero or to a multiple of the rounding error,
    and its gradient with it, which stops grokking or throws the weights about ("slingshots",
    Thilak et al. 2022; Prieto et al. 2025).
    """
    if runs_eagerly():
        return CrossEntropy.apply(logits, targets, dtype)
    return -logits.to(dtype).log_softmax(-1).gather(1, targets[:, None]).mean()


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient, one exponential away from the loss, is made with it."""

    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "row class"], targets: Int[Tensor, " row"], dtype: torch.dtype
    ) -> Float[Tensor, ""]:
        """The loss in ``dtype``."""
        at, n = targets[:, None], len(targets)
        log_probs = logits.to(dtype).log_softmax(-1)
        loss = -log_probs.gather(1, at).mean()
        if ctx.needs_input_grad[0]:
            grad = log_probs.exp_().div_(n)
            grad.scatter_add_(1, at, grad.new_full((n, 1), -1 / n))
            # Answers that are out of the question have gradients near 1e-40; arithmetic on such denormal
            # numbers would make every product of the backward pass several times slower.
            ctx.save_for_backward(
                torch.nn.functional.hardshrink(grad.to(logits.dtype), 1e-35), logits, targets
            )
            ctx.dtype = dtype
        return loss

    @staticmethod
    def backward(ctx: Any, by_loss: Float[Tensor, ""]) -> tuple[Tensor, None, None]:
        """The gradient of the logits."""
        grad, logits, targets = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            one_hot = torch.nn.functional.one_hot(targets, logits.shape[1])
            grad = ((logits.to(ctx.dtype).softmax(-1) - one_hot) / len(targets)).to(logits.dtype)
        return grad * by_loss.to(grad.dtype), None, None
