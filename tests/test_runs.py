"""A run folder is whole, goes on where it was, refuses what it is not, and is found again."""

import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from mechinterp import files
from mechinterp.models import modular_addition
from mechinterp.result import Claim, Result
from mechinterp.runs import Run, best_run, environment, list_runs
from mechinterp.tasks import ModularAddition
from mechinterp.training import Recipe, fit
from mechinterp.training.checkpoint import CheckpointSeries, load_state, load_weights, save_weights

CONFIG = {"kind": "train", "task": {"p": 7, "train_fraction": 0.5}, "recipe": {"betas": (0.9, 0.98)}}
CLAIM = Claim(id="learned", statement="It answers", value=float("nan"), verdict="holds")
RESULT = Result(name="embedding_spectrum", values=xr.DataArray([1.0, np.nan], dims="frequency"))


class Planted:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "run")


def new(path, p=7, **metrics):
    run = Run.create(path, {**CONFIG, "task": {"p": p, "train_fraction": 0.5}})
    if metrics:
        run.finish(metrics)
    return run


def test_what_is_saved_is_opened(tmp_path):
    run = new(tmp_path / "a" / "b")
    run.save_results([RESULT])
    run.save_claims([CLAIM])
    page = run.save_report("<p>naïve</p>")
    again = Run.open(tmp_path / "a" / "b")
    assert again.results == {"embedding_spectrum": RESULT}
    assert again.claims == [replace(CLAIM, value=None)]
    assert page.read_text(encoding="utf-8") == "<p>naïve</p>"
    assert again.config["recipe"] == {"betas": [0.9, 0.98]}
    assert json.loads((run.path / "environment.json").read_text())["packages"].keys() >= {"torch"}


def test_metrics_mark_a_run_as_finished(tmp_path):
    run = new(tmp_path)
    assert not run.finished
    assert run.metrics == {}
    run.finish({"test_accuracy": 0.5, "test_loss": float("nan")})
    assert run.finished
    assert run.metrics == {"test_accuracy": 0.5, "test_loss": None}


def test_the_same_run_goes_on_and_another_is_refused(tmp_path):
    new(tmp_path).finish({"x": 1})
    assert new(tmp_path).metrics == {"x": 1}
    with pytest.raises(ValueError, match=r"expected .*another \['task'\]; choose another folder"):
        new(tmp_path, p=11)


@pytest.mark.parametrize("step", ["mechinterp.runs.write_json", "mechinterp.runs.environment"])
def test_a_crash_while_a_run_is_made_leaves_what_the_next_try_goes_on_from(tmp_path, monkeypatch, step):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(step, crash)
        with pytest.raises(KeyboardInterrupt):
            new(tmp_path / "a")
    assert new(tmp_path / "a").config["task"]["p"] == 7
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "environment.json"]


MAKE = """
import sys
from mechinterp.runs import Run
print("ready", flush=True)
for line in sys.stdin:
    place, p = line.split()
    try:
        Run.create(place, {"kind": "train", "p": int(p)})
        print("made", flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


def test_of_two_processes_that_make_other_runs_of_one_folder_at_once_one_does(tmp_path):
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [each.stdout.readline() for each in pair] == ["ready\n"] * 2
    for number in range(150):
        for p, each in enumerate(pair):
            each.stdin.write(f"{tmp_path}/{number} {p}\n")
        for each in pair:
            each.stdin.flush()
        ends = [each.stdout.readline() for each in pair]
        first = Run.open(tmp_path / str(number)).config["p"]
        assert ends[first] == "made\n"
        assert re.match(r"expected .* another \['p'\]", ends[1 - first])
    for each in pair:
        each.communicate()


def test_threads_that_make_the_same_run_all_have_it(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: new(tmp_path / "a"), range(32)))
    assert {run.config["task"]["p"] for run in runs} == {7}
    assert sorted(os.listdir(tmp_path / "a")) == ["config.json", "environment.json"]


def test_a_kill_while_a_run_is_made_leaves_what_the_next_try_goes_on_from(tmp_path):
    (tmp_path / ".config.json.7hk4m2gk").write_text("{")  # no chance to clean up
    assert Run.create(tmp_path, CONFIG).config["kind"] == "train"
    assert Run.open(tmp_path).config == Run.create(tmp_path, CONFIG).config


def test_a_crash_while_finishing_leaves_the_run_unfinished(tmp_path, monkeypatch):
    run = new(tmp_path)

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        run.finish({"x": 1})
    assert not run.finished
    assert sorted(os.listdir(tmp_path)) == ["config.json", "environment.json"]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\x80\x04", b"[]", b"null", b"3", b'{"kind": "other"}']
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content):
    (tmp_path / "notes.txt").write_text("mine")
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    for make in (Run.open, new):
        with pytest.raises(ValueError, match=r"expected .*(found|got) .*; "):
            make(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "environment.json").exists()


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"expected a run folder at .*found none"):
        Run.open(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"expected a folder at .*got a file"):
        new(tmp_path / "file")


WRONG = [
    ("metrics.json", "metrics", "[]"),
    ("metrics.json", "metrics", "{"),
    ("history.json", "history", "3"),
    ("history.json", "history", None),
    ("claims.json", "claims", "{}"),
    ("claims.json", "claims", "[3]"),
    ("claims.json", "claims", '[{"id": "x"}]'),
    ("claims.json", "claims", None),
    ("results/a.json", "results", "[]"),
    ("results/a.json", "results", '{"name": "a", "values": {"data": [1]}}'),
    ("results/a.json", "results", "\x00"),
]


@pytest.mark.parametrize(("file", "part", "content"), WRONG)
def test_a_damaged_file_is_refused_by_name(tmp_path, file, part, content):
    run = new(tmp_path)
    if content is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=f"{file}.*"):
        getattr(run, part)


@pytest.mark.parametrize("name", ["../a", "a/b", "..", ""])
def test_a_result_stays_in_its_folder(tmp_path, name):
    run = new(tmp_path / "run")
    with pytest.raises(ValueError, match="expected a result's name"):
        run.save_results([replace(RESULT, name=name)])


def test_results_of_one_name_are_written_to_files_of_their_own(tmp_path):
    run = new(tmp_path / "run")
    values = [replace(RESULT, trivial=float(i)) for i in range(4)]
    values[2] = replace(values[2], name=f"{RESULT.name}_2")
    for _ in range(2):  # the same files again
        run.save_results(values)
    names = [RESULT.name, f"{RESULT.name}_3", f"{RESULT.name}_2", f"{RESULT.name}_4"]
    assert run.results == dict(zip(names, values))


def plant(path, mark):
    """Files that run code when loaded without care."""
    path.write_bytes(pickle.dumps(Planted(mark), protocol=2))
    torch.save({"of": "x", "more": Planted(mark)}, path.with_suffix(".zip"))
    return [path, path.with_suffix(".zip")]


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        torch.load(plant(tmp_path / "control", mark)[1], weights_only=True)
    torch.load(tmp_path / "control.zip", weights_only=False)
    assert mark.exists(), "the plant has to work where nobody guards"
    mark.unlink()
    for load, message in (
        (load_state, "expected a training state"),
        (load_weights, "expected a safetensors"),
    ):
        for path in plant(tmp_path / "planted", mark):
            with pytest.raises(ValueError, match=message):
                load(path)
    assert not mark.exists()


def test_training_refuses_a_planted_state_and_names_the_remedy(tmp_path):
    mark, folder = tmp_path / "mark", tmp_path / "run"
    folder.mkdir()
    task = ModularAddition(p=7, train_fraction=0.6)
    model = modular_addition(task, d_model=8, n_heads=1, d_head=8, d_mlp=8)
    for path in plant(tmp_path / "planted", mark):
        path.replace(folder / "state.pt")
        with pytest.raises(ValueError, match="delete the file"):
            fit(model, task, Recipe(steps=2), folder=folder)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x02}q\x00."])
def test_a_state_that_is_torn_or_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("state.pt", "list.pt", "missing.pt"):
        with pytest.raises(ValueError, match=f"expected a training state at .*{name}"):
            load_state(tmp_path / name)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 8, b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_weights_that_are_missing_or_torn_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected .*w.safetensors"):
        load_weights(tmp_path / "w.safetensors")
    save_weights(tmp_path / "w.safetensors", {"x": torch.eye(2)[:, :1]})
    assert torch.equal(load_weights(tmp_path / "w.safetensors")["x"], torch.eye(2)[:, :1])


def test_checkpoints_pass_over_foreign_files(tmp_path):
    series = CheckpointSeries(tmp_path)
    series.add(3, torch.nn.Linear(1, 1))
    for name in ("step_last.safetensors", ".step_00000004.safetensors.x1", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert series.steps == [3]
    with pytest.raises(KeyError, match="one of"):
        series[4]


@pytest.fixture
def runs(tmp_path):
    """Three runs, the second unfinished, among files of others."""
    made = [
        new(tmp_path / "z", 7, test_accuracy=0.4, seconds=3, stopped="steps"),
        new(tmp_path / "deep" / "a", 11),
        new(tmp_path / "b", 11, test_accuracy=0.9, test_loss=float("nan")),
    ]
    for age, run in enumerate(made):
        os.utime(run.path / "config.json", (1000 + age, 1000 + age))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "config.json").symlink_to(tmp_path / "nowhere")
    return made


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, [0, 1, 2]),
        ({"p": 11}, [1, 2]),
        ({"p": "11"}, [1, 2]),
        ({"p": "11.0"}, [1, 2]),
        ({"train_fraction": "5e-1", "p": 7}, [0]),
        ({"betas": "[0.9, 0.98]"}, [0, 1, 2]),
        ({"betas": (0.9, 0.98)}, [0, 1, 2]),
        ({"kind": "train"}, [0, 1, 2]),
        ({"p": 13}, []),
        ({"p": "eleven"}, []),
    ],
)
def test_runs_are_listed_oldest_first_and_filtered(tmp_path, runs, where, found):
    assert [run.path for run in list_runs(tmp_path, **where)] == [runs[i].path for i in found]


def test_networks_of_a_run_are_parts_of_it(tmp_path, runs):
    for place in ("deep/a/network_0", "deep/a/grid/cell", "alone"):
        (tmp_path / place).mkdir(parents=True)
        files.write_json(tmp_path / place / "config.json", {"mechinterp": "0", "kind": "fit", "p": 7})
        assert Run.open(tmp_path / place).config["p"] == 7
    assert [run.path.name for run in list_runs(tmp_path, kind="fit")] == ["alone"]


def test_a_filter_by_a_key_that_no_run_has_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match=r"expected a key of .*train_fraction.*got 'q'"):
        list_runs(tmp_path, q=7)
    with pytest.raises(ValueError, match="got 'root'"):
        list_runs(tmp_path, root="x")


def test_a_missing_folder_of_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of runs"):
        list_runs(tmp_path / "missing")


def test_the_best_run_is_found_by_a_metric(runs):
    assert best_run(runs, "test_accuracy") == runs[2]
    assert best_run(runs, "test_accuracy", smallest=True) == runs[0]
    assert best_run(runs, "seconds") == runs[0]


def test_numbers_of_a_run_are_numbers(tmp_path):
    run = new(tmp_path, a=1, b=float("nan"), c="x", d=True)
    assert run.numbers("a") == [1.0]
    assert np.isnan(run.numbers("b")).all()
    for name in ("c", "d", "e"):
        with pytest.raises(ValueError, match=f"in .*metrics.json: expected a number '{name}'"):
            run.numbers("a", name)


@pytest.mark.parametrize("metric", ["accuracy", "stopped", "test_loss"])
def test_an_unknown_metric_is_refused_with_the_known_ones(runs, metric):
    with pytest.raises(ValueError, match=r"2 finished with metrics \['seconds', 'test_accuracy'\]"):
        best_run(runs, metric)


def test_the_environment_names_versions_and_no_person_or_place():
    found = environment()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    text = json.dumps(found)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
