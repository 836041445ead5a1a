"""In every precision an analysis is right to the rounding, or says in words that it is not."""

import copy
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from given_anything import analyses, cases
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "calibration"))
from planted_networks import concepts, first_two, preferring, relay, unread_head
from planted_networks import tokens as words

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.patching import activation_patching
from mechinterp.result import PrecisionWarning
from mechinterp.tasks.base import Batch

ROUNDINGS = 32
"""How many times the last bit of the largest number a result may be off."""


def cast(given, dtype):
    """Networks and real numbers in another precision."""
    if isinstance(given, nn.Module):
        return copy.deepcopy(given).to(dtype)
    if isinstance(given, Tensor):
        return given.to(dtype) if given.is_floating_point() else given
    if isinstance(given, Batch):
        return replace(given, inputs=cast(given.inputs, dtype), targets=cast(given.targets, dtype))
    if isinstance(given, Mapping):
        return {name: cast(each, dtype) for name, each in given.items()}
    return given


NAMES = [
    name
    for name in analyses()
    if not name.startswith(("metrics.", "parts.", "sets.", "in_context.flops", "in_context.methods.sens"))
]


def found(name, dtype, exact=False):
    """The values of an analysis and their control, with everything in a precision."""
    given = {argument: cast(each, dtype) for argument, each in cases()[name].items()}
    if exact:  # the same numbers, worked out in double precision
        given = {argument: cast(each, torch.float64) for argument, each in given.items()}
    result = analyses()[name](**given)
    if name == "components.component_ablation":
        result = result.effect(lambda right, loss: loss.double().mean(-1), "head_loss")
    return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_is_right_to_the_precision_or_says_so(name, dtype):
    refused = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            one, other = found(name, dtype), found(name, dtype, exact=True)
        except ValueError as error:
            refused = str(error)
        except ImportError:
            pytest.skip("needs TransformerLens 4")
    if refused is not None:
        assert refused.startswith("expected")
        return
    for mine, exact in ((one.values, other.values), (one.control, other.control)):
        if exact is None:
            continue
        size = max(1.0, np.nanmax(np.abs(exact.to_numpy()), initial=0.0))
        off = np.abs(mine.to_numpy() - exact.to_numpy())
        assert np.nanmax(off, initial=0.0) <= ROUNDINGS * torch.finfo(dtype).eps * size
        assert (np.isnan(mine.to_numpy()) == np.isnan(exact.to_numpy())).all()
    assert one.values.attrs.get("units") == other.values.attrs.get("units")
    words = {each.category for each in said}
    assert PrecisionWarning not in words or dtype != torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_planted_head_is_significant_in_every_precision_and_no_other_is(dtype):
    clean, corrupted = concepts(3, 40)
    metric = preferring(clean[:, 0], corrupted[:, 0])
    model = relay(3, {(0, 1)}, 2.0)[0].to(dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        patched = activation_patching(model, clean, corrupted, metric, by=("layer", "head"))
        ablated = ablation(model, clean, metric, held_out=concepts(5, 40)[0])
    for found in (patched, ablated):
        low = found.extra["p_value"].to_numpy() <= 0.05
        assert low.tolist() == [[False, True, False, False], [False] * 4]
    half = torch.finfo(dtype).eps > 1e-4
    assert ("precision" in patched.provenance) == half
    assert (PrecisionWarning in {each.category for each in said}) == half


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_head_that_writes_where_nobody_reads_does_nothing_in_half_precision(dtype):
    called = []
    for seed in range(10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ablation(unread_head(seed).to(dtype), words(seed, n=60), first_two, reference="zero")
        called.append(float(found.extra["p_value"][0, 0]) <= 0.05)
    assert sum(called) <= 1
