"""The training loop: it learns, stops when told, survives interruption to the bit, and says what broke."""

import signal
from dataclasses import replace

import pytest
import torch

from mechinterp.models import modular_addition
from mechinterp.tasks import ModularAddition
from mechinterp.training import Diverged, Recipe, fit
from mechinterp.training.curriculum import curriculum

TASK = ModularAddition(p=7, train_fraction=0.6)
RECIPE = Recipe(steps=24, lr=1e-2, weight_decay=0.5, warmup=3, eval_every=4, checkpoints=6, save_every=5)


def network(seed=0):
    return modular_addition(TASK, d_model=16, n_heads=2, d_head=8, d_mlp=32, seed=seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def interrupt_at(step):
    def callback(job):
        if job.step >= step:
            raise KeyboardInterrupt

    return callback


def test_the_loss_falls_and_every_step_is_recorded():
    job = fit(network(), TASK, replace(RECIPE, steps=60))
    history = job.history
    assert len(history.train_loss) == 60
    assert history.train_loss[-1] < history.train_loss[0] / 2
    assert history.steps == list(range(0, 61, 4))
    assert len(history.test_loss) == len(history.test_score) == len(history.weight_norm) == len(history.steps)
    assert job.stopped == "steps"


@pytest.mark.parametrize("changes", [{}, {"batch_size": 8}, {"optimizer": "muon"}], ids=str)
def test_resuming_after_an_interruption_gives_the_same_bits(tmp_path, changes):
    recipe = replace(RECIPE, **changes)
    straight = network()
    whole = fit(straight, TASK, recipe)
    broken = fit(network(), TASK, recipe, folder=tmp_path, callbacks=[interrupt_at(8)])
    assert broken.stopped == "interrupted"
    resumed = network()
    job = fit(resumed, TASK, recipe, folder=tmp_path)
    assert torch.equal(weights(straight), weights(resumed))
    assert job.history.train_loss == whole.history.train_loss
    assert job.history.test_loss == whole.history.test_loss
    assert job.checkpoints.steps == whole.checkpoints.steps


def test_a_second_ctrl_c_within_a_step_leaves_the_last_whole_state(tmp_path, monkeypatch):
    straight, taken, outputs = network(), [], type(TASK).outputs
    fit(straight, TASK, RECIPE)

    def press(task, model, batch):
        taken.extend([None] * model.training)
        if len(taken) == 8:
            raise KeyboardInterrupt
        return outputs(task, model, batch)

    with monkeypatch.context() as pressed:  # in the middle of step 8; saved after step 5
        pressed.setattr(type(TASK), "outputs", press)
        job = fit(network(), TASK, RECIPE, folder=tmp_path)
    assert (job.stopped, job.step) == ("interrupted", 7)
    resumed = network()
    job = fit(resumed, TASK, RECIPE, folder=tmp_path)
    assert torch.equal(weights(straight), weights(resumed))
    assert len(job.history.test_loss) == len(job.history.steps)


def test_ctrl_c_waits_for_the_end_of_the_step_and_leaves_the_handler_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def press(job):
        if job.step == 8:
            signal.raise_signal(signal.SIGINT)

    job = fit(network(), TASK, RECIPE, folder=tmp_path, callbacks=[press])
    assert (job.stopped, job.step) == ("interrupted", 8)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_training_is_not_repeated(tmp_path):
    model = network()
    fit(model, TASK, RECIPE, folder=tmp_path)
    again = network()
    job = fit(again, TASK, RECIPE, folder=tmp_path, callbacks=[interrupt_at(0)])
    assert torch.equal(weights(model), weights(again))
    assert job.stopped == "steps"


def test_the_checkpoint_series_starts_untrained_and_ends_trained(tmp_path):
    model = network()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    job = fit(model, TASK, RECIPE, folder=tmp_path)
    assert job.checkpoints.steps[0] == 0
    assert job.checkpoints.steps[-1] == job.step
    assert all(torch.equal(job.checkpoints[0][name], before[name]) for name in before)
    assert all(torch.equal(job.checkpoints[job.step][name], x) for name, x in model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_with_step_checkpoint_and_remedy():
    with pytest.raises(Diverged, match=r"finite loss.*step \d+.*checkpoint.*step \d+.*lower lr"):
        fit(network(), TASK, replace(RECIPE, lr=1e12, steps=50, warmup=0, weight_decay=0.0))


def test_stopping_at_a_score_leaves_room_for_the_clean_up():
    job = fit(network(), TASK, replace(RECIPE, steps=100, stop_at_score=0.0, cleanup_steps=8))
    assert job.step == 4 + 8
    assert job.stopped == "score"


def test_the_clean_up_goes_on_until_the_score_is_reached():
    asking = replace(RECIPE, steps=40, stop_at_score=0.0, cleanup_steps=8, cleanup_until_score=2.0)
    assert fit(network(), TASK, asking).step == 40
    assert fit(network(), TASK, replace(asking, cleanup_until_score=0.0)).step == 4 + 8


def test_patience_and_callbacks_stop_training():
    flat = replace(RECIPE, lr=1e-12, weight_decay=0.0, steps=400, patience=3)
    assert fit(network(), TASK, flat).stopped in ("patience",)
    assert fit(network(), TASK, RECIPE, callbacks=[lambda job: True]).step == RECIPE.eval_every


def test_a_folder_of_another_training_is_refused(tmp_path):
    fit(network(), TASK, RECIPE, folder=tmp_path)
    with pytest.raises(ValueError, match="another"):
        fit(network(), TASK, replace(RECIPE, lr=2e-2), folder=tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(ValueError, match="training state"):
        fit(network(), TASK, RECIPE, folder=tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"batch_size": 0}, {"betas": (0.9, 1.0)}]
)
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Recipe(**wrong)


def test_schedules_start_and_end_where_they_should():
    for schedule, last in (("constant", 1.0), ("linear", 0.1), ("cosine", 0.0245)):
        recipe = Recipe(steps=14, lr=1.0, warmup=4, schedule=schedule)
        rates = [recipe.lr_at(step) for step in range(14)]
        assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
        assert rates[-1] == pytest.approx(last, abs=1e-3)
        assert recipe == Recipe.from_json(recipe.to_json())


def dropping(seed=0):
    return modular_addition(TASK, d_model=16, n_heads=2, d_head=8, d_mlp=32, seed=seed, dropout=0.2)


def test_dropout_is_seeded_by_the_recipe_and_leaves_torch_as_it_was():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(dropping(), TASK, RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = fit(dropping(), TASK, RECIPE), fit(dropping(), TASK, replace(RECIPE, seed=1))
    assert first.history.train_loss == again.history.train_loss
    assert first.history.train_loss != other.history.train_loss


def test_dropout_resumes_to_the_bit(tmp_path):
    whole = fit(dropping(), TASK, RECIPE)
    fit(dropping(), TASK, RECIPE, folder=tmp_path, callbacks=[interrupt_at(8)])
    parts = fit(dropping(), TASK, RECIPE, folder=tmp_path)
    assert torch.equal(weights(whole.model), weights(parts.model))


@pytest.mark.parametrize("lr", [1e-2, 100.0])
def test_the_best_weights_are_those_of_the_lowest_loss_the_start_included(lr):
    job = fit(network(), TASK, replace(RECIPE, lr=lr, keep_best=True, weight_decay=0.0, steps=12))
    best = network()
    best.load_state_dict(job.best)
    test = TASK.dataset("test")
    loss = TASK.loss(TASK.outputs(best.eval(), test), test).item()
    assert loss == pytest.approx(min(job.history.test_loss), rel=1e-5)


def test_a_penalty_moves_the_weights_and_not_the_history():
    plain = fit(network(), TASK, RECIPE)
    pulled = fit(network(), TASK, RECIPE, penalty=lambda model: 10 * model.W_E.square().sum())
    assert pulled.model.W_E.norm() < 0.5 * plain.model.W_E.norm()
    assert pulled.history.train_loss[0] == plain.history.train_loss[0]


def test_a_curriculum_goes_on_with_the_same_weights_and_ends_where_a_callback_stops():
    other = ModularAddition(p=7, train_fraction=0.6, operation="subtract")
    model = network()
    jobs = curriculum(model, [(TASK, RECIPE), (other, RECIPE)])
    assert [job.task for job in jobs] == [TASK, other]
    alone = fit(network(), TASK, RECIPE).model
    again = fit(alone, other, RECIPE)
    assert torch.equal(weights(model), weights(again.model))
    stopped = curriculum(network(), [(TASK, RECIPE), (other, RECIPE)], callbacks=[lambda job: True])
    assert [job.stopped for job in stopped] == ["callback"]
    with pytest.raises(ValueError, match="at least one task"):
        curriculum(network(), [])
