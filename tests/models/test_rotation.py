"""A rotated network computes the same with other weights."""

import pytest
import torch

from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.rotation import rotate_stream

TOKENS = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalization", [None, "LN", "LNPre", "RMS", "RMSPre"])
@pytest.mark.parametrize("positions", ["standard", "sinusoidal", "rotary", "none"])
@pytest.mark.parametrize("tied", [False, True])
def test_outputs_stay_and_weights_change(normalization, positions, tied):
    cfg = TransformerConfig(
        n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=12, n_ctx=5, d_vocab=7, act_fn="gelu",
        normalization_type=normalization, positional_embedding_type=positions, tie_embeddings=tied,
        dtype=torch.float64,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith(("b_", "b", "w")):
                weight.add_(
                    0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    turned = rotate_stream(model, seed=3)
    torch.testing.assert_close(turned(TOKENS), model(TOKENS), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(turned.W_E, model.W_E, atol=0.05)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_another_seed_is_another_rotation():
    model = HookedTransformer(
        TransformerConfig(n_layers=1, d_model=8, d_head=4, n_ctx=5, d_vocab=7, d_mlp=8, act_fn="relu")
    )
    assert not torch.allclose(rotate_stream(model, 0).W_E, rotate_stream(model, 1).W_E)
