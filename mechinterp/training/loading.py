"""A trained network, left in a folder and read back from there."""

from __future__ import annotations

from pathlib import Path

from mechinterp.files import read_json, write_json
from mechinterp.models.config import EncoderDecoderConfig, TransformerConfig
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.base import Task
from mechinterp.training.checkpoint import load_weights, save_weights
from mechinterp.training.recipe import Recipe


def save_network(
    folder: Path, model: HookedTransformer | HookedEncoderDecoder, task: Task, recipe: Recipe, name: str = ""
) -> None:
    """Write weights, and a ``network.json`` that says which model it is and how it was trained."""
    save_weights(folder / "weights.safetensors", model)
    parts = {"task": task.to_json(), "model": model.cfg.to_json(), "recipe": recipe.to_json()}
    write_json(folder / "network.json", {"name": name or task.name, **parts})


def load_network(folder: str | Path) -> HookedTransformer | HookedEncoderDecoder:
    """The network of a run of ``mechinterp train``, or of one of a study's, in evaluation mode.

    Args:
        folder: a run folder such as ``runs/b``, or a network's below a study's run, such as
            ``runs/sortedness/seed_0/network_0``, whose ``network.json`` says which it is.

    Raises:
        ValueError: the folder holds no such network, or it is not finished or damaged.
    """
    place = Path(folder)
    told = next((file for name in ("network.json", "config.json") if (file := place / name).exists()), None)
    record = {} if told is None else read_json(told)
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ValueError(
            f"expected a network.json or a config.json that says which model it is in {folder}, found none; "
            "name the folder of a trained network"
        )
    if "n_ctx_source" in record["model"]:
        model = HookedEncoderDecoder(EncoderDecoderConfig.from_json(record["model"]))
    else:
        model = HookedTransformer(TransformerConfig.from_json(record["model"]))
    model.load_state_dict(load_weights(place / record.get("weights", "weights.safetensors")))
    return model.eval()
