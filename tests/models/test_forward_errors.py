"""Input that a network cannot take is refused: what was expected, what came, and what to do."""

import jaxtyping
import pytest
import torch
from small_networks import inputs, network

IDS = torch.zeros(2, 5, dtype=torch.long)
STREAM = torch.zeros(2, 5, 12, dtype=torch.float64)
REFUSED = {
    "id_too_large": (IDS + 4, {}, "raise d_vocab"),
    "negative_id": (IDS - 1, {}, "raise d_vocab"),
    "too_long": (torch.zeros(2, 8, dtype=torch.long), {}, "larger n_ctx"),
    "no_positions": (IDS[:, :0], {}, "1 to n_ctx"),
    "real_ids": (IDS.float(), {}, ".long()"),
    "boolean_ids": (IDS.bool(), {}, ".long()"),
    "one_sequence": (IDS[0], {}, "[batch, pos]"),
    "stream_width": (STREAM[..., :-1], {"start_at_layer": 1}, "[batch, pos, 12]"),
    "stream_of_ids": (IDS, {"start_at_layer": 1}, "[batch, pos, 12]"),
    "position_too_large": (IDS, {"read": (5,)}, "positions in [-5, 5)"),
    "position_too_negative": (IDS, {"read": (-6,)}, "positions in [-5, 5)"),
    "no_position": (IDS, {"read": ()}, "read=(-1,)"),
    "one_bare_position": (IDS, {"read": -1}, "read=(-1,)"),
    "real_position": (IDS, {"read": torch.tensor([1.0])}, "read=(-1,)"),
    "mask_of_positions": (IDS, {"read": torch.ones(5, dtype=torch.bool)}, "as integers"),
    "positions_of_other_rows": (IDS, {"read": torch.zeros(3, 1, dtype=torch.long)}, "each of 2 examples"),
    "start_after_the_end": (STREAM, {"start_at_layer": 3}, "start_at_layer in [-2, 2]"),
    "stop_after_the_end": (IDS, {"stop_at_layer": 3}, "stop_at_layer in [-2, 2]"),
    "stop_before_the_start": (IDS, {"stop_at_layer": -3}, "stop_at_layer in [-2, 2]"),
    "mask_of_other_length": (
        IDS,
        {"attention_mask": torch.ones(2, 4, dtype=torch.bool)},
        "one entry for each",
    ),
    "mask_of_other_rows": (IDS, {"attention_mask": torch.ones(1, 5, dtype=torch.bool)}, "one entry for each"),
    "loss_of_some_positions": (IDS, {"return_type": "loss", "read": (-1,)}, "from the outputs instead"),
    "loss_of_a_stream": (STREAM, {"return_type": "loss", "start_at_layer": 0}, "from the outputs instead"),
}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Without the type checks of the test run: the library's own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("given", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_input_that_cannot_be_is_refused_with_a_remedy(given, options, words):
    with pytest.raises((ValueError, TypeError), match=r"(?s)expected .+ got .+; .+") as error:
        network()(given, **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "given", [torch.zeros(2, 5, 4), torch.zeros(2, 3), IDS], ids=["width", "axes", "ids"]
)
def test_vectors_of_another_shape_are_refused(given):
    with pytest.raises(TypeError, match=r"expected real vectors \[batch, pos, 3\], got .+; give floats"):
        network("vectors")(given)


@pytest.mark.parametrize("kind", ["classes", "vectors"])
def test_only_tokens_have_a_next_token_loss(kind):
    model = network(kind)
    with pytest.raises(ValueError, match="next-token loss"):
        model(inputs(model), return_type="loss")


def test_strings_are_refused_where_ids_are_asked():
    model = network()
    with pytest.raises(TypeError, match=r"expected token ids as a tensor, got str; .+ encode strings"):
        model.to_tokens("1 + 1")
    with pytest.raises(TypeError, match=r"expected the id of a token, got '1'; .+ look the id up"):
        model.to_single_token("1")
