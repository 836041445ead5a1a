"""Planted position vectors, planted users of them, and planted leaks."""

import pytest
import torch

from mechinterp import models, tasks
from mechinterp.analysis.leaks import leaks
from mechinterp.analysis.metrics import accuracy
from mechinterp.analysis.positions import moved_positions, position_table, shift_maps
from mechinterp.models.positions import sinusoidal_table

TASK = tasks.Sortedness(n_test=400)
SINES = sinusoidal_table(48, 16)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_planted_frequency_has_all_of_the_spectrum():
    wave = torch.cos(2 * torch.pi * 3 / 24 * torch.arange(24))
    found = position_table(wave[:, None] * noise(5), noise(24, 5))
    spectrum = found.extra["spectrum"]
    assert float(spectrum.sel(of="trained").sel(frequency=3 / 24)) == pytest.approx(1)
    assert float(spectrum.sel(of="untrained").max()) < 0.5
    assert found.trivial == pytest.approx(1 / 12)
    assert spectrum.sum("frequency").values == pytest.approx([1, 1])
    assert found.figure() is not None


def test_a_shift_of_sines_is_linear_and_one_of_noise_is_not():
    found = shift_maps({"sines": SINES, "noise": noise(48, 16)}, shifts=(1, 5))
    assert (found.values.sel(table="sines") > 0.999).all()
    assert (found.values.sel(table="noise") < 0.3).all()
    assert (found.control < 0.3).all()
    assert found.figure() is not None


def reader(wanted):
    """A network without content that says 1 where the last token's position vector is that of ``wanted``."""
    model = models.sortedness(
        TASK, "learned", n_layers=1, d_model=16, n_heads=1, d_mlp=4, normalization_type=None
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.pos_embed.W_pos.copy_(torch.eye(16))
        model.unembed.W_U[wanted, 1] = 1.0
        model.unembed.b_U[1] = -0.5
    return model


def test_a_planted_reader_of_absolute_positions_is_lost_when_they_move():
    inputs = TASK.of_length(8, 40).inputs
    ones = accuracy(torch.ones(40, 1, dtype=torch.long))
    at = torch.arange(8)
    found = moved_positions(reader(7), inputs, ones, {"own": at, "one on": at + 1, "ends": at + 8})
    assert (found.name, found.trivial) == ("moved_positions", 1.0)
    assert found.values.values.tolist() == [1.0, 0.0, 0.0]
    assert float(found.extra["flat"]) == 0.0
    assert float(found.control) == pytest.approx(1 / 8, abs=0.2)
    assert found.figure() is not None


def test_positions_that_are_not_added_or_not_there_are_refused():
    inputs, ones = TASK.of_length(8, 4).inputs, accuracy(torch.ones(4, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="added to the stream"):
        moved_positions(models.sortedness(TASK).eval(), inputs, ones, {"own": torch.arange(8)})
    with pytest.raises(ValueError, match=r"rows within \[0, 16\)"):
        moved_positions(reader(0), inputs, ones, {"far": torch.arange(8) + 9})
    with pytest.raises(ValueError, match="leave four positions"):
        shift_maps({"short": noise(6, 2)}, shifts=(3,))
    with pytest.raises(ValueError, match="four or more positions"):
        position_table(noise(3, 2))


@pytest.mark.parametrize("negatives", ["adjacent", "shuffle"])
def test_ends_tell_shuffles_and_nothing_tells_exchanged_neighbours(negatives):
    task = tasks.Sortedness(negatives=negatives, n_test=600)
    batch = task.of_length(16)
    found = leaks(task.leaks(batch), batch.targets[:, 0], torch.arange(len(batch)) // 2)
    assert found.name == "leaks"
    assert float(found.values.sel(view="bag of tokens")) == 0.5  # the two of a pair have the same
    if negatives == "adjacent":
        assert (found.values == 0.5).all()
    else:
        assert float(found.values.sel(view="first and last token")) > 0.9
    assert abs(found.control - 0.5).max() < 0.15
    assert found.figure() is not None


def test_views_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="one row for each example"):
        leaks({"a": noise(4, 2)}, torch.tensor([0, 1]), torch.tensor([0, 1]))
