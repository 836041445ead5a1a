"""Online codes: short for what is planted, about uniform for labels at random."""

import math

import pytest
import torch

from mechinterp.analysis.probes import code_length, online_code


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(n=400, kinds=4, d=16, strength=3.0):
    labels = torch.randint(0, kinds, (n,), generator=generator(1))
    x = torch.randn(n, d, generator=generator(2))
    return x + strength * torch.randn(kinds, d, generator=generator(3))[labels], labels


@pytest.mark.parametrize("d", [4, 64])
def test_labels_at_random_take_about_the_uniform_code(d):
    _, labels = labelled()
    bits = code_length(torch.randn(400, d, generator=generator(4)), labels, 4).sum().item()
    assert bits == pytest.approx(400 * 2, rel=0.04)


def test_planted_labels_have_a_short_code():
    x, labels = labelled()
    assert code_length(x, labels, 4).sum() < 0.2 * 800


def test_the_first_block_is_uniform_and_no_label_costs_infinitely_much():
    x, labels = labelled()
    bits = code_length(x, labels, 4, ends=(0.1, 1.0))
    torch.testing.assert_close(bits[:40], torch.full((40,), 2.0).double())
    surprise = torch.zeros(50).long()
    surprise[30:] = 1  # a class that the first block lacks
    assert code_length(x[:50], surprise, 2, ends=(0.5, 1.0)).max() <= math.log2(2 * 26) + math.log2(3)


def test_a_mixture_is_never_much_longer_than_the_best_of_it():
    x, labels = labelled(strength=0.5)
    alone = min(code_length(x, labels, 4, penalties=(C,)).sum() for C in (1e-4, 1e-2, 1.0))
    assert alone - math.log2(3) < code_length(x, labels, 4).sum() <= alone + math.log2(3)


def test_the_result_has_uniform_shuffled_and_compression():
    x, labels = labelled(n=200)
    activations = {"noise": torch.randn(200, 1, 16, generator=generator(5)), "planted": x[:, None]}
    found = online_code(activations, labels, inputs=labels[:, None], untrained=activations)
    assert found.values.attrs["units"] == "bits"
    assert found.trivial == 400
    assert found.extra["compression"].values[1, 0] > 3
    assert found.extra["compression"].values[0, 0] == pytest.approx(1, abs=0.06)
    assert found.extra["shuffled_compression"].values.max() < 1.06
    assert found.control.min() > 380
    low, high = found.interval
    assert low < found.values[1, 0] < high
    assert (found.extra["untrained"] == found.values).all()
    assert found.extra["raw_input"].item() < 200
    assert found.provenance["best"] == "hook planted, position 0"


def test_padding_is_not_sent():
    x, labels = labelled(n=100)
    mask = torch.arange(100)[:, None] % torch.tensor([1, 2]) == 0
    found = online_code(torch.stack([x, x], 1), labels, mask=mask, shuffles=0)
    assert found.extra["uniform"].values.tolist() == [[200.0, 100.0]]
    assert online_code(torch.stack([x, x], 1), labels, mask=mask, pool=True).trivial == 300.0
