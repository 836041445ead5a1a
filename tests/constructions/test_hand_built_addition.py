"""The hand-built network is exact, and each analysis finds in it just what was planted."""

import pytest
import torch

from mechinterp import constructions
from mechinterp.analysis import modular
from mechinterp.analysis.clusters import cluster_effects, clusters_by_frequency
from mechinterp.analysis.fourier import (
    frequency_power,
    key_frequencies,
    pair_frequency_share,
    trigonometric_share,
)
from mechinterp.studies.modular_addition import Activations
from mechinterp.tasks import ModularAddition

PRIMES = [p for p in range(5, 114) if all(p % d for d in range(2, p))]
PLANTED = {23: (2, 9), 59: (3, 7, 28), 113: (14, 35, 41, 42, 52)}
ABOUT = {"model": "hand-built"}


def hand_built(p, frequencies=None):
    task = ModularAddition(p=p)
    model = constructions.modular_addition(task, frequencies)
    return task, model, Activations.of(model, task)


def noise(like, seed=0):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", PRIMES)
def test_it_is_right_on_every_pair_with_a_margin(p):
    task, _, found = hand_built(p)
    top = found.logits.flatten(0, 1).topk(2)
    assert torch.equal(top.indices[:, 0], task.everything.targets[:, 0])
    assert (top.values[:, 0] - top.values[:, 1]).min() > 1.0


def test_one_frequency_is_enough_for_a_prime():
    task, _, found = hand_built(23, (5,))
    assert torch.equal(found.logits.argmax(-1).flatten(), task.everything.targets[:, 0])


@pytest.mark.parametrize("p", [127, 251])
def test_a_larger_p_has_more_directions_and_is_right_with_one_frequency(p):
    task = ModularAddition(p=p)
    model = constructions.modular_addition(task, [1])
    assert model.cfg.d_mlp > 5
    with torch.no_grad():
        answers = model(task.everything.inputs, read=(-1,))[:, 0].argmax(-1)
    assert torch.equal(answers, task.everything.targets[:, 0])


@pytest.mark.parametrize(("p", "planted"), PLANTED.items())
def test_every_spectrum_has_the_planted_frequencies_and_no_other(p, planted):
    _, _, found = hand_built(p, planted)
    shares = {
        "embedding": frequency_power(found.embedding).sum(1),
        "readout": frequency_power(found.readout).sum(1),
        "logits": trigonometric_share(found.logits),
        "neurons": pair_frequency_share(found.neurons).sum(1),
    }
    for name, share in shares.items():
        assert tuple(key_frequencies(share).tolist()) == planted, name
    others = [k for k in range(p // 2) if k + 1 not in planted]
    assert shares["embedding"][others].sum() / shares["embedding"].sum() < 1e-10
    assert pair_frequency_share(found.neurons).max(0).values.min() > 0.95


@pytest.mark.parametrize(("p", "planted"), PLANTED.items())
def test_each_result_says_so_beside_its_null(p, planted):
    task, _, found = hand_built(p, planted)
    keys = torch.tensor(planted)
    targets = task.everything.targets.view(p, p)
    circles = modular.circles(found.embedding, noise(found.embedding), keys, ABOUT)
    assert float(circles.values.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(circles.extra["roundness"].sel(network="trained").min()) == pytest.approx(1.0, abs=1e-5)
    assert float(circles.control.sum()) < 0.5
    enough = modular.sufficiency(found.logits, targets, keys, task.rows("train"), task.rows("test"), ABOUT)
    value, control = enough.values, enough.control
    assert float(value.sel(measure="restricted_test")) < 0.05 < float(control.sel(measure="restricted_test"))
    assert float(value.sel(measure="excluded_train")) > 1.0
    assert float(control.sel(measure="excluded_train")) < 0.05


@pytest.mark.parametrize(("p", "planted"), PLANTED.items())
def test_neuron_clusters_carry_their_frequency_and_no_other(p, planted):
    task, model, found = hand_built(p, planted)
    keys = torch.tensor(planted)
    clusters = clusters_by_frequency(pair_frequency_share(found.neurons), keys)
    assert [cluster.tolist() for cluster in clusters] == [
        list(range(5 * f, 5 * f + 5)) for f in range(len(planted))
    ]
    batch = task.everything
    result = cluster_effects(model, batch.inputs, batch.targets[:, 0], clusters, keys, ABOUT, draws=2)
    ablated = torch.tensor(result.values.sel(operation="ablate").values)
    torch.testing.assert_close(ablated, torch.eye(len(planted), dtype=ablated.dtype), atol=0.02, rtol=0)
    patched = torch.tensor(result.values.sel(operation="patch").values)
    assert patched.diagonal().min() > 0.9
    assert (patched - torch.diag(patched.diagonal())).abs().max() < 0.2


def test_it_is_a_pizza():
    from mechinterp.analysis.clock_pizza import distance_irrelevance

    task, _, found = hand_built(59)
    assert distance_irrelevance(found.logits, task.everything.targets.view(59, 59)) < 0.3


@pytest.mark.parametrize(
    ("p", "more", "message"),
    [
        (12, {}, "odd p"),
        (13, {"frequencies": [7]}, "distinct frequencies"),
        (13, {"directions": 4}, "directions"),
        (127, {"directions": 5}, "7 will do"),
        (15, {"frequencies": [3, 6]}, "multiples of 3"),
    ],
)
def test_what_cannot_be_built_is_refused(p, more, message):
    with pytest.raises(ValueError, match=message):
        constructions.modular_addition(ModularAddition(p=p), **more)
