"""The command line: ``mechinterp study``, ``train`` and ``runs``.

The first words choose what is imported, so that ``mechinterp --help`` answers at once; the
options of a command are the fields of its config, read by tyro.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

STUDIES = {
    "digit-addition": ("digit_addition", "DigitAdditionStudy"),
    "linear-regression": ("linear_regression", "LinearRegressionStudy"),
    "modular-addition": ("modular_addition", "ModularAdditionStudy"),
    "regex-language": ("regex_language", "RegexLanguageStudy"),
}
TRAININGS = {
    "digit-addition": ("DigitAddition", "digit_addition", "DIGIT_ADDITION"),
    "modular-addition": ("ModularAddition", "modular_addition", "MODULAR_ADDITION"),
    "linear-regression": ("LinearRegression", "linear_regression", "LINEAR_REGRESSION"),
}
"""Task, factory and recipes, whose fields are the options."""
SCRIPTS = {"regex-language": ("regex_language", "RegexLanguageOptions")}
"""Trainings whose options are a class of their study's."""

LONGEST_NAME = 100
"""Of a run folder that was not named."""

HELP = f"""usage: mechinterp COMMAND ...

  study NAME [options]       train, take apart and judge; ends in a table of claims
                             names: {", ".join(STUDIES)}
  train NAME [options]       train one network; leaves a run folder
                             names: {", ".join([*TRAININGS, *SCRIPTS])}
  compare-weights RUN        a regular language's network beside its automaton
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
class TrainOutput:
    """Where a training's run goes."""

    out: Path | None = None
    """Run folder; by default one below ``runs/`` named after the options."""


@dataclass(frozen=True)
class CompareWeights:
    """Set a trained network's value circuits beside the automaton of its language."""

    run: Path
    """Run folder of ``mechinterp train regex-language``."""

    checkpoint: str = "best"
    """best (lowest loss on val), final, or the number of a kept step."""

    visualize_heads: tuple[int, ...] = ()
    """Heads to draw beside their symbols, in ``weight_comparison.html``; by default all."""

    test_strings: tuple[str, ...] = ()
    """Words to run through network and automaton, symbol by symbol."""

    layer: int = 0
    """Whose heads."""


@dataclass(frozen=True, kw_only=True)
class RunsList:
    """List runs, oldest first."""

    root: Path = Path("runs")
    """Folder to look in."""

    best: bool = False
    """Show only the run with the largest value of the metric, or of a loss with the smallest."""

    smallest: bool = False
    """With ``--best``: the smallest value instead."""

    metric: str = "test_accuracy"
    """The metric to show, and to choose the best by, such as class_acc."""

    pattern: str | None = None
    """Only runs of this pattern: the same as ``--where pattern=...``."""

    where: tuple[str, ...] = ()
    """Only runs whose config says so, as ``key=value``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 2 for a mistake of the user's, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or {"-h", "--help"} & set(words[:2]):
        print(HELP, end="")
        return 0
    commands = {"study": _study, "train": _train, "compare-weights": _compare_weights, "runs": _runs}
    try:
        if words[0] not in commands:
            raise ValueError(
                f"expected a command of {sorted(commands)}, got {words[0]!r}; see mechinterp --help"
            )
        return commands[words[0]](words[1:])
    except SystemExit as stop:  # tyro has printed help, or what is wrong with an option
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the state it saved", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"mechinterp: {error}", file=sys.stderr)
        return 2


def _is_the_users(error: Exception) -> bool:
    """Whether an error is a mistake that its message tells how to mend; others keep their traceback."""
    # Diverged by name: its module would bring torch to every command.
    return isinstance(error, (ValueError, OSError)) or type(error).__name__ == "Diverged"


def _name(words: list[str], known: Iterable[str], command: str) -> str:
    name = words[0].replace("_", "-") if words else "nothing"
    if name not in known:
        raise ValueError(
            f"expected one of {sorted(known)} after mechinterp {command}, got {name}; see mechinterp --help"
        )
    return name


def _study(words: list[str]) -> int:
    import tyro

    name = _name(words, STUDIES, "study")
    room, config_class = STUDIES[name]
    module = import_module(f"mechinterp.studies.{room}")
    config_type = getattr(module, config_class)
    both = tyro.cli(
        tyro.conf.OmitArgPrefixes[_with_output(config_type, StudyOutput)],
        args=words[1:],
        prog=f"mechinterp study {name}",
    )
    config, output = both.config, both.output
    out = output.out or Path("runs") / _folder_name(name, config)
    report = module.study(config, out, module.silent if output.json else _watch)
    if output.json:
        print(json.dumps(report.to_json(), allow_nan=False))
        return 0
    print(f"\n{report.title}\n{report.summary}\n")
    for claim in report.claims:
        print(claim)
    print(f"\n{report.seconds:.1f} s. Report: {out / 'report.html'}")
    return 0


def _with_output(config_class: type, output_class: type) -> type:
    both = [
        ("config", config_class, field(default_factory=config_class)),
        ("output", output_class, field(default_factory=output_class)),
    ]
    return make_dataclass("Options", both, namespace={"__doc__": config_class.__doc__}, frozen=True)


def _watch(label: str) -> Any:
    return import_module("mechinterp.training.progress").LiveLine(label)


def _folder_name(name: str, config: Any) -> str:
    default = type(config)()
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    changed = [f"{key}-{value}" for key, value in values.items() if value != getattr(default, key)]
    whole = quote("_".join([name, *changed]), safe="")  # a pattern may have what no file name can
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{whole[:LONGEST_NAME]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _train(words: list[str]) -> int:
    import tyro

    name = _name(words, [*TRAININGS, *SCRIPTS], "train")
    if name in SCRIPTS:
        return _train_script(name, words[1:])
    task_class, factory, recipes = TRAININGS[name]
    task_type = getattr(import_module("mechinterp.tasks"), task_class)
    build = getattr(import_module("mechinterp.models"), factory)
    known = getattr(import_module("mechinterp.training.recipes"), recipes)
    recipe_name = _value_of(words, "--recipe-name", "fast")
    if recipe_name not in known:
        raise ValueError(f"expected --recipe-name one of {sorted(known)}, got {recipe_name!r}; choose one")
    start = {"task": task_type(), "model": build(task_type()).cfg, "recipe": known[recipe_name]}
    groups = {group: {f.name for f in fields(value)} for group, value in start.items()}
    options = tyro.cli(
        _train_options(start, tuple(known), recipe_name),
        args=_spell_out(words[1:], groups),
        prog=f"mechinterp train {name}",
    )
    # What the factory derives from the task, such as the vocabulary, stays its own unless it is asked for.
    asked = {key: getattr(options.model, key) for key in groups["model"]}
    changes = {key: value for key, value in asked.items() if value != getattr(start["model"], key)}
    model = build(options.task, **changes)
    return _fit_into(options.out or Path("runs") / f"train_{name}", options.task, model, options.recipe)


def _train_script(name: str, words: list[str]) -> int:
    import tyro

    room, options_class = SCRIPTS[name]
    module = import_module(f"mechinterp.studies.{room}")
    both = tyro.cli(
        tyro.conf.OmitArgPrefixes[_with_output(getattr(module, options_class), TrainOutput)],
        args=words,
        prog=f"mechinterp train {name}",
    )
    out = both.output.out or Path("runs") / f"train_{_folder_name(name, both.config)}"
    run = module.train(both.config, out, _watch).run
    metrics = run.metrics
    shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))
    print(f"{shown}, {metrics['steps']} steps. Run folder: {out}")
    return 0


def _compare_weights(words: list[str]) -> int:
    import tyro

    named = [] if not words or words[0].startswith("--") else ["--run"]
    options = tyro.cli(CompareWeights, args=[*named, *words], prog="mechinterp compare-weights")
    module = import_module("mechinterp.studies.regex_language.comparing")
    print(
        module.compare(
            options.run, options.checkpoint, options.visualize_heads, options.test_strings, options.layer
        )
    )
    return 0


def _train_options(start: Mapping[str, Any], recipes: tuple[str, ...], recipe: str) -> type:
    import tyro

    def option(kind: Any, text: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=text)]

    groups = [
        (group, type(value), field(default_factory=lambda v=value: v)) for group, value in start.items()
    ]
    own = [
        ("recipe_name", option(Literal[recipes], "The recipe that the options of recipe change."), recipe),
        ("out", option(Path | None, "Run folder; by default one below runs/."), None),
    ]
    doc = "Train one network. Options may be given without their prefix: --p 97 --lr 0.01; --seed is for all."
    return make_dataclass("Train", [*groups, *own], namespace={"__doc__": doc}, frozen=True, kw_only=True)


def _fit_into(out: Path, task: Any, model: Any, recipe: Any) -> int:
    runs, training = import_module("mechinterp.runs"), import_module("mechinterp.training")
    checkpoint = import_module("mechinterp.training.checkpoint")
    parts = {"task": task.to_json(), "model": model.cfg.to_json(), "recipe": recipe.to_json()}
    run = runs.Run.create(out, {"kind": "train", **parts})
    with _watch("train") as line:
        job = training.fit(model, task, recipe, folder=run.path, callbacks=[line])
    if job.stopped == "interrupted":
        raise KeyboardInterrupt
    history = job.history
    score, seconds = history.test_score[-1], history.seconds
    checkpoint.save_weights(run.path / "weights.safetensors", model)
    metrics = {
        f"test_{task.score_name}": score,
        "test_loss": history.test_loss[-1],
        "trivial": task.trivial,
        "steps": job.step,
        "seconds": round(seconds, 2),
        "stopped": job.stopped,
    }
    run.finish(metrics)
    print(
        f"{task.score_name} {score:.4f} (trivial {task.trivial:.4f}) after {job.step} steps, {seconds:.1f} "
        f"s. Run folder: {out}"
    )
    return 0


def _value_of(words: list[str], option: str, default: str) -> str:
    """An option's value, as ``--option value`` or ``--option=value``; the last one counts."""
    value = default
    for word, following in zip(words, [*words[1:], ""]):
        name, equals, inline = word.partition("=")
        if name.replace("_", "-") == option:
            value = inline if equals else following
    return value


def _spell_out(words: list[str], groups: Mapping[str, set[str]]) -> list[str]:
    """Give plain options the prefix of the group that has them; ``--seed`` goes to every group."""
    spelt: list[str] = []
    at = [i for i, word in enumerate(words) if word.startswith("--")]
    for start, end in zip([0, *at], [*at, len(words)]):
        for option in _with_prefix(words[start], groups) if start < end else []:
            spelt += [option, *words[start + 1 : end]]
    return spelt


def _with_prefix(option: str, groups: Mapping[str, set[str]]) -> list[str]:
    name, equals, value = option.removeprefix("--").partition("=")
    if not option.startswith("--") or "." in name:
        return [option]
    plain, no = name.replace("-", "_"), ""
    if plain.startswith("no_"):
        plain, no = plain.removeprefix("no_"), "no-"
    owners = [group for group, names in groups.items() if plain in names]
    prefixed = [f"--{group}.{no}{plain.replace('_', '-')}{equals}{value}" for group in owners]
    if len(owners) > 1 and plain != "seed":
        raise ValueError(f"expected one of {prefixed}, got {option}; more than one group has it")
    return prefixed or [option]


def _runs(words: list[str]) -> int:
    if words[:1] == ["list"]:
        return _list_runs(words[1:])
    if words[:1] == ["show"] and len(words) == 2:
        return _show_run(words[1])
    raise ValueError("expected mechinterp runs list, or mechinterp runs show PATH; see mechinterp --help")


def _list_runs(words: list[str]) -> int:
    import tyro

    runs = import_module("mechinterp.runs")
    options = tyro.cli(RunsList, args=words, prog="mechinterp runs list")
    for pair in options.where:
        if "=" not in pair:
            raise ValueError(f"expected --where key=value, got {pair!r}")
    if options.smallest and not options.best:
        raise ValueError("expected --smallest beside --best, got it alone; add --best")
    wanted = dict(pair.split("=", 1) for pair in options.where)
    if options.pattern is not None:
        wanted["pattern"] = options.pattern
    found = runs.list_runs(options.root, **wanted)
    if options.best:
        smallest = options.smallest or options.metric.endswith("loss")
        found = [runs.best_run(found, options.metric, smallest=smallest)]
    if not found:
        print(f"no such run below {options.root}", file=sys.stderr)
    for run in found:
        state = "finished  " if run.finished else "unfinished"
        print(f"{state}  {options.metric} {run.metrics.get(options.metric, '–')}  {run.path}")
    return 0


def _show_run(path: str) -> int:
    run = import_module("mechinterp.runs").Run.open(path)
    print(json.dumps({"config": run.config, "metrics": run.metrics, "finished": run.finished}, indent=1))
    if (run.path / "claims.json").exists():
        for claim in run.claims:
            print(claim)
    return 0
