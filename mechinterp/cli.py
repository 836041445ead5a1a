"""The command line: ``mechinterp study``, ``train`` and ``runs``.

The first words choose what is imported, so that ``mechinterp --help`` answers at once; the
options of a command are the fields of its config, read by tyro.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

STUDIES = {"modular-addition": ("modular_addition", "ModularAdditionStudy")}
TRAININGS = {"modular-addition": ("ModularAddition", "modular_addition", "MODULAR_ADDITION")}

HELP = f"""usage: mechinterp COMMAND ...

  study NAME [options]       train, take apart and judge; ends in a table of claims
                             names: {", ".join(STUDIES)}
  train NAME [options]       train one network; leaves a run folder
                             names: {", ".join(TRAININGS)}
  runs list [options]        the runs below a folder, the best one by a metric
  runs show PATH             one run: config, metrics and claims

mechinterp COMMAND NAME --help lists the options.
"""


@dataclass(frozen=True, kw_only=True)
class StudyOutput:
    """Where a study's results go."""

    out: Path | None = None
    """Run folder; by default one below ``runs/`` named after the study and its options."""

    json: bool = False
    """Print one JSON object instead of the table, and no progress."""


@dataclass(frozen=True, kw_only=True)
class RunsList:
    """List runs, oldest first."""

    root: Path = Path("runs")
    """Folder to look in."""

    best: bool = False
    """Show only the run with the largest value of the metric."""

    smallest: bool = False
    """With ``--best``: the smallest value instead."""

    metric: str = "test_accuracy"
    """The metric to show, and to choose the best by."""

    where: tuple[str, ...] = ()
    """Only runs whose config says so, as ``key=value``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    commands = {"study": _study, "train": _train, "runs": _runs}
    try:
        if words[0] not in commands:
            raise ValueError(
                f"expected a command of {sorted(commands)}, got {words[0]!r}; see mechinterp --help"
            )
        return commands[words[0]](words[1:])
    except KeyboardInterrupt:
        print("interrupted; the state is saved, and the same command goes on from it", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError) as error:
        print(f"mechinterp: {error}", file=sys.stderr)
        return 2


def _name(words: list[str], known: Iterable[str], command: str) -> str:
    if not words or words[0] not in known:
        got = words[0] if words else "nothing"
        raise ValueError(f"expected one of {sorted(known)} after mechinterp {command}, got {got}")
    return words[0].replace("_", "-")


def _study(words: list[str]) -> int:
    import tyro

    name = _name(words, STUDIES, "study")
    room, config_class = STUDIES[name]
    module = import_module(f"mechinterp.studies.{room}")
    both = tyro.cli(
        tyro.conf.OmitArgPrefixes[_pair(getattr(module, config_class))],
        args=words[1:],
        prog=f"mechinterp study {name}",
    )
    config, output = both.config, both.output
    out = output.out or Path("runs") / _folder_name(name, config)
    watch = module.silent if output.json else _watch
    report = module.study(config, out, watch)
    if output.json:
        print(json.dumps(report.to_json()))
        return 0
    print(f"\n{report.title}\n{report.summary}\n")
    for claim in report.claims:
        print(claim)
    print(f"\n{report.seconds:.1f} s. Report: {out / 'report.html'}")
    return 0


def _pair(config_class: type) -> type:
    return make_dataclass(
        "Study", [("config", config_class, field(default_factory=config_class)), ("output", StudyOutput, StudyOutput())],
        frozen=True,
    )  # fmt: skip


def _watch(label: str) -> Any:
    return import_module("mechinterp.training.progress").LiveLine(label)


def _folder_name(name: str, config: Any) -> str:
    default = type(config)()
    changed = [f"{f.name}-{getattr(config, f.name)}" for f in fields(config)
               if getattr(config, f.name) != getattr(default, f.name)]  # fmt: skip
    return "_".join([name, *changed])


def _train(words: list[str]) -> int:
    import tyro

    name = _name(words, TRAININGS, "train")
    task_class, factory, recipes = TRAININGS[name]
    task_type = getattr(import_module("mechinterp.tasks"), task_class)
    build = getattr(import_module("mechinterp.models"), factory)
    known = getattr(import_module("mechinterp.training.recipes"), recipes)
    default_model = build(task_type()).cfg
    recipe_name, rest = _take(words[1:], "--recipe-name", "fast")
    if recipe_name not in known:
        raise ValueError(f"expected --recipe-name one of {sorted(known)}, got {recipe_name!r}")

    @dataclass(frozen=True, kw_only=True)
    class Train:
        """Train one network. Options may be given without their prefix: --p 97 --lr 0.01."""

        task: task_type = field(default_factory=task_type)  # type: ignore[valid-type]
        model: type(default_model) = field(default_factory=lambda: replace(default_model))  # type: ignore[misc]
        recipe: type(known["fast"]) = known[recipe_name]  # type: ignore[misc]
        out: Path | None = None
        """Run folder; by default one below ``runs/``."""

    groups = {
        g.name: {f.name for f in fields(g.default_factory())}
        for g in fields(Train)
        if g.name in ("task", "model")
    }
    groups["recipe"] = {f.name for f in fields(known["fast"])}
    options = tyro.cli(Train, args=_spell_out(rest, groups), prog=f"mechinterp train {name}")
    changes = {f.name: getattr(options.model, f.name) for f in fields(default_model)
               if getattr(options.model, f.name) != getattr(default_model, f.name)}  # fmt: skip
    model = build(options.task, **changes)
    return _fit_into(options.out or Path("runs") / f"train_{name}", options.task, model, options.recipe)


def _fit_into(out: Path, task: Any, model: Any, recipe: Any) -> int:
    runs, training = import_module("mechinterp.runs"), import_module("mechinterp.training")
    checkpoint = import_module("mechinterp.training.checkpoint")
    run = runs.Run.create(
        out,
        {"kind": "train", "task": task.to_json(), "model": model.cfg.to_json(), "recipe": recipe.to_json()},
    )
    with _watch("train") as line:
        job = training.fit(model, task, recipe, folder=run.path, callbacks=[line])
    if job.stopped == "interrupted":
        raise KeyboardInterrupt
    history = job.history
    checkpoint.save_weights(run.path / "weights.safetensors", model)
    run.finish(
        {"test_accuracy": history.test_score[-1], "test_loss": history.test_loss[-1], "trivial": task.trivial,
         "steps": job.step, "seconds": round(history.seconds, 2), "stopped": job.stopped}
    )  # fmt: skip
    print(f"accuracy {history.test_score[-1]:.4f} (trivial {task.trivial:.4f}) after {job.step} steps, "
          f"{history.seconds:.1f} s. Run folder: {out}")  # fmt: skip
    return 0


def _take(words: list[str], option: str, default: str) -> tuple[str, list[str]]:
    """An option's value, and the words without it."""
    if option not in words:
        return default, words
    at = words.index(option)
    if at + 1 == len(words):
        raise ValueError(f"expected a value after {option}, got none")
    return words[at + 1], words[:at] + words[at + 2 :]


def _spell_out(words: list[str], groups: dict[str, set[str]]) -> list[str]:
    """Give plain options the prefix of the group that has them; ``--seed`` goes to every group."""
    spelt: list[str] = []
    copies: list[list[str]] = []
    for word in words:
        if not word.startswith("--") or "." in word:
            (spelt if not copies else copies[-1]).append(word)
            continue
        name, _, value = word[2:].partition("=")
        plain = name.removeprefix("no-").replace("-", "_")
        owners = [group for group, names in groups.items() if plain in names]
        copies.append([word] if not owners else [])
        if owners:
            no = "no-" if name.startswith("no-") else ""
            dashed = plain.replace("_", "-")
            copies[-1] = [f"--{owner}.{no}{dashed}" + (f"={value}" if value else "") for owner in owners]
    for words_of in copies:
        names = [word for word in words_of if word.startswith("--")]
        values = [word for word in words_of if not word.startswith("--")]
        for option in names:
            spelt += [option, *values]
    return spelt


def _runs(words: list[str]) -> int:
    import tyro

    runs = import_module("mechinterp.runs")
    if words[:1] == ["show"] and len(words) == 2:
        run = runs.Run.open(words[1])
        print(json.dumps({"config": run.config, "metrics": run.metrics, "finished": run.finished}, indent=1))
        if (run.path / "claims.json").exists():
            for claim in run.claims:
                print(claim)
        return 0
    if words[:1] != ["list"]:
        raise ValueError("expected mechinterp runs list, or mechinterp runs show PATH")
    options = tyro.cli(RunsList, args=words[1:], prog="mechinterp runs list")
    for pair in options.where:
        if "=" not in pair:
            raise ValueError(f"expected --where key=value, got {pair!r}")
    found = runs.list_runs(options.root, **dict(pair.split("=", 1) for pair in options.where))
    if options.best:
        found = [runs.best_run(found, options.metric, smallest=options.smallest)]
    for run in found:
        state = "finished  " if run.finished else "unfinished"
        print(f"{state}  {options.metric} {run.metrics.get(options.metric, '–')}  {run.path}")
    return 0
