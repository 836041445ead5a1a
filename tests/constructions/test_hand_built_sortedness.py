"""The hand-built network tells sorted sequences of every length, by the mechanism written down."""

import pytest
import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.metrics import accuracy
from mechinterp.hooks import run_with_cache

TASK = tasks.Sortedness()
MODEL = constructions.sortedness(TASK).eval()


@pytest.mark.parametrize("length", [8, 16, 64, 256])
@pytest.mark.parametrize("negatives", ["adjacent", "shuffle"])
def test_it_is_right_at_every_length(negatives, length):
    task = tasks.Sortedness(negatives=negatives)
    batch = task.of_length(length, 1000)
    assert task.score(task.answers(MODEL, batch), batch) == 1.0


@pytest.mark.parametrize(
    "fields", [{"ties": False, "test_lengths": (64,)}, {"vocabulary": 2}, {"vocabulary": 1000}], ids=str
)
def test_it_is_right_with_other_tokens(fields):
    task = tasks.Sortedness(**fields)
    model, batch = constructions.sortedness(task).eval(), task.dataset("test")
    assert task.score(task.answers(model, batch), batch) == 1.0


def test_the_stream_holds_the_prefix_maximum_and_the_falls():
    batch = TASK.of_length(64, 200)
    _, cache = run_with_cache(MODEL, batch.inputs, names=["blocks.0.hook_resid_post"])
    stream = cache["blocks.0.hook_resid_post"]
    torch.testing.assert_close(stream[..., 1], batch.variables["prefix_max"].float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(stream[..., 2], batch.variables["descent"].float(), atol=1e-3, rtol=0)


def test_its_prefix_maximum_head_is_found_and_no_other():
    tokens = torch.randint(TASK.vocabulary, (100, 16), generator=torch.Generator().manual_seed(0))
    found = match_score(
        MODEL, tokens, tokens.cummax(1).values, key_variable=tokens, include_self=True, draws=50
    )
    assert found.values[0, 0] > 0.999
    assert (found.values.values.ravel()[1:] < 0.6).all()


def test_without_the_heads_at_work_it_guesses_and_spare_heads_do_nothing():
    batch = TASK.of_length(16, 400)
    found = ablation(MODEL, batch.inputs, accuracy(batch.targets), reference="zero")
    assert found.values.values.tolist() == [[0.5, 1.0], [0.5, 1.0]]


def test_a_bidirectional_one_is_refused():
    with pytest.raises(ValueError, match="expected a causal network"):
        constructions.sortedness(TASK, attention_dir="bidirectional")
