"""The command line records what it trains, explains what it refuses, and prints what can be read."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib import import_module
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import xarray as xr

from mechinterp import tasks
from mechinterp.cli import main
from mechinterp.cli.names import STUDIES, TRAININGS
from mechinterp.models import TransformerConfig
from mechinterp.result import Claim, Result
from mechinterp.runs import Run
from mechinterp.training import Recipe, load_network
from mechinterp.training.recipes import FAST, MODULAR_ADDITION

SMALL = [
    *("--p", "7", "--train-fraction", "0.6", "--steps", "30"),
    *("--d-model", "16", "--n-heads", "2", "--d-head", "8", "--d-mlp", "32"),
]
REPORT_KEYS = {"study", "seconds", "environment", "claims"}
CLAIM_KEYS = {
    "id",
    "statement",
    "value",
    "trivial",
    "control",
    "control_kind",
    "interval",
    "verdict",
    "source",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default folders are relative to the working folder."""
    monkeypatch.chdir(tmp_path)


def train(*options):
    assert main(["train", "modular-addition", *SMALL, "--out", "out", *options]) == 0
    return Run.open("out")


def refused(capsys, *words):
    """What is said on stderr to a mistake, which is no traceback."""
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [["--help"], [], ["study", "-h"], ["train", "--help"], ["runs", "--help"]])
def test_help_names_the_commands(capsys, words):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("study NAME", "train NAME", "runs list", "modular-addition"))


def test_help_and_run_lists_are_quick():
    start = "import sys; from mechinterp.cli import main;"
    heavy = "{'torch', 'transformer_lens', 'sklearn', 'plotly'} & set(sys.modules)"
    code = f"{start} main(['--help']); print('tyro' in sys.modules, {heavy})"
    assert python(code).endswith("False set()\n")
    os.mkdir("runs")
    assert python(f"{start} main(['runs', 'list']); print({heavy})") == "set()\n"


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["study", "modular-addition"], ("--p", "--fast", "--json", "--out")),
        (
            ["train", "modular_addition"],
            ("--task.p", "--recipe.lr", "--model.d-model", "--recipe-name", "--out"),
        ),
        (["runs", "list"], ("--best", "--where", "--metric")),
    ],
)
def test_each_command_lists_its_options(capsys, words, options):
    assert main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grow"], "expected a command of .*study.*got 'grow'"),
        (
            ["study"],
            r"expected one of \['digit-addition', 'linear-regression', 'modular-addition', "
            r"'regex-language', 'sortedness', 'state-machine', 'text-arithmetic'\] after mechinterp study, "
            r"got nothing",
        ),
        (["study", "sorting"], "got sorting"),
        (["train", "sorting"], "got sorting"),
        (["study", "modular-addition", "--p", "8"], "odd modulus"),
        (["study", "modular-addition", "--p", "many"], "--p"),
        (["study", "modular-addition", "--recipe", "slow"], "fast.*classic"),
        (["train", "modular-addition", "--p", "1"], "expected a modulus p >= 2, got 1"),
        (["train", "modular-addition", "--lr", "-1"], "expected lr > 0, got -1.0"),
        (["train", "modular-addition", "--lr"], "--recipe.lr"),
        (["train", "modular-addition", "--nonsense", "3"], "--nonsense"),
        (["train", "modular-addition", "word"], "word"),
        (["train", "modular-addition", "--act-fn", "tan"], "expected act_fn one of"),
        (["train", "modular-addition", "--eps", "1e-6"], "--model.eps.*--recipe.eps"),
        (["train", "modular-addition", "--recipe-name", "slow"], "'classic', 'fast'.*'slow'"),
        (["train", "modular-addition", *SMALL, "--lr", "1e12", "--warmup", "0"], "finite loss.*lower lr"),
        (["train", "modular-addition", *SMALL, "--out", "/dev/null/x"], "/dev/null/x"),
        (["runs"], "expected mechinterp runs list"),
        (["runs", "list"], "expected a folder of runs"),
        (["runs", "show", "nowhere"], "expected a run folder at nowhere"),
    ],
)
def test_mistakes_are_explained(capsys, words, message):
    assert re.search(message, refused(capsys, *words))


BAD = ("nan", "many", str(10**20), "inf", "", "1e999", "-inf", "cuda:99")
"""Values of which each is wrong for most options, and none may be answered by a traceback."""


class Started(BaseException):
    """A training would begin."""


def named_options(command, name):
    """The options of a command, as fields of its task, network and recipe, or of its study."""
    if command == "study":
        room, config = STUDIES[name]
        return [f.name for f in fields(getattr(import_module(f"mechinterp.studies.{room}"), config))]
    task = getattr(tasks, TRAININGS[name][0])
    groups = {"task": task}
    if name == "modular-addition":
        groups |= {"model": TransformerConfig, "recipe": Recipe}
    return [f"{group}.{f.name}" for group, kind in groups.items() for f in fields(kind)]


@pytest.mark.parametrize(
    ("command", "name"), [("train", name) for name in TRAININGS] + [("study", name) for name in STUDIES]
)
def test_every_option_answers_a_bad_value_in_words(capsys, monkeypatch, command, name):
    def start(*_, **__):
        raise Started

    monkeypatch.setattr("mechinterp.training.fit", start)
    monkeypatch.setattr("mechinterp.studies.base.fit", start)
    for place, option in enumerate(named_options(command, name)):
        value = BAD[place % len(BAD)]
        try:
            code = main([command, name, f"--{option}={value}"])
        except Started:
            # A large scale is one; the others are texts that count beside other options alone.
            assert option in {"task.scale", "model.codebook_sites", "task.file_hash"}, (option, value)
            shutil.rmtree("runs")
            continue
        said = capsys.readouterr().err
        assert code == 2, (option, value)
        assert re.search("expected|rror|nvalid|Unrecognized|Missing|cannot accept", said), (
            option,
            value,
            said,
        )
        assert "Traceback" not in said
    assert not Path("runs").exists()


def test_sizes_beyond_memory_and_arguments_that_fail_are_explained(capsys, monkeypatch):
    said = refused(capsys, "train", "modular-addition", "--d-model", str(2**40), "--d-head", "1")
    assert "expected options that make a task and a network" in said
    for error in (
        MemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ):
        with monkeypatch.context() as failing:
            failing.setattr("mechinterp.cli.runs.runs", lambda _, error=error: (_ for _ in ()).throw(error))
            assert str(error) in refused(capsys, "runs")


def test_a_folder_that_is_a_file_is_refused_and_stays(capsys):
    Path("out").write_text("mine")
    for words in (["train", "modular-addition", *SMALL], ["study", "modular-addition", "--p", "5"]):
        assert "expected a folder at out" in refused(capsys, *words, "--out", "out")
        assert "out/in" in refused(capsys, *words, "--out", "out/in")
    assert "expected a run folder" in refused(capsys, "runs", "show", "out")
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "shift-jis", "utf-8"])
def test_any_console_can_be_printed_to(monkeypatch, encoding):
    claim = Claim(id="sum", statement="R² ≥ .99 – 和 é", value=None, verdict="holds")
    values = xr.DataArray(["ü", "–"], dims="π", attrs={"units": "R², held out"})
    result = Result(name="naïve", values=values)
    run = Run.create("runs/a–b", {"kind": "train", "pattern": "é→π"})
    run.save_claims([claim])
    pipes = {name: TextIOWrapper(BytesIO(), encoding, "strict") for name in ("stdout", "stderr")}
    for name, pipe in pipes.items():
        monkeypatch.setattr(sys, name, pipe)
    print(result, claim)  # also where the command line is not there to be lenient
    assert main(["--help"]) == 0
    assert main(["runs", "list"]) == 0
    assert main(["runs", "show", "runs/a–b"]) == 0
    assert main(["train", "modular-addition", "--help"]) == 0
    assert main(["train", "modular-addition", *SMALL, "--out", "é–"]) == 0
    assert main(["runs", "list", "--where", "pattern=–和"]) == 0
    assert main(["stüdy–"]) == 2
    for pipe in pipes.values():
        pipe.flush()
    said = pipes["stdout"].buffer.getvalue().decode(encoding)
    assert "value" in said
    assert ("R^2" in said) == (encoding != "utf-8")


def test_a_process_with_an_ascii_console_prints_and_trains():
    command = [sys.executable, "-m", "mechinterp", "train", "modular-addition", *SMALL, "--out", "é–"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, timeout=300, env=ascii_only)
    assert (done.returncode, done.stdout.split()[0]) == (0, b"accuracy"), done.stderr


def test_errors_that_are_ours_keep_their_traceback(monkeypatch):
    def broken(words):
        raise TypeError("ours")

    monkeypatch.setattr("mechinterp.cli.runs.runs", broken)
    with pytest.raises(TypeError, match="ours"):
        main(["runs"])


def test_training_leaves_a_finished_run_that_records_its_options(capsys):
    run = train()
    out, err = capsys.readouterr()
    assert out.startswith("accuracy ")
    assert len(out.splitlines()) == 1
    assert "train" in err
    assert run.finished
    assert run.metrics["steps"] == 30
    assert run.config["task"] == {"task": "modular_addition", "seed": 0, "p": 7, "operation": "add",
                                  "train_fraction": 0.6}  # fmt: skip
    model = run.config["model"]
    sizes = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": 8, "d_vocab_out": 7}
    assert {key: model[key] for key in sizes} == sizes
    assert model["attn_scale"] == pytest.approx(8**0.5)
    assert run.config["recipe"] == json.loads(json.dumps(replace(FAST, steps=30).to_json()))
    for name in ("weights.safetensors", "history.json", "environment.json"):
        assert (run.path / name).exists()


@pytest.mark.parametrize(
    ("options", "group", "expected"),
    [
        ("--task.p 5", "task", {"p": 5}),
        ("--p=5", "task", {"p": 5}),
        ("--train_fraction 0.5", "task", {"train_fraction": 0.5}),
        ("--operation subtract", "task", {"operation": "subtract"}),
        ("--recipe.lr 0.003", "recipe", {"lr": 0.003}),
        ("--lr=0.003", "recipe", {"lr": 0.003}),
        ("--recipe.betas 0.9 0.98", "recipe", {"betas": [0.9, 0.98]}),
        ("--betas 0.8 0.9 --batch_size 4", "recipe", {"betas": [0.8, 0.9], "batch_size": 4}),
        ("--batch-size None --clip-norm 2", "recipe", {"batch_size": None, "clip_norm": 2.0}),
        ("--cleanup-eps None", "recipe", {"cleanup_eps": None}),
        ("--recipe.eps 1e-6", "recipe", {"eps": 1e-6}),
        ("--recipe-name classic", "recipe", {"lr": 1e-3, "loss_dtype": "float64", "steps": 30}),
        ("--recipe_name=classic --lr 0.5", "recipe", {"lr": 0.5, "loss_dtype": "float64"}),
        ("--attn-only", "model", {"attn_only": True}),
        ("--no-use-attn-scale", "model", {"use_attn_scale": False}),
        ("--model.no-use-attn-scale", "model", {"use_attn_scale": False}),
        ("--no_attn_only --init-mode nanda", "model", {"attn_only": False, "init_mode": "nanda"}),
        ("--normalization-type LN", "model", {"normalization_type": "LN"}),
        ("--attn-scale -1", "model", {"attn_scale": pytest.approx(8**0.5)}),
    ],
)
def test_options_reach_their_group(options, group, expected):
    found = train(*options.split()).config[group]
    assert {key: found[key] for key in expected} == expected


def test_one_seed_reaches_every_group():
    config = train("--seed", "3").config
    assert [config[group]["seed"] for group in ("task", "model", "recipe")] == [3, 3, 3]
    other = main(["train", "modular-addition", *SMALL, "--out", "other", "--task.seed", "4"])
    assert (other, Run.open("other").config["recipe"]["seed"]) == (0, 0)


def test_what_a_factory_takes_is_an_option_and_sizes_are_derived_anew():
    few = ["--steps", "2", "--n-test", "20", "--train-lengths", "8", "10", "--test-lengths", "8", "16"]
    few += ["--d-model", "32", "--n-layers", "1", "--seed", "1"]
    for encoding, positions in (("learned", "standard"), ("rotary", "rotary"), ("randomised", "sinusoidal")):
        assert main(["train", "sortedness", "--encoding", encoding, *few, "--out", encoding]) == 0
        config = Run.open(encoding).config["model"]
        assert (config["positional_embedding_type"], config["n_ctx"], config["d_head"]) == (positions, 16, 8)
        assert json.loads(json.dumps(load_network(encoding).cfg.to_json())) == config
    assert Run.open("learned").config["model"]["learned_positions"] == 10
    words = ["--positional-embedding-type", "rotary", "--d-head", "16", "--out", "wide"]
    assert main(["train", "sortedness", *few, *words]) == 0
    assert Run.open("wide").config["model"]["rotary_dim"] == 16
    with pytest.raises(ValueError, match="expected a network"):
        load_network(".")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sortedness --batch-size 127", "even number of sequences"),
        ("text-modular --max-operand 6 --seed 2 --n-test 50", "held-out"),
        ("digit-addition --decoder-only --n-encoder-layers 3", "expected options of a TransformerConfig"),
        ("sortedness --encoding loud", "expected an encoding"),
        ("modular-addition --final-rms", "got ['final_rms'], which do not"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing_behind(capsys, words, message):
    assert message in refused(capsys, "train", *words.split(), "--steps", "3", "--out", "out")
    assert not Path("out").exists()


def test_fields_follow_from_others_that_are_given():
    few = ["--steps", "1", "--n-test", "50", "--d-model", "16"]
    assert main(["train", "text-sum", "--max-operand", "99", *few, "--out", "sum"]) == 0
    assert tasks.TextSum.from_json(Run.open("sum").config["task"]).unit == 200.0
    words = ["--decoder-only", "--positional-embedding-type", "rotary", "--n-digits", "2"]
    assert main(["train", "digit-addition", *few, *words, "--out", "digits"]) == 0
    few = ["--steps", "1", "--d-model", "32", "--attention", "softmax"]
    assert main(["train", "linear-regression", *few, "--seed", "0"]) == 0
    (folder,) = Path("runs").iterdir()
    assert "seed" not in folder.name


def test_a_run_folder_is_named_after_the_options():
    for more in ([], ["--seed", "3"], ["--task.seed", "3"], ["--recipe-name", "classic"]):
        assert main(["train", "modular-addition", *SMALL, *more]) == 0
    names = [folder.name for folder in Path("runs").iterdir()]
    assert len(names) == 4
    assert all(name.startswith("train_modular-addition_") for name in names)
    assert all("p-7" in name and "d_model-16" in name for name in names)
    assert sum("_seed-3" in name for name in names) == 1
    assert sum("task.seed-3" in name for name in names) == 1


def test_the_same_command_goes_on_and_another_is_refused(capsys):
    first = train().metrics
    assert train().metrics == first
    assert "another ['recipe']" in refused(
        capsys, "train", "modular-addition", *SMALL, "--out", "out", "--lr", "1"
    )


def test_an_interruption_is_130_and_the_same_command_goes_on(capsys, monkeypatch):
    class Press:
        def __init__(self, label):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, job):
            raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr("mechinterp.cli.train.watch", Press)
        assert main(["train", "modular-addition", *SMALL, "--out", "out"]) == 130
    assert "goes on" in capsys.readouterr().err
    assert not Run.open("out").finished
    assert train().metrics["steps"] == 30


def test_runs_are_listed_chosen_and_shown(capsys):
    for p in (5, 7):
        options = [*SMALL, "--p", str(p), "--out", f"runs/{p}"]
        assert main(["train", "modular-addition", *options]) == 0
    Run.create("runs/new", {"kind": "train"})
    capsys.readouterr()

    def said(*words):
        assert main(["runs", *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in said("list")] == ["finished", "finished", "unfinished"]
    assert [line.split()[-1] for line in said("list", "--where", "p=7")] == ["runs/7"]
    assert said("list", "--where", "p=7", "d_model=17") == []
    steps = said("list", "--best", "--metric", "trivial", "--where", "kind=train")
    assert [line.split()[-1] for line in steps] == ["runs/5"]
    assert said("list", "--best", "--metric", "trivial", "--smallest")[0].endswith("runs/7")
    shown = json.loads("\n".join(said("show", "runs/7")))
    assert (shown["config"]["task"]["p"], shown["finished"]) == (7, True)
    for words, message in (
        (["--best", "--metric", "grace"], "test_accuracy"),
        (["--where", "p"], "expected --where key=value"),
        (["--where", "q=7"], "got 'q'"),
        (["--smallest"], "add --best"),
    ):
        assert message in refused(capsys, "runs", "list", *words)


def test_a_run_is_listed_by_the_score_of_its_task(capsys):
    for name, metrics in (("a", {"test_r2": 0.5, "test_loss": 1.0}), ("b", {"test_r2": 0.75})):
        Run.create(f"runs/{name}", {"kind": "train"}).finish(metrics)
    assert main(["runs", "list", "--best"]) == 0
    assert "test_r2 0.75" in capsys.readouterr().out
    Run.create("runs/c", {"kind": "study"}).finish({"test_accuracy": 1.0})
    assert "expected --metric" in refused(capsys, "runs", "list", "--best")
    Run.create("runs/d", {"kind": "seed"}).finish({"none, causal": 1.0})
    assert main(["runs", "list", "--best", "--where", "kind=study"]) == 0
    assert "test_accuracy 1.0" in capsys.readouterr().out
    assert main(["runs", "list"]) == 0
    shown = sorted(line.split()[1:3] for line in capsys.readouterr().out.splitlines())
    assert shown == [["score", "–"], ["test_accuracy", "1.0"], ["test_r2", "0.5"], ["test_r2", "0.75"]]


@pytest.fixture
def few_steps(monkeypatch):
    """A recipe too short to learn anything."""
    monkeypatch.setitem(MODULAR_ADDITION, "fast", replace(FAST, steps=20, eval_every=10, checkpoints=3))


@pytest.mark.usefixtures("few_steps")
def test_a_study_prints_one_object(capsys):
    assert main(["study", "modular-addition", "--fast", "--json", "--p", "11"]) == 0
    out, err = capsys.readouterr()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(out, parse_constant=refuse)
    assert (len(out.splitlines()), err) == (1, "")
    assert found.keys() == REPORT_KEYS
    assert all(claim.keys() >= CLAIM_KEYS for claim in found["claims"])
    verdicts = {claim.pop("id"): claim["verdict"] for claim in found["claims"]}
    assert verdicts.pop("learned") == "fails"
    assert set(verdicts.values()) == {"untested", "withdrawn"}
    run = Run.open("runs/modular-addition_p-11_fast-True")
    assert run.finished
    assert main(["runs", "show", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert "UNTESTED embedding_circles" in out
    assert "WITHDRAWN clock_or_pizza" in out


@pytest.mark.usefixtures("few_steps")
def test_a_study_prints_its_claims_and_names_its_report(capsys):
    assert main(["study", "modular_addition", "--fast", "--p", "5", "--out", "here"]) == 0
    out, err = capsys.readouterr()
    assert "FAILS    learned" in out
    assert "here/report.html" in out
    assert "control: no decay" in err


def test_every_file_of_a_run_is_json_that_a_browser_reads():
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    run = train()
    for file in run.path.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=refuse)


def test_the_command_is_installed_and_runs_in_a_process_of_its_own():
    command = [sys.executable, "-m", "mechinterp", "train", "modular-addition", *SMALL, "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()[0]) == (0, "accuracy")
    assert Run.open("out").finished
    done = subprocess.run([*command[:3], "grow"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mechinterp: expected a command")
