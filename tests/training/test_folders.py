"""What training leaves in a folder: a state, to the bit; a network that is read; one training at a time."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mechinterp import models
from mechinterp.files import folder_lock, write_json
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.runs import Run, list_runs
from mechinterp.tasks import DigitAddition, ModularAddition
from mechinterp.tasks.base import Batch, Task
from mechinterp.training import Recipe, fit, load_network
from mechinterp.training.checkpoint import (
    STATE,
    CheckpointSeries,
    check_like,
    load_into,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from mechinterp.training.loading import save_network

TASK = ModularAddition(p=5, train_fraction=0.6)
RECIPE = Recipe(steps=6, lr=1e-2, eval_every=2, checkpoints=2, save_every=2)


def network(**changes):
    return models.modular_addition(TASK, d_model=8, n_heads=1, d_head=8, d_mlp=8, **changes)


def same(a, b):
    """Whether two nested values are alike to the bit."""
    if isinstance(a, torch.Tensor):
        x, y = (each.contiguous().view(-1).view(torch.uint8) for each in (a, b))
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(x, y)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_state_comes_back_to_the_bit(tmp_path):
    x = torch.randn(4, 6)
    tensors = {
        "turned": x.T,
        "whole": x,
        "shared": x,
        "part": x[1:3, ::2],
        "expanded": x[:1].expand(3, 6),
        "channels": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "nothing": torch.empty(0, 3, dtype=torch.long),
        "zero": torch.tensor(-0.0),
        "bool": torch.tensor(True),
        "bytes": torch.get_rng_state(),
        "infinite": torch.tensor([math.nan, math.inf], dtype=torch.float64),
        "half": torch.randn(3, dtype=torch.bfloat16),
    }
    plain = [None, True, 0, -(2**80), 1e-320, math.inf, -math.inf, math.nan, "naïve – π", "", [], {}, ()]
    long = {"floats": [0.1 * i for i in range(40)] + [math.nan], "ints": [*range(40), -(2**62)]}
    mixed = {"numbers": [1, 2.0] * 20, "huge": [2**70] * 20, "bools": [True] * 20, "texts": ["a"] * 20}
    nested = {0: {"betas": (0.9, (1, [2.5]))}, "0": [{"tensor": "x"}, {"dict": []}, {"float": 1}]}
    state = {"tensors": tensors, "plain": plain, **long, **mixed, "nested": nested, "s.t": {"s": x, "t": x.T}}
    save_state(tmp_path / "s", state)
    found = load_state(tmp_path / "s")
    assert same(state, found)
    for name in ("turned", "channels"):
        assert found["tensors"][name].stride() == tensors[name].stride()


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}], ids=str)
def test_what_optimisers_keep_comes_back_to_the_bit(tmp_path, changes):
    job = fit(network(), TASK, replace(RECIPE, **changes, keep_best=True), folder=tmp_path)
    first = load_state(tmp_path / STATE)
    save_state(tmp_path / "again", first)
    assert same(first, load_state(tmp_path / "again"))
    weights = first["stepper"]["model"]
    assert all(torch.equal(weights[name], x) for name, x in job.model.state_dict().items())
    group = first["stepper"]["optimizer"]["param_groups"][0]
    assert type(group["betas"]) is tuple
    assert set(first["best"]) == set(weights)


class Odd:
    """Nothing that a file has a form for."""


@pytest.mark.parametrize(
    "value",
    [
        Odd(),
        {1, 2},
        b"x",
        {(1, 2): 3},
        {None: 1},
        1j,
        torch.eye(3).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"expected .*(state|keys|dense)"):
        save_state(tmp_path / "s", {"state": {"x": [value]}})
    assert os.listdir(tmp_path) == []


def test_an_earlier_version_s_state_is_not_read_and_not_lost(tmp_path):
    torch.save({"of": "x"}, tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match=r"expected a training state .*earlier version.*delete the file"):
        fit(network(), TASK, RECIPE, folder=tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


def step(state):
    return state["stepper"]["optimizer"]["state"][0]


HALVES, ZEROS = torch.zeros(6, 8, dtype=torch.float16), torch.zeros(5056, dtype=torch.uint8)
WRONG = {
    "a moment renamed": lambda s: step(s).update(exp_avh=step(s).pop("exp_avg")),
    "a moment of another shape": lambda s: step(s).update(exp_avg=torch.zeros(3)),
    "a moment of another dtype": lambda s: step(s).update(exp_avg=step(s)["exp_avg"].double()),
    "a moment that is no tensor": lambda s: step(s).update(step=1),
    "a weight too many": lambda s: s["stepper"]["optimizer"]["state"].update({99: step(s)}),
    "a learning rate of text": lambda s: s["stepper"]["optimizer"]["param_groups"][0].update(lr="x"),
    "one beta": lambda s: s["stepper"]["optimizer"]["param_groups"][0].update(betas=(0.9,)),
    "no groups": lambda s: s["stepper"]["optimizer"].update(param_groups=[]),
    "a network without a weight": lambda s: s["stepper"]["model"].pop("embed.W_E"),
    "a weight of another dtype": lambda s: s["stepper"]["model"].update(
        {"embed.W_E": torch.zeros(6, 8).half()}
    ),
    "steps below none": lambda s: s["stepper"].update(steps=-1),
    "steps beyond the last": lambda s: s["stepper"].update(steps=10**9),
    "rows that are not there": lambda s: s["stepper"].update(order=torch.tensor([10**6])),
    "rows of real numbers": lambda s: s["stepper"].update(order=torch.tensor([0.5])),
    "a generator of zeros": lambda s: s["stepper"].update(
        generator=torch.zeros_like(s["stepper"]["generator"])
    ),
    "a short generator": lambda s: s["stepper"].update(torch_generator=ZEROS[:3]),
    "no list of generators": lambda s: s["stepper"].update(cuda_generators=3),
    "no stepper": lambda s: s.pop("stepper"),
    "a short history": lambda s: s["history"]["test_loss"].pop(),
    "a history of text": lambda s: s["history"].update(train_loss=["x"] * 6),
    "a history without seconds": lambda s: s["history"].pop("seconds"),
    "tracked numbers": lambda s: s["history"].update(tracked={"a": 3}),
    "another reason": lambda s: s["loop"].__setitem__(0, "tired"),
    "an end of text": lambda s: s["loop"].__setitem__(1, "x"),
    "a short loop": lambda s: s["loop"].pop(),
    "a best network of another": lambda s: s.update(best={"x": torch.zeros(2)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_state_that_is_not_this_training_s_is_refused_whole(tmp_path, wrong):
    fit(network(), TASK, RECIPE, folder=tmp_path)
    state = load_state(tmp_path / STATE)
    WRONG[wrong](state)
    save_state(tmp_path / STATE, state)
    model, written = network(), (tmp_path / STATE).read_bytes()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match="expected"):
        fit(model, TASK, RECIPE, folder=tmp_path)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert (tmp_path / STATE).read_bytes() == written


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": [1, 2]}, {"a": (1, 2)}),
        ([1], [True]),
        ([1.0], ["1"]),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2).half()),
        (torch.zeros(2), [0.0, 0.0]),
        (None, 0),
    ],
)
def test_what_is_not_alike_is_said(expected, found):
    check_like(expected, expected, "f")
    with pytest.raises(ValueError, match=r"in f: expected"):
        check_like(expected, found, "f")


# ---- networks -------------------------------------------------------------------------------


def networks():
    sizes = {"d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 8}
    for positions in ("standard", "sinusoidal", "rotary", "alibi", "none"):
        yield models.modular_addition(TASK, **sizes, positional_embedding_type=positions)
    yield models.digit_addition(DigitAddition(n_digits=1), d_model=8, n_heads=2, d_mlp=8)
    yield models.modular_addition(TASK, **sizes, codebook_size=4, normalization_type="LN")
    yield HookedTransformer(
        TransformerConfig(**sizes, n_layers=2, n_ctx=4, d_vocab=6, act_fn="gelu", tie_embeddings=True)
    )
    yield models.modular_addition(TASK, **sizes, positional_embedding_type="none", n_ctx=10**6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_network_comes_back_with_its_bits_and_its_dtype(tmp_path, dtype):
    for number, model in enumerate(networks()):
        place = str(tmp_path / "new" / str(number))
        save_network(place, model.to(dtype), TASK, RECIPE)
        found = load_network(place)
        assert same(dict(model.state_dict()), dict(found.state_dict()))
        assert (found.cfg.dtype, found.training) == (dtype, False)


def test_what_fit_leaves_is_read_as_a_network_and_as_a_run(tmp_path):
    model = network()
    job = fit(model, TASK, RECIPE, folder=tmp_path / "runs" / "a")
    assert same(dict(model.state_dict()), dict(load_network(tmp_path / "runs" / "a").state_dict()))
    (run,) = list_runs(tmp_path, p=5)
    assert (run.config["kind"], run.finished) == ("fit", True)
    assert run.metrics["test_accuracy"] == job.history.test_score[-1]
    assert run.history["train_loss"] == job.history.train_loss
    fit(network(), TASK, RECIPE, folder=run.path)  # it is there already
    assert Run.open(run.path).config == run.config


def test_an_interrupted_fit_is_an_unfinished_run_with_a_network(tmp_path):
    def press(job):
        if job.step == 4:
            raise KeyboardInterrupt

    begun = []
    fit(
        network(),
        TASK,
        RECIPE,
        folder=tmp_path,
        callbacks=[press, lambda job: begun.append(Run.open(tmp_path))],
    )
    assert not Run.open(tmp_path).finished
    assert begun[0].config["recipe"]["steps"] == 6
    fit(network(), TASK, RECIPE, folder=tmp_path)
    assert Run.open(tmp_path).metrics["steps"] == 6


def test_a_run_s_own_config_and_metrics_stay(tmp_path):
    run = Run.create(tmp_path, {"kind": "study", "study": "x"})
    fit(network(), TASK, RECIPE, folder=run.path)
    assert Run.open(tmp_path).config["study"] == "x"
    assert not run.finished
    write_json(tmp_path / "config.json", {"another": "program's"})
    fit(network(), TASK, RECIPE, folder=tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"another": "program's"}


class Own(nn.Module):
    """A network of a user's, two of whose weights are one."""

    def __init__(self):
        super().__init__()
        self.embed, self.readout = nn.Embedding(6, 6), nn.Linear(6, 6, bias=False)
        self.readout.weight = self.embed.weight

    def forward(self, inputs, read=None):
        return self.readout(self.embed(inputs).sum(1, keepdim=True))[..., :5]


@dataclass(frozen=True, kw_only=True)
class OwnTask(Task):
    """A task that JSON has no form for."""

    name = "own"
    made_of: object = torch.zeros(2)

    @property
    def trivial(self):
        return 0.2

    def dataset(self, split):
        batch = TASK.dataset(split)
        return Batch(inputs=batch.inputs, targets=batch.targets, read=batch.read)


def test_a_network_and_a_task_of_others_leave_weights_and_say_whose_they_are(tmp_path):
    model = Own()
    fit(model, TASK, RECIPE, folder=tmp_path)
    assert same(dict(model.state_dict()), load_weights(tmp_path / "weights.safetensors"))
    with pytest.raises(ValueError, match=r"got a .*Own, which is not ours .*load_weights"):
        load_network(tmp_path)
    save_network(tmp_path / "task", network(), OwnTask(), RECIPE)
    assert re.search("OwnTask", (tmp_path / "task" / "network.json").read_text())
    load_network(tmp_path / "task")


def test_weights_that_cannot_be_saved_are_refused_before_training(tmp_path):
    model = network()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="expected a dense tensor 'sparse'"):
        fit(model, TASK, RECIPE, folder=tmp_path, callbacks=[lambda job: pytest.fail("it trained")])


def changed(place, **changes):
    record = json.loads((place / "network.json").read_text())
    record["model"].update(changes)
    write_json(place / "network.json", record)


HEADS = ("n_layers", "n_heads", "d_head", "codebook_size")
SIZES = ("d_model", "d_mlp", "d_vocab", "d_vocab_out", "d_input", "n_ctx", *HEADS)
NUMBERS = ("d_model", "n_layers", "eps", "rotary_base")
HUGE = [
    *({name: size} for name in SIZES for size in (10**9, 10**18)),
    {"learned_positions": 10**6, "n_ctx": 10**6},
    {"n_encoder_layers": 10**9, "n_ctx_source": 3},
    {"positional_embedding_type": "sinusoidal", "n_ctx": 10**9},
    {"positional_embedding_type": "rotary", "n_ctx": 10**9},
    {"positional_embedding_type": "sinusoidal", "randomised_positions": 10**9},
]
STRANGE = [
    *({name: value} for name in NUMBERS for value in ("8", None, True, [])),
    {"n_layers": 1.0},
    {"act_fn": 3},
    {"act_fn": "gelu_fast"},
    {"dtype": 3},
    {"seed": 10**300},
    {"seed": -1.5},
    {"codebook_sites": "attn"},
    {"unknown": 1},
]
OTHERS = [
    {"normalization_type": "LN"},
    {"attn_only": True},
    {"n_layers": 2},
    {"d_vocab": 7},
    {"n_ctx": 4},
]


@pytest.mark.parametrize(
    "changes",
    [*HUGE, *STRANGE, *OTHERS],
    ids=str,
)
def test_a_config_that_is_not_the_weights_is_refused_and_asks_for_no_memory(tmp_path, changes):
    save_network(tmp_path, network(), TASK, RECIPE)
    changed(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"in \S+(network.json|weights.safetensors): expected"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", ["../w", "/etc/passwd", "a\0b", 3, None, ["w"]])
def test_weights_are_a_file_of_the_folder(tmp_path, name):
    save_network(tmp_path, network(), TASK, RECIPE)
    record = json.loads((tmp_path / "network.json").read_text())
    write_json(tmp_path / "network.json", record | {"weights": name})
    with pytest.raises(ValueError, match="expected weights to be a file of this folder"):
        load_network(tmp_path)


def test_weights_of_two_dtypes_or_of_another_network_are_refused(tmp_path):
    model = network()
    save_network(tmp_path, model, TASK, RECIPE)
    weights = load_weights(tmp_path / "weights.safetensors")
    mixed = weights | {"embed.W_E": weights["embed.W_E"].double()}
    other = {name: x for name, x in weights.items() if name != "embed.W_E"}
    for wrong, said in ((mixed, "float32', 'float64"), (other, "embed.W_E")):
        save_weights(tmp_path / "weights.safetensors", wrong)
        with pytest.raises(ValueError, match=f"in .*weights.safetensors: expected .*{said}"):
            load_network(tmp_path)
    with pytest.raises(ValueError, match=r"in w: expected .*embed.W_E"):
        load_into(model, other, "w")
    with pytest.raises(ValueError, match=r"expected .*at most 100 bytes"):
        load_weights(tmp_path / "weights.safetensors", at_most=100)


def test_a_series_knows_its_own_files_only(tmp_path):
    series = CheckpointSeries(tmp_path)
    series.add(3, nn.Linear(1, 1))
    for name in ("step_4.safetensors", "step_٣.safetensors", "step_-0000005.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert series.steps == [3]
    (tmp_path / "step_00000009.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"expected a checkpoint at .*step_00000009"):
        series.drop_after(5)


# ---- one training at a time -----------------------------------------------------------------


def test_a_second_training_in_a_folder_is_refused_with_the_first_s_process(tmp_path):
    said = []

    def again(job):
        with pytest.raises(
            ValueError, match=rf"expected no other training .*process {os.getpid()};"
        ) as refused:
            fit(network(), TASK, RECIPE, folder=tmp_path)
        said.append(refused)
        fit(network(), TASK, RECIPE, folder=tmp_path / f"other_{job.step}")  # another folder is free

    job = fit(network(), TASK, RECIPE, folder=tmp_path, callbacks=[again])
    assert (job.stopped, len(said)) == ("steps", 3)
    with folder_lock(tmp_path), pytest.raises(ValueError, match="no other training"):
        fit(network(), TASK, RECIPE, folder=str(tmp_path))
    assert fit(network(), TASK, RECIPE, folder=tmp_path).step == 6


# ---- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0])
def test_any_reading_of_any_folder_ends_in_a_result_or_a_refusal(tmp_path, first):
    script = Path(__file__).with_name("hostile_folders.py")
    command = [sys.executable, str(script), str(tmp_path), "20", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"the process ended at {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["result"] > 1000
    assert found["refused"] > 1000
