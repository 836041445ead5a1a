"""Patching at hook points by their own names, in models of any kind."""

import pytest
from small_models import network, preference, tokens
from torch import nn

from mechinterp.analysis.patching import activation_patching
from mechinterp.hooks import HookedRootModule, HookPoint

X, Y = tokens(0), tokens(1)
NAMED = {
    "stream": ("resid_mid", "blocks.*.hook_resid_mid"),
    "heads": ("z", "blocks.*.attn.hook_z"),
    "pattern": ("pattern", "blocks.*.attn.hook_pattern"),
}


class Own(HookedRootModule):
    """Tokens by themselves, without a config."""

    def __init__(self):
        super().__init__()
        self.embed, self.hook_h, self.hook_sum = nn.Embedding(7, 8), HookPoint(), HookPoint()
        self.out = nn.Linear(8, 7)
        self.setup()

    def forward(self, x):
        h = self.hook_h(self.embed(x))
        return self.out(h + self.hook_sum(h.sum(1))[:, None])


@pytest.mark.parametrize(("short", "pattern"), NAMED.values(), ids=NAMED)
def test_a_hook_points_own_name_gives_what_the_short_name_gives(short, pattern):
    one = activation_patching(network(), X, Y, preference, short)
    other = activation_patching(network(), X, Y, preference, pattern)
    assert other.values.dims == ("hook", *one.values.dims[1:])
    assert other.values.to_numpy() == pytest.approx(one.values.to_numpy(), abs=1e-9)
    assert other.control.to_numpy() == pytest.approx(one.control.to_numpy(), abs=1e-9)
    assert other.name == "hook_patching"


def test_groups_of_neurons_at_a_hook_points_own_name():
    groups = {"a": [0, 2], "b": [5]}
    one = activation_patching(network(), X, Y, preference, "post", groups=groups)
    other = activation_patching(network(), X, Y, preference, "blocks.*.mlp.hook_post", groups=groups)
    assert other.values.to_numpy() == pytest.approx(one.values.to_numpy(), abs=1e-9)


def test_a_model_without_a_config_is_patched_where_the_answer_is():
    found = activation_patching(Own().double(), X, Y, preference, "hook_h", read=(1,))
    recovered = found.extra["recovered"].squeeze("hook").to_numpy()
    assert recovered.sum() == pytest.approx(1)
    whole = activation_patching(Own().double(), X, Y, preference, "hook_h", by=("hook",), read=(1,))
    assert whole.extra["recovered"].to_numpy() == pytest.approx(1)


def test_a_vector_an_example_has_no_positions():
    found = activation_patching(Own().double(), X, Y, preference, "hook_sum")
    assert found.values.dims == ("hook",)


REFUSED = {
    "no such hook": ({"activation": "hook_k"}, r"or a hook point of this model, such as \['hook_"),
    "layers": ({"activation": "hook_h", "layers": [0]}, "name the hook points"),
    "an axis that it lacks": ({"activation": "hook_sum", "by": ("hook", "position")}, r"any of \['hook'\]"),
    "heads that it lacks": ({"activation": "hook_h", "heads": [0]}, "head among the axes"),
    "a short name": ({"activation": "z"}, "cfg.n_layers, cfg.n_heads, cfg.d_model"),
    "a mask": ({"activation": "hook_h", "attention_mask": X >= 0}, "takes attention_mask, got Own"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_model_without_a_config_cannot_give_is_refused(options, words):
    with pytest.raises(ValueError, match=f"expected .*{words}"):
        activation_patching(Own(), X, Y, preference, **options)
