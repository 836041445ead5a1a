"""Named recipes: a published one, number for number, and a fast one that reaches the same place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mechinterp.tasks.base import Task
from mechinterp.training.recipe import Recipe

CLASSIC = Recipe(
    steps=25_000,
    lr=1e-3,
    weight_decay=1.0,
    betas=(0.9, 0.98),
    warmup=10,
    loss_dtype="float64",
    eval_every=100,
    checkpoints=40,
    save_every=1000,
)
"""Modular addition as Nanda et al. (2023) trained it; build the network with init_mode="nanda"."""

FAST = Recipe(
    steps=800,
    lr=1.5e-2,
    weight_decay=1.5,
    betas=(0.9, 0.95),
    warmup=10,
    eval_every=25,
    stop_at_score=0.999,
    cleanup_steps=125,
    cleanup_eps=1e-3,
    cleanup_until_score=1.0,
    checkpoints=33,
    checkpoint_spacing="linear",
)
"""The same network in seconds. A large learning rate makes few steps of the many small ones of
weight decay; a clean-up with a large ``eps`` lets go what the sign-like steps of Adam kept. Tuned to
p = 113 and one layer: a smaller p, or more layers, wants more of the pairs to train on, or a lower rate."""

MODULAR_ADDITION = {"fast": FAST, "classic": CLASSIC}

ONE_LAYER = Recipe(
    steps=1500,
    batch_size=256,
    lr=1e-2,
    betas=(0.9, 0.98),
    warmup=50,
    schedule="cosine",
    clip_norm=1.0,
    eval_every=100,
    checkpoints=12,
)
"""One layer of attention that regresses in context; each prompt should ask several queries. Numbers of
examples must mix within a batch: batches of one number each, by which Adam's moments are scaled in turns,
end 1 to 3 % above the optimum."""

DEEP_REGRESSION = Recipe(
    steps=6000,
    batch_size=64,
    lr=3e-3,
    betas=(0.9, 0.98),
    warmup=200,
    schedule="cosine",
    clip_norm=1.0,
    eval_every=500,
    checkpoints=12,
)
"""Six layers with MLPs; prompts with 16 queries."""

LAYERS = Recipe(
    steps=2000,
    batch_size=256,
    lr=2e-3,
    betas=(0.9, 0.999),
    warmup=50,
    schedule="cosine",
    clip_norm=10.0,
    eval_every=200,
    checkpoints=12,
)
"""Several layers of linear attention on raw tokens, begun with ``init_mode="identity"``. Their answers are
polynomials of high degree, so that single prompts have gradients of any size: clipped too low they are not
heard, and the network goes wild where examples are few; with a short memory of squared gradients Adam
stumbles."""

_ADDITION = Recipe(
    steps=1000,
    batch_size=512,
    lr=2e-3,
    betas=(0.9, 0.98),
    warmup=100,
    schedule="cosine",
    clip_norm=1.0,
    eval_every=50,
    checkpoints=21,
    checkpoint_spacing="linear",
)
DIGIT_ADDITION = {"fast": _ADDITION, "long": replace(_ADDITION, steps=2000)}
"""New problems at every step. Three digits are added without a mistake after 400 to 500 steps; with the most
significant first, one seed of three is at .99 after 1,000 and takes more, and so does one of three with five
digits."""

_TEXT = Recipe(
    steps=1500,
    batch_size=512,
    lr=2e-3,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    warmup=100,
    schedule="cosine",
    clip_norm=1.0,
    eval_every=100,
    checkpoints=16,
    checkpoint_spacing="linear",
)
TEXT_ARITHMETIC = {
    "fast": _TEXT,
    "residue": replace(_TEXT, steps=6000, eval_every=200),
    "published": replace(_TEXT, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999), warmup=0, schedule="constant"),
}
"""New problems at every step. Sums are known to a thousandth of their range in 1,500 steps; residues mod 97
stay unknown for hundreds of steps, and are all known after some 5,000. As published: Adam at a constant
rate."""

STATE_MACHINE = {
    "fast": Recipe(
        steps=500,
        batch_size=64,
        lr=1e-3,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        warmup=20,
        schedule="cosine",
        clip_norm=1.0,
        eval_every=10,
        checkpoints=6,
        checkpoint_spacing="linear",
    )
}
"""New sequences at every step; a temperature that is annealed moves at each measurement."""

_SORTED = Recipe(
    steps=4_000,
    batch_size=128,
    optimizer="muon",
    lr=3e-3,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    warmup=100,
    schedule="cosine",
    clip_norm=1.0,
    eval_every=200,
)
SORTEDNESS = {
    "fast": _SORTED,
    "short": replace(_SORTED, steps=2_000),
    "medium": replace(_SORTED, steps=8_000),
    "long": replace(_SORTED, steps=12_000),
    "longest": replace(_SORTED, steps=24_000),
}
"""New pairs at every step, all of one length, so that nothing is padded. By AdamW alone learned positions in
both directions take three times the steps, and sinusoids half as many again; of the rates 2e-3 and 3e-3 are
alike there, and 1e-3 and 4e-3 learn later. In both directions sinusoids and rotary positions take the medium
recipe, ALiBi the long one, and drawn and learned positions the longest: the latter's last vectors are seen in
a ninth of the batches. Causal ones on drawn positions take the medium one, and without positions the long one
goes further beyond the lengths of training. Random orders are learned after a few hundred steps."""

LINEAR_REGRESSION = {"fast": ONE_LAYER, "layers": LAYERS, "deep": DEEP_REGRESSION}


def epochs(
    task: Task, epochs: int = 50, batch_size: int = 32, lr: float = 1e-3, patience: int = 10, **changes: Any
) -> Recipe:
    """Adam in small batches, measured once an epoch, which stops when the watched loss no longer falls.

    Args:
        task: says how many steps an epoch has; the rest of its last batch is left out.
        patience: epochs without a lower loss.
        changes: any other field of ``Recipe``.

    Raises:
        ValueError: a number that is not positive.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"expected at least 1 epoch of batches of 1, got {epochs} and {batch_size}")
    each = max(1, len(task.dataset("train")) // batch_size)
    fields = {
        "steps": epochs * each,
        "batch_size": batch_size,
        "lr": lr,
        "betas": (0.9, 0.999),
        "clip_norm": 1.0,
        "eval_every": each,
        "save_every": 10 * each,
        "patience": patience,
        "keep_best": True,
    }
    return Recipe(**fields | changes)
