"""Mean-ablating every head of a four-layer network, against one forward pass with a hook for each head.

The sizes are those of an encoder-decoder with two and two layers that adds three-digit numbers: width 64,
4 heads, 12 positions. Both sides take the same precomputed means, and measure at all of the last
four positions.
"""

from __future__ import annotations

import torch

from benchmarks.measure import alternate, show
from mechinterp.analysis.patches import hook_of, patches_of
from mechinterp.analysis.references import references
from mechinterp.analysis.setting import Setting
from mechinterp.analysis.sweeps import sweep
from mechinterp.hooks import Site, patch, run
from mechinterp.models import HookedTransformer, TransformerConfig

LAYERS, HEADS, WIDTH, POSITIONS, READ = 4, 4, 64, 12, (-4, -3, -2, -1)


def main(rounds: int = 15) -> None:
    figures: dict[str, float] = {}
    for batch in (16, 64, 256):
        ratio, seconds, difference = compare(batch, rounds)
        figures |= {
            f"batch_{batch}_ratio": ratio,
            f"batch_{batch}_ms": 1e3 * seconds,
            f"batch_{batch}_difference": difference,
        }
    ratios = [figures[f"batch_{batch}_ratio"] for batch in (16, 64, 256)]
    show("ablation", {"smallest_ratio": min(ratios), **figures})


def compare(batch: int, rounds: int) -> tuple[float, float, float]:
    """Theirs over ours, our seconds, and the largest difference of the metric."""
    cfg = TransformerConfig(
        n_layers=LAYERS, n_heads=HEADS, d_model=WIDTH, d_head=WIDTH // HEADS, d_mlp=4 * WIDTH,
        n_ctx=POSITIONS, d_vocab=14, normalization_type="LN",
    )  # fmt: skip
    model, generator = HookedTransformer(cfg).eval(), torch.Generator().manual_seed(0)
    inputs, held_out = (torch.randint(14, (batch, POSITIONS), generator=generator) for _ in range(2))
    names = [hook_of("z", layer) for layer in range(LAYERS)]
    becomes = references(model, names, "mean", inputs, held_out)

    def metric(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.log_softmax(-1)[..., 1].mean(-1)

    setting = Setting(model, inputs, metric, READ)
    heads = patches_of({"layer": range(LAYERS), "head": range(HEADS)}, POSITIONS)

    def one_by_one() -> torch.Tensor:
        found = []
        with torch.no_grad():
            for one in heads:
                site = Site.at(names[one.layer], head=one.head)
                found.append(metric(run(model, inputs, edits=[patch(site, becomes)])[:, list(READ)]))
        return torch.stack(found)

    def ours() -> torch.Tensor:
        return sweep(setting, "z", heads, becomes)

    times = alternate({"one_by_one": one_by_one, "ours": ours}, rounds)
    difference = (one_by_one() - ours()).abs().max().item()
    return times["one_by_one"]["median"] / times["ours"]["median"], times["ours"]["median"], difference


if __name__ == "__main__":
    main()
