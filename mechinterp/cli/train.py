"""``mechinterp train``: one network, into a run folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from mechinterp.cli.names import (
    RECIPES,
    SCRIPTS,
    TRAININGS,
    changes,
    check_numbers,
    folder_name,
    name_of,
    named_after,
    options_of,
    watch,
)

IDLE = {"final_rms", "uses_rms_norm", "layer_norm_folding", "experts_per_token", "default_prepend_bos"}
"""Fields of TransformerLens's config that follow from others, or that our networks have no use for."""


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """Where a training's run goes."""

    out: Path | None = None
    """Run folder; by default one below ``runs/`` named after the options."""


def train(words: list[str]) -> int:
    """Train the network that is named first."""
    import tyro

    name = name_of(words, [*TRAININGS, *SCRIPTS], "train")
    if name in SCRIPTS:
        return _train_script(words)
    task_class, factory, recipes = TRAININGS[name]
    task_type = getattr(import_module("mechinterp.tasks"), task_class)
    build = getattr(import_module("mechinterp.models"), factory)
    known = getattr(import_module("mechinterp.training.recipes"), recipes)
    recipe_name = _value_of(words, "--recipe-name", RECIPES.get(name, "fast"))
    if recipe_name not in known:
        raise ValueError(f"expected --recipe-name one of {sorted(known)}, got {recipe_name!r}; choose one")
    cfg = build(task_type()).cfg
    model = _raw(type(cfg), **{f.name: getattr(cfg, f.name) for f in fields(cfg)})
    start = {"task": _raw(task_type), "model": model, "recipe": known[recipe_name]}
    if arguments := _arguments(build):
        start["factory"] = arguments()
    groups = {group: {f.name for f in fields(value)} for group, value in start.items()}
    options = tyro.cli(
        _train_options(start, tuple(known), recipe_name),
        args=(spelt := _spell_out(words[1:], groups)),
        prog=f"mechinterp train {name}",
    )
    # What follows from other options, such as the vocabulary from the task, does so unless it is asked for.
    asked = {
        group: {key: getattr(getattr(options, group), key) for key in _fields_named(group, spelt)}
        for group in start
    }
    check_numbers(options)
    with _options_to_blame():
        task = task_type(**asked["task"])
        if idle := sorted(asked["model"].keys() & IDLE):
            raise ValueError(
                f"expected options that say something here, got {idle}, which do not; leave them out"
            )
        plain = build(task, **asked.get("factory", {})).cfg
        if unknown := sorted(asked["model"].keys() - {f.name for f in fields(plain)}):
            raise ValueError(f"expected options of a {type(plain).__name__}, got {unknown}; leave them out")
        model = build(task, **asked.get("factory", {}), **asked["model"])
    changed = {group: changes(getattr(options, group), value) for group, value in start.items()}
    derived = changes(model.cfg, plain)
    changed["model"] = {key: value for key, value in derived.items() if key in asked["model"]}
    recipe = {} if recipe_name == RECIPES.get(name, "fast") else {"recipe_name": recipe_name}
    own = named_after(name, recipe | _together(changed, groups))
    return _fit_into(options.out or Path("runs") / f"train_{own}", task, model, options.recipe)


@contextmanager
def _options_to_blame() -> Iterator[None]:
    """Before anything is written or trained, what fails does so for the options.

    Raises:
        ValueError: an error of another kind, in words.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        said = (str(error).splitlines() or ["no reason"])[0][:200]
        raise ValueError(
            f"expected options that make a task and a network, got {type(error).__name__} ({said}); change "
            "those that were given"
        ) from error


def _raw(kind: type, **given: Any) -> Any:
    """A dataclass's values as options: nothing follows yet from what is given."""
    body = {"__doc__": kind.__doc__, "__post_init__": lambda self: None}
    return type(kind.__name__, (kind,), body)(**given)


def _fields_named(group: str, words: list[str]) -> list[str]:
    """The fields of a group that options spelt out give."""
    options = [word.removeprefix(f"--{group}.") for word in words if word.startswith(f"--{group}.")]
    return [option.partition("=")[0].removeprefix("no-").replace("-", "_") for option in options]


def _arguments(build: Callable) -> type | None:
    """What a factory takes besides the task and fields of the config, such as an encoding, as options."""
    own = [
        (name, type(each.default), field(default=each.default))
        for name, each in list(inspect.signature(build).parameters.items())[1:]
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    return make_dataclass("Factory", own, frozen=True) if own else None


def _together(changed: Mapping[str, Mapping[str, Any]], groups: Mapping[str, set[str]]) -> dict[str, Any]:
    """Changes of all groups by name, and by group where not all that have the name changed alike."""
    found: dict[str, Any] = {}
    for group, values in changed.items():
        for key, value in values.items():
            others = [changed[other].get(key) for other, names in groups.items() if key in names]
            alike = all(other == value for other in others)
            found[key if alike else f"{group}.{key}"] = value
    return found


def _train_script(words: list[str]) -> int:
    name, module, config, output = options_of("train", words, SCRIPTS, TrainOutput)
    out = output.out or Path("runs") / f"train_{folder_name(name, config)}"
    run = module.train(config, out, watch).run
    (steps,) = run.numbers("steps")
    shown = ", ".join(f"{key} {value:.4f}" for key, value in run.metrics.items() if isinstance(value, float))
    print(f"{shown}, {steps:g} steps. Run folder: {out}")
    return 0


def _train_options(start: Mapping[str, Any], recipes: tuple[str, ...], recipe: str) -> type:
    import tyro

    def option(kind: Any, text: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=text)]

    groups = [
        (group, type(value), field(default_factory=lambda v=value: v)) for group, value in start.items()
    ]
    recipe_help = "The recipe that the options of recipe change"
    recipe_help += "; classic is meant for --init-mode nanda." if "classic" in recipes else "."
    own = [
        ("recipe_name", option(Literal[recipes], recipe_help), recipe),
        ("out", option(Path | None, "Run folder; by default one below runs/ named after the options."), None),
    ]
    doc = "Train one network. Options may be given without their prefix: --p 97 --lr 0.01; --seed is for all."
    return make_dataclass("Train", [*groups, *own], namespace={"__doc__": doc}, frozen=True, kw_only=True)


def _fit_into(out: Path, task: Any, model: Any, recipe: Any) -> int:
    runs, training = import_module("mechinterp.runs"), import_module("mechinterp.training")
    checkpoint = import_module("mechinterp.training.checkpoint")
    parts = {"task": task.to_json(), "model": model.cfg.to_json(), "recipe": recipe.to_json()}
    with _options_to_blame():
        batch = task.dataset("test")

    def score() -> float:
        return task.score(task.answers(model.eval(), batch), batch)

    with _options_to_blame():
        score()  # what cannot be is refused before anything is written
        if task.samples and recipe.batch_size is not None:
            task.sample(recipe.batch_size, import_module("torch").Generator())
    run = runs.Run.create(out, {"kind": "train", **parts})
    books = import_module("mechinterp.training.codebooks") if model.cfg.codebook_size else None
    with watch("train") as line:
        job = training.fit(
            model,
            task,
            recipe,
            folder=run.path,
            callbacks=[line, books.TrackCodes()] if books else [line],
            penalty=books.CodebookPenalty() if books else None,
        )
    if job.stopped == "interrupted":
        raise KeyboardInterrupt
    history = job.history
    checkpoint.save_weights(run.path / "weights.safetensors", model)
    found = score()
    metrics = {
        f"test_{task.score_name}": found,
        f"{task.watched}_loss": history.test_loss[-1],
        "trivial": task.trivial,
        "ceiling": task.ceiling,
        "learned_at": task.learned_at,
        "steps": job.step,
        "seconds": round(history.seconds, 2),
        "stopped": job.stopped,
    }
    run.finish(metrics)
    print(
        f"{task.score_name} {found:.4f} (trivial {task.trivial:.4f}, learned from {task.learned_at:.4f}, "
        f"best {task.ceiling:.4f}) after {job.step} steps, {history.seconds:.1f} s. Run folder: {out}"
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
