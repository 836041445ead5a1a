"""Controls: what a probe that only remembers scores, what chance scores, and what padding must not do."""

import numpy as np
import pytest
import torch

from mechinterp.analysis.gates import Gate
from mechinterp.analysis.probes import Logistic, probe
from mechinterp.analysis.probes.layout import Part, lay_out, split_rows
from mechinterp.analysis.probes.scores import accuracy, bootstrap, r_squared, shuffle_p_values
from mechinterp.result import NotLearned


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def remembered(n=600, words=20, d=40):
    """Activations that are a random vector of the token, and nothing else."""
    tokens = torch.randint(0, words, (n, 2), generator=generator(1))
    return {"x": torch.randn(words, d, generator=generator(2))[tokens]}, tokens


def each_row(n=600):
    """Every row is one of its own, although tokens repeat: what is remembered is scored."""
    return torch.arange(n)


def test_a_probe_that_only_remembers_tokens_has_no_selectivity():
    activations, tokens = remembered()
    label = torch.randn(20, generator=generator(3))[tokens]  # random by token: nothing but memory helps
    result = probe(activations, label, inputs=tokens, shuffles=5, together=each_row())
    assert result.values.min() > 0.99
    assert result.extra["control_task"].min() > 0.95
    assert np.abs(result.extra["selectivity"]).max() < 0.05
    assert result.extra["raw_input"].min() > 0.95


def test_a_classifier_that_only_remembers_has_no_selectivity_either():
    activations, tokens = remembered(n=300)
    label = torch.randint(0, 2, (20,), generator=generator(3))[tokens]
    result = probe(
        activations, label, Logistic(), inputs=tokens, shuffles=3, positions=[0], together=each_row(300)
    )
    assert result.values.item() > 0.99
    assert abs(result.extra["selectivity"].item()) < 0.05


def test_a_feature_apart_from_the_token_is_selective():
    _, tokens = remembered()
    number = torch.randn(600, generator=generator(3))
    x = {"x": 0.05 * torch.randn(600, 2, 40, generator=generator(4))}
    x["x"] += number[:, None, None] * torch.randn(40, generator=generator(5))
    result = probe(x, number, inputs=tokens, shuffles=5)
    assert result.values.min() > 0.95
    assert result.extra["selectivity"].min() > 0.9
    assert np.abs(result.extra["raw_input"]).max() < 0.15


def test_selectivity_is_undefined_where_there_is_one_input_type():
    activations, tokens = remembered()
    tokens[:, 1] = 3
    result = probe(activations, torch.randn(600), inputs=tokens, shuffles=2)
    assert result.extra["selectivity"].isnull().values.tolist() == [[False, True]]


def test_types_can_be_given_instead_of_tokens():
    number = torch.randint(0, 6, (300,), generator=generator(1))
    wave = (2 * torch.pi * number / 6).cos()
    result = probe(torch.eye(6)[number], wave, types=number, shuffles=4, together=each_row(300))
    assert result.values.item() == pytest.approx(result.extra["control_task"].item(), abs=0.01)


def test_the_untrained_network_and_the_raw_input_stand_beside():
    activations, tokens = remembered()
    blank = {"x": torch.randn(600, 2, 40, generator=generator(7)), "another": torch.zeros(600, 2, 1)}
    first = tokens[:, 0].float()  # of both positions
    result = probe(activations, first, untrained=blank, inputs=tokens, shuffles=1, together=each_row())
    assert result.values.values[0, 0] > 0.99
    assert abs(result.values.values[0, 1]) < 0.15
    assert np.abs(result.extra["untrained"]).max() < 0.2
    assert result.extra["raw_input"].dims == ("position",)
    assert result.extra["raw_input"].min() > 0.99


def test_the_shuffle_test_keeps_its_level():
    plants = 400
    x = torch.randn(plants, 60, 3, generator=generator(1)).movedim(
        0, 1
    )  # each position is a plant of its own
    labels = torch.randn(60, plants, generator=generator(2))
    result = probe(x.contiguous(), labels, shuffles=0, permutations=200, test=0.5)
    assert 0.025 < (result.extra["p_value"] <= 0.05).mean() < 0.08
    assert (result.extra["p_adjusted"] <= 0.05).mean() < 0.01


def test_the_refitted_shuffles_cover_the_score_of_chance_as_often_as_they_say():
    plants = 300
    x = torch.randn(60, plants, 3, generator=generator(1))
    result = probe(x, torch.randn(60, plants, generator=generator(2)), shuffles=100, permutations=0, test=0.5)
    above = (result.values > result.extra["shuffled_high"]).mean()
    assert 0.005 < above < 0.05  # 2.5 %
    assert "p_value" not in result.extra


def test_shuffling_is_of_whole_sequences_within_a_split_and_a_position():
    mask = torch.rand(12, 5, generator=generator()) < 0.7
    mask[:6] = True
    rows = split_rows(12, 0.5, seed=0)
    part = lay_out(12, 5, rows, mask=mask, pool=True).parts[0]
    position = part.take(torch.arange(5).expand(12, -1), "train")[0]
    for order in part.shuffles("train", 20, seed=0):
        assert sorted(order.tolist()) == list(range(len(order)))
        assert (position[order] == position).all()
    whole = lay_out(12, 5, rows, pool=True).parts[0]
    sequence = whole.sequences("test").view(-1, 5)
    for order in whole.shuffles("test", 20, seed=0):
        assert (
            whole.sequences("test")[order].view(-1, 5) == whole.sequences("test")[order].view(-1, 5)[:, :1]
        ).all()
    assert (sequence == sequence[:, :1]).all()


@pytest.mark.parametrize("pool", [False, True])
def test_groups_are_held_out_and_dealt_out_whole(pool):
    word = torch.randint(12, (60,), generator=generator())  # of unequal sizes
    rows = split_rows(60, 0.5, 0, together=word)
    assert not set(word[rows["train"]].tolist()) & set(word[rows["test"]].tolist())
    part = lay_out(60, 3, rows, pool=pool, together=word).parts[0]
    labels = part.take(word[:, None].expand(-1, 3), "test")[0]
    orders = part.shuffles("test", 20, seed=0)
    assert orders.shape == (20, len(labels))
    for order in orders:
        pairs = set(zip(labels.tolist(), labels[order].tolist()))
        assert len(pairs) == len(labels.unique()) == len({after for _, after in pairs})
    assert any((labels[order] != labels).any() for order in orders)


def test_what_varies_within_groups_is_dealt_out_within_them_too():
    group, number = torch.arange(200) // 10, torch.arange(200).float() % 10  # in the same order in each
    found = probe(number[:, None] + 0.1 * torch.randn(200, 1), number, together=group)
    assert found.values.item() > 0.9
    assert found.control.item() < 0.2
    assert found.extra["p_value"].item() < 0.01


def test_groups_are_counted_among_real_tokens():
    mask = torch.ones(60, 2, dtype=torch.bool)
    mask[:, 1] = torch.arange(60) % 12 < 6
    with pytest.raises(ValueError, match="groups of together"):
        probe(torch.randn(60, 2, 3), torch.randn(60, 2), mask=mask, together=torch.arange(60) % 12, test=0.5)


@pytest.mark.parametrize(
    ("together", "test", "said"),
    [
        (torch.zeros(39, dtype=torch.long), 0.25, "number the group of each of 40 examples"),
        (torch.arange(40) // 20, 0.5, "at least 5 groups"),
        (torch.arange(40) // 2, torch.arange(40) % 2 == 0, "on one side"),
    ],
)
def test_groups_that_cannot_be_held_out_are_refused(together, test, said):
    with pytest.raises(ValueError, match=said):
        probe(torch.randn(40, 3), torch.randn(40), together=together, test=test)


@pytest.mark.parametrize("pool", [False, True])
def test_padding_enters_no_fit(pool):
    g = generator(1)
    x, number = torch.randn(300, 4, 6, generator=g), torch.randn(300, 4, generator=g)
    mask = torch.arange(4) < torch.randint(2, 5, (300, 1), generator=g)
    clean = probe(x, number, mask=mask, pool=pool, shuffles=2, inputs=mask.long() + 1)
    x[~mask], number[~mask] = torch.nan, torch.nan
    torch.testing.assert_close(
        torch.tensor(probe(x, number, mask=mask, pool=pool, shuffles=2).values.values),
        torch.tensor(clean.values.values),
    )
    assert clean.provenance["n train"] == (
        [int(mask[split_rows(300, 0.25, 0)["train"]].sum())]
        if pool
        else [mask[split_rows(300, 0.25, 0)["train"]].sum(0).min().item(), 225]
    )


def test_given_examples_are_held_out():
    held_out = torch.arange(40) >= 20
    x = torch.randn(40, 2, generator=generator(1))
    y = x[:, 0].clone()
    y[held_out] *= -1  # learned on the first half, the sign is wrong on the second
    assert probe(x, y, test=held_out, shuffles=0).values.item() < -1


def test_permutation_p_values_count_orders_by_hand():
    truth = torch.tensor([0.0, 0.0, 1.0, 1.0]).double().view(1, 4, 1, 1)
    orders = torch.tensor([[2, 3, 0, 1], [0, 2, 1, 3], [1, 0, 3, 2]])
    assert shuffle_p_values(truth, truth, orders).item() == (1 + 1) / 4  # only the last agrees as well


def test_scores_by_hand():
    truth = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert r_squared(truth + 1, truth).item() == pytest.approx(1 - 3 / 2)
    assert r_squared(truth, torch.ones(3, 1, 1)).isnan()
    classes = torch.eye(2)[[0, 1, 1, 0]][:, None]
    assert accuracy(classes, torch.eye(2)[[0, 1, 0, 1]][:, None]).item() == 0.5


def test_the_interval_of_pooled_tokens_is_that_of_their_sequences():
    # Ten sequences of a hundred equal tokens are ten observations, not a thousand.
    right = torch.tensor([1.0, 0.0]).repeat(5)
    sequence = torch.arange(10).repeat_interleave(100)
    hits = torch.stack([right, 1 - right], -1)[sequence][:, None]
    first = torch.tensor([1.0, 0.0]).expand(1000, 1, 2)
    low, high = bootstrap(accuracy, hits, first, sequence)
    assert high - low > 0.4


def test_a_result_of_a_network_that_did_not_learn_says_so():
    gate = Gate(task="t", split="test", score=0.1, trivial=0.1, learned_at=0.9, n=10)
    with pytest.warns(NotLearned):
        found = probe(torch.randn(40, 2), torch.randn(40), gate=gate, shuffles=0)
    assert found.learned is False


def test_copies_do_not_make_an_interval_narrower():
    number, group = torch.randn(40, generator=generator(1)), torch.arange(40).repeat_interleave(25)
    x = (number[:, None] + torch.randn(40, 3, generator=generator(2)))[group]
    ends = [
        probe(x, number[group], test=group % 2 == 0, together=together, shuffles=1, permutations=0).interval
        for together in (each_row(1000), group)
    ]
    widths = [high - low for low, high in ends]
    assert widths[1] > 3 * widths[0]


def test_labels_dealt_out_within_groups_stay_there():
    group = torch.tensor([3, 1, 3, 1, 1, 0, 7])
    rows = {"train": torch.arange(0), "test": torch.arange(7)}
    part = Part(
        at=[0], columns=torch.tensor([0]), real=torch.ones(7, 1, dtype=torch.bool), rows=rows,
        together=group, within=True,
    )  # fmt: skip
    orders = part.shuffles("test", 200, seed=0)
    assert (group[orders] == group).all()
    assert (orders.sort(1).values == torch.arange(7)).all()
    assert len({tuple(order) for order in orders[:, [1, 3, 4]].tolist()}) == 6
