"""The fast paths give what the plain computation gives: outputs, losses and every gradient.

Fast are: the last block asking only at the positions read, the first layer computing each distinct
(token, position) pair once, and the MLP that overwrites what it no longer needs. Hooks at every
point turn all of them off.
"""

import numpy as np
import pytest
import torch
from small_networks import KINDS, LENGTH, ROWS, inputs, network, padding
from torch.autograd import gradcheck, gradgradcheck

from mechinterp.models import transformer
from mechinterp.models.distinct import Distinct, GatheredSum, distinct_pairs
from mechinterp.models.mlp import ReluMLP

PER_EXAMPLE = torch.randint(LENGTH, (ROWS, 2), generator=torch.Generator().manual_seed(0))
SITUATIONS = {
    "all": (2, None, None),
    "all_padded": (2, None, "right"),
    "all_padded_left": (2, None, "left"),
    "all_padded_within": (2, None, "within"),
    "last": (1, (-1,), None),
    "last_of_two_layers": (2, (-1,), "left"),
    "several": (1, (1, 3), None),
    "several_of_two_layers": (2, (0, 2, 3), "right"),
    "repeated": (1, (2, 2), "right"),
    "every_one_reversed": (1, (4, 3, 2, 1, 0), None),
    "every_one_reversed_of_two_layers": (2, (4, 3, 2, 1, 0), "left"),
    "more_than_there_are": (1, (0, 1, 2, 3, 4, 4), None),
    "one_list_an_example": (1, PER_EXAMPLE, None),
    "one_list_an_example_of_two_layers": (2, PER_EXAMPLE, "right"),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def slowly(model, *args, **options):
    """The plain computation, with every activation in full."""
    inert = [(name, lambda tensor, hook: None) for name in model.hook_dict]
    return model.run_with_hooks(*args, fwd_hooks=inert, **options)


def gradients(model, loss):
    wanted = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return dict(zip(wanted, grads))


def weighed(outputs):
    """A number that depends on every output in a different way, whatever their size."""
    outputs = outputs / outputs.detach().std()
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=outputs.dtype)
    return (outputs * weights).sum() + outputs.pow(2).sum()


@pytest.fixture
def reuses(monkeypatch):
    """Counts how often the first layer was computed from distinct pairs."""
    calls = []
    original = transformer.Block.forward_distinct
    monkeypatch.setattr(
        transformer.Block, "forward_distinct", lambda *args: calls.append(1) or original(*args)
    )
    return calls


@pytest.mark.parametrize(("n_layers", "read", "side"), SITUATIONS.values(), ids=SITUATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_plain_computation(kind, n_layers, read, side, reuses):
    model = network(kind, n_layers=n_layers)
    x, mask = inputs(model), padding(side)
    if kind == "drawn" and side:
        x, mask = x % 2, mask | (mask.sum(1, keepdim=True) < 4)  # each length has pairs of its own
    fast = model(x, read=read, attention_mask=mask)
    assert len(reuses) == (kind not in ("vectors", "raw_tokens"))
    slow = slowly(model, x, read=read, attention_mask=mask)
    assert len(reuses) == (kind not in ("vectors", "raw_tokens"))
    torch.testing.assert_close(fast, slow, **CLOSE)
    torch.testing.assert_close(gradients(model, weighed(fast)), gradients(model, weighed(slow)), **CLOSE)


@pytest.mark.parametrize(
    "read", [(-1,), (3, 1), (4, 3, 2, 1, 0), PER_EXAMPLE], ids=["last", "two", "all", "own"]
)
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("kind", ["causal", "vectors", "layernorm"])
def test_reading_selects_from_the_outputs_at_all_positions(kind, read, hooked):
    model = network(kind)
    x = inputs(model)
    outputs = (slowly if hooked else type(model).__call__)(model, x, read=read)
    rows = torch.arange(ROWS)[:, None]
    torch.testing.assert_close(outputs, model(x)[rows, torch.as_tensor(read).expand(ROWS, -1)], **CLOSE)


def test_reading_all_positions_in_order_selects_nothing(monkeypatch):
    model = network()
    x = inputs(model)
    monkeypatch.setattr(transformer, "select", None)
    assert torch.equal(model(x, read=range(LENGTH)), model(x))


@pytest.mark.parametrize("side", [None, "left", "right", "within"])
@pytest.mark.parametrize("kind", ["causal", "rotary", "alibi", "tied"])
def test_the_next_token_loss_and_its_gradients(kind, side, reuses):
    model = network(kind)
    x, mask = inputs(model), padding(side)
    fast = model(x, return_type="loss", attention_mask=mask)
    slow = slowly(model, x, return_type="loss", attention_mask=mask)
    assert len(reuses) == 1
    torch.testing.assert_close(fast, slow, **CLOSE)
    torch.testing.assert_close(gradients(model, fast), gradients(model, slow), **CLOSE)


def test_reuse_waits_until_it_pays(reuses):
    model = network()
    model(inputs(model, rows=3))
    assert not reuses


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dropout_of_embeddings_forbids_reuse(mode, reuses):
    model = network(dropout=0.5).train(mode == "train")
    model(inputs(model))
    assert len(reuses) == (mode == "eval")


def test_a_hook_on_any_module_forbids_reuse(reuses):
    model = network()
    with_hook = model.embed.register_forward_hook(lambda module, args, output: None)
    model(inputs(model))
    assert not reuses
    with_hook.remove()
    model(inputs(model))
    assert reuses


@pytest.mark.parametrize("stop", [1, 2])
def test_a_stream_is_returned_in_full(stop, reuses):
    model = network()
    x = inputs(model)
    torch.testing.assert_close(model(x, stop_at_layer=stop), slowly(model, x, stop_at_layer=stop), **CLOSE)
    assert reuses


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["causal", "alibi", "rotary", "sinusoidal", "linear", "layernorm"])
def test_the_fast_path_keeps_the_precision(kind, dtype, reuses):
    model = network(kind, dtype=dtype)
    x = inputs(model)
    fast, slow = model(x, read=(-1,)), slowly(model, x, read=(-1,))
    assert reuses
    assert fast.dtype == slow.dtype == dtype
    torch.testing.assert_close(fast, slow, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "rotary", "vectors"])
def test_an_empty_batch_has_empty_outputs(kind):
    model = network(kind)
    assert model(inputs(model)[:0], read=(-1,)).shape == (0, 1, model.cfg.d_vocab_out)


# What is remembered of a batch.
def test_pairs_are_remembered_while_the_batch_lives():
    tokens, queries = torch.zeros(4, 3, dtype=torch.long), torch.tensor([2])
    assert distinct_pairs(tokens, queries) is distinct_pairs(tokens, queries)


CHANGES = {
    "in_place": lambda x: x.copy_((x + 1) % 4),
    "behind_torchs_back": lambda x: np.copyto(x.numpy(), (x.numpy() + 1) % 4),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_pairs_are_found_anew_when_the_batch_changes(change):
    model = network()
    x = inputs(model)
    before = model(x)
    change(x)
    torch.testing.assert_close(model(x), slowly(model, x), **CLOSE)
    assert not torch.allclose(model(x), before)


def test_pairs_are_found_anew_when_other_positions_ask():
    model = network(n_layers=1)
    x = inputs(model)
    for read in [(0,), (3,), (0, 3)]:
        torch.testing.assert_close(model(x, read=read), slowly(model, x, read=read), **CLOSE)


def test_pairs_are_found_in_inference_mode_too():
    model = network()
    with torch.inference_mode():
        x = inputs(model)
        torch.testing.assert_close(model(x), slowly(model, x), **CLOSE)


def test_a_batch_seen_in_inference_mode_can_be_trained_on(reuses):
    model = network()
    x = inputs(model)
    with torch.inference_mode():
        model(x)
    model(x).sum().backward()
    assert len(reuses) == 2


# The two hand-written gradients, against finite differences.
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize("queries", [[2], [0, 2]])
def test_the_gradient_of_the_gathered_sum(heads, lone, queries):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, (6, 3), generator=generator)
    if lone:
        tokens[:, 1] = 1  # one token for all examples, such as "="
    distinct = Distinct.of(tokens, torch.tensor(queries))
    draw = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    pattern = torch.randn(heads, len(queries), 3, 6, **draw)
    table = torch.randn(len(distinct.tokens), heads, 4, **draw)
    assert gradcheck(lambda p, t: GatheredSum.apply(p, t, distinct), (pattern, table))
    assert gradgradcheck(lambda p, t: GatheredSum.apply(p, t, distinct), (pattern, table))


def relu_mlp_arguments():
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 3), (3, 5), (5,), (5, 2), (2,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def test_the_gradient_of_the_relu_mlp():
    assert gradcheck(ReluMLP.apply, relu_mlp_arguments())


@pytest.mark.parametrize("frozen", range(5))
def test_the_relu_mlp_leaves_out_a_gradient_that_is_not_needed(frozen):
    arguments = relu_mlp_arguments()
    arguments[frozen].requires_grad_(False)
    assert gradcheck(ReluMLP.apply, arguments)


def test_the_second_derivative_of_the_relu_mlp():
    assert gradgradcheck(ReluMLP.apply, relu_mlp_arguments())


@pytest.mark.parametrize("kind", ["causal", "classes", "layernorm"])
def test_second_derivatives_are_those_of_the_plain_computation(kind, reuses):
    model = network(kind, n_layers=1)
    x = inputs(model)

    def second(run):
        first = torch.autograd.grad(weighed(run(x)), model.embed.W_E, create_graph=True)[0]
        return gradients(model, first.pow(2).sum())

    torch.testing.assert_close(second(model), second(lambda x: slowly(model, x)), **CLOSE)
    assert len(reuses) == 1
