"""Is it sorted? Learned on 8 to 16 tokens and asked about 256: how far does it go, and by which head?"""

import sys
from dataclasses import replace

import torch

from mechinterp import fit, models, tasks
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.leaks import leaks
from mechinterp.models.sharpened import sharpened
from mechinterp.training.recipes import SORTEDNESS


def main(encoding: str = "none", steps: int = 4000, n: int = 1000) -> None:
    """Check the data, train, ask at every length, and look for heads that follow the largest token."""
    task = tasks.Sortedness(n_test=int(n))
    batch = task.of_length(16)
    print(leaks(task.leaks(batch), batch.targets[:, 0], torch.arange(len(batch)) // 2))
    model, before = models.sortedness(task, encoding), models.sortedness(task, encoding).eval()
    fit(model, task, replace(SORTEDNESS["fast"], steps=int(steps)))
    gate, tokens = Gate.of(model.eval(), task), torch.rand(100, 16).mul(task.vocabulary).long()
    print(gate)
    for name, one in (("as trained", model), ("sharper with log n", sharpened(model, 16))):
        for batch in map(task.of_length, (16, 64, 256)):
            print(name, batch.inputs.shape[1], task.score(task.answers(one, batch), batch))
    seen = {"key_variable": tokens, "include_self": True, "untrained": before, "draws": 100, "gate": gate}
    print(match_score(model, tokens, tokens.cummax(1).values, **seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
