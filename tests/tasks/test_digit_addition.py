"""Sums digit by digit: right, held out for good, and with the carries that they have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.tasks import DigitAddition
from mechinterp.tasks.digits import CLASSES, columns_of, digits_of, hashed, numbers_of

TASKS = {
    "reversed": DigitAddition(),
    "plain": DigitAddition(reverse=False),
    "binary": DigitAddition(base=2, n_digits=6),
    "hexadecimal": DigitAddition(base=16, n_digits=2),
    "room": DigitAddition(n_digits=2, room=4),
    "long": DigitAddition(n_digits=6),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_is_to_be_written_is_the_sum(name):
    task = TASKS[name]
    batch = task.sample(200, torch.Generator().manual_seed(0))
    for inputs, targets, a, b in zip(batch.inputs, batch.targets, batch.variables["a"], batch.variables["b"]):
        text = task.text(inputs).replace("_", "")
        source, written = text.split("=")
        first, second = source.split("+")
        assert (int(first, task.base), int(second, task.base)) == (int(a), int(b))
        assert task.value(targets) == int(a + b)
        assert task.text(targets) == written + "$"
    assert batch.inputs.shape[1] == task.n_source + task.n_target


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 36), st.integers(1, 5), st.data())
def test_digits_and_numbers_are_each_others_inverse(base, n, data):
    number = data.draw(st.integers(0, base**n - 1))
    digits = digits_of(torch.tensor([number]), n, base)
    assert int(numbers_of(digits, base)) == number


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.data())
def test_columns_are_those_of_the_school_book(base, n, data):
    a, b = (data.draw(st.integers(0, base**n - 1)) for _ in range(2))
    found = {name: x[0] for name, x in columns_of(torch.tensor([a]), torch.tensor([b]), n, base).items()}
    carry, run = 0, 0
    for i in range(n):
        x, y = a // base**i % base, b // base**i % base
        assert int(found["carry_in"][i]) == carry
        assert int(found["cascade"][i]) == (run if carry else 0)
        before = carry
        carry = int(x + y + carry >= base)
        handed = bool(before and x + y == base - 1)
        run = 1 + run if handed else 1
        kind = "UseSum9" if handed else "UseCarry1" if carry else "BaseAdd"
        assert CLASSES[int(found["class"][i + 1])] == kind
        assert bool(found["sum_is_9"][i]) == (x + y == base - 1)
        assert int(found["carry_out"][i]) == carry
    assert int(found["longest"]) == int(found["cascade"].max())


def test_no_problem_of_one_split_is_in_another():
    task = TASKS["reversed"]

    def problems(batch):
        return set((1000 * batch.variables["a"] + batch.variables["b"]).tolist())

    test, val = (problems(task.dataset(split)) for split in ("test", "val"))
    train = problems(task.sample(50_000, torch.Generator().manual_seed(1)))
    assert not test & val
    assert not train & (test | val)
    assert len(test) == 10_000
    assert problems(task.dataset("test")) == test
    held = problems(task.with_cascade(3, held_out=True))
    assert not held & train


def test_another_seed_holds_out_other_problems():
    first, second = (hashed(torch.arange(20_000), seed) for seed in (0, 12_345))
    assert abs(float((first < 0.1).double().mean()) - 0.1) < 0.01
    assert abs(float(((first < 0.1) & (second < 0.1)).double().mean()) - 0.01) < 0.004
    assert torch.equal(first, hashed(torch.arange(20_000), 0))


def test_problems_are_drawn_with_the_cascade_asked_for():
    task = TASKS["reversed"]
    counts = [len(task.with_cascade(length)) for length in range(4)]
    assert sum(counts) == 10**6
    assert counts[3] == 45 * 10 * 10  # a carry out of the first column, and two sums of nine
    for length in range(4):
        assert bool((task.with_cascade(length).variables["longest"] == length).all())


@pytest.mark.parametrize("kind", ["carry", "digit"])
@pytest.mark.parametrize("column", [1, 2])
def test_pairs_differ_in_one_digit_of_the_sum_alone(kind, column):
    task = TASKS["reversed"]
    more, less = task.pairs(kind, column, n=300)
    place = task.columns.index(column)
    apart = more.targets != less.targets
    assert bool(apart[:, place].all())
    assert int(apart.sum()) == 300
    assert torch.equal(more.targets[:, place], less.targets[:, place] + 1)
    carries = [batch.variables["carry_in"] for batch in (more, less)]
    assert bool((carries[0][:, column] == (kind == "carry")).all())
    assert bool((carries[1][:, : column + 1] == 0).all())
    assert torch.equal(carries[0][:, column + 1 :], carries[1][:, column + 1 :])
    own = [batch.variables["digit_sum"][:, column] for batch in (more, less)]
    assert torch.equal(own[0], own[1] + (kind == "digit"))


def test_texts_become_prompts():
    task = TASKS["room"]
    tokens, mask = task.prompts(["7+12=", "99+0"])
    assert [task.text(row) for row in tokens] == ["07+12____=", "99+00____="]
    assert torch.equal(mask, tokens != task.padding)
    assert TASKS["reversed"].prompts(["7+12="])[1] is None


def test_problems_of_which_neither_order_is_trained_on_are_known():
    task = TASKS["reversed"]
    batch = task.dataset("test")
    apart = task.apart(batch)
    assert 0.05 < apart.double().mean() < 0.15
    generator = torch.Generator().manual_seed(0)
    drawn = task.sample(20_000, generator).variables
    seen = set(zip(drawn["a"].tolist(), drawn["b"].tolist()))
    swapped = list(zip(batch.variables["b"].tolist(), batch.variables["a"].tolist()))
    assert not seen & {pair for pair, alone in zip(swapped, apart.tolist()) if alone}
    assert seen & {pair for pair, alone in zip(swapped, apart.tolist()) if not alone}


def test_cascades_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="held out whose carry runs over 2 columns, got none"):
        DigitAddition(n_digits=2, base=3, n_test=10).with_cascade(2, held_out=True)


REFUSED = {
    "empty": ([], "got none"),
    "letters": (["1a+2="], "with \\['a'\\]"),
    "too_many_digits": (["123+4="], "with 3 digits"),
    "no_plus": (["12="], "one \\+ between"),
    "nothing": (["+1="], "with 0 digits"),
    "three_numbers": (["1+2+3="], "one \\+ between"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_problem_is_refused(name):
    texts, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        TASKS["room"].prompts(texts)
    with pytest.raises(ValueError, match="with \\['7'\\]"):
        TASKS["binary"].prompts(["7+1="])


IMPOSSIBLE = {
    "base": {"base": 1}, "large_base": {"base": 37}, "digits": {"n_digits": 0}, "room": {"room": 2},
    "share": {"enriched": 1.5}, "nothing_held_out": {"held_out": 0.0}, "many_problems": {"n_digits": 10},
    "tests": {"n_test": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_tasks_are_refused(name):
    with pytest.raises(ValueError, match="expected"):
        DigitAddition(**IMPOSSIBLE[name])


def test_there_is_no_longer_cascade_than_digits_and_no_other_pair():
    with pytest.raises(ValueError, match="cascade of 0 to 3"):
        DigitAddition().with_cascade(4)
    for kind, column in (("sum", 1), ("carry", 0), ("digit", 3)):
        with pytest.raises(ValueError, match="carry or digit and a column of 1 to 2"):
            DigitAddition().pairs(kind, column)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.tensor([1.5]), torch.tensor([3.0]), "whole numbers"),
        (torch.tensor([1, 2]), torch.tensor([3]), "pair them"),
        (torch.tensor([1000]), torch.tensor([3]), "got \\[1000\\]"),
    ],
)
def test_numbers_that_are_no_problems_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        DigitAddition().batch(a, b)
