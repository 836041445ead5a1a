"""Who may look at whom: padding is invisible, and causal networks do not see what comes later."""

import pytest
import torch
from small_networks import KINDS, LENGTH, ROWS, inputs, network, padding

CLOSE = {"rtol": 1e-10, "atol": 1e-11}
CAUSAL = [kind for kind in KINDS if "bidirectional" not in kind and kind != "rotary_pairs"]
BIDIRECTIONAL = [kind for kind in KINDS if kind not in CAUSAL]


def others(x, where):
    """The inputs with another token, or vector, at every place where ``where`` is True."""
    if x.is_floating_point():
        return torch.where(where[..., None], x + 1, x)
    return torch.where(where, (x + 1) % 4, x)


@pytest.mark.parametrize("read", [None, (0, 2, -1)])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_behind_the_mask_change_no_real_output(kind, side, read):
    model, mask = network(kind), padding(side)
    x = inputs(model)
    one = model(x, attention_mask=mask, read=read)
    other = model(others(x, ~mask), attention_mask=mask, read=read)
    real = mask if read is None else mask[:, list(read)]
    torch.testing.assert_close(one[real], other[real], **CLOSE)


@pytest.mark.parametrize("kind", ["bidirectional", "linear_bidirectional", "rotary_pairs"])
def test_padding_at_the_right_is_as_if_it_were_not_there(kind):
    model = network(kind)
    x = inputs(model)
    mask = (torch.arange(LENGTH) < LENGTH - 2).expand(ROWS, -1)
    torch.testing.assert_close(model(x, attention_mask=mask)[:, :-2], model(x[:, :-2]), **CLOSE)


def test_a_mask_of_ones_and_zeros_is_one_of_truths():
    model, mask = network(), padding("right")
    x = inputs(model)
    assert torch.equal(model(x, attention_mask=mask.long()), model(x, attention_mask=mask))


def test_a_mask_without_padding_changes_nothing():
    model = network()
    x = inputs(model)
    assert torch.equal(model(x, attention_mask=torch.ones(ROWS, LENGTH, dtype=torch.bool)), model(x))


@pytest.mark.parametrize("kind", ["causal", "linear", "alibi"])
def test_who_may_look_at_nothing_gets_nothing(kind):
    model, mask = network(kind), padding("left")
    _, cache = model.run_with_cache(inputs(model), attention_mask=mask)
    z = cache["blocks.0.attn.hook_z"]
    assert torch.equal(z[~mask], torch.zeros_like(z[~mask]))


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("kind", ["causal", "bidirectional", "linear"])
def test_gradients_stay_finite_where_nothing_may_be_looked_at(kind, hooked):
    model, mask = network(kind), padding("left")
    mask[3] = False
    hooks = [("hook_embed", lambda tensor, hook: None)] if hooked else []
    model.run_with_hooks(inputs(model), attention_mask=mask, fwd_hooks=hooks).pow(2).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("later", range(1, LENGTH))
@pytest.mark.parametrize("kind", CAUSAL)
def test_later_tokens_never_change_earlier_outputs(kind, later):
    model = network(kind)
    x = inputs(model)
    changed = others(x, (torch.arange(LENGTH) >= later).expand(ROWS, -1))
    torch.testing.assert_close(model(x)[:, :later], model(changed)[:, :later], **CLOSE)


@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_later_tokens_change_earlier_outputs_of_a_bidirectional_network(kind):
    model = network(kind)
    x = inputs(model)
    changed = others(x, (torch.arange(LENGTH) == LENGTH - 1).expand(ROWS, -1))
    assert (model(x)[:, 0] - model(changed)[:, 0]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count_in_the_loss(side):
    model, mask = network(), padding(side)
    x = inputs(model)
    per_token = model(x, return_type="loss", attention_mask=mask, loss_per_token=True)
    logits = model(x, attention_mask=mask)
    pairs = [
        (row, at) for row in range(ROWS) for at in range(LENGTH - 1) if mask[row, at] and mask[row, at + 1]
    ]
    expected = torch.stack([-logits[row, at].log_softmax(-1)[x[row, at + 1]] for row, at in pairs])
    torch.testing.assert_close(per_token[mask[:, :-1] & mask[:, 1:]], expected, **CLOSE)
    assert per_token.count_nonzero() == len(pairs)
    torch.testing.assert_close(model(x, return_type="loss", attention_mask=mask), expected.mean(), **CLOSE)
