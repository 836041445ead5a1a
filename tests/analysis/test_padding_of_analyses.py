"""A padded batch gives what its rows give alone, in every analysis that takes a mask."""

import pytest
import torch
from small_models import network, tokens

from mechinterp.analysis.ablation import ablation, erase_directions
from mechinterp.analysis.alignment import column_alignment
from mechinterp.analysis.attention import attention_distance, attention_entropy, attention_patterns
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.attention_scores import attention_scores
from mechinterp.analysis.components import component_ablation, component_patching, mean_loss
from mechinterp.analysis.lens import logit_lens
from mechinterp.analysis.logit_attribution import direct_logit_attribution
from mechinterp.analysis.metrics import logit_difference
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.path_patching import path_patching
from mechinterp.analysis.pruning import prune
from mechinterp.analysis.rank_collapse import collapse_without_parts, rank_collapse
from mechinterp.analysis.redundancy import pairwise_ablation

ROWS, REAL, PADDING = 6, 4, 2
MODEL = network(positional_embedding_type="none")
ROW, OTHER = tokens(0, ROWS, REAL), tokens(1, ROWS, REAL)
RIGHT, WRONG = ROW[:, 0], (ROW[:, 0] + 1) % 7
METRIC = logit_difference(RIGHT, WRONG)
ZERO = {"reference": "zero"}


def columns(length, before):
    """The first two real tokens are of column 0, the others of column 1."""
    each = [-1] * before + [0, 0, 1, 1] + [-1] * (length - before - REAL)
    return {"": (each, each)}


TAKES_READ = {
    "ablation": lambda x, y, **given: ablation(MODEL, x, METRIC, **ZERO, **given),
    "erase_directions": lambda x, y, **given: erase_directions(
        MODEL, x, METRIC, {"a": torch.arange(8.0)}, **ZERO, **given
    ),
    "activation_patching": lambda x, y, **given: activation_patching(MODEL, x, y, METRIC, "z", **given),
    "whole runs": lambda x, y, **given: activation_patching(MODEL, x, y, METRIC, "v", fast=False, **given),
    "patterns": lambda x, y, **given: activation_patching(MODEL, x, y, METRIC, "pattern", **given),
    "path_patching": lambda x, y, **given: path_patching(MODEL, x, y, METRIC, **given),
    "component_ablation": lambda x, y, **given: component_ablation(
        MODEL, x, RIGHT[:, None], kinds=["zero"], **given
    ).effect(mean_loss, "head_loss"),
    "component_patching": lambda x, y, **given: component_patching(MODEL, x, y, METRIC, **given),
    "prune": lambda x, y, **given: prune(MODEL, x, METRIC, **ZERO, orders=1, **given),
    "pairwise_ablation": lambda x, y, **given: pairwise_ablation(MODEL, x, METRIC, **ZERO, **given),
}
TAKES_MASK = {
    "attention_patterns": attention_patterns,
    "attention_entropy": attention_entropy,
    "attention_distance": attention_distance,
    "attention_scores": attention_scores,
    "match_score": lambda model, x, **given: match_score(model, x, x, draws=5, **given),
    "rank_collapse": rank_collapse,
    "collapse_without_parts": collapse_without_parts,
}
FOLDED = network(positional_embedding_type="none", normalization_type=None)
READS_OUT = {
    "logit_lens": lambda x, read, **given: logit_lens(MODEL, x, RIGHT[:, None], read=(read,), **given),
    "direct_logit_attribution": lambda x, read, **given: direct_logit_attribution(
        FOLDED, x, RIGHT, WRONG, draws=5, read=read, **given
    ),
}


def padded(rows, side):
    """Rows with other tokens beside them."""
    beside = tokens(9, ROWS, PADDING)
    return torch.cat((beside, rows) if side == "left" else (rows, beside), 1)


def before(side):
    return PADDING if side == "left" else 0


def mask(side):
    at = torch.arange(REAL + PADDING) - before(side)
    return ((at >= 0) & (at < REAL)).repeat(ROWS, 1)


def same(alone, together, side):
    """Values are alike at the real positions."""
    at = {dim: slice(before(side), before(side) + REAL) for dim in ("position", "query", "key")}
    own = together.values.isel({dim: place for dim, place in at.items() if dim in together.values.dims})
    assert own.shape == alone.values.shape
    assert own.to_numpy() == pytest.approx(alone.values.to_numpy(), abs=1e-9, nan_ok=True)
    assert together.trivial == pytest.approx(alone.trivial, abs=1e-9)


SIDES = pytest.mark.parametrize("side", ["left", "right"])


@SIDES
@pytest.mark.parametrize("name", TAKES_READ)
def test_padding_is_nothing_to_sweeps(name, side):
    alone = TAKES_READ[name](ROW, OTHER)
    given = {"attention_mask": mask(side), "read": (before(side) + REAL - 1,)}
    same(alone, TAKES_READ[name](padded(ROW, side), padded(OTHER, side), **given), side)


@SIDES
@pytest.mark.parametrize("name", TAKES_MASK)
@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_padding_is_nothing_to_attention_and_streams(name, side, dtype):
    alone = TAKES_MASK[name](MODEL, ROW)
    same(alone, TAKES_MASK[name](MODEL, padded(ROW, side), mask=mask(side).to(dtype)), side)


@SIDES
@pytest.mark.parametrize("name", READS_OUT)
def test_padding_is_nothing_to_what_reads_the_stream(name, side):
    pytest.importorskip(
        "transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4"
    )
    alone = READS_OUT[name](ROW, -1)
    same(alone, READS_OUT[name](padded(ROW, side), before(side) + REAL - 1, mask=mask(side)), side)


@pytest.mark.parametrize("name", READS_OUT)
def test_padding_is_not_read(name):
    with pytest.raises(ValueError, match="outputs are read, got padding in 6 of 6"):
        READS_OUT[name](padded(ROW, "right"), -1, mask=mask("right"))


@SIDES
def test_padding_is_nothing_to_columns(side):
    alone = column_alignment(MODEL, ROW, columns(REAL, 0))
    wider = columns(REAL + PADDING, before(side))
    same(alone, column_alignment(MODEL, padded(ROW, side), wider, attention_mask=mask(side)), side)


def test_queries_that_are_padding_do_not_count_in_columns():
    short = mask("right").clone()
    short[:3, 2:] = False
    wider = columns(REAL + PADDING, 0)
    found = column_alignment(MODEL, padded(ROW, "right"), wider, attention_mask=short)
    first = column_alignment(MODEL, ROW[:3, :2], {"": ([0, 0], [0, 0])})
    last = column_alignment(MODEL, ROW[3:], columns(REAL, 0))
    wanted = (first.values.sel(offset=0) + last.values.sel(offset=0)) / 2
    assert found.values.sel(offset=0).to_numpy() == pytest.approx(wanted.to_numpy())


ADDITIVE = torch.zeros(ROWS, REAL).masked_fill(torch.arange(REAL) > 2, -torch.inf)
NO_MASKS = {
    "additive": (ADDITIVE, "give mask == 0"),
    "floats": (torch.ones(ROWS, REAL), "of booleans or of 0 and 1"),
    "other numbers": (2 * torch.ones(ROWS, REAL, dtype=torch.long), "of booleans or of 0 and 1"),
}


@pytest.mark.parametrize("name", [*TAKES_READ, *TAKES_MASK])
@pytest.mark.parametrize("kind", NO_MASKS)
def test_masks_that_do_not_say_what_is_real_are_refused(name, kind):
    given, words = NO_MASKS[kind]
    analysis = TAKES_READ[name] if name in TAKES_READ else TAKES_MASK[name]
    arguments = (ROW, OTHER) if name in TAKES_READ else (MODEL, ROW)
    with pytest.raises(ValueError, match=words):
        analysis(*arguments, **{"attention_mask" if name in TAKES_READ else "mask": given})
