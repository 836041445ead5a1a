"""What is to be learned: a task samples batches and knows its loss, its score and the trivial score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from mechinterp.autograd import runs_eagerly
from mechinterp.tasks.door import check_classes, check_shapes, outputs_at, takes, with_doors

Split = Literal["train", "val", "test"]
"""``val`` is for choosing, where a task has one; what is reported is of ``test``."""


PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str}
"""Types of fields that are checked when a task is made."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples and everything that is known about them, checked against each other.

    Args:
        inputs: what the network takes, ``[batch, pos]`` ids or ``[batch, pos, d_input]`` vectors.
        targets: what it should answer at the positions read, ``[batch, read]`` and more.
        read: the positions read, ``[read]`` or ``[batch, read]``, as ``forward`` of a network takes them.
        mask: True at real tokens, ``[batch, pos]``; ``None`` without padding.
        variables: named ground truths, each ``[batch]`` or ``[batch, pos]`` and more.

    Raises:
        TypeError, ValueError: parts of other types, or whose shapes do not fit together.

    Example:
        >>> batch = Batch(inputs=torch.zeros(5, 4).long(), targets=torch.zeros(5, 1).long(), read=(-1,))
        >>> len(batch), len(batch[0]), len(batch[2:])
        (5, 1, 3)
    """

    inputs: Tensor
    targets: Tensor
    read: tuple[int, ...] | Tensor
    mask: Tensor | None = None
    variables: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_shapes(self)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Any) -> Batch:  # anything, so that it can be refused in words
        """Return the examples of some rows: a number, a slice, numbers ``[n]`` or a mask ``[batch]``."""
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"expected a row within [{-len(self)}, {len(self)}), got {rows}")
            first = int(rows) % len(self)
            rows = slice(first, first + 1)
        elif not isinstance(rows, slice):
            rows = self._rows(rows)
        per_row = isinstance(self.read, Tensor) and self.read.ndim == 2
        return replace(
            self,
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            read=self.read[rows] if per_row else self.read,
            mask=None if self.mask is None else self.mask[rows],
            variables={name: value[rows] for name, value in self.variables.items()},
        )

    def _rows(self, rows: Any) -> Tensor:
        """Rows given one by one, or by a mask over all."""
        try:
            at = torch.as_tensor(rows, device=self.inputs.device)
        except (TypeError, ValueError, RuntimeError):
            at = None
        if at is None or at.ndim != 1 or at.is_floating_point() or at.is_complex():
            got = type(rows).__name__ if at is None else f"{at.dtype} {tuple(at.shape)}"
            raise TypeError(
                f"expected rows of a batch as an int, a slice, whole numbers [n] or a mask [batch], got {got}"
            )
        if at.dtype == torch.bool and len(at) != len(self):
            raise ValueError(f"expected a mask of {len(self)} rows, got {len(at)}; give one entry for each")
        return at

    def __getitems__(self, rows: list[int]) -> Batch:
        """Several rows at once, as a ``DataLoader`` asks for them."""
        return self[rows]

    def split(self, positions: int = 2**13) -> Iterator[Batch]:
        """The examples in order, about so many positions at a time: what a network works out of them is then
        small enough to be kept in fast memory and used again, where a large batch pays for new pages.
        """
        rows = max(1, positions // self.inputs.shape[1])
        return (self[start : start + rows] for start in range(0, max(1, len(self)), rows))

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


def joined(batches: Sequence[Batch] | Batch) -> Batch:
    """Put batches after one another, as a ``DataLoader`` does with single examples.

    Raises:
        ValueError: no batches, or ones of different lengths or positions read.
    """
    if isinstance(batches, Batch):
        return batches
    if not batches:
        raise ValueError("expected at least one batch to join, got none")
    first = batches[0]
    parts = {
        name: [getattr(batch, name) for batch in batches] for name in ("inputs", "targets", "mask", "read")
    }
    widths = {batch.inputs.shape[1:] for batch in batches}
    per_row = isinstance(first.read, Tensor) and first.read.ndim == 2
    same = per_row or all(_same_read(batch.read, first.read) for batch in batches)
    if len(widths) > 1 or not same or len({mask is None for mask in parts["mask"]}) > 1:
        raise ValueError(
            f"expected batches of one shape and the same positions read, got inputs of {sorted(widths)}; pad "
            "them to one length first"
        )
    return Batch(
        inputs=torch.cat(parts["inputs"]),
        targets=torch.cat(parts["targets"]),
        read=torch.cat(parts["read"]) if per_row else first.read,
        mask=None if first.mask is None else torch.cat(parts["mask"]),
        variables={name: torch.cat([each.variables[name] for each in batches]) for name in first.variables},
    )


def _same_read(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    return tuple(one) == tuple(other)


default_collate_fn_map[Batch] = lambda batches, **_: joined(batches)  # what a DataLoader looks up


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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Put the checks of ``tasks.door`` around what a subclass defines."""
        super().__init_subclass__(**kwargs)
        with_doors(cls)

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

    @property
    def _plain_loss(self) -> bool:
        """Whether targets are classes of a cross-entropy: nobody has changed the loss."""
        return type(self).loss is Task.loss

    def outputs(self, model: Callable, batch: Batch) -> Float[Tensor, "batch read out"]:
        """Return what the model answers at the positions read, ``[batch, read, out]``.

        A model whose forward pass takes ``read`` computes those positions only. Of any other model, such as
        TransformerLens's or a plain module, all positions are computed and those read chosen; ``outputs_by``
        says which.

        Raises:
            TypeError: the model returns no tensor.
            ValueError: outputs that do not fit the targets, or padding that the model cannot be told of.
        """
        return outputs_at(model, batch)

    def outputs_by(self, model: Callable) -> str:
        """Say how ``outputs`` gets at the positions read."""
        if type(self).outputs is not Task.outputs:
            return f"{type(self).__name__}.outputs"
        return "the model, given the positions" if takes(model, "read") else "choosing from all positions"

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
        """Return the mean cross-entropy in nats, computed in ``dtype``.

        Raises:
            ValueError: outputs and targets that do not fit, no examples, or targets that are no classes.
        """
        check_classes(batch.targets)
        try:
            return cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), dtype)
        except (IndexError, RuntimeError) as error:
            low, high, n_out = int(batch.targets.min()), int(batch.targets.max()), outputs.shape[-1]
            if low >= 0 and high < n_out:
                raise
            raise ValueError(
                f"expected classes within [0, {n_out}), as many as outputs, got {low} to {high}; build the "
                "network with a larger d_vocab_out, or number the classes anew"
            ) from error

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """Return the share of right answers, 0 to 1; NaN of no examples."""
        return (predicted(outputs) == batch.targets).double().mean().item()

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


with_doors(Task)


def predicted(outputs: Float[Tensor, "*at out"]) -> Int[Tensor, "*at"]:
    """Return the largest output's place; -1, which no answer is, where an output is NaN."""
    return outputs.argmax(-1).masked_fill(outputs.isnan().any(-1), -1)


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
