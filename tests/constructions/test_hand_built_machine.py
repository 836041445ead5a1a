"""The hand-built network with one code a state: it predicts at the ceiling, and analyses find its codes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score

from mechinterp import constructions, models
from mechinterp.analysis.codes import Codes, _interval, code_alignment
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.steering import EVERYWHERE, code_steering
from mechinterp.tasks import StateMachine

MACHINES = {name: StateMachine(length=8, n_test=200, transition=name)
            for name in ("cycle", "deterministic", "stochastic", "S3")}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_it_predicts_at_the_ceiling(name):
    task = MACHINES[name]
    model = constructions.state_machine(task).eval()
    batch = task.dataset("test")
    with torch.no_grad():
        assert task.measures(model(batch.inputs), batch)["divergence"] < 1e-6
    assert Gate.of(model, task).learned


@pytest.mark.parametrize("name", MACHINES)
def test_every_code_is_a_state(name):
    task = MACHINES[name]
    model, batch = constructions.state_machine(task).eval(), task.dataset("test")
    found = code_alignment(model, batch.inputs, batch.variables["state"], permutations=20)
    assert found.values.sel(site="L0 mlp").values == pytest.approx(1.0)
    assert found.interval == pytest.approx((1.0, 1.0))
    assert found.provenance["best"] == "L0 mlp"
    assert (found.extra["fixing"].sel(site="L0 mlp") == 1).all()
    assert int(found.extra["active"].sel(site="L0 mlp")) == task.machine.n_states
    assert (found.extra["table"].sel(site="L0 mlp").values > 0).sum() == task.machine.n_states
    idle = found.values.sel(site="L0 attn")
    assert float(idle.sel(measure="ami")) == pytest.approx(0.0, abs=1e-6)
    assert float(found.control.sel(site="L0 mlp", measure="ami")) == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize("name", ["cycle", "S3"])
def test_a_state_s_code_makes_the_prediction_that_state_s(name):
    task = MACHINES[name]
    model, batch = constructions.state_machine(task).eval(), task.dataset("test")
    found = code_steering(model, batch.inputs, batch.variables["state"][:, -1], task.machine.emission)
    success = found.extra["success"]
    assert success.sel(site=["L0 mlp", EVERYWHERE], of="codes").values == pytest.approx(1.0)
    assert success.sel(site="L0 attn").values == pytest.approx(0.0)
    assert found.trivial == 0.0
    assert success.sel(site="L0 mlp", of="another state's") == 0
    assert float(success.sel(site="L0 mlp", of="random")) == pytest.approx(
        1 / task.machine.n_states, abs=0.05
    )
    assert found.extra["code"].sel(site="L0 mlp").values.tolist() == list(range(task.machine.n_states))


def test_an_untrained_network_s_codes_are_of_tokens():
    task = MACHINES["cycle"]
    batch = task.dataset("test")
    model = models.state_machine(task, n_layers=1, codebook_size=48).eval()
    found = code_alignment(model, batch.inputs, batch.variables["state"], untrained=model, permutations=20)
    assert float(found.values.sel(measure="purity").max()) > 0.3
    assert found.values.equals(found.extra["untrained"])


def test_measures_are_those_of_scikit_learn():
    task = MACHINES["cycle"]
    batch = task.dataset("test")
    model = models.state_machine(task, n_layers=1, codebook_size=12).eval()
    found = code_alignment(model, batch.inputs, batch.variables["state"], permutations=3)
    codes = Codes.of(model, batch.inputs, torch.ones(batch.inputs.shape, dtype=torch.bool))
    for site in ("L0 attn", "L0 mlp"):
        labels = batch.variables["state"].flatten().numpy(), codes.strongest[site].numpy()
        for name, score in (("ami", adjusted_mutual_info_score), ("v_measure", v_measure_score)):
            assert float(found.values.sel(site=site, measure=name)) == pytest.approx(score(*labels), abs=1e-9)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="tokens tell its state"):
        constructions.state_machine(StateMachine(emission="shared"))
    with pytest.raises(ValueError, match="at least 9 codes"):
        constructions.state_machine(StateMachine(), codebook_size=8)
    with pytest.raises(ValueError, match="one code at a time"):
        constructions.state_machine(StateMachine(), codebook_top_k=2)
    with pytest.raises(ValueError, match="behind the MLP"):
        constructions.state_machine(StateMachine(), codebook_sites=("attn",))


def test_networks_and_states_that_do_not_fit_are_refused():
    task = MACHINES["cycle"]
    batch, plain = task.dataset("test"), models.state_machine(task, codebooks=False).eval()
    with pytest.raises(ValueError, match="with codebooks, got none"):
        code_alignment(plain, batch.inputs, batch.variables["state"])
    with pytest.raises(ValueError, match="evaluation mode"):
        code_alignment(constructions.state_machine(task).train(), batch.inputs, batch.variables["state"])
    model = constructions.state_machine(task).eval()
    with pytest.raises(ValueError, match="shape of the inputs"):
        code_alignment(model, batch.inputs, batch.variables["state"][:, 1:])
    with pytest.raises(ValueError, match="at least 8 sequences"):
        code_steering(model, batch.inputs[:4], batch.variables["state"][:4, -1], task.machine.emission)
    same = torch.zeros(len(batch), dtype=torch.long)
    with pytest.raises(ValueError, match="distributions of 24 tokens"):
        code_steering(model, batch.inputs, batch.variables["state"][:, -1], task.machine.emission[:, 1:])
    with pytest.raises(ValueError, match="at least two states"):
        code_steering(model, batch.inputs, same, task.machine.emission)


def test_the_interval_of_unrelated_codes_is_about_zero():
    rng = np.random.default_rng(0)
    label, strongest = rng.integers(8, size=200), torch.from_numpy(rng.integers(16, size=200))
    active = torch.nn.functional.one_hot(strongest, 16).bool()
    low, high = _interval(strongest, active, label, np.arange(200) // 10, seed=0)
    assert low < 0 < high
    assert _interval(strongest, active, label, np.arange(200) // 100, seed=0) is None
