"""Laws of all readers: scale, offset, rotation, precision, repeated inputs, and global generators."""

import warnings

import numpy as np
import pytest
import torch

from mechinterp.analysis.erasure import (
    decodability,
    leace,
    mean_projection,
    probe_projection,
    random_erasers,
)
from mechinterp.analysis.geometry import participation_ratio, spectrum
from mechinterp.analysis.probes import (
    MLP,
    Fourier,
    Logistic,
    MLPRegression,
    Periods,
    Ridge,
    Simplex,
    code_length,
    online_code,
    probe,
)
from mechinterp.analysis.probes.probing import PenaltyAtEnd
from mechinterp.analysis.repeats import RepeatedRows
from mechinterp.analysis.similarity import cka, score_and_null, similarity
from mechinterp.analysis.state_basis import state_basis


@pytest.fixture(autouse=True)
def _no_interval(monkeypatch):
    """Intervals take most of the time, and no part in these laws."""
    monkeypatch.setattr("mechinterp.analysis.probes.probing.bootstrap", lambda *_, **__: (0.0, 0.0))
    monkeypatch.setattr("mechinterp.analysis.probes.online.bootstrap", lambda *_, **__: (0.0, 0.0))


N, D = 240, 6
SINGLE = {"positions": [0], "shuffles": 0, "permutations": 20}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(x, d=D, seed=9):
    """Numbers written along random orthonormal directions, in noise."""
    return x.double() @ torch.linalg.qr(normal(d, d, seed=seed)).Q[: x.shape[1]] + 0.1 * normal(len(x), d)


NUMBER = normal(N, seed=1)
LABEL = torch.randint(3, (N,), generator=torch.Generator().manual_seed(2))
ANGLE = torch.randint(12, (N,), generator=torch.Generator().manual_seed(3))
BELIEF = normal(N, 3, seed=4).softmax(-1)
AT_LABEL = turned(torch.eye(3)[LABEL])
WAVE = torch.stack(((2 * torch.pi * ANGLE / 12).cos(), (2 * torch.pi * ANGLE / 12).sin()), 1)


def by_probe(kind, y):
    return lambda x: probe(x, y, kind, **SINGLE).values.max().item()


def erased(make, z):
    """Numbers left by an eraser, on the scale of the activations, and its rank."""

    def read(x):
        eraser = make(x, z)
        left = (eraser(x.double()) - x.double().mean(0)) / (x.double() - x.double().mean(0)).std()
        return torch.cat((left.flatten(), torch.tensor([eraser.rank]))).double()

    return read


READERS = {
    "ridge": (turned(NUMBER[:, None]), by_probe("ridge", NUMBER)),
    "ridge of a small target": (turned(NUMBER[:, None]), by_probe("ridge", 1e-30 * NUMBER)),
    "ridge of a large target": (turned(NUMBER[:, None]), by_probe("ridge", 1e12 * NUMBER + 1e15)),
    "fourier": (turned(WAVE), by_probe(Fourier(p=12), ANGLE)),
    "periods": (turned(WAVE), by_probe(Periods(periods=(12, 5)), ANGLE)),
    "simplex": (turned(BELIEF), by_probe("simplex", BELIEF)),
    "logistic": (AT_LABEL, by_probe("logistic", LABEL)),
    "mlp": (AT_LABEL, by_probe(MLP(hidden=(8,), steps=40), LABEL)),
    "mlp regression": (turned(NUMBER[:, None]), by_probe(MLPRegression(hidden=(8,), steps=40), NUMBER)),
    "online code": (AT_LABEL, lambda x: online_code(x, LABEL, shuffles=0).values.item() / N),
    "code length": (AT_LABEL, lambda x: code_length(x, LABEL, 3).sum().item() / N),
    "decodability of classes": (AT_LABEL, lambda x: decodability(x, LABEL)),
    "decodability of numbers": (turned(NUMBER[:, None]), lambda x: decodability(x, NUMBER)),
    "state basis": (AT_LABEL, lambda x: state_basis(x, LABEL).accuracy),
    "leace": (AT_LABEL, erased(leace, LABEL)),
    "leace, ledoit-wolf": (AT_LABEL, erased(lambda x, z: leace(x, z, shrinkage="ledoit-wolf"), LABEL)),
    "mean projection": (AT_LABEL, erased(mean_projection, LABEL)),
    "probe projection": (AT_LABEL, erased(probe_projection, LABEL)),
    "random eraser": (AT_LABEL, erased(lambda x, _: random_erasers(x, 2)[0], LABEL)),
    "cka": (AT_LABEL, lambda x: cka(x, turned(NUMBER[:, None]))),
    "procrustes": (AT_LABEL, lambda x: score_and_null(x, AT_LABEL, "procrustes", draws=2)[0]),
    "similarity": (AT_LABEL, lambda x: similarity({"a": x}, {"b": AT_LABEL}, draws=2).values.item()),
    "spectrum": (AT_LABEL, lambda x: spectrum(x, draws=2).provenance["participation ratio"]),
    "participation": (AT_LABEL, lambda x: participation_ratio(x.double().var(0)).item()),
}  # fmt: skip
SCALES = (1e-6, 1e-4, 1e-2, 1e3, 1e6)
LOOSE = {"mlp", "mlp regression"}  # steps of Adam follow rounding


def same(name, found, expected, tolerance=0.01):
    tolerance = 0.05 if name in LOOSE else tolerance
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=tolerance)


@pytest.mark.parametrize("name", READERS)
def test_scale_offset_and_precision_change_no_score(name):
    x, read = READERS[name]
    expected = read(x)
    for dtype in (torch.float32, torch.float64):
        for scale in SCALES:
            same(name, read((scale * x).to(dtype)), expected)
        far = 1e3 if dtype == torch.float32 else 1e6
        if name != "participation":  # of variances, given without a mean
            same(name, read((x + far).to(dtype)), expected)
            same(name, read((1e-6 * (x + far)).to(dtype)), expected)
    for dtype in (torch.float16, torch.bfloat16):
        same(name, read(x.to(dtype)), read(x.to(dtype).double()))


@pytest.mark.parametrize("name", ["ridge", "fourier", "simplex", "logistic", "online code", "state basis"])
def test_a_rotation_changes_no_score(name):
    x, read = READERS[name]
    same(name, read(3 * x @ torch.linalg.qr(normal(D, D, seed=5)).Q), read(x))


@pytest.mark.parametrize("name", READERS)
def test_no_global_generator_is_drawn_from_or_matters(name):
    """Python's is looked at in test_probes_given, since beartype draws from it."""
    x, read = READERS[name]
    found = []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1:3], torch.get_rng_state()
        found.append(np.asarray(read(x)))
        after = np.random.get_state()[1:3], torch.get_rng_state()
        np.testing.assert_array_equal(before[0][0], after[0][0])
        assert before[0][1] == after[0][1]
        assert torch.equal(before[1], after[1])
    np.testing.assert_array_equal(*found)


# Inputs that repeat.
TOKEN = torch.arange(600) % 31
OF_TOKEN = normal(31, 40)[TOKEN]
ATTACHED = {
    "a number": (Ridge(), normal(31, seed=7)[TOKEN], 0.5),
    "a class": (Logistic(), torch.randint(2, (31,), generator=torch.Generator().manual_seed(1))[TOKEN], 0.85),
    "a class, by an MLP": (
        MLP(hidden=(8,), steps=40),
        torch.randint(2, (31,), generator=torch.Generator().manual_seed(1))[TOKEN],
        0.85,
    ),
    "a number, by an MLP": (MLPRegression(hidden=(8,), steps=40), normal(31, seed=7)[TOKEN], 0.5),
    "a wave": (Fourier(p=31), torch.randperm(31, generator=torch.Generator().manual_seed(1))[TOKEN], 0.5),
    "a belief": (Simplex(), normal(31, 3, seed=7).softmax(-1)[TOKEN], 0.5),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("what", ATTACHED)
def test_what_is_attached_to_an_input_is_not_read_off_its_copies(what, dtype):
    kind, y, most = ATTACHED[what]
    found = probe({"a": OF_TOKEN.to(dtype)}, y, kind, shuffles=0, permutations=100)
    assert found.values.max() < most
    assert (found.extra["p_adjusted"] > 0.01).all()
    assert found.provenance["repeats"].startswith("31 distinct inputs among 600 rows, held out whole")
    assert "31 distinct inputs" in str(found)
    alone = probe({"a": OF_TOKEN.to(dtype)}, y, kind, shuffles=0, permutations=0, together=torch.arange(600))
    assert alone.values.max() > found.values.max() + 0.2
    assert "repeats" not in alone.provenance


def test_each_cell_holds_out_its_own_inputs_and_the_others_keep_their_split():
    x = torch.stack((OF_TOKEN, normal(600, 40, seed=3)), 1)
    y = normal(600, seed=4) + x[:, 1, 0]
    found = probe({"a": x, "b": x.flip(1)}, y, shuffles=2, permutations=20)
    alone = probe({"b": x[:, 1:]}, y, shuffles=2, permutations=20)
    assert found.values[0, 1].item() == found.values[1, 0].item() == alone.values.item()
    assert found.provenance["repeats"].endswith("(position 0 of a; position 1 of b)")
    other = probe({"a": x[:, :1]}, y, shuffles=2, permutations=20)
    assert found.values[0, 0].item() == pytest.approx(other.values.item())


def test_the_test_of_what_is_attached_to_inputs_keeps_its_level():
    p = []
    for seed in range(60):
        x, y = normal(40, 4, seed=seed)[TOKEN], normal(40, seed=seed + 999)[TOKEN]
        p.append(probe(x, y, shuffles=0, permutations=60).extra["p_value"].item())
    assert np.mean(np.array(p) <= 0.05) < 0.13
    assert np.mean(np.array(p) <= 0.5) < 0.7


def test_pooled_tokens_that_trained_are_not_scored():
    token = torch.randint(60, (300, 3), generator=torch.Generator().manual_seed(0))
    rare = torch.arange(900).view(300, 3) + 60
    token = torch.where(torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) < 0.5, token, rare)
    x, y = normal(960, 128)[token], normal(960, seed=5)[token] * torch.where(token < 60, 1, 0.3)
    found = probe(x, y, pool=True, shuffles=0, permutations=0)
    assert found.values.item() < 0.1
    assert "in training too not scored" in found.provenance["repeats"]
    assert probe(x, y, pool=True, shuffles=0, permutations=0, together=torch.arange(300)).values.item() > 0.3


def test_a_split_that_is_given_does_not_score_copies_either():
    held_out = torch.arange(900) >= 600
    x = torch.cat((normal(600, 40), normal(600, 40)[:100], normal(200, 40, seed=8)))
    y = torch.cat((normal(600, seed=5), normal(600, seed=5)[:100], normal(200, seed=9)))
    found = probe(x, y, test=held_out, shuffles=0, permutations=0)
    assert found.provenance["n test"] == [200]
    assert found.values.item() < 0.1


def test_too_few_inputs_are_refused_alone_and_named_among_others():
    few, y = normal(4, 8)[TOKEN % 4], normal(4, seed=5)[TOKEN % 4]
    with pytest.raises(ValueError, match=r"4 distinct inputs among 600 rows at position 0.*arange\(600\)"):
        probe(few, y, shuffles=0)
    with pytest.raises(ValueError, match="4 distinct inputs among 600 rows"):
        decodability(few, y)
    both = torch.stack((few, normal(600, 8)), 1)
    with pytest.warns(RepeatedRows, match="4 distinct inputs among 600 rows at position 0 of activations"):
        probe(both, y, shuffles=0, permutations=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(few, normal(600, seed=6), shuffles=0, permutations=0)  # nothing is attached


def test_codes_send_inputs_whole():
    label = torch.randint(2, (31,), generator=torch.Generator().manual_seed(1))[TOKEN]
    found = online_code(OF_TOKEN, label, shuffles=0)
    assert found.extra["compression"].item() < 1.2
    assert "31 distinct inputs" in found.provenance["repeats"]
    alone = code_length(OF_TOKEN, label, 2).sum()
    order = TOKEN.argsort(stable=True)
    assert code_length(OF_TOKEN[order], label[order], 2, together=TOKEN[order]).sum() > 5 * alone


def test_copies_are_no_further_examples_to_likeness():
    first, second = normal(12, 5)[TOKEN % 12], normal(12, 5, seed=1)[TOKEN % 12]
    score, null = score_and_null(first, second, draws=99)
    assert score < np.quantile(null, 0.99)
    found = similarity({"a": first}, {"b": second}, measure="procrustes", draws=39)
    assert found.extra["p"].item() > 0.02
    assert found.provenance["repeats"].startswith("12 distinct inputs among 600")


# Penalties, constants, and how a concept is read.
def test_a_penalty_at_the_end_of_its_grid_is_told_if_the_score_rises_there():
    x, y = normal(300, 20), normal(300, 20)[:, 0] + 20 * normal(300, seed=1)
    with pytest.warns(PenaltyAtEnd, match="at an end of the grid in 1 of 1"):
        found = probe(x, normal(300, 20)[:, 0], Ridge(penalties=[1e4, 1e5]), shuffles=0)
    assert "rises" in found.provenance["penalty"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(x, x[:, 0], shuffles=0)  # exact: the smallest penalty, and nothing to gain beyond
        probe(x, normal(300, seed=3), shuffles=0)  # noise: the largest, and nothing to gain beyond
        probe(x, y, Ridge(penalties=[1.0]), shuffles=0)


@pytest.mark.parametrize("kind", [Ridge(), Logistic(), MLP(steps=20), MLPRegression(steps=20)])
@pytest.mark.parametrize("value", [0.0, 1e3])
def test_constant_activations_say_nothing(kind, value):
    y = LABEL if isinstance(kind, (Logistic, MLP)) else NUMBER
    x = torch.full((N, 1, D), value) * (1 + 1e-7 * torch.rand(N, 1, D))
    found = probe({"still": x}, y, kind, shuffles=0, permutations=0)
    assert found.values.max() <= (0.5 if y is LABEL else 0.05)


def test_a_concept_that_may_be_classes_or_values_must_say_so():
    x = AT_LABEL
    for call in (leace, mean_projection, probe_projection, decodability):
        with pytest.raises(ValueError, match=r"z\.long\(\) for classes, or z_as='values'"):
            call(x, LABEL.double())
    assert leace(x, LABEL.float(), z_as="classes").rank == leace(x, LABEL).rank == 2
    assert leace(x, LABEL, z_as="values").rank == 1
    many = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for call in (leace, decodability):
        with pytest.raises(ValueError, match=r"more examples of each class, got 240 .*z\.double\(\)"):
            call(x, many)
    assert leace(x, many, z_as="values").rank == leace(x, many.double()).rank == 1
    assert leace(x, LABEL == 1).rank == 1
    with pytest.raises(ValueError, match="got fractions"):
        leace(x, NUMBER, z_as="classes")
