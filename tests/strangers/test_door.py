"""The door of every task: parts that do not fit are refused, whoever wrote the task or the network."""

import functools
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mechinterp import models, tasks
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.tasks.base import Batch, Task, joined, predicted


@dataclass(frozen=True, kw_only=True)
class Copy(Task):
    """A user's own: answer the first token at the last position."""

    name = "copy"
    learned_at = 0.9
    trivial = 0.2

    def dataset(self, split):
        return self.sample(40, torch.Generator().manual_seed(len(split)))

    def sample(self, n, generator, variables=True):
        x = torch.randint(5, (n, 4), generator=generator)
        return Batch(inputs=x, targets=x[:, :1], read=(-1,), variables={"first": x[:, 0]})


TASKS = {
    "copy": Copy(),
    "modular addition": tasks.ModularAddition(p=7, train_fraction=0.5),
    "linear regression": tasks.LinearRegression(d=3, n_context=4, max_context=6, n_test=20),
    "regex language": tasks.RegexLanguage(pattern="a*b*", n_samples=200, max_len=6),
    "state machine": tasks.StateMachine(length=6, n_test=50),
    "text sum": tasks.TextSum(n_test=50),
    "text residue": tasks.TextModular(n_test=50),
    "circle": tasks.TextModular(n_test=50, readout="circle"),
    "digit addition": tasks.DigitAddition(n_digits=2, n_test=50),
    "sortedness": tasks.Sortedness(n_test=20),
}
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


@functools.cache
def data(task):
    return task.dataset("test")


def answers_like(task, batch, seed=0):
    """Random outputs of the right shape."""
    width = {"linear_regression": 1, "text_sum": 1}.get(task.name, 100)
    width = getattr(task, "d_answer", getattr(task, "d_vocab", width))
    shape = (*batch.targets.shape[:2], width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def changed(batch, how):
    """Parts of a batch in a form that does not fit it."""
    n, pos = batch.inputs.shape[:2]
    return {
        "targets without an axis": {"targets": batch.targets[:, 0].reshape(n, -1)[:, 0]},
        "a target too many": {"targets": torch.cat((batch.targets, batch.targets[:, :1]), 1)},
        "a row too few": {"targets": batch.targets[1:]},
        "targets as a list": {"targets": batch.targets.tolist()},
        "inputs as numpy": {"inputs": batch.inputs.numpy()},
        "one example": {"inputs": batch.inputs.flatten()[:n]},
        "another position": {"read": (*range(batch.targets.shape[1]), 0)},
        "no position": {"read": ()},
        "a position beyond": {"read": (pos,) * batch.targets.shape[1]},
        "half a position": {"read": torch.full((batch.targets.shape[1],), 0.5)},
        "a mask as positions": {"read": torch.ones(batch.targets.shape[1], dtype=torch.bool)},
        "a number for positions": {"read": -1},
        "positions of other rows": {"read": torch.zeros(n + 1, batch.targets.shape[1], dtype=torch.long)},
        "an additive mask": {"mask": torch.zeros(n, pos)},
        "a mask of twos": {"mask": torch.full((n, pos), 2)},
        "a short mask": {"mask": torch.ones(n, pos - 1, dtype=torch.bool)},
        "a mask as a list": {"mask": [True] * n},
        "a short variable": {"variables": {"x": torch.zeros(n - 1)}},
        "a variable as a number": {"variables": {"x": 1.0}},
        "variables as a list": {"variables": [torch.zeros(n)]},
    }[how]


SHAPES = (
    *("targets without an axis", "a target too many", "a row too few", "targets as a list"),
    *("inputs as numpy", "one example", "another position", "no position", "a position beyond"),
    *("half a position", "a mask as positions", "a number for positions", "positions of other rows"),
    *("an additive mask", "a mask of twos", "a short mask", "a mask as a list"),
    *("a short variable", "a variable as a number", "variables as a list"),
)


@EVERY
@pytest.mark.parametrize("how", SHAPES)
def test_a_batch_whose_parts_do_not_fit_is_refused(task, how):
    batch = data(task)
    with pytest.raises((TypeError, ValueError), match=r"^expected "):
        replace(batch, **changed(batch, how))


@EVERY
@pytest.mark.parametrize("method", ["loss", "score"])
@pytest.mark.parametrize("how", ["no axis", "a position more", "fewer rows", "none", "tuple", "no batch"])
def test_outputs_that_do_not_fit_are_neither_scored_nor_trained_on(task, method, how):
    batch = data(task)
    right = answers_like(task, batch)
    outputs = {
        "no axis": right[:, 0],
        "a position more": torch.cat((right, right[:, :1]), 1),
        "fewer rows": right[1:],
        "none": None,
        "tuple": (right,),
        "no batch": right,
    }[how]
    called = getattr(task, method)
    called(right, batch)
    with pytest.raises((TypeError, ValueError), match=r"^expected "):
        called(outputs, None if how == "no batch" else batch)


@EVERY
def test_scores_of_outputs_that_are_no_numbers_are_not_right(task):
    batch = data(task)
    outputs = torch.full_like(answers_like(task, batch), torch.nan)
    score = task.score(outputs, batch)
    assert score == 0 or score != score


def test_one_output_that_is_no_number_is_one_wrong_answer():
    outputs = torch.eye(3)[None].clone()
    outputs[0, 0, 2] = torch.nan
    assert predicted(outputs).tolist() == [[-1, 1, 2]]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"inputs": torch.randn(9, 4).masked_fill(torch.eye(9, 4).bool(), torch.nan)[..., None]}, "finite"),
        ({"inputs": torch.full((9, 4), -1)}, "ids >= 0"),
        ({"targets": torch.full((9, 1), -100)}, "classes >= 0"),
        ({"targets": torch.zeros(9, 1)}, "int64"),
        ({"targets": torch.zeros(9, 1, 2, dtype=torch.long)}, "int64"),
        ({"mask": torch.tensor([[True, True, True, False]]).repeat(9, 1)}, "padding"),
        ({"read": torch.full((9, 1), 4)}, "within"),
        ({}, ""),
    ],
)
def test_values_of_a_data_set_are_read_once(given, word):
    class Mine(Copy):
        def dataset(self, split):
            parts = {"inputs": torch.ones(9, 4).long(), "targets": torch.ones(9, 1).long(), "read": (-1,)}
            return Batch(**parts | given)

    if not word:
        assert len(Mine().dataset("test")) == 9
        return
    with pytest.raises(ValueError, match=rf"^expected .*{word}"):
        Mine().dataset("test")


@pytest.mark.parametrize(
    "returned", [None, (torch.ones(2, 3), torch.ones(2)), {"inputs": 1}, torch.ones(3, 3)]
)
@pytest.mark.parametrize("method", ["dataset", "sample"])
def test_a_data_set_is_a_batch(method, returned):
    mine = type("Mine", (Copy,), {method: lambda self, *args, **kwargs: returned})()
    with pytest.raises(TypeError, match=rf"^expected Mine.{method} to return a Batch"):
        getattr(mine, method)("test", None)


def test_classes_beyond_the_outputs_are_refused():
    batch = Copy().dataset("test")
    with pytest.raises(ValueError, match=r"^expected classes within \[0, 3\)"):
        Copy().loss(torch.zeros(len(batch), 1, 3), batch)


# ---- any network -----------------------------------------------------------------------------


def network():
    sizes = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 1, "n_ctx": 4, "d_mlp": 32, "d_vocab": 5}
    return HookedTransformer(TransformerConfig(**sizes)).eval()


class Plain(nn.Module):
    """Returns all positions and knows no others."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, tokens):
        return self.inner(tokens)


class Swallows(Plain):
    """Takes any keyword, and listens to none."""

    def forward(self, tokens, **kwargs):
        return self.inner(tokens)


class Record(Plain):
    """Returns a record, as the transformers library does."""

    def forward(self, tokens):
        return SimpleNamespace(logits=self.inner(tokens))


NETWORKS = {
    "ours": lambda inner: inner,
    "plain": Plain,
    "swallows keywords": Swallows,
    "record": Record,
    "function": lambda inner: lambda tokens: inner(tokens),
    "partial": lambda inner: functools.partial(Plain.forward, SimpleNamespace(inner=inner)),
    "compiled": lambda inner: torch.compile(Plain(inner), backend="eager"),
    "compiled, ours": lambda inner: torch.compile(inner, backend="eager"),
    "parallel": lambda inner: nn.DataParallel(Plain(inner)),
    "sequential": lambda inner: nn.Sequential(inner, nn.Identity()),
}


@pytest.mark.parametrize("read", [(-1,), (0, -2), torch.tensor([2]), torch.arange(80).view(40, 2) % 4])
@pytest.mark.parametrize("wrapped", NETWORKS.values(), ids=NETWORKS.keys())
def test_outputs_of_any_network_are_those_at_the_positions_read(wrapped, read):
    inner, batch = network(), Copy().dataset("test")
    n_read = torch.as_tensor(read).shape[-1]
    batch = replace(batch, targets=batch.targets.expand(-1, n_read), read=read)
    every = inner(batch.inputs)
    at = torch.as_tensor(read).expand(len(batch), -1) % 4
    wanted = every.gather(1, at[..., None].expand(-1, -1, 5))
    model = wrapped(inner)
    with torch.no_grad():
        torch.testing.assert_close(Copy().outputs(model, batch), wanted)
        torch.testing.assert_close(Copy().answers(model, batch), wanted)
    assert ("given" in Copy().outputs_by(model)) == (
        model is inner or ("_orig_mod" in dir(model) and model._orig_mod is inner)
    )


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: torch.zeros(len(x), 5),
        lambda x: torch.zeros(len(x), 1, 5),
        lambda x: torch.zeros(len(x) - 1, 4, 5),
        lambda x: (torch.zeros(len(x), 4, 5), None),
        lambda x: None,
    ],
)
def test_outputs_of_other_shapes_are_refused(returned):
    with pytest.raises((TypeError, ValueError), match=r"^expected function to return"):
        Copy().outputs(returned, Copy().dataset("test"))


@pytest.mark.parametrize("wrapped", [Plain, Swallows])
def test_padding_is_not_kept_from_a_network(wrapped):
    batch = Copy().dataset("test")
    model, mask = wrapped(network()), torch.ones(40, 4, dtype=torch.bool)
    Copy().outputs(model, replace(batch, mask=mask))
    mask[3, 0] = False
    with pytest.raises(ValueError, match=r"^expected a model whose forward takes attention_mask"):
        Copy().outputs(model, replace(batch, mask=mask))


def test_outputs_of_an_overridden_method_are_checked():
    class Mine(Copy):
        def outputs(self, model, batch):
            return model(batch.inputs)

    with pytest.raises(ValueError, match=r"^expected outputs"):
        Mine().outputs(network(), Mine().dataset("test"))


# ---- rows ------------------------------------------------------------------------------------


@EVERY
def test_rows_of_a_batch_are_a_batch(task):
    batch = data(task)
    for rows in (0, -1, [0, 2], slice(1, 3), torch.tensor([1]), torch.arange(len(batch)) < 2, range(2)):
        part = batch[rows]
        assert part.inputs.shape[1:] == batch.inputs.shape[1:]
        assert len(part) == len(part.targets) == (1 if isinstance(rows, int) else len(part))
    assert torch.equal(batch[-1].inputs[0], batch.inputs[-1])
    assert len(batch[:0]) == 0
    assert len(list(batch)) == len(batch)


@pytest.mark.parametrize("rows", ["a", 1.5, torch.ones(3), [[0, 1]], torch.ones(3, dtype=torch.bool), None])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises((TypeError, ValueError), match=r"^expected "):
        Copy().dataset("test")[rows]


def test_rows_beyond_the_batch_end_an_iteration():
    with pytest.raises(IndexError, match=r"^expected a row"):
        Copy().dataset("test")[40]


@EVERY
@pytest.mark.parametrize("settings", [{}, {"shuffle": True}, {"batch_size": None}])
def test_a_data_loader_gives_batches(task, settings):
    batch = data(task)
    loaded = list(DataLoader(batch, **{"batch_size": 8} | settings))
    assert sum(map(len, loaded)) == len(batch)
    whole = joined(loaded)
    if "shuffle" not in settings:
        assert torch.equal(whole.inputs, batch.inputs)
    assert whole.inputs.shape == batch.inputs.shape
    assert whole.variables.keys() == batch.variables.keys()


def test_batches_of_other_lengths_are_not_joined():
    batch = Copy().dataset("test")
    shorter = Batch(inputs=batch.inputs[:, :3], targets=batch.targets, read=(-1,))
    for parts in ([], [batch, shorter]):
        with pytest.raises(ValueError, match=r"^expected "):
            joined(parts)


@EVERY
def test_an_empty_batch_has_no_score_and_no_loss(task):
    empty = data(task)[:0]
    outputs = answers_like(task, empty)
    score = task.score(outputs, empty)
    assert score != score
    with pytest.raises(ValueError, match=r"^expected at least one example"):
        task.loss(outputs, empty)


def test_an_empty_batch_is_answered_by_nothing():
    batch = TASKS["modular addition"].dataset("test")[:0]
    model = models.modular_addition(TASKS["modular addition"])
    assert TASKS["modular addition"].answers(model, batch).shape == (0, 1, 7)
