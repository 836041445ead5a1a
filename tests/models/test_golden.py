"""Our network against files in which TransformerLens 3's own class left its numbers."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.convert import weights_from_transformer_lens

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(params=CASES)
def golden(request):
    """A network with golden weights, and what TransformerLens computed from them."""
    tensors = load_file(GOLDEN / f"{request.param}.safetensors")
    model = HookedTransformer(TransformerConfig(**CASES[request.param]))
    theirs = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    model.load_state_dict(weights_from_transformer_lens(theirs, model.cfg))
    return model, tensors


def test_logits_are_those_of_transformer_lens(golden):
    model, tensors = golden
    assert_close(model(tensors["tokens"]), tensors["logits"], **TOLERANCE)


def test_every_activation_of_transformer_lens_is_ours_by_name(golden):
    model, tensors = golden
    cache = model.run_with_cache(tensors["tokens"])[1]
    theirs = {name.removeprefix("cache/"): t for name, t in tensors.items() if name.startswith("cache/")}
    assert_close({name: cache[name] for name in theirs}, theirs, **TOLERANCE)


def test_we_have_no_activation_that_transformer_lens_lacks(golden):
    model, tensors = golden
    cache = model.run_with_cache(tensors["tokens"])[1]
    assert {f"cache/{name}" for name in cache} == {name for name in tensors if name.startswith("cache/")}
