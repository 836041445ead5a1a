"""Grokking modular addition: our network and loop against TransformerLens 4.3's native bridge.

Both train the network of Nanda et al. (2023) by the classic recipe, from the same weights, full
batch, with train and test loss every epoch and the softmax in float64. Per epoch: in turns, on
this machine. End to end: the bridge's epoch time by the epochs that the classic recipe needs
(``CLASSIC_EPOCHS``, from a full run made once with our code), against the fast recipe's wall time.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks.measure import alternate, show
from mechinterp.models import modular_addition
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks import ModularAddition
from mechinterp.training import fit
from mechinterp.training.fit import Stepper
from mechinterp.training.recipes import MODULAR_ADDITION

CLASSIC_EPOCHS = 6100  # first of every 100th epoch with test accuracy 1.000, seed 0; see BENCHMARKS.md
SAME_LOSSES = 50


def bridge_of(model: HookedTransformer) -> nn.Module:
    """TransformerLens's native bridge with the same weights, biases frozen at zero."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import boot

    cfg = model.cfg
    bridge = boot(
        TransformerBridgeConfig(
            d_model=cfg.d_model, d_head=cfg.d_head, n_layers=1, n_ctx=3, n_heads=cfg.n_heads, d_mlp=cfg.d_mlp,
            d_vocab=cfg.d_vocab, d_vocab_out=cfg.d_vocab_out, act_fn="relu", normalization_type=None,
            positional_embedding_type="standard", device="cpu", init_weights=False,
        ),
        dtype=cfg.dtype,
    )  # fmt: skip
    native: Any = bridge.original_model
    block, attn, mlp = native.layers[0], model.blocks[0].attn, model.blocks[0].mlp
    matrices = [
        (native.tok_embed.weight, model.W_E),
        (native.pos.weight, model.W_pos),
        (native.head.weight, model.W_U.T),
        (block.attn.o.weight, rearrange(attn.W_O, "h e d -> d (h e)")),
        (block.mlp.fc_in.weight, mlp.W_in.T),
        (block.mlp.fc_out.weight, mlp.W_out.T),
    ]
    for name in "QKV":
        weight = rearrange(getattr(attn, f"W_{name}"), "h d e -> (h e) d")
        matrices.append((getattr(block.attn, name.lower()).weight, weight))
    with torch.no_grad():
        for target, source in matrices:
            target.copy_(source)
        for name, parameter in native.named_parameters():
            if name.endswith("bias"):
                parameter.zero_().requires_grad_(False)
    return bridge


class BridgeEpoch:
    """The classic loop around the bridge: a step, and the test loss."""

    def __init__(self, model: nn.Module, task: ModularAddition) -> None:
        recipe = MODULAR_ADDITION["classic"]
        self.model, self.recipe, self.steps = model, recipe, 0
        self.train, self.test = task.dataset("train"), task.dataset("test")
        weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay)

    def loss(self, batch: Any) -> Tensor:
        """Cross-entropy at the last position, the log-softmax in float64."""
        logits = self.model(batch.inputs)[:, -1].double()
        return -logits.log_softmax(-1).gather(1, batch.targets).mean()

    def __call__(self) -> tuple[float, float]:
        """Train and test loss of one epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(self.steps)
        loss = self.loss(self.train)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        with torch.no_grad():
            return loss.item(), self.loss(self.test).item()


class OurEpoch:
    """The same epoch by our loop."""

    def __init__(self, model: HookedTransformer, task: ModularAddition) -> None:
        self.stepper, self.task, self.test = (
            Stepper(model, task, MODULAR_ADDITION["classic"]),
            task,
            task.dataset("test"),
        )

    def __call__(self) -> tuple[float, float]:
        """Train and test loss of one epoch."""
        loss = self.stepper.step()
        with torch.no_grad():
            outputs = self.task.outputs(self.stepper.model, self.test)
            return loss, self.task.loss(outputs, self.test, torch.float64).item()


def same_losses(dtype: torch.dtype, epochs: int = SAME_LOSSES) -> float:
    """The largest difference of the first train and test losses of both, from the same weights.

    In float32 Adam turns the rounding of gradients near zero, of neurons that are almost dead, into whole
    steps, and the difference grows tenfold every few epochs; in float64 it does not get that far.
    """
    task = ModularAddition()
    model = modular_addition(task, init_mode="nanda", dtype=dtype)
    theirs, ours = BridgeEpoch(bridge_of(model), task), OurEpoch(model, task)
    pairs = [(theirs(), ours()) for _ in range(epochs)]
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other))


def fast_seconds(seeds: range) -> list[dict[str, float]]:
    """Wall time of ``fit`` with the fast recipe, and what it reaches."""
    runs = []
    for seed in seeds:
        task = ModularAddition(seed=seed)
        began = time.perf_counter()
        job = fit(modular_addition(task, seed=seed), task, MODULAR_ADDITION["fast"])
        seconds = time.perf_counter() - began
        runs.append(
            {"seed": seed, "seconds": seconds, "steps": job.step, "test_accuracy": job.history.test_score[-1]}
        )
    return runs


def main(rounds: int = SAME_LOSSES) -> None:
    task = ModularAddition()
    model = modular_addition(task, init_mode="nanda")
    epochs = {"bridge": BridgeEpoch(bridge_of(model), task), "ours": OurEpoch(model, task)}
    times = alternate(epochs, rounds)
    runs = fast_seconds(range(5))
    wall = statistics.median(run["seconds"] for run in runs)
    bridge, ours = times["bridge"]["median"], times["ours"]["median"]
    show(
        "time_to_grok",
        {
            "per_epoch_ratio": bridge / ours,
            "end_to_end_ratio": bridge * CLASSIC_EPOCHS / wall,
            "bridge_epoch_ms": 1e3 * bridge,
            "our_epoch_ms": 1e3 * ours,
            "classic_epochs": CLASSIC_EPOCHS,
            "fast_seconds_median": wall,
            "fast_runs": runs,
            "largest_loss_difference_float32": same_losses(torch.float32),
            "largest_loss_difference_float64": same_losses(torch.float64),
            "losses_compared": 2 * SAME_LOSSES,
        },
    )


if __name__ == "__main__":
    main()
