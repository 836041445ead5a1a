"""A trained network, left in a folder and read back from there."""

from __future__ import annotations

import json
import os
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mechinterp.files import from_record, json_text, plain, read_object, write_json, write_new
from mechinterp.models.config import EncoderDecoderConfig, TransformerConfig
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.base import Task
from mechinterp.training.checkpoint import (
    check_like,
    describe_weights,
    load_into,
    load_weights,
    save_weights,
)
from mechinterp.training.identity import bare
from mechinterp.training.recipe import Recipe

MOST_LAYERS = 1000
"""The most layers of a network that is read."""

LARGEST_TABLES = 2**24
"""Numbers in the largest tables of positions of such a network, which are not among its weights."""

LARGEST_NETWORK = 2**28
"""Bytes of the weights of the largest network that is read where nothing else is said."""

_LONGEST = 2**20
"""Characters of the longest description of a task or a model that is kept."""


def save_network(folder: str | Path, model: nn.Module, task: Task, recipe: Recipe, name: str = "") -> None:
    """Write weights, and a ``network.json`` that says which model it is and how it was trained.

    The folder is made where there is none. Of a model that is neither a ``HookedTransformer`` nor a
    ``HookedEncoderDecoder``, ``training.checkpoint.load_weights`` reads back the weights.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"expected a folder at {folder}, got {error.strerror}; choose another place"
        ) from None
    save_weights(place / "weights.safetensors", model)
    parts = {"name": name or getattr(task, "name", ""), **_description(model, task, recipe)}
    write_json(place / "network.json", parts)


def record_training(folder: Path | None, job: Any) -> None:
    """Write a ``config.json``, by which ``Run.open`` and ``list_runs`` know a training's folder.

    Where there is one, of the run that the training is part of, that stays.

    Args:
        job: the ``Fit`` that begins.
    """
    if folder is None:
        return
    if os.path.lexists(folder / "config.json"):
        return
    config = {"mechinterp": metadata.version("mechinterp"), "kind": "fit"}
    write_new(folder / "config.json", json_text(config | _description(bare(job.model), job.task, job.recipe)))


def record_network(folder: Path, job: Any) -> None:
    """Write what ``load_network`` reads, and, where ``record_training`` made the run, its ``metrics.json``.

    Args:
        job: the ``Fit`` that ended; one that was interrupted has no metrics, for its run goes on.
    """
    save_network(folder, bare(job.model), job.task, job.recipe)
    try:
        own = read_object(folder / "config.json").get("kind") == "fit"
    except ValueError:  # another program's
        own = False
    if own and job.stopped != "interrupted":
        history, split = job.history, getattr(job.task, "watched", "test")
        metrics = {
            f"{split}_{getattr(job.task, 'score_name', 'score')}": history.test_score[-1],
            f"{split}_loss": history.test_loss[-1],
            "steps": job.step,
            "seconds": round(history.seconds, 2),
            "stopped": job.stopped,
        }
        write_json(folder / "metrics.json", metrics)


def _description(model: nn.Module, task: Any, recipe: Recipe) -> dict[str, Any]:
    """Task, model and recipe as plain JSON values; of others' tasks and models at least the class."""
    ours = type(model) in (HookedTransformer, HookedEncoderDecoder)
    network = {"model": model.cfg.to_json()} if ours else {"module": _class_of(model)}
    return {"task": _task(task), **network, "recipe": recipe.to_json()}


def _task(task: Any) -> Any:
    held = [getattr(task, each.name, None) for each in fields(task)] if is_dataclass(task) else []
    if not any(isinstance(value, (Tensor, np.ndarray)) for value in held):  # its data are no description
        try:
            record = plain(task.to_json())
            if len(json.dumps(record, allow_nan=False)) <= _LONGEST:
                return record
        except Exception:  # another's task may hold anything, and training must not fail of it
            pass
    return {"task": str(getattr(task, "name", "")), "class": _class_of(task)}


def _class_of(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def load_network(
    folder: str | Path, at_most: int = LARGEST_NETWORK
) -> HookedTransformer | HookedEncoderDecoder:
    """The network of a run of ``mechinterp train``, of ``fit``, or of one of a study's, in evaluation mode.

    It has the dtype of its weights, and is on the CPU.

    Args:
        folder: a run folder such as ``runs/b``, a network's below a study's run, such as
            ``runs/sortedness/seed_0/network_0``, or what ``fit`` was given as ``folder``.
        at_most: bytes of the largest network that is read.

    Raises:
        ValueError: the folder holds no such network, it is not finished or damaged, or is a larger one.
    """
    place = Path(folder)
    told = next((file for name in _TOLD if os.path.lexists(file := place / name)), None)
    record = {} if told is None else read_object(told)
    if "module" in record:
        raise ValueError(
            f"expected a HookedTransformer or HookedEncoderDecoder in {folder}, got a "
            f"{record['module']!s:.80}, which is not ours to build; build it, and give it the weights that "
            f"training.checkpoint.load_weights reads from {place / 'weights.safetensors'}"
        )
    if not isinstance(record.get("model"), dict):
        raise ValueError(
            f"expected a network.json or a config.json that says which model it is in {folder}, found none; "
            "name the folder of a trained network"
        )
    name = record.get("weights", "weights.safetensors")
    if not isinstance(name, str) or Path(name).name != name or "\0" in name:
        raise ValueError(f"in {told}: expected weights to be a file of this folder, got {name!r:.80}")
    if not os.path.lexists(place / name):
        raise ValueError(
            f"expected weights at {place / name}, found no file; finish the training, which writes them at "
            "its end, or name another folder"
        )
    described = describe_weights(place / name, at_most)
    model = _built(record["model"], described, told, place / name)
    load_into(model, load_weights(place / name, at_most), place / name)
    return model.eval()


_TOLD = ("network.json", "config.json")
"""Files that say which model a folder has; the first one there is believed."""


def _built(
    record: dict[str, Any], described: dict[str, Tensor], told: Path, file: Path
) -> HookedTransformer | HookedEncoderDecoder:
    """The network that a record describes, if weights of such shapes are those of one."""
    two = "n_ctx_source" in record
    kind = EncoderDecoderConfig if two else TransformerConfig
    floats = {x.dtype for x in described.values() if x.is_floating_point()}
    if len(floats) != 1:
        names = sorted(str(dtype).removeprefix("torch.") for dtype in floats)
        raise ValueError(f"in {file}: expected weights of one floating dtype, got {names}; convert them")
    dtype = str(floats.pop()).removeprefix("torch.")
    own = record | {"dtype": dtype, "device": None}
    if not isinstance(record.get("dtype", "float32"), str):
        raise ValueError(f"in {told}: expected a name of a dtype, got {record['dtype']!r:.80}")
    cfg = from_record(kind, own, kind.from_json, told)
    check_buildable(cfg, described, told)
    build = HookedEncoderDecoder if two else HookedTransformer
    layers = {name.split(".")[1] for name in described if name.startswith("blocks.")}
    if len(layers) != cfg.n_layers:
        raise ValueError(f"in {file}: expected weights of {cfg.n_layers} layers, got {len(layers)}")
    model = from_record(kind, own, lambda _: build(cfg), told)
    check_like(model.state_dict(), described, file)
    return model


def check_buildable(cfg: TransformerConfig, described: dict[str, Tensor], path: str | Path) -> None:
    """Refuse a config of more weights than there are, before memory is asked for.

    Args:
        described: as ``describe_weights`` gives it.
        path: the file that the config is of, for messages.

    Raises:
        ValueError: its network would have more weights, layers, or positions.
    """
    encoder = getattr(cfg, "n_encoder_layers", 0)
    layers = cfg.n_layers + encoder
    if layers > MOST_LAYERS:
        raise ValueError(f"in {path}: expected at most {MOST_LAYERS:,} layers, got {layers:,}")
    d_model, attentions = cfg.d_model, 2 * cfg.n_layers + encoder if encoder else layers
    mlp = 0 if cfg.attn_only else 2 * (cfg.d_mlp or 0)
    block = mlp + len(cfg.codebook_sites) * cfg.codebook_size
    embedded = cfg.d_vocab if cfg.d_input is None else cfg.d_input
    read_out = 0 if cfg.tie_embeddings else cfg.d_vocab_out
    heads = attentions * 4 * cfg.n_heads * cfg.d_head
    needed = d_model * (heads + layers * block + embedded + read_out)
    most = sum(x.numel() for x in described.values())
    if needed > most:
        raise ValueError(f"in {path}: expected a network of {most:,} weights, got one of {needed:,} or more")
    rows = max(cfg.n_ctx, cfg.randomised_positions, getattr(cfg, "n_ctx_source", 0))
    width = {"sinusoidal": d_model, "rotary": layers * (cfg.rotary_dim or 0)}
    if rows * width.get(cfg.positional_embedding_type, 0) > LARGEST_TABLES:
        raise ValueError(f"in {path}: expected a table of positions that fits in memory, got {rows:,} rows")
    learned = rows if cfg.learned_positions == -1 else cfg.learned_positions
    if cfg.positional_embedding_type == "standard" and learned * d_model > most:
        raise ValueError(f"in {path}: expected positions among {most:,} weights, got {learned:,} positions")
