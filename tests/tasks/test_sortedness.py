"""The laws of pairs of sequences: what the two share, and what alone tells them apart."""

import pytest
import torch

from mechinterp.tasks import Sortedness

TASK = Sortedness(n_test=400)
SPLITS = ("train", "val", "test")


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("length", [4, 8, 16, 256])
@pytest.mark.parametrize("negatives", ["adjacent", "shuffle"])
def test_every_other_sequence_never_falls_and_the_others_do(negatives, length):
    batch = Sortedness(negatives=negatives).of_length(length, 400)
    rising = (batch.inputs.diff(dim=1) >= 0).all(1)
    assert torch.equal(rising.long(), batch.targets[:, 0])
    assert batch.targets[::2].all()
    assert not batch.targets[1::2].any()


@pytest.mark.parametrize("length", [4, 8, 16, 256])
def test_the_two_of_a_pair_differ_in_two_neighbours_that_are_no_ends(length):
    batch = TASK.of_length(length, 400)
    ordered, other = batch.inputs[::2], batch.inputs[1::2]
    assert torch.equal(ordered.sort(1).values, other.sort(1).values)
    assert torch.equal(ordered[:, [0, -1]], other[:, [0, -1]])
    changed = ordered != other
    assert (changed.sum(1) == 2).all()
    first = changed.byte().argmax(1)
    assert torch.equal(batch.variables["place"][1::2], first + 1)
    assert changed.gather(1, first[:, None] + 1).all()


def test_all_places_between_the_ends_are_exchanged_alike():
    places = Sortedness(vocabulary=10**6, test_lengths=(8,)).of_length(8, 12_000).variables["place"][1::2]
    assert places.min() == 2 and places.max() == 6  # noqa: PT018
    share = places.bincount()[2:] / 6000
    assert (share - 0.2).abs().max() < 4 * (0.2 * 0.8 / 6000) ** 0.5


def test_nothing_but_the_order_tells():
    for seen in TASK.leaks(TASK.dataset("test")).values():
        assert torch.equal(seen[::2], seen[1::2])
    shuffled = Sortedness(negatives="shuffle", n_test=400)
    seen = shuffled.leaks(shuffled.dataset("test"))
    assert not torch.equal(seen["first token"][::2], seen["first token"][1::2])
    assert torch.equal(seen["bag of tokens"][::2], seen["bag of tokens"][1::2])


@pytest.mark.parametrize("negatives", ["adjacent", "shuffle"])
def test_variables_of_sequences_counted_by_hand(negatives):
    batch = Sortedness(vocabulary=9, negatives=negatives).of_length(7, 80)
    for row, tokens in enumerate(batch.inputs.tolist()):
        largest = [max(tokens[: i + 1]) for i in range(7)]
        assert batch.variables["prefix_max"][row].tolist() == largest
        falls = [i for i in range(1, 7) if tokens[i] < tokens[i - 1]]
        assert batch.variables["place"][row] == (falls[0] if falls else -1)
        assert batch.variables["gap"][row] == (tokens[falls[0] - 1] - tokens[falls[0]] if falls else 0)
        below = [i for i in range(7) if tokens[i] < largest[i]]
        assert batch.variables["descent"][row].nonzero()[:, 0].tolist() == below
        assert batch.variables["tie_rate"][row] == pytest.approx((7 - len(set(tokens))) / 6)
        assert batch.variables["length"][row] == 7


def test_without_ties_all_tokens_differ():
    batch = Sortedness(ties=False, test_lengths=(8, 64)).of_length(64, 100)
    assert not batch.variables["tie_rate"].any()


@pytest.mark.parametrize("ties", [True, False])
def test_windows_are_of_every_width_from_the_least_and_stay_within_the_vocabulary(ties):
    task = Sortedness(windows=6, ties=ties, test_lengths=(16,), n_test=4000)
    batch = task.of_length(16)
    assert batch.inputs.min() == 0
    assert batch.inputs.max() == 99
    spread = (batch.inputs.amax(1) - batch.inputs.amin(1))[::2]
    assert spread.min() == 15 if not ties else spread.min() <= 5
    assert spread.max() > 90
    assert 0.4 < (spread < 53).double().mean() < 0.65


@pytest.mark.parametrize("length", [64, 256, 800])
def test_short_sequences_can_be_as_dense_as_long_ones(length):
    task = Sortedness(n_test=4000)
    dense = task.of_length(16, as_dense_as=length)
    width = round(100 * 16 / length)
    assert (dense.inputs.amax(1) - dense.inputs.amin(1)).max() == width - 1
    assert dense.inputs.min() == 0
    assert dense.inputs.max() == 99
    if length == 256:  # as often by one
        near = [(b.variables["gap"][1::2] == 1).double().mean() for b in (dense, task.of_length(256, 2000))]
        assert abs(near[0] - near[1]) < 0.05


def test_splits_have_other_sequences_and_stay_the_same():
    batches = [TASK.dataset(split).inputs for split in SPLITS]
    assert torch.equal(batches[2], TASK.dataset("test").inputs)
    rows = [set(map(tuple, batch.tolist())) for batch in batches]
    assert not rows[0] & rows[1]
    assert not rows[1] & rows[2]
    assert not torch.equal(batches[2], Sortedness(n_test=400, seed=1).dataset("test").inputs)


def test_every_length_of_training_is_sampled():
    draws = generator()
    seen = {TASK.sample(8, draws, variables=False).inputs.shape[1] for _ in range(300)}
    assert seen == set(range(8, 17))


def test_a_constant_answer_is_right_in_exactly_half():
    batch = TASK.of_length(32)
    always = torch.tensor([0.0, 1.0]).expand(len(batch), 1, 2)
    assert TASK.score(always, batch) == TASK.trivial == 0.5


WRONG = {
    "no_vocabulary": ({"vocabulary": 0}, "vocabulary of at least 2"),
    "all_equal": ({"vocabulary": 1}, "equal tokens are always sorted"),
    "length_1": ({"train_lengths": (1, 8)}, "at least 4, got 1"),
    "test_length_3": ({"test_lengths": (3, 8)}, "at least 4, got 3"),
    "reversed": ({"train_lengths": (16, 8)}, "shortest and the longest"),
    "no_lengths": ({"test_lengths": ()}, "at least one"),
    "negatives": ({"negatives": "reverse"}, "adjacent or shuffle"),
    "no_ties_too_long": ({"ties": False, "vocabulary": 32}, "at most 32 different tokens"),
    "unsorted": ({"test_lengths": (16, 8)}, "test_lengths that increase"),
    "twice": ({"test_lengths": (8, 8)}, "test_lengths that increase"),
    "narrow": ({"windows": 1}, "windows of 2 to 100"),
    "wide": ({"windows": 101}, "windows of 2 to 100"),
    "few": ({"n_test": 4}, "n_test >= 10"),
    "seed": ({"seed": -1}, "seed >= 0"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Sortedness(**fields)


def test_odd_numbers_and_short_lengths_are_refused():
    with pytest.raises(ValueError, match="in pairs, got 7"):
        TASK.sample(7, generator())
    with pytest.raises(ValueError, match="at least 4, got 2"):
        TASK.of_length(2)
    for task in (Sortedness(vocabulary=12), Sortedness(ties=False, test_lengths=(8,))):
        with pytest.raises(ValueError, match="expected a density that 16 tokens can have, got that of 128"):
            task.of_length(16, as_dense_as=128)
    with pytest.raises(ValueError, match="expected a density that 32 tokens can have, got that of 16"):
        Sortedness().of_length(32, as_dense_as=16)
