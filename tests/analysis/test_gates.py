"""A network that did not learn is not concluded about."""

import numpy as np
import pytest
import xarray as xr

from mechinterp import constructions, models
from mechinterp.analysis.gates import Gate, gated
from mechinterp.result import NotLearned, Result
from mechinterp.tasks import ModularAddition

TASK = ModularAddition(p=11, train_fraction=0.5)


def result(provenance):
    return Result(name="x", values=xr.DataArray(np.ones(2), dims="head"), trivial=0.0, provenance=provenance)


def claim(found):
    return found.claim("x", "it is more than 0", value=1.0, holds=True)


def test_the_hand_built_network_passes():
    gate = Gate.of(constructions.modular_addition(TASK), TASK)
    assert gate.learned
    assert gate.score == 1.0
    found = result(gated(gate, {"seed": 0}))
    assert found.provenance["seed"] == 0
    assert claim(found).verdict == "holds"


def test_an_untrained_network_is_loudly_untested():
    gate = Gate.of(models.modular_addition(TASK), TASK)
    assert not gate.learned
    with pytest.warns(NotLearned, match="did NOT learn modular_addition"):
        found = result(gated(gate, {}))
    assert "UNTESTED" in str(found)
    with pytest.warns(NotLearned, match="did not learn its task"):
        assert claim(found).verdict == "untested"


def test_without_a_gate_nothing_is_tested():
    found = result(gated(None, {}))
    with pytest.warns(NotLearned, match="was not gated"):
        assert claim(found).verdict == "untested"


def test_scoring_leaves_the_mode_as_it_was():
    model = models.modular_addition(TASK).train()
    Gate.of(model, TASK)
    assert model.training
