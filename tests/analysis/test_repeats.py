"""Equal rows get one number: whole numbers exactly, activations up to rounding, in every precision."""

import pytest
import torch

from mechinterp.analysis.repeats import repeated_cells, repeated_rows

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(n=400, kinds=31, seed=0):
    return torch.randint(kinds, (n,), generator=torch.Generator().manual_seed(seed))


def same_groups(ids, others):
    return bool(((ids[:, None] == ids) == (others[:, None] == others)).all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("d", [3, 64])
def test_activations_that_repeat_are_found_and_no_others(dtype, scale, offset, d):
    token = tokens(kinds=31 if d == 64 else 3)  # few numbers of half precision may be the same
    x = (scale * (normal(31, d) + offset)).to(dtype)
    assert same_groups(repeated_rows(x[token]), token)
    apart = (scale * (normal(400, d) + offset)).to(dtype)
    if d == 64:
        assert len(repeated_rows(apart).unique()) == 400


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_difference_and_a_small_feature_is_one(dtype):
    token, x = tokens(), normal(31, 64)
    rounded = x[token].to(dtype) * (1 + 4 * torch.finfo(dtype).eps * normal(400, 64, seed=1).clamp(-1, 1))
    assert same_groups(repeated_rows(rounded.to(dtype)), token)
    x[:, 0] = 1e4  # one huge direction must not hide the others
    small = x[token].clone()
    small[:, 1] += 1e-2 * torch.arange(400)
    assert len(repeated_rows(small.to(dtype)).unique()) == 400


def test_chains_of_near_rows_are_not_one_group():
    ladder = torch.arange(2000.0) / 1024 + 1  # each within rounding of the next, in half precision
    assert len(repeated_rows(ladder.half()[:, None]).unique()) > 300
    assert len(repeated_rows(ladder[:, None]).unique()) == 2000


def test_rows_far_from_0_whose_order_is_rounding_are_found():
    token = tokens(kinds=200)
    x = (normal(200, 16) + 1e5).float()[token]
    assert same_groups(repeated_rows(x), x.unique(dim=0, return_inverse=True)[1])


@pytest.mark.parametrize("make", [torch.Tensor.long, torch.Tensor.int, lambda x: x > 15, torch.Tensor.byte])
def test_whole_numbers_and_several_tensors(make):
    first, second = tokens(), tokens(seed=1)
    assert same_groups(repeated_rows(make(first)), make(first).long())
    rows = torch.stack((first, second), 1)
    both = first * 31 + second
    assert same_groups(repeated_rows(rows), both)
    assert same_groups(repeated_rows(first, second), both)
    assert same_groups(repeated_rows(first, normal(31, 8)[second]), both)


def test_groups_are_numbered_as_they_appear():
    assert repeated_rows(torch.tensor([7, 3, 7, 5, 3])).tolist() == [0, 1, 0, 2, 1]


def test_rows_that_are_not_finite_equal_none():
    x = torch.ones(6, 3)
    x[1:3, 0] = torch.nan
    x[3:, 1] = torch.inf
    assert len(repeated_rows(x).unique()) == 6


def test_cells_are_found_one_by_one():
    token = tokens()
    x = torch.stack((normal(31, 8)[token], normal(400, 8), torch.ones(400, 8)), 1)
    first, none, all_alike = repeated_cells(x)
    assert same_groups(first, token)
    assert none is None
    assert all_alike.tolist() == [0] * 400


def test_no_rows_no_features_and_lengths_that_differ():
    assert repeated_rows(torch.zeros(0, 3)).tolist() == []
    assert repeated_rows(torch.zeros(3, 0)).tolist() == [0, 0, 0]
    assert repeated_rows(torch.zeros(1, 2)).tolist() == [0]
    for wrong in ([torch.zeros(3), torch.zeros(4)], [], [torch.tensor(1.0)]):
        with pytest.raises(ValueError, match="expected tensors of the same rows"):
            repeated_rows(*wrong)
