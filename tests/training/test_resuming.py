"""A folder goes on with the training that it holds; another is refused, and what differs is named."""

import copy
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from mechinterp.tasks import Batch, Task
from mechinterp.training import Recipe, fit
from mechinterp.training.checkpoint import STATE, load_state, save_state
from mechinterp.training.curriculum import curriculum
from mechinterp.training.identity import described

RECIPE = Recipe(steps=4, lr=1e-2, eval_every=2, checkpoints=3, save_every=2, stop_at_score=2.0)


def mine(flip=False, weight=1.0, points=1.0, seen=slice(None)):
    """A user's own task, as a script defines it anew at every run; its name and class stay the same."""

    @dataclass(frozen=True, kw_only=True)
    class Mine(Task):
        name = "mine"
        turned: bool = flip

        def dataset(self, split):
            x = torch.arange(64)[:, None] >> torch.arange(6) & 1
            return Batch(inputs=x, targets=(x[:, :1] ^ self.turned).long(), read=(-1,))[seen]

        def loss(self, outputs, batch, dtype=torch.float32):
            return weight * super().loss(outputs, batch, dtype)

        def score(self, outputs, batch):
            return points * super().score(outputs, batch)

    return Mine()


class Plain(nn.Module):
    """A network without a config."""

    def __init__(self, seed=0, activation=torch.relu):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last, self.activation = nn.Linear(6, 8), nn.Linear(8, 2), activation

    def forward(self, x, read):
        return self.last(self.activation(self.first(x.to(self.first.weight.dtype))))[:, None]


def weights(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@dataclass(frozen=True)
class Counted:
    every: int = 1

    def __call__(self, job):
        pass


class Halved(Recipe):
    def lr_at(self, step):
        return super().lr_at(step) / 2


OTHERS = {
    "Mine.turned": lambda: {"task": mine(flip=True)},
    "training data": lambda: {"task": mine(seen=slice(0, 63))},
    "untrained network.loss": lambda: {"task": mine(weight=1.01)},
    "untrained network.score": lambda: {"task": mine(points=0.99)},
    "initial weights": lambda: {"model": Plain(seed=1)},
    "dtype": lambda: {"model": Plain().double()},
    "untrained network.loss ": lambda: {"model": Plain(activation=torch.tanh)},
    "learning rates": lambda: {"recipe": Halved(**RECIPE.to_json() | {"betas": RECIPE.betas})},
    "penalty": lambda: {"penalty": lambda model: model.last.weight.sum()},
    "callbacks": lambda: {"callbacks": [Counted(every=2)]},
}
CHANGED = {
    "steps": 6, "batch_size": 8, "optimizer": "muon", "lr": 2e-2, "weight_decay": 0.5, "betas": (0.5, 0.5),
    "eps": 1e-6, "warmup": 2, "schedule": "cosine", "clip_norm": 1.0, "loss_dtype": "float64",
    "eval_every": 1, "stop_at_score": None, "cleanup_steps": 1, "cleanup_weight_decay": 0.5,
    "cleanup_eps": 1e-4, "cleanup_until_score": 1.0, "patience": 7, "keep_best": True, "checkpoints": 2,
    "checkpoint_spacing": "linear", "save_every": 3, "seed": 1,
}  # fmt: skip


@pytest.fixture
def trained(tmp_path):
    model, given = Plain(), {"folder": tmp_path, "callbacks": [Counted()]}
    fit(model, mine(), RECIPE, **given)
    return model, given


def refused(trained, name, model=None, task=None, recipe=RECIPE, **changes):
    state = load_state(trained[1]["folder"] / STATE)
    model = Plain() if model is None else model
    before = weights(model)
    with pytest.raises(ValueError, match="got another's:") as refusal:
        fit(model, mine() if task is None else task, recipe, **trained[1] | changes)
    named = str(refusal.value).splitlines()[1]
    assert f"{name.strip()}: " in named or f".{name.strip()}: " in named, named
    assert " saved, " in named
    assert " given" in named
    assert same(before, model.state_dict())
    assert load_state(trained[1]["folder"] / STATE)["of"] == state["of"]


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_by_name(trained, name):
    refused(trained, name.replace("Mine.", "task."), **OTHERS[name]())


def test_every_field_of_a_recipe_counts(trained):
    assert CHANGED.keys() == RECIPE.to_json().keys()
    for name, value in CHANGED.items():
        if name != "optimizer":  # of which Plain has no matrices
            refused(trained, f"recipe.{name}", recipe=replace(RECIPE, **{name: value}))


def test_a_loss_that_was_changed_since_is_refused_of_the_trained_network_too(trained):
    refused(trained, "saved network.loss", model=trained[0], task=mine(weight=1.01))


def test_a_penalty_is_known_by_what_it_says(tmp_path):
    def pulled(by):
        return lambda model: by * model.last.weight.square().sum()

    fit(Plain(), mine(), RECIPE, folder=tmp_path, penalty=pulled(1.0))
    fit(Plain(), mine(), RECIPE, folder=tmp_path, penalty=pulled(1.0))
    with pytest.raises(ValueError, match=r"untrained network\.penalty: "):
        fit(Plain(), mine(), RECIPE, folder=tmp_path, penalty=pulled(2.0))


def test_what_is_drawn_at_every_step_counts(tmp_path):
    def online(first):
        class Online(type(mine())):
            samples = True

            def sample(self, n, generator, variables=True):
                rows = torch.randint(first, 64, (n,), generator=generator)
                return self.dataset("train")[rows]

        return Online()

    recipe = replace(RECIPE, batch_size=8)
    for task in (online(0), online(0)):
        fit(Plain(), task, recipe, folder=tmp_path)
    with pytest.raises(ValueError, match="training data: "):
        fit(Plain(), online(1), recipe, folder=tmp_path)


def test_the_same_training_is_accepted(trained):
    model, given = trained
    after = weights(model)
    compiled = Plain()
    for again in (Plain(), model, copy.deepcopy(model), torch.compile(compiled)):
        job = fit(again, mine(), RECIPE, **given)
        assert job.step == RECIPE.steps
        assert same(after, getattr(again, "_orig_mod", again).state_dict())
    assert job.checkpoints[0].keys() == after.keys()


def test_a_network_that_an_error_took_out_of_training_goes_on(tmp_path):
    whole, cut = Plain(), Plain()
    fit(whole, mine(), RECIPE)

    def fail(job):
        assert job.step < 4

    with pytest.raises(AssertionError):  # at step 4, saved after step 2
        fit(cut, mine(), RECIPE, folder=tmp_path, callbacks=[fail])
    assert fit(cut, mine(), RECIPE, folder=tmp_path).step == 4
    assert same(weights(whole), cut.state_dict())


def test_a_callback_may_have_seen_something_since(tmp_path):
    @dataclass
    class Log:
        every: int = 1
        seen: list = field(default_factory=list)

        def __call__(self, job):
            self.seen.append(job.step)

    log = Log()
    for _ in range(2):
        fit(Plain(), mine(), RECIPE, folder=tmp_path, callbacks=[log])
    assert log.seen == [2, 4]
    with pytest.raises(ValueError, match="callbacks: "):
        fit(Plain(), mine(), RECIPE, folder=tmp_path, callbacks=[Log(every=2)])


def test_a_curriculum_runs_again_with_the_network_it_has_trained(tmp_path):
    stages = [(mine(), RECIPE), (mine(flip=True), RECIPE)]
    model = Plain()
    curriculum(model, stages, folder=tmp_path)
    after = weights(model)
    for again in (model, Plain()):
        assert [job.step for job in curriculum(again, stages, folder=tmp_path)] == [4, 4]
        assert same(after, again.state_dict())
    with pytest.raises(ValueError, match="initial weights"):
        curriculum(Plain(seed=1), stages, folder=tmp_path)


def test_states_of_another_format_are_refused(trained):
    path = trained[1]["folder"] / STATE
    save_state(path, load_state(path) | {"format": 1})
    with pytest.raises(ValueError, match=r"format 2 at .*another version of mechinterp.*an empty folder"):
        fit(Plain(), mine(), RECIPE, **trained[1])


def test_whatever_is_missing_or_of_another_type_is_refused(trained):
    given = trained[1]
    path = given["folder"] / STATE
    state, tried, wrong = load_state(path), 0, []
    places = [(), ("stepper",), ("history",), ("stepper", "model"), ("stepper", "optimizer")]
    for place in places:
        inner = state
        for key in place:
            inner = inner[key]
        for name in inner:
            for value in ("missing", None, [], "text", torch.zeros(3, 3)):
                damaged, tried = copy.deepcopy(state), tried + 1
                at = damaged
                for key in place:
                    at = at[key]
                at[name] = value
                if isinstance(value, str) and value == "missing":
                    del at[name]
                save_state(path, damaged)
                fresh, before = Plain(), weights(Plain())
                try:
                    fit(fresh, mine(), RECIPE, **given)
                except ValueError as error:
                    if "expected" in str(error) and same(before, fresh.state_dict()):
                        continue
                wrong.append((place, name, value))
    assert wrong == [(("stepper",), "cuda_generators", [])]  # as on a machine without
    assert tried > 100


def test_values_are_described_alike_in_every_process():
    class Odd:
        pass

    assert described(Odd()) == described(Odd())
    assert "0x" not in str(described([Odd(), lambda x: x, nn.Linear, {1: torch.float32}, {2, 1}]))
    assert described((1, 2.5, None, float("nan"))) == [1, 2.5, None, "nan"]
    assert described(torch.ones(2)) != described(torch.ones(2).double())
