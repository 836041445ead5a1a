"""Planted variables come back where they were planted, and nowhere else."""

import numpy as np
import pytest
import torch

from mechinterp.analysis.probes import (
    MLP,
    Fourier,
    Logistic,
    Periods,
    Ridge,
    Simplex,
    probe,
    project_to_simplex,
)

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=400, length=3, d=12, seed=0):
    """Activations that know nothing."""
    g = generator(seed)
    return {hook: torch.randn(n, length, d, generator=g) for hook in HOOKS}


def plant(vectors, strength=1.0, hook=HOOKS[1], position=2, **sizes):
    """Noise, with vectors ``[n, k]`` written into random directions at one hook and position."""
    activations = noise(len(vectors), **sizes)
    directions = torch.randn(vectors.shape[1], activations[hook].shape[-1], generator=generator(9))
    activations[hook][:, position] += strength * vectors.float() @ directions
    return activations


def circle(s, frequency, p):
    angle = 2 * torch.pi * frequency * s / p
    return torch.stack([angle.cos(), angle.sin()], -1)


def elsewhere(values, hook=1, position=2):
    """The numbers of all other cells."""
    there = np.ones(values.shape[:2], bool)
    there[hook, position] = False
    return values.values[there]


def test_a_planted_number_is_read_where_it_was_planted():
    number = torch.randn(400, generator=generator(1))
    result = probe(plant(number[:, None]), number, shuffles=20)
    assert result.values.dims == ("hook", "position")
    assert result.values[1, 2] > 0.85
    assert np.abs(elsewhere(result.values)).max() < 0.15
    assert np.abs(result.control).max() < 0.1
    assert result.extra["p_adjusted"][1, 2] < 0.01
    assert elsewhere(result.extra["p_adjusted"]).min() > 0.05
    low, high = result.interval
    assert low < result.values[1, 2] < high
    assert high - low < 0.1
    assert result.provenance["best"] == "hook blocks.1.hook_resid_post, position 2"
    assert result.trivial == 0


def test_several_numbers_have_names_and_penalties_of_their_own():
    numbers = torch.randn(400, 2, generator=generator(1))
    found = probe(plant(numbers[:, :1]), {"seen": numbers[:, 0], "unseen": numbers[:, 1]}, shuffles=0)
    assert found.values.sel(hook=HOOKS[1], position=2, target="seen") > 0.85
    assert abs(found.values.sel(hook=HOOKS[1], position=2, target="unseen")) < 0.15
    seen, unseen = found.extra["penalty"].sel(hook=HOOKS[1], position=2).values
    assert seen < unseen
    assert found.control is None


def test_a_number_of_each_position_is_read_there():
    numbers = torch.randn(400, 3, generator=generator(1))
    values = probe(plant(numbers[:, 1:2]), numbers, shuffles=2).values
    assert abs(values[1, 2]) < 0.15  # the number planted there is that of position 1
    assert probe(plant(numbers[:, 2:]), numbers, shuffles=2).values[1, 2] > 0.85


def test_planted_frequencies_come_back_and_no_others():
    s = torch.randint(0, 31, (600,), generator=generator(1))
    activations = plant(torch.cat([circle(s, 3, 31), circle(s, 7, 31)], 1))
    result = probe(activations, s, Fourier(p=31))
    found = result.values.sel(hook=HOOKS[1], position=2)
    assert result.values.dims == ("hook", "position", "frequency")
    assert set(found.frequency.values[found.values > 0.5].tolist()) == {3, 7}
    significant = result.extra["p_adjusted"].sel(hook=HOOKS[1], position=2).values < 0.05
    assert set(found.frequency.values[significant].tolist()) == {3, 7}
    assert elsewhere(result.values).max() < 0.15


def test_multiples_of_a_frequency_that_are_the_same_wave_score_the_same():
    s = torch.randint(0, 12, (400,), generator=generator(1))
    found = probe(plant(circle(s, 5, 12)), s, Fourier(p=12, frequencies=[5, 7, 17, 6])).values[1, 2]
    assert found[0] > 0.8
    np.testing.assert_allclose(found[1:3], found[0])
    assert found[3] < 0.1  # frequency p / 2, whose sine is 0 everywhere, is no error


def test_a_planted_period_comes_back_from_unbounded_integers():
    s = torch.randint(0, 10_000, (600,), generator=generator(1))
    result = probe(plant(circle(s, 1, 10)), s, Periods(periods=(2, 5, 10, 100)))
    found = result.values[1, 2]
    assert found.period.values[found.values > 0.5].tolist() == [10]


@pytest.mark.parametrize("kind", [Logistic(), MLP(hidden=(16,), steps=60)], ids=["logistic", "mlp"])
def test_planted_classes_are_told_apart(kind):
    classes = torch.tensor([2, 5, 9])[torch.randint(0, 3, (300,), generator=generator(1))]
    result = probe(plant(torch.eye(10)[classes], 2.0, length=2, position=1), classes, kind, shuffles=1)
    assert result.values[1, 1] > 0.85
    assert elsewhere(result.values, position=1).max() < 0.55
    assert result.extra["p_value"][1, 1] < 0.01
    assert 0.2 < result.trivial < 0.5
    assert result.control.max() < 0.55


def test_a_perceptron_sees_what_no_linear_probe_can():
    signs = torch.randint(0, 2, (400, 2), generator=generator(1))
    activations = {"x": 2.0 * signs - 1 + 0.1 * torch.randn(400, 2, generator=generator(2))}
    activations = {"x": activations["x"][:, None]}
    either = signs[:, 0] ^ signs[:, 1]
    assert probe(activations, either, "logistic", shuffles=0).values.item() < 0.65
    assert probe(activations, either, MLP(hidden=(16,)), shuffles=0).values.item() > 0.95
    assert probe(activations, either.float(), "ridge", shuffles=0).values.item() < 0.1
    assert probe(activations, either.float(), "mlp_regression", shuffles=0).values.item() > 0.9


def test_beliefs_are_read_as_distributions():
    beliefs = torch.distributions.Dirichlet(torch.ones(3)).sample(
        (400, 3)
    )  # a seed is set for all tests below
    activations = noise()
    activations[HOOKS[0]] += 3 * beliefs @ torch.randn(3, 12, generator=generator(3))
    result = probe(activations, beliefs, Simplex(), pool=True)
    assert result.values.position.values.tolist() == ["all"]
    assert result.values[0, 0] > 0.7
    assert abs(result.values[1, 0]) < 0.1
    assert abs(result.control[0, 0]) < 0.1
    shown = result.extra["beliefs"].sel(of="probe").values
    assert shown.min() >= 0
    np.testing.assert_allclose(shown.sum(-1), 1)


def test_projection_onto_the_simplex_finds_the_nearest_point():
    x = torch.randn(50, 4, generator=generator()).double()
    nearest = project_to_simplex(x)
    torch.testing.assert_close(project_to_simplex(nearest), nearest)
    others = torch.distributions.Dirichlet(torch.ones(4)).sample((50, 200)).double()
    assert ((x[:, None] - others).norm(dim=-1) >= (x - nearest).norm(dim=-1)[:, None] - 1e-9).all()
    torch.testing.assert_close(
        project_to_simplex(torch.tensor([[2.0, 0.0], [0.4, 0.6]])), torch.tensor([[1.0, 0.0], [0.4, 0.6]])
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_answer_depends_on_the_seed_alone():
    number = torch.randn(100, generator=generator(1))
    activations = plant(number[:, None], d=4)
    assert probe(activations, number, shuffles=3) == probe(activations, number, shuffles=3)
    assert probe(activations, number, shuffles=3) != probe(activations, number, shuffles=3, seed=1)


def test_half_precision_activations_and_a_single_position_are_read():
    number = torch.randn(200, generator=generator(1))
    x = plant(number[:, None], d=4)[HOOKS[1]][:, 2].half()
    assert probe(x, number, Ridge(penalties=[1.0]), shuffles=0).values.item() > 0.7
