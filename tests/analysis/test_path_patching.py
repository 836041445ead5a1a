"""Direct paths carry what was planted on them, and both ways to compute them agree."""

import numpy as np
import pytest
import torch
from small_models import network, only_writers, preference, tokens

from mechinterp.analysis.path_patching import path_patching

CLEAN, CORRUPTED = tokens(0), tokens(1)
KINDS = {
    "causal": {},
    "bidirectional": {"attention_dir": "bidirectional"},
    "layernorm": {"normalization_type": "LN"},
    "rotary": {"positional_embedding_type": "rotary"},
    "linear": {"attention": "linear"},
    "attention_only": {"attn_only": True},
}
RECEIVERS = [(1, 0, "q"), (1, 1, "k"), (1, 0, "v"), (0, 0, "q")]


@pytest.mark.parametrize("through_mlps", [True, False])
@pytest.mark.parametrize("receivers", ["logits", RECEIVERS], ids=["logits", "heads"])
@pytest.mark.parametrize("kind", KINDS)
def test_paths_from_the_intact_run_are_those_of_runs_with_hooks(kind, receivers, through_mlps):
    model, given = network(**KINDS[kind]), {"through_mlps": through_mlps}
    fast, slow = (
        path_patching(model, CLEAN, CORRUPTED, preference, receivers, fast=f, **given) for f in (True, False)
    )
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-10)
    np.testing.assert_allclose(fast.control, slow.control, atol=1e-10)


def test_padding_is_never_looked_at():
    mask = torch.ones_like(CLEAN, dtype=torch.bool)
    mask[::3, 0] = False
    fast, slow = (
        path_patching(network(), CLEAN, CORRUPTED, preference, RECEIVERS, attention_mask=mask, fast=f)
        for f in (True, False)
    )
    np.testing.assert_allclose(fast.values, slow.values, atol=1e-12)


def test_only_the_planted_sender_has_a_path():
    model = only_writers((0, 1), (1, 0))
    found = path_patching(model, CLEAN, CORRUPTED, preference, [(1, 0, "v")]).extra["effect"].values
    assert found[0, 0, 1] != 0
    assert (np.delete(found.ravel(), 1) == 0).all()


def test_a_receiver_that_does_not_write_receives_nothing():
    model = only_writers((0, 1), (1, 0))
    found = path_patching(model, CLEAN, CORRUPTED, preference, [(1, 1, "v")])
    assert (found.extra["effect"].values == 0).all()


def test_without_later_layers_the_path_is_the_whole_effect():
    from mechinterp.analysis.patching import activation_patching

    model = network(n_layers=1, attn_only=True)
    path = path_patching(model, CLEAN, CORRUPTED, preference)
    whole = activation_patching(model, CLEAN, CORRUPTED, preference, "z", by=("layer", "head"))
    np.testing.assert_allclose(path.values[0], whole.values, atol=1e-12)


def test_a_receiver_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected a receiver"):
        path_patching(network(), CLEAN, CORRUPTED, preference, [(1, 0, "z")])
    with pytest.raises(ValueError, match="after the first layer"):
        path_patching(network(), CLEAN, CORRUPTED, preference, [(0, 1, "v")])
    with pytest.raises(ValueError, match='"logits" or receivers'):
        path_patching(network(), CLEAN, CORRUPTED, preference, "logit")
    with pytest.raises(ValueError, match='direction "denoise" or "noise"'):
        path_patching(network(), CLEAN, CORRUPTED, preference, direction="back")
