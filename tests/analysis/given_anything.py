"""Give every public analysis whatever a user may, and print what was answered in other words than ours.

Run as a script, in a process without the plugin that checks types in tests. Analyses are found by
inspection: a new one has to say below how it is called.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import random
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mechinterp import analysis, constructions, models, tasks
from mechinterp.analysis.metrics import logit_difference
from mechinterp.analysis.sets import Component
from mechinterp.hooks import HookedRootModule, HookPoint, is_hooked
from mechinterp.tasks.base import Batch

ELSEWHERE = {"probes", "erasure", "similarity", "procrustes", "state_basis", "codes", "steering", "gates"}
INNER = {"arguments", "checks", "folded", "patches", "references", "setting", "repeats"}
"""What only other analyses call."""
METRICS = ("margin", "log_probability", "accuracy", "all_right")
ANSWERS = {"Result", "Metric", "Ablated"}
N, POS, WORDS = 6, 3, 5


def analyses() -> dict[str, Callable]:
    """Public functions that take a model, or give a result or a metric, by module and name."""
    found = {}
    for module in pkgutil.walk_packages(analysis.__path__, "mechinterp.analysis."):
        place = module.name.removeprefix("mechinterp.analysis.")
        if place.split(".")[0] in ELSEWHERE | INNER:
            continue
        for name, thing in vars(importlib.import_module(module.name)).items():
            if name.startswith("_") or not inspect.isfunction(thing) or thing.__module__ != module.name:
                continue
            signature = inspect.signature(thing)
            if "model" in signature.parameters or str(signature.return_annotation) in ANSWERS:
                found[f"{place}.{name}"] = thing
    del found["effects.effects_result"]  # what sweeps end in
    return found


def tokens(seed: int, n: int = N) -> Tensor:
    return torch.randint(WORDS, (n, POS), generator=torch.Generator().manual_seed(seed))


@cache
def network(**changes: Any) -> nn.Module:
    sizes = {"d_model": 8, "d_head": 4, "n_layers": 1, "n_ctx": 4, "d_mlp": 6, "d_vocab": WORDS}
    return models.HookedTransformer(models.TransformerConfig(**sizes | changes)).eval()


class Own(HookedRootModule):
    """A model without a config."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hook_h, self.out = nn.Embedding(WORDS, 8), HookPoint(), nn.Linear(8, WORDS)
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hook_h(self.embed(x)))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, Z = tokens(0), tokens(1), tokens(2, 8)
RIGHT, WRONG = X[:, 0], (X[:, 0] + 1) % WORDS
METRIC = logit_difference(RIGHT, WRONG)
REGRESSION = tasks.LinearRegression(d=2, n_context=4, n_test=8)
PROMPTS = REGRESSION.dataset("test")
STEP = constructions.linear_regression(REGRESSION, [REGRESSION.best_rate])
PAIRS = torch.arange(5).expand(5, 5).contiguous()
LOGITS, FREQUENCIES = numbers(5, 5, 5), torch.tensor([1, 2])
ONE = [Component(0, 0), Component(0, 1)]
SEEN = {"model": network(), "inputs": X}
SWEPT = SEEN | {"metric": METRIC}
PAIRED = {"model": network(), "clean": X, "corrupted": Y, "metric": METRIC}
P = {"provenance": {}}


def cases() -> dict[str, dict[str, Any]]:
    """A call that works, of each analysis."""
    states = torch.tensor([0, 1, 2, 0, 1, 2])
    return {
        "ablation.ablation": SWEPT | {"reference": "zero"},
        "ablation.erase_directions": SWEPT | {"directions": {"a": numbers(8)}},
        "alignment.column_alignment": SEEN | {"columns": {"": ([0, 1, 1], [0, 1, 1])}},
        "attention.attention_patterns": SEEN,
        "attention.attention_entropy": SEEN,
        "attention.attention_distance": SEEN,
        "attention_match.match_score": SEEN | {"variable": torch.tensor([[0, 0, 1]] * N), "draws": 5},
        "attention_scores.attention_scores": SEEN,
        "attribution_patching.attribution_patching": PAIRED | {"exact": False},
        "behaviour.agreement": {
            "right": {"a": X > 1},
            "groups": torch.arange(N) % 2,
            "mask": X >= 0,
            "axis": "length",
            "trivial": 0.5,
            "draws": 5,
        },
        "behaviour.state_swap": SEEN
        | {
            "hook": "blocks.0.hook_resid_post",
            "at": torch.zeros(N, dtype=torch.long),
            "directions": numbers(3, 8).float(),
            "source": states,
            "target": (states + 1) % 3,
            "wrong": (states + 2) % 3,
            "follows": lambda logits, goal: (logits[:, :, 0] > 0).double(),
        },
        "circuits.qk_circuit": {"model": network()},
        "circuits.position_circuit": {"model": network()},
        "circuits.ov_circuit": {"model": network()},
        "clusters.cluster_effects": SEEN
        | P
        | {
            "sums": RIGHT,
            "clusters": [torch.tensor([0, 1])],
            "frequencies": torch.tensor([1]),
            "draws": 2,
        },
        "components.component_ablation": SEEN | {"targets": RIGHT[:, None], "kinds": ["zero"]},
        "components.component_patching": PAIRED,
        "geometry.spectrum": {"x": numbers(6, 3), "draws": 3},
        "in_context.attending.attention_similarity": {"model": STEP, "batch": PROMPTS, "draws": 3},
        "in_context.effective.effective_step": {"model": STEP, "target": numbers(2, 2), "draws": 3},
        "in_context.errors.error_by_context": {
            "answers": {"a": numbers(6, 1)},
            "targets": numbers(6, 1),
            "examples": torch.arange(6) % 2,
            "trivial": 1.0,
        },
        "in_context.flops.flops": {"model": STEP, "batch": PROMPTS},
        "in_context.kernel.kernel_smoother": {"model": STEP, "batch": PROMPTS},
        "in_context.layers.layer_steps": {"model": STEP, "d": 2},
        "in_context.methods.sensitivities": {"model": STEP, "batch": PROMPTS},
        "in_context.methods.method_agreement": {
            "model": STEP,
            "batch": PROMPTS,
            "methods": {"gd": PROMPTS.variables["w_gd"]},
        },
        "leaks.leaks": {
            "views": {"a": numbers(24, 2)},
            "answers": torch.arange(24) % 2,
            "together": torch.arange(24),
        },
        "lens.logit_lens": SEEN | {"targets": RIGHT[:, None]},
        "logit_attribution.direct_logit_attribution": SEEN | {"right": RIGHT, "wrong": WRONG, "draws": 5},
        "metrics.logit_difference": {"right": RIGHT, "wrong": WRONG},
        **{f"metrics.{name}": {"right": RIGHT} for name in METRICS},
        "metrics.minus_squared_error": {"target": numbers(6)},
        "modular.spectrum": P | {"matrix": LOGITS[0], "untrained": LOGITS[1], "name": "spectrum"},
        "modular.logit_frequencies": P | {"logits": LOGITS, "untrained": numbers(5, 5, 5, seed=1)},
        "modular.neuron_frequencies": P | {"neurons": LOGITS, "untrained": numbers(5, 5, 5, seed=1)},
        "modular.circles": P
        | {
            "embedding": numbers(5, 4),
            "untrained": numbers(5, 4, seed=1),
            "frequencies": FREQUENCIES,
        },
        "modular.sufficiency": P
        | {
            "logits": LOGITS,
            "targets": PAIRS,
            "frequencies": FREQUENCIES[:1],
            "train": torch.arange(9),
            "test": torch.arange(9, 25),
            "draws": 2,
        },
        "parts.without": {"model": network()},
        "patching.activation_patching": PAIRED | {"activation": "resid_pre"},
        "path_patching.path_patching": PAIRED,
        "positions.position_table": {"trained": numbers(6, 3)},
        "positions.shift_maps": {"tables": {"a": numbers(6, 2)}, "shifts": [1]},
        "positions.moved_positions": SWEPT | {"moves": {"a": torch.tensor([1, 0, 2])}},
        "pruning.prune": SWEPT | {"reference": "zero", "orders": 1},
        "rank_collapse.rank_collapse": SEEN,
        "rank_collapse.collapse_without_parts": SEEN,
        "redundancy.pairwise_ablation": SWEPT | {"reference": "zero"},
        "sets.components_of": {"model": network()},
        "sets.check_components": {"model": network(), "components": ONE},
        "transitions.compare_transitions": {
            "matrices": numbers(2, 2, 2),
            "transitions": torch.eye(2).expand(2, 2, 2),
            "draws": 3,
        },
    }


BATCH = Batch(inputs=X, targets=RIGHT[:, None], read=(-1,))
ODD = [None, "text", 3.5, -7, object(), [], {}, ["a"], [1.5], [99], (1, 2, 3, 4), np.zeros((2, 2)), BATCH]
BY_NAME = {
    "model": [nn.Linear(2, 2), Own(), network(dropout=0.1, seed=1).train(), BATCH, "gpt2", None],
    "metric": [lambda outputs: outputs.mean(), lambda outputs: outputs[:, 0, 0] / 0, lambda o: o.tolist(), 3],
    "draws": [0, -1],
    "seed": [True],
    "orders": [0],
    "n": [0],
}
BY_NAME["untrained"] = [None, "text", 3.5, network(n_layers=2), nn.Linear(2, 2)]
OPTIONAL = {
    "layers",
    "heads",
    "positions",
    "groups",
    "read",
    "mask",
    "attention_mask",
    "held_out",
    "held_out_mask",
    "seed",
    "draws",
    "gate",
    "untrained",
    "activation",
    "what",
    "reference",
    "direction",
    "stack",
    "by",
    "tokens",
    "components",
    "receivers",
    "offsets",
    "names",
    "queries",
    "defined",
    "kinds",
    "order",
    "unit",
    "granularity",
    "examples",
    "memory",
    "relation",
    "entries",
}


def wrong(name: str, good: Any) -> list[Any]:
    """Things that are given in place of an argument."""
    if name in BY_NAME and not isinstance(good, Tensor):
        return [*BY_NAME[name], *(ODD[1:5] if name != "untrained" else [])]
    if name in ("mask", "attention_mask", "held_out_mask") and not isinstance(good, Tensor):
        additive = torch.zeros(N, POS).masked_fill(torch.eye(N, POS) > 0, -torch.inf)
        empty = torch.zeros(N, POS, dtype=torch.bool)
        return [
            *ODD,
            torch.ones(N, POS),
            additive,
            2 * torch.ones(N, POS, dtype=torch.long),
            empty,
            empty[:2],
        ]
    if name == "read":
        return [*ODD, 99, torch.tensor([[0]]), torch.tensor([True] * N), torch.tensor([0.5])]
    if name == "held_out":
        return [*ODD, X, Z[:0], Z.float(), Z[:, :2]]
    if not isinstance(good, Tensor):
        return ODD
    turned = [
        good[:0],
        good[:1],
        good[:-1],
        good.float(),
        good.bool(),
        good.flatten(),
        good[None],
        good.double(),
    ]
    changed = [good + 1000, good - 1000] if good.dtype == torch.long else [good * torch.nan, good.half()]
    return [*ODD, *turned, *changed, good.numpy(), good.tolist()]


def said_so(function: Callable, arguments: dict[str, Any]) -> str:
    """What was wrong with how an analysis answered; nothing if it worked or said what it expected."""
    try:
        function(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        return "" if re.search(r"\bexpected\b", str(error)) else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def left_behind(function: Callable, arguments: dict[str, Any]) -> str:
    """What a call changed beside its result: models' mode, parameters, gradients, hooks; randomness."""
    networks = [x for x in arguments.values() if isinstance(x, nn.Module)]

    def state() -> dict[str, Any]:
        weights = [x for network in networks for x in network.parameters()]
        return {
            "training mode": [each.training for network in networks for each in network.modules()],
            "gradients": [(x.requires_grad, x.grad is None) for x in weights],
            "parameters": [x.detach().double().sum().item() for x in weights],
            "hooks": any(is_hooked(network.modules()) for network in networks),
            "gradient mode": torch.is_grad_enabled(),
            "randomness": [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())],
        }

    said_so(function, arguments)  # what is imported when first used may draw
    for network in networks:
        network.train()
    before = state()
    fault = said_so(function, arguments)
    after = state()
    for network in networks:
        network.eval()
    changed = [name for name in before if before[name] != after[name]]
    return fault or ", ".join(changed)


def main() -> None:
    warnings.simplefilter("ignore")
    known, good = analyses(), cases()
    faults = [f"{name}: say in cases() how it is called" for name in known.keys() ^ good.keys()]
    tried, left, only = 0, [], sys.argv[1:]
    for name in known.keys() & good.keys():
        if only and name not in only:
            continue
        function, arguments = known[name], good[name]
        if fault := left_behind(function, arguments):
            left.append(f"{name} as it should be called: {fault}")
        names = inspect.signature(function).parameters.keys()
        for argument in [each for each in names if each in arguments or each in OPTIONAL]:
            for given in wrong(argument, arguments.get(argument)):
                tried += 1
                if fault := said_so(function, arguments | {argument: given}):
                    faults.append(f"{name}, {argument}={str(given)[:60]!r}: {fault[:200]}")
    print(json.dumps({"tried": tried, "analyses": len(known), "faults": faults, "left behind": left}))


if __name__ == "__main__":
    main()
