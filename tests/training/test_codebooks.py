"""Training with codebooks: temperatures fall, measures are kept, training resumes to the bit."""

import copy
from dataclasses import replace

import pytest
import torch

from mechinterp import models
from mechinterp.hooks import run_with_cache
from mechinterp.tasks import StateMachine
from mechinterp.training import Recipe, fit
from mechinterp.training.codebooks import Anneal, CodebookPenalty, TrackCodes, codebooks

TASK = StateMachine(n_states=3, length=6, n_test=20)
RECIPE = Recipe(steps=12, batch_size=8, lr=1e-2, eval_every=3, save_every=3)


def network(**changes):
    small = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_mlp": 16, "codebook_size": 6}
    return models.state_machine(TASK, **small | changes)


@pytest.mark.parametrize(("course", "middle"), [("linear", 1.05), ("geometric", 0.2**0.5)])
def test_temperatures_fall_from_the_network_s_own_to_the_end(course, middle):
    model = network(codebook_temperature=2.0)
    anneal = Anneal(end=0.1, course=course)
    job = fit(model, TASK, RECIPE, callbacks=[anneal, TrackCodes()], penalty=CodebookPenalty())
    kept = job.history.tracked
    assert kept["step"] == [3, 6, 9, 12]
    for name, book in codebooks(model):
        seen = kept[f"{name.replace('blocks.', 'L').replace('.codebook_', ' ')} temperature"]
        assert seen[1] == pytest.approx(middle, rel=1e-5)
        assert seen[-1] == float(book.temperature) == pytest.approx(0.1)
    assert Anneal(end=0.1, share=0.5).at(2.0, 0.5) == pytest.approx(0.1)


def test_codes_that_are_not_used_come_alive():
    kept = []
    for revive in (True, False):
        model = network(codebook_size=40)
        recipe = replace(RECIPE, steps=60)
        job = fit(model, TASK, recipe, callbacks=[TrackCodes(revive=revive)], penalty=CodebookPenalty())
        kept.append(job.history.tracked["L0 mlp dead"])
    assert kept[0] != kept[1]
    assert sum(kept[0]) < sum(kept[1])


def test_a_state_of_another_annealing_is_refused(tmp_path):
    settings = {"folder": tmp_path, "penalty": CodebookPenalty()}
    warm = {"codebook_temperature": 1.0}
    fit(network(**warm), TASK, RECIPE, callbacks=[Anneal(end=0.1)], **settings)
    with pytest.raises(ValueError, match="another"):
        fit(network(**warm), TASK, RECIPE, callbacks=[Anneal(end=0.2)], **settings)


def test_a_temperature_that_cannot_fall_is_refused():
    with pytest.raises(ValueError, match=r"above end=0\.1, got codebook_temperature=0\.1"):
        fit(network(), TASK, RECIPE, callbacks=[Anneal(end=0.1)])


def test_softmaxes_pass_in_training_and_codes_afterwards():
    model = network(codebook_soft=True)
    batch = TASK.sample(4, torch.Generator().manual_seed(0))
    for training in (True, False):
        _, cache = run_with_cache(model.train(training), batch.inputs, names="*hook_code")
        assert all(bool(((x == 0) | (x == 1)).all()) != training for x in cache.values())


def test_a_network_can_be_copied_after_training():
    model = network().train()
    model(TASK.sample(4, torch.Generator().manual_seed(0)).inputs)
    again = copy.deepcopy(model)
    assert torch.equal(again.blocks[0].codebook_mlp.codes, model.blocks[0].codebook_mlp.codes)
    with pytest.raises(ValueError, match="in training mode before its cost"):
        CodebookPenalty()(again)


def test_penalties_bring_entropy_down():
    found = []
    for compress in (0.0, 3.0):
        model = network()
        fit(model, TASK, replace(RECIPE, steps=40), penalty=CodebookPenalty(compress=compress))
        found.append(float(model.blocks[0].codebook_mlp.entropy.detach()))
    assert found[1] < found[0]


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    def run(folder, stop=None):
        model, settings = network(codebook_temperature=2.0), [Anneal(), TrackCodes()]
        halt = [] if stop is None else [lambda job: job.step >= stop]
        job = fit(model, TASK, RECIPE, folder=folder, callbacks=[*settings, *halt], penalty=CodebookPenalty())
        return model, job

    whole, job = run(tmp_path / "whole")

    def pressed(job):
        if job.step >= 6:
            raise KeyboardInterrupt

    model = network(codebook_temperature=2.0)
    settings = {"folder": tmp_path / "cut", "penalty": CodebookPenalty()}
    fit(model, TASK, RECIPE, callbacks=[Anneal(), TrackCodes(), pressed], **settings)
    resumed = network(codebook_temperature=2.0)
    again = fit(resumed, TASK, RECIPE, callbacks=[Anneal(), TrackCodes()], **settings)
    assert again.history.tracked == job.history.tracked
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize("fields", [{"end": 0.0}, {"end": float("inf")}, {"share": 0.0}, {"course": "steep"}])
def test_annealings_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match="expected"):
        Anneal(**fields)


def test_a_network_without_codebooks_is_refused():
    with pytest.raises(ValueError, match="codebook_size > 0"):
        codebooks(network(codebook_size=0))
