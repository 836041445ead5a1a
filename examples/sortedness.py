"""Is it sorted? A network that learns it on 8 to 16 tokens is asked about 256: by which head does it go on?"""

import sys
from dataclasses import replace

import torch

from mechinterp import fit, models, tasks
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.leaks import leaks
from mechinterp.studies.sortedness.networks import sharper
from mechinterp.training.recipes import SORTEDNESS


def main(encoding: str = "none", steps: int = 6000, n: int = 1000) -> None:
    """Check the data, train, ask at every length, and look for heads that follow the largest token."""
    task = tasks.Sortedness(n_test=int(n))
    batch = task.of_length(16)
    print(leaks(task.leaks(batch), batch.targets[:, 0], torch.arange(len(batch)) // 2))
    model, before = models.sortedness(task, encoding), models.sortedness(task, encoding).eval()
    fit(model, task, replace(SORTEDNESS["fast"], steps=int(steps)))
    gate, longest = Gate.of(model.eval(), task), task.train_lengths[1]
    print(gate)
    for name, one in (("as trained", model), ("sharper with log n", sharper(model, longest))):
        by_length = {
            k: task.score(task.answers(one, x), x) for k in (16, 64, 256) for x in [task.of_length(k)]
        }
        print(name, by_length)
    tokens = torch.randint(task.vocabulary, (100, 16), generator=torch.Generator().manual_seed(0))
    seen = {"key_variable": tokens, "include_self": True, "untrained": before, "draws": 100, "gate": gate}
    print(match_score(model, tokens, tokens.cummax(1).values, **seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
