"""Whatever ``fit`` is given, it trains or says what it expected, before a step is taken."""

import json
import subprocess
import sys

import pytest

TRIED = """
import json, os, tempfile
from dataclasses import replace
import numpy as np, torch
from torch import nn
from mechinterp.models import modular_addition
from mechinterp.tasks import Batch, ModularAddition, Task
from mechinterp.training import Recipe, fit
from mechinterp.training.curriculum import curriculum

TASK, RECIPE = ModularAddition(p=5), Recipe(steps=2, eval_every=1)
place = tempfile.mkdtemp()
open(place + "/file", "w").close()
made = lambda **given: modular_addition(TASK, d_model=8, n_heads=1, d_head=8, d_mlp=8, **given)

def changed(**body):
    return type("Mine", (ModularAddition,), body)(p=5)

def bare(**body):
    return type("Mine", (Task,), body)()

def fails(*given, **named):
    raise KeyError("x")

def spoilt(value):
    model = made()
    with torch.no_grad():
        model.W_E[0, 0] = value
    return model

with torch.inference_mode():
    stiff = made()
split = {"dataset": lambda self, split: TASK.dataset("train")}
wrong = {
    "model": [None, "net", type(made()), lambda x: x, nn.ReLU(), made().requires_grad_(False), made().half(),
              spoilt(float("nan")), spoilt(float("inf")), nn.Linear(2, 2, device="meta"), nn.LazyLinear(3),
              stiff, np.ones(3)],
    "recipe": [None, "fast", {"steps": 2}, Recipe, 100, replace(RECIPE, eps=1e-45)],
    "task": [None, "mine", ModularAddition, {}, TASK.dataset("train"), bare(), bare(name="mine"),
             bare(**split), bare(name="", **split), bare(name=3, **split), changed(watched="dev"),
             changed(watched="val"),
             changed(samples=True), changed(samples=1), changed(dataset=fails), changed(sample=None),
             changed(dataset=lambda self, split: (torch.ones(2), torch.ones(2))),
             changed(dataset=lambda self, split: TASK.dataset("train")[:0]),
             changed(loss=lambda *given: 1.0), changed(loss=lambda self, outputs, *_: outputs),
             changed(loss=lambda self, outputs, *_: outputs.detach().mean()), changed(loss=lambda *_: None),
             changed(score=lambda *given: None), changed(score=lambda *_: torch.ones(3)),
             changed(score=lambda *_: "high")],
    "callbacks": [None, print, "abc", [None], [print, 3], 5, iter([print])],
    "penalty": [1.0, "l2", torch.ones(1), lambda model: 1.0, lambda model: None, lambda model: model.W_E],
    "folder": [5, "", place + "/file", place + "/file/below", b"here", np.ones(2)],
}
found = []
for name, values in wrong.items():
    for value in values:
        model = made()
        before = [x.clone() for x in model.parameters()]
        given = {"model": model, "task": TASK, "recipe": RECIPE} | {name: value}
        try:
            fit(**given)
            found.append([name, repr(value)[:60], "taken"])
        except Exception as error:
            whole = all(map(torch.equal, before, model.parameters()))
            kind = type(error).__name__ if whole else "too late"
            found.append([name, repr(value)[:60], f"{kind}: {error}"])
for stages in ([], [TASK], [(TASK, RECIPE), (TASK, {})], [(TASK, RECIPE), (bare(), RECIPE)]):
    try:
        curriculum(made(), stages)
        found.append(["stages", str(stages)[:60], "taken"])
    except Exception as error:
        found.append(["stages", str(stages)[:60], f"{type(error).__name__}: {error}"])
for kind in (torch.no_grad, torch.enable_grad):
    with kind():
        fit(made(), TASK, RECIPE)
for context in (torch.inference_mode(), torch.autocast("cpu", torch.float16)):
    try:
        with context:
            fit(made(), TASK, RECIPE)
        found.append(["context", str(context), "taken"])
    except Exception as error:
        found.append(["context", str(context), f"{type(error).__name__}: {error}"])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, "-c", TRIED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_cannot_be_trained_is_refused_in_words_before_a_step_is_taken(found):
    kinds = ("TypeError: expected ", "ValueError: expected ")
    raw = [each for each in found if not each[2].startswith(kinds) or len(each[2].splitlines()) > 3]
    assert not raw
    assert len(found) > 60


def test_refusals_of_half_precision_say_what_to_do(found):
    half = [message for _, _, message in found if "float16" in message]
    assert len(half) == 2
    assert "train model.float() and convert it afterwards" in half[0]
    assert "torch.autocast('cpu', torch.bfloat16)" in half[1]
