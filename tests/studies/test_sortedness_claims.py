"""Claims of position encodings follow from what is planted in a seed's findings."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from mechinterp import constructions, models
from mechinterp.analysis.gates import Gate
from mechinterp.result import Result
from mechinterp.studies.networks import Trained
from mechinterp.studies.sortedness import claims, why
from mechinterp.studies.sortedness.anatomy import Anatomy
from mechinterp.studies.sortedness.networks import BLIND, DENSE, FREE, KINDS, LEARNED, SINES, named
from mechinterp.tasks import Sortedness
from mechinterp.training import Fit, History, Recipe
from mechinterp.training.checkpoint import CheckpointSeries

LENGTHS = (8, 16, 32, 64, 128, 256)
TASK = Sortedness(n_test=40)
MODEL = constructions.sortedness(TASK).eval()
JOB = Fit(MODEL, TASK, Recipe(), History(), CheckpointSeries(None))
ONE = Trained(
    name=FREE, task=TASK, model=MODEL, untrained=models.sortedness(TASK, n_heads=2).eval(), job=JOB,
    gate=Gate.of(MODEL, TASK),
)  # fmt: skip


def table(name, default, lengths=LENGTHS, control=0.5, **extra):
    coords = {"network": list(KINDS), "length": list(lengths)}

    def array(value):
        return xr.DataArray(np.full((len(KINDS), len(lengths)), value), dims=list(coords), coords=coords)

    return Result(
        name=name, values=array(default), trivial=0.5, control=array(control), control_kind="untrained",
        extra={key: array(value) for key, value in extra.items()},
    )  # fmt: skip


def seed(scores=(), lengths=(), log_n=(), dense=(), layers=(), attention=(1.0, 0.2)):
    """Findings in which all networks are right everywhere, but for what is given, by network and length."""
    results = {
        "accuracy_by_length": table("accuracy_by_length", 1.0, log_n=1.0),
        "accuracy_by_density": table("accuracy_by_density", 1.0, LENGTHS[1:]),
        "attention_dilution": table("attention_dilution", 1.0),
    }
    for name, length, value in lengths:
        results["accuracy_by_length"].values.loc[name, length] = value
    for name, length, value in log_n:
        results["accuracy_by_length"].extra["log_n"].loc[name, length] = value
    for name, length, value in dense:
        results["accuracy_by_density"].values.loc[name, length] = value
    for length, value in zip((16, 256), attention):
        results["attention_dilution"].values.loc[FREE, length] = value
    of = {"as trained": 1.0, "every layer": 1.0, "layer 0": 1.0, "layer 1": 1.0} | dict(layers)
    results["sharpening"] = Result(
        name="sharpening",
        values=xr.DataArray(
            np.array([[value, 0.5, 0.5] for value in of.values()]), dims=("layers", "measure"),
            coords={"layers": list(of), "measure": ["accuracy", "attention", "dense"]},
        ),
        trivial=of["as trained"],
    )  # fmt: skip
    every = dict.fromkeys(KINDS, 1.0) | dict(scores)
    return Anatomy(
        task=TASK, networks=dict.fromkeys(KINDS, ONE), scores=every, untrained=dict.fromkeys(KINDS, 0.5),
        results=results,
    )  # fmt: skip


def asked(claim, *seeds):
    found = claim(list(seeds))
    return found.verdict, found.value


def test_one_network_that_learned_less_is_named():
    found = claims.all_learn_in_range([seed(), seed(scores={LEARNED: 0.97}.items())])
    assert found.verdict == "fails"
    assert f"none; {LEARNED} 0.970" in found.statement


def test_the_bag_of_tokens_must_be_right_in_half_at_every_length():
    half = [(BLIND, length, 0.5) for length in LENGTHS]
    assert asked(claims.none_bidirectional_at_chance, seed(lengths=half)) == ("holds", 0.5)
    assert asked(claims.none_bidirectional_at_chance, seed(lengths=[*half, (BLIND, 64, 0.6)])) == (
        "fails",
        0.6,
    )


def test_extrapolation_is_judged_at_four_times_the_length():
    assert asked(claims.none_causal_extrapolates, seed(lengths=[(FREE, 256, 0.6)]))[0] == "holds"
    assert asked(claims.sinusoidal_extrapolates, seed(lengths=[(SINES, 64, 0.6)])) == ("fails", 0.6)


def test_learned_positions_must_fail_in_both_directions():
    other = named("learned", "bidirectional")
    both = [(LEARNED, 64, 0.5), (other, 64, 0.7)]
    assert asked(claims.learned_fails_beyond_range, seed(lengths=both)) == ("holds", pytest.approx(0.6))
    assert asked(claims.learned_fails_beyond_range, seed(lengths=both[:1])) == ("fails", 0.0)


def test_the_best_is_chosen_at_half_of_the_longest_length_and_without_other_training_data():
    worse = [(name, length, 0.6) for name in KINDS for length in (128, 256) if name not in (SINES, DENSE)]
    sharp = [*worse, (SINES, 128, 0.7), (DENSE, 128, 1.0)]
    found = claims.best_encoding_at_256([seed(lengths=[*worse, (SINES, 256, 0.96)], log_n=sharp)])
    assert f"chosen likewise: {SINES} (" in found.statement
    assert (found.verdict, found.value, found.control) == ("holds", 0.96, 0.6)
    third = [*worse, (named("rotary", "causal"), 256, 0.95)]  # chosen below another, and nearly as good
    for mine, verdict in ((0.96, "fails"), (0.98, "holds")):
        found = claims.best_encoding_at_256([seed(lengths=[*third, (SINES, 256, mine)], log_n=sharp)])
        assert (found.verdict, found.control) == (verdict, 0.95)


def test_an_encoding_that_did_not_learn_in_some_seed_is_no_rival_and_is_named():
    bad = replace(ONE, gate=replace(ONE.gate, score=0.5))
    learned, not_learned = seed(lengths=[(SINES, 256, 0.9)]), seed()
    networks = {name: ONE if name in (FREE, SINES) else bad for name in KINDS}
    found = claims.best_encoding_at_256([learned, replace(not_learned, networks=networks)])
    assert named("rotary", "causal") in found.statement.split("did not learn: ")[1]
    assert found.statement.split("did not learn: ")[1].count(SINES) == 0
    alone = claims.best_encoding_at_256([replace(not_learned, networks=dict.fromkeys(KINDS, bad))])
    assert (alone.verdict, alone.value) == ("untested", None)


@pytest.mark.parametrize(
    ("moved", "mixed", "verdict"), [(1.0, 0.5, "holds"), (0.6, 0.5, "fails"), (1.0, 1.0, "fails")]
)
def test_shifts_are_used_where_moved_positions_do_no_harm_and_mixed_ones_do(moved, mixed, verdict):
    one = seed()
    coords = {"network": [SINES], "move": ["as trained", "1 on", "random order"]}
    values = xr.DataArray([[1.0, moved, mixed]], dims=list(coords), coords=coords)
    one.results["position_moves"] = Result(
        name="position_moves", values=values, trivial=0.5, control=values[:, 2], control_kind="random order"
    )
    maps = {"table": ["sinusoidal"], "shift": [1]}
    one.results["shift_maps"] = Result(
        name="shift_maps", values=xr.DataArray([[1.0]], dims=list(maps), coords=maps), trivial=0.0
    )
    assert asked(claims.linear_shift_used, one) == (verdict, moved)


def test_density_explains_what_is_lost_on_short_dense_sequences_too():
    far, dense = [(FREE, 256, 0.6)], [(FREE, 256, 0.7)]
    assert asked(why.density_explains_decay, seed(lengths=far, dense=dense)) == (
        "holds",
        pytest.approx(0.75),
    )
    assert asked(why.density_explains_decay, seed(lengths=far)) == ("fails", 0.0)
    assert asked(why.density_explains_decay, seed()) == ("untested", None)  # nothing is lost
    plain = [*dense, (FREE, 16, 0.8)]  # two thirds of that at ordinary density, too
    assert asked(why.density_explains_decay, seed(lengths=far, dense=plain)) == ("holds", pytest.approx(0.5))
    hardly = [(FREE, 256, 0.79), (FREE, 16, 0.8)]
    assert asked(why.density_explains_decay, seed(lengths=far, dense=hardly)) == (
        "fails",
        pytest.approx(0.05),
    )
    short = [(FREE, 256, 0.6), (FREE, 16, 0.58)]  # as much is lost at the lengths of training
    assert asked(why.density_explains_decay, seed(lengths=far, dense=short)) == ("untested", None)


def test_training_on_dense_sequences_helps_by_what_it_gains_at_the_end():
    assert asked(why.dense_training_helps, seed(lengths=[(FREE, 256, 0.6)])) == (
        "holds",
        pytest.approx(0.4),
    )
    assert asked(why.dense_training_helps, seed()) == ("fails", 0.0)


def test_dilution_explains_what_the_last_layer_alone_brings_back():
    plain = {"as trained": 0.6, "every layer": 0.9, "layer 0": 0.6}
    last = plain | {"layer 1": 0.9}
    assert asked(why.dilution_explains_decay, seed(layers=last.items())) == ("holds", pytest.approx(0.75))
    first = plain | {"layer 0": 0.9, "layer 1": 0.9}
    assert asked(why.dilution_explains_decay, seed(layers=first.items()))[0] == "fails"
    kept = seed(layers=last.items(), attention=(1.0, 0.9))
    assert asked(why.dilution_explains_decay, kept)[0] == "fails"
    assert asked(why.dilution_explains_decay, seed()) == ("untested", None)


@pytest.mark.parametrize(
    ("lengths", "times", "wanted"), [((8, 64), 4, 64), ((16, 600), 4, 600), (LENGTHS, 16, 256)]
)
def test_lengths_that_are_asked_for_lie_beyond_those_of_training(lengths, times, wanted):
    one = Anatomy(task=Sortedness(test_lengths=lengths), networks={}, scores={}, untrained={}, results={})
    assert one.far(times) == wanted
