"""The laws of each kind of position."""

import pytest
import torch
from small_networks import config, inputs, network

from mechinterp.analysis.checks import check_model
from mechinterp.models import HookedTransformer
from mechinterp.models.positions import PosEmbed, Rotary, alibi_bias, sinusoidal_table
from mechinterp.models.sharpened import sharpened

POSITIONS = torch.arange(7)


def rotary(adjacent, dim=None):
    cfg = config("rotary", rotary_adjacent_pairs=adjacent, rotary_dim=dim)
    return Rotary(cfg).double()


def heads():
    return torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dim", [None, 2])
@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_scores_depend_on_the_difference_alone(adjacent, dim):
    turn = rotary(adjacent, dim)
    q, k = (vector.expand(7, 3, 4) for vector in heads()[:2])  # one query and one key, everywhere
    scores = torch.einsum("qhe,khe->hqk", turn(q, POSITIONS), turn(k, POSITIONS))
    torch.testing.assert_close(scores[:, 1:, 1:], scores[:, :-1, :-1], rtol=1e-6, atol=1e-6)
    assert scores[:, 0].std(-1).min() > 1e-3


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_keeps_lengths_and_leaves_position_0_alone(adjacent):
    turn, x = rotary(adjacent), heads()
    torch.testing.assert_close(turn(x, POSITIONS).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=1e-6)
    assert torch.equal(turn(x, POSITIONS)[0], x[0])


def test_rotary_turns_the_first_pair_by_one_radian_a_position():
    x = torch.zeros(7, 1, 4, dtype=torch.float64)
    x[..., 0] = 1.0
    for adjacent, partner in [(True, 1), (False, 2)]:
        turned = rotary(adjacent)(x, POSITIONS)[:, 0]
        torch.testing.assert_close(turned[:, 0], POSITIONS.double().cos(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(turned[:, partner], POSITIONS.double().sin(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_leaves_the_dimensions_beyond_rotary_dim_alone(adjacent):
    x = heads()
    turned = rotary(adjacent, dim=2)(x, POSITIONS)
    assert torch.equal(turned[..., 2:], x[..., 2:])
    assert not torch.equal(turned[1:, :, :2], x[1:, :, :2])


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_takes_positions_of_each_example(adjacent):
    turn = rotary(adjacent)
    x = heads()[:4].unflatten(0, (2, 2))
    at = torch.tensor([[1, 4], [6, 0]])
    together = turn(x, at)
    for row in range(2):
        assert torch.equal(together[row], turn(x[row], at[row]))


def test_alibi_slopes_of_four_heads():
    bias = alibi_bias(4, torch.tensor([3]), torch.arange(4))
    expected = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256])[:, None] * torch.tensor([-3.0, -2.0, -1.0, 0.0])
    assert torch.equal(bias[:, 0], expected)


def test_alibi_counts_distance_alike_in_both_directions():
    bias = alibi_bias(4, torch.arange(5), torch.arange(5))
    assert torch.equal(bias, bias.mT)


def test_alibi_of_each_examples_queries():
    queries = torch.tensor([[0, 2], [3, 1]])
    together = alibi_bias(4, queries, torch.arange(4))
    assert together.shape == (2, 4, 2, 4)
    for row in range(2):
        assert torch.equal(together[row], alibi_bias(4, queries[row], torch.arange(4)))


@pytest.mark.parametrize("shift", [1, 3, 10])
def test_a_shift_of_sinusoidal_positions_is_a_rotation(shift):
    table = sinusoidal_table(40, 12).double()
    rates = 10000.0 ** (-torch.arange(0, 12, 2).double() / 12)
    c, s = (shift * rates).cos(), (shift * rates).sin()
    rotation = torch.block_diag(*torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], 1))
    torch.testing.assert_close(table[shift:], table[:-shift] @ rotation, rtol=1e-5, atol=1e-5)


def test_sinusoidal_positions_alternate_sine_and_cosine():
    table = sinusoidal_table(5, 4)
    torch.testing.assert_close(table[:, 0], torch.arange(5).sin())
    torch.testing.assert_close(table[:, 1], torch.arange(5).cos())
    torch.testing.assert_close(table[:, 2], (torch.arange(5) / 100).sin())


def test_positions_behind_a_short_table_take_its_last_row():
    table = PosEmbed(config("clamped")).double()
    table.reset_parameters()
    found = table(POSITIONS)
    assert table.W_pos.shape[0] == 3
    assert torch.equal(found[:3], table.W_pos)
    assert torch.equal(found[3:], table.W_pos[2].expand(4, -1))


def test_drawn_positions_keep_the_order_and_are_spread_evenly_in_evaluation_mode():
    table = PosEmbed(config("drawn"))
    torch.manual_seed(0)
    draws = torch.stack([table.train().drawn(7) for _ in range(200)])
    assert (draws.diff() > 0).all()
    assert len(draws.unique()) == 20  # every row is seen, though a sequence has 7 places
    assert not torch.equal(draws[0], draws[1])
    for n in (1, 2, 7, 19, 20):
        even = table.eval().drawn(n)
        assert even[0] == 0
        assert n == 1 or even[-1] == 19
        assert n == 1 or even.diff().min() >= max(1, 19 // (n - 1))
        assert n == 1 or even.diff().max() - even.diff().min() <= 1


def test_analyses_refuse_positions_that_are_drawn_at_every_run():
    model = HookedTransformer(config("drawn"))
    check_model(model.eval())
    with pytest.raises(ValueError, match=r"drawn positions in training mode.*model.eval\(\)"):
        check_model(model.train())


def test_a_log_of_the_keys_keeps_attention_to_one_of_many_as_sharp():
    def weight(model, n):  # one key is sought by 8 more than all others
        scores = torch.zeros(1, 1, 1, n, dtype=torch.float64)
        scores[..., 0] = 8.0
        return model.blocks[0].attn.normalise(scores, None, -1)[..., 0].item()

    plain, sharper = network("bidirectional"), network("bidirectional", attn_log_n=16, n_ctx=20)
    assert weight(plain, 16) == weight(sharper, 16)
    assert weight(plain, 10**4) < 0.25 < 0.999 < weight(sharper, 10**4)


def test_a_log_of_the_keys_counts_those_that_may_be_looked_at():
    model = network("sharper")
    tokens = inputs(model)
    alone = model(tokens[:, :3], read=(-1,))
    torch.testing.assert_close(model(tokens)[:, 2:3], alone)
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, 3:] = False
    torch.testing.assert_close(model(tokens, attention_mask=mask)[:, 2:3], alone)


def test_a_sharpened_network_answers_alike_up_to_its_number_of_keys_and_not_beyond():
    model = network("layernorm").eval()
    made, tokens = sharpened(model, 4), inputs(model, length=7)
    assert model.cfg.attn_log_n == 0
    assert torch.equal(made(tokens[:, :4]), model(tokens[:, :4]))
    torch.testing.assert_close(made(tokens)[:, :4], model(tokens)[:, :4])
    assert not torch.allclose(made(tokens)[:, 6], model(tokens)[:, 6])
    for n_keys, kind in ((1, "causal"), (4, "linear")):
        with pytest.raises(ValueError, match="attn_log_n"):
            sharpened(network(kind), n_keys)
