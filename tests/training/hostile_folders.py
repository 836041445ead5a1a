"""Folders that trainings and studies leave, damaged by chance, and everything that reads them.

Run as a script with a folder to work in, how many mutations of each folder, and a first seed, it prints one
JSON object: how many readings ended in a result, how many in a refusal, and those that ended otherwise.
"""

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
from pathlib import Path

import torch
import xarray as xr

from mechinterp import cli, models, tasks
from mechinterp.result import Claim, Result
from mechinterp.runs import Run, best_run, list_runs
from mechinterp.studies.regex_language.options import RegexLanguageOptions
from mechinterp.studies.regex_language.training import Trained
from mechinterp.studies.regex_language.training import train as train_regex
from mechinterp.training import Recipe, fit, load_network
from mechinterp.training.checkpoint import CheckpointSeries, load_state, load_weights
from mechinterp.training.loading import save_network

SECONDS, MEMORY = 5, 2**30
REFUSAL = re.compile(r"expected|in \S.*: expected|mechinterp: (in \S.*: )?expected", re.DOTALL)

TASK = tasks.ModularAddition(p=5, train_fraction=0.6)
RECIPE = Recipe(steps=6, lr=1e-2, eval_every=3, checkpoints=2, save_every=3, keep_best=True, batch_size=4)
TRAIN = "train modular-addition --p 5 --d-model 8 --n-heads 1 --d-head 8 --d-mlp 8 --steps 4 --checkpoints 2"


def network(**changes):
    return models.modular_addition(TASK, d_model=8, n_heads=1, d_head=8, d_mlp=8, **changes)


def make(place):
    """One folder of each kind."""
    fit(network(), TASK, RECIPE, folder=place / "fit")
    other = models.text_arithmetic(tasks.TextSum(max_operand=9), d_model=8, n_heads=2, d_mlp=8, n_layers=1)
    sinusoidal = models.HookedTransformer(
        models.TransformerConfig(
            d_model=8,
            n_heads=2,
            d_head=4,
            n_layers=1,
            n_ctx=4,
            d_vocab=5,
            act_fn="relu",
            positional_embedding_type="sinusoidal",
            codebook_size=4,
            d_mlp=8,
        )
    )
    two = models.digit_addition(tasks.DigitAddition(n_digits=1), d_model=8, n_heads=2, d_mlp=8)
    for name, model in (("other", other), ("sinusoidal", sinusoidal.double()), ("two", two)):
        save_network(place / "networks" / name, model, TASK, RECIPE)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*TRAIN.split(), "--out", str(place / "train")]) == 0
    run = Run.create(place / "study", {"kind": "study", "study": "a", "p": 5, "betas": (0.9, 0.98)})
    values = xr.DataArray(
        [[1.5, float("nan")], [float("inf"), 2.0]],
        dims=("layer", "step"),
        coords={"layer": ["first", "second"], "step": [0, 10]},
        attrs={"units": "nats"},
    )
    extra = {"there": xr.DataArray([True, False], dims="seed"), "n": xr.DataArray(3)}
    common = {"trivial": 0.5, "interval": (0.1, 0.9), "provenance": {"seed": [0, 1], "n": 3}}
    result = Result(name="a", values=values, control=values, control_kind="none", extra=extra, **common)
    run.save_results([result])
    claim = {
        "value": 1.0,
        "interval": (0.5, 1.5),
        "values_by_seed": (1.0, None),
        "holds_by_seed": (True, None),
    }
    run.save_claims([Claim(id="c", statement="It is.", verdict="holds", **claim)])
    run.finish({"test_accuracy": 1.0, "seconds": 2})
    options = {"n_samples": 90, "max_len": 6, "epochs": 1, "d_model": 8, "n_heads": 2, "d_mlp": 8}
    train_regex(RegexLanguageOptions(pattern="a*b*", **options), place / "regex")
    task = tasks.TextSum(max_operand=9)
    (place / "text").mkdir()
    task.write(place / "text" / "problems.tsv", torch.cartesian_prod(torch.arange(9), torch.arange(9)))


def answer(model):
    return model(torch.zeros(1, getattr(model.cfg, "n_ctx_source", 0) + 1, dtype=torch.long))


# ---- everything that reads ------------------------------------------------------------------


def read_run(folder):
    run = Run.open(folder)
    parts = [lambda: run.config, lambda: run.metrics, lambda: run.history, lambda: run.claims]
    return [*parts, lambda: [str(result) for result in run.results.values()]]


def readers(place):
    """Name and function of every reading of a folder."""
    found = {
        "Run.open": lambda: Run.open(place),
        "list_runs": lambda: list_runs(place.parent, p="5") or list_runs(place.parent),
        "best_run": lambda: best_run(list_runs(place.parent), "seconds"),
        "runs list": lambda: command("runs", "list", "--root", str(place.parent)),
        "runs show": lambda: command("runs", "show", str(place)),
        "Run.create": lambda: Run.create(place, {"kind": "other"}),
        "load_network": lambda: answer(load_network(place)),
    }
    for part in ("config", "metrics", "history", "claims", "results"):
        found[part] = lambda part=part: getattr(Run(place), part)
    for file in place.rglob("*.json"):
        found[f"Result.load {file.name}"] = lambda file=file: str(Result.load(file))
    for file in [*place.rglob("*.safetensors"), *place.rglob("*.st")]:
        found[f"load_weights {file.name}"] = lambda file=file: load_weights(file)
        found[f"load_state {file.name}"] = lambda file=file: load_state(file)
    series = CheckpointSeries(place / "checkpoints")
    found["series"] = lambda: [series[step] for step in series]
    if place.name == "fit":
        found["fit"] = lambda: fit(network(), TASK, RECIPE, folder=place)
    if place.name == "train":
        found["train"] = lambda: command(*TRAIN.split(), "--out", str(place))
    if place.name == "regex":
        found["compare-weights, model"] = lambda: Trained.open(place).model()
        found["compare-weights, series"] = lambda: [
            Trained.open(place).model(str(step)) for step in Trained.open(place).checkpoints.steps
        ]
    if place.name == "text":
        found = {"problems": lambda: tasks.TextSum(max_operand=9, file=str(place / "problems.tsv"))}
    return found


def command(*words):
    """A command's refusal as an error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words)
    if status:
        raise ValueError(err.getvalue()[err.getvalue().find("mechinterp: ") :])


# ---- damage ---------------------------------------------------------------------------------

NUMBERS = [0, -1, 1, 7, 1.5, -0.0, 1e308, 10**9, 10**18, 10**300, True, None]
TEXTS = ["", "x", "inf", "5", "\ud800", "\x00", "..", "float64", "float16", "U99999999", "<f8", "load"]
VALUES = [*NUMBERS, *TEXTS, [], {}, [[]], [0], ["x"], {"x": 1}, [1.5, 2]]


def places_in(record, path=()):
    """The path of every value inside a record."""
    inside = (
        record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    )
    for key, value in inside:
        yield (*path, key)
        yield from places_in(value, (*path, key))


def spoil(record, draw):
    """A record with one key renamed, doubled or gone, or one value of another kind."""
    paths = list(places_in(record))
    if not paths:
        return draw.choice(VALUES)
    # Every depth is as likely, for most values are deep inside.
    depth = draw.choice(sorted({len(path) for path in paths}))
    *way, last = draw.choice([path for path in paths if len(path) == depth])
    held = record
    for key in way:
        held = held[key]
    how = draw.choice(["value", "value", "value", "rename", "drop", "swap", "more"])
    if how == "rename" and isinstance(held, dict):
        held[draw.choice(["x", f"{last}x", "__class__", ""])] = held.pop(last)
    elif how == "drop":
        del held[last]
    elif how == "more" and isinstance(held, dict):
        held["more"] = draw.choice(VALUES)
    elif how == "more":
        held.append(draw.choice(VALUES))
    elif how == "swap":
        *way, other = draw.choice(paths)
        from_ = record
        for key in way:
            from_ = from_[key] if isinstance(from_, (dict, list)) and not isinstance(from_, str) else from_
        with contextlib.suppress(Exception):
            held[last] = json.loads(json.dumps(from_[other]))
    else:
        held[last] = draw.choice(VALUES)
    return record


def spoil_json(file, draw):
    text = json.dumps(spoil(json.loads(file.read_text()), draw))
    file.write_text(
        draw.choice([text] * 8 + [text.replace("1", "NaN", 1), text.replace(": ", ": -Infinity, ", 1)])
    )


def spoil_header(file, draw):
    """Another header, or another structure in it, before the same data."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    held = header.get("__metadata__", {})
    if "mechinterp_state" in held and draw.random() < 0.7:
        held["mechinterp_state"] = json.dumps(spoil(json.loads(held["mechinterp_state"]), draw))
    else:
        header = spoil(header, draw)
    if isinstance(header, dict) and draw.random() < 0.3:  # two entries change places, or a dtype lies
        names = [name for name in header if isinstance(header[name], dict) and "dtype" in header[name]]
        a, b = draw.choice(names or [""]), draw.choice(names or [""])
        if names and draw.random() < 0.5:
            header[a], header[b] = header[b], header[a]
        elif names:
            header[a]["dtype"] = {"F32": "I32", "F64": "I64", "I64": "F64", "U8": "I8"}.get(
                header[a]["dtype"]
            )
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def flip(file, draw):
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice([1, 1, 3, 20])):
        if data:
            data[draw.randrange(min(len(data), draw.choice([16, 400, 10**9])))] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(data))


def cut(file, draw):
    data = file.read_bytes()
    file.write_bytes(draw.choice([data[: draw.randrange(len(data) + 1)], b"", data + b"\0" * 9, data[9:]]))


def replace(file, draw):
    """Something else under the file's name."""
    size = file.stat().st_size
    file.unlink()
    kind = draw.choice(
        ["pipe", "folder", "zero", "nowhere", "loop", "huge", "deep", "claims", "wide", "self", "bomb"]
    )
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind in ("zero", "nowhere", "loop", "self"):
        there = {"zero": "/dev/zero", "nowhere": "nowhere", "loop": file.name, "self": "/proc/self/mem"}[kind]
        file.symlink_to(there)
    elif kind == "huge":
        with open(file, "wb") as out:
            out.truncate(10 * 2**30)
    elif kind == "deep":
        file.write_text(draw.choice(["[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500, "[" * 100_000]))
    elif kind == "claims":  # a header that claims a tensor of ten gigabytes, which a sparse file holds
        text = b'{"x":{"dtype":"F32","shape":[2684354560],"data_offsets":[0,10737418240]}}'
        with open(file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + 10 * 2**30)
    elif kind == "wide":
        file.write_text("[" + "[]," * draw.choice([10**5, 2 * 10**6]) + "0]")
    else:
        file.write_bytes(b"PK\x03\x04" + b"\0" * size)


def damage(place, draw):
    """Change one file of a folder; what was done."""
    files = sorted(file for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    files = [file for file in files if file.stat().st_size < 10**6]
    if not files:
        return "nothing"
    file = draw.choice(files)
    ways = [flip, cut, replace]
    if file.suffix == ".json":
        ways = [*ways, *[spoil_json] * 5]
    if file.suffix == ".safetensors":
        ways = [*ways, *[spoil_header] * 5]
    way = draw.choice(ways)
    with contextlib.suppress(Exception):  # it was damaged before
        way(file, draw)
    return f"{way.__name__} {file.relative_to(place.parent)}"


# ---- the law --------------------------------------------------------------------------------


def tried(read):
    """How a reading ends: in a result, a refusal, or what it should not."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read()
    except ValueError as error:
        return (
            ""
            if REFUSAL.match(str(error)) and "allocate" not in str(error)
            else f"{type(error).__name__}: {error}"
        )
    except KeyError as error:  # a step that a series does not have is a key
        return "" if "expected a step" in str(error) else f"KeyError: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "result"


def late(*_):
    raise TimeoutError(f"{SECONDS} s are over")


def main(work, count, first):
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # a disk's time is not what is measured
    signal.signal(signal.SIGALRM, late)
    work, ends, wrong = Path(work), {"result": 0, "refused": 0}, []
    make(work / "whole")
    folders = [*(work / "whole").iterdir(), *(work / "whole" / "networks").iterdir()]
    folders = sorted(folder for folder in folders if folder.name != "networks")
    for folder in folders:  # what is whole is read, and what reading imports is there
        place = work / "copies" / folder.name
        shutil.copytree(folder, place)
        for read in readers(place).values():
            tried(read)
        shutil.rmtree(place)
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (held * 1024 + MEMORY,) * 2)
    for seed in range(first, first + count):
        for folder in folders:
            draw, place = random.Random(f"{seed} {folder.name}"), work / "copies" / folder.name
            shutil.copytree(folder, place)
            done = [damage(place, draw) for _ in range(draw.choice([1, 1, 2]))]
            print(seed, folder.name, done, file=sys.stderr, flush=True)
            for name, read in readers(place).items():
                end = tried(read)
                ends["result" if end == "result" else "refused"] += 1
                if end not in ("", "result"):
                    wrong.append([seed, done, name, end[:300]])
            shutil.rmtree(place)
    print(json.dumps({**ends, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
