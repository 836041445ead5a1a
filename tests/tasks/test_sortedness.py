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
    batch = TASK.dataset("test")
    for seen in TASK.leaks(batch).values():
        assert torch.equal(seen[::2], seen[1::2])
    shuffled = Sortedness(negatives="shuffle", n_test=400)
    seen = shuffled.leaks(shuffled.dataset("test"))
    assert not torch.equal(seen["first token"][::2], seen["first token"][1::2])
    assert torch.equal(seen["bag of tokens"][::2], seen["bag of tokens"][1::2])


def test_variables_of_one_sequence_by_hand():
    batch = Sortedness(vocabulary=9, train_lengths=(4, 5), test_lengths=(4,)).dataset("test")
    rows, at = batch.inputs, torch.arange(5)
    for row in range(0, len(batch), 37):
        length = int(batch.variables["length"][row])
        tokens = rows[row, :length]
        assert (rows[row, length:] == 9).all()
        assert torch.equal(batch.mask[row], at < length)
        assert int(batch.read[row, 0]) == length - 1
        largest = [max(tokens[: i + 1]).item() for i in range(length)]
        assert batch.variables["prefix_max"][row, :length].tolist() == largest
        falls = [i for i in range(1, length) if tokens[i] < tokens[i - 1]]
        assert batch.variables["place"][row] == (falls[0] if falls else -1)
        assert batch.variables["gap"][row] == (tokens[falls[0] - 1] - tokens[falls[0]] if falls else 0)
        below = [i for i in range(length) if tokens[i] < largest[i]]
        assert batch.variables["descent"][row].nonzero()[:, 0].tolist() == below
        ordered = sorted(tokens.tolist())
        equal = len(ordered) - len(set(ordered))
        assert batch.variables["tie_rate"][row] == pytest.approx(equal / (length - 1))


def test_without_ties_all_tokens_differ():
    batch = Sortedness(ties=False, test_lengths=(8, 64)).of_length(64, 100)
    assert not batch.variables["tie_rate"].any()


@pytest.mark.parametrize("ties", [True, False])
def test_windows_make_short_sequences_as_dense_as_long_ones_and_stay_within_the_vocabulary(ties):
    lengths = (16, 128) if ties else (16, 100)
    dense = Sortedness(windows=True, ties=ties, test_lengths=lengths, n_test=4000).of_length(16)
    plain = Sortedness(ties=ties, test_lengths=lengths, n_test=4000).of_length(16)
    assert dense.inputs.min() == 0 and dense.inputs.max() == 99  # noqa: PT018
    spread = (dense.inputs.amax(1) - dense.inputs.amin(1))[::2]
    assert spread.min() == 15 if not ties else 6 < spread.min() < 13
    near = [(batch.variables["gap"][1::2] == 1).double().mean() for batch in (plain, dense)]
    assert near[1] > 1.3 * near[0]
    assert bool(dense.variables["tie_rate"].any()) == ties


def test_splits_have_other_sequences_and_stay_the_same():
    batches = [TASK.dataset(split).inputs for split in SPLITS]
    assert torch.equal(batches[2], TASK.dataset("test").inputs)
    rows = [set(map(tuple, batch.tolist())) for batch in batches]
    assert not rows[0] & rows[1]
    assert not rows[1] & rows[2]
    assert not torch.equal(batches[2], Sortedness(n_test=400, seed=1).dataset("test").inputs)


def test_every_length_of_training_is_sampled_and_in_every_split():
    draws = generator()
    seen = {TASK.sample(8, draws, variables=False).inputs.shape[1] for _ in range(300)}
    assert seen == set(range(8, 17))
    for split in SPLITS:
        counts = TASK.dataset(split).variables["length"].bincount()[8:]
        assert len(counts) == 9
        assert counts.unique().numel() == 1


def test_a_constant_answer_is_right_in_exactly_half():
    batch = TASK.of_length(32)
    always = torch.tensor([0.0, 1.0]).expand(len(batch), 1, 2)
    assert TASK.score(always, batch) == TASK.trivial == 0.5


WRONG = {
    "no_vocabulary": ({"vocabulary": 0}, "vocabulary of at least 2"),
    "all_equal": ({"vocabulary": 1}, "equal tokens are always sorted"),
    "length_1": ({"train_lengths": (1, 8)}, "at least 4, got 1"),
    "test_length_3": ({"test_lengths": (8, 3)}, "at least 4, got 3"),
    "reversed": ({"train_lengths": (16, 8)}, "shortest and the longest"),
    "no_lengths": ({"test_lengths": ()}, "at least one of test_lengths"),
    "negatives": ({"negatives": "reverse"}, "adjacent or shuffle"),
    "no_ties_too_long": ({"ties": False, "vocabulary": 32}, "at most 32 different tokens"),
    "few": ({"n_test": 50}, "n_test of at least 90"),
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
