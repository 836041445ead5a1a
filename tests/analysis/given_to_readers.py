"""Calls readers with all kinds of arguments, and prints what they say as JSON; run without beartype."""

import json
import random
import sys
import warnings

import numpy as np
import torch

from mechinterp.analysis.erasure import (
    decodability,
    erasure_curve,
    erasure_effect,
    leace,
    mean_projection,
    probe_projection,
    random_erasers,
)
from mechinterp.analysis.geometry import axis_ratio, circularity, frequency_plane, pca, spectrum
from mechinterp.analysis.probes import (
    MLP,
    MLPRegression,
    code_length,
    online_code,
    probe,
    project_to_simplex,
)
from mechinterp.analysis.procrustes import procrustes
from mechinterp.analysis.repeats import repeated_rows
from mechinterp.analysis.similarity import cka, score_and_null, similarity
from mechinterp.analysis.state_basis import state_basis
from mechinterp.hooks import Site
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.tasks.base import Batch

assert "beartype" not in sys.modules
warnings.simplefilter("ignore")
N, D = 48, 4
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=G), torch.randn(N, generator=G)
LABEL = (X[:, 0] > 0).long() + (X[:, 1] > 1).long()
TOKENS = torch.randint(5, (N, 3), generator=G)
MODEL = HookedTransformer(
    TransformerConfig(d_model=6, d_head=3, n_heads=2, n_layers=1, n_ctx=3, d_vocab=5, d_mlp=8)
).eval()
SITE = Site.at("blocks.0.hook_resid_post", position=-1)
QUICK = {"shuffles": 1, "permutations": 10}


def metric(outputs):
    """A number an example."""
    return outputs[:, -1, 0]


NAN, INF = X.clone(), X.clone()
NAN[3, 1], INF[5, 0] = torch.nan, torch.inf
ODD = {
    "None": None, "a string": "abc", "a number": 3, "a float": 0.5, "a bool": True, "a list": [1, 2, 3],
    "strings": ["a"] * N, "an empty list": [], "an empty tensor": torch.zeros(0),
    "no rows": torch.zeros(0, D),
    "no features": torch.zeros(N, 0), "one row": X[:1], "one number": torch.tensor(1.0), "NaN": NAN,
    "infinity": INF, "integers": TOKENS, "booleans": X > 0, "complex": X.to(torch.complex64),
    "constant": torch.ones(N, D), "a row less": X[1:], "four axes": torch.zeros(N, 2, 2, D),
    "a numpy array": X.numpy(), "objects": np.array([object()] * N), "floats as list": Y.tolist(),
    "labels as floats": LABEL.float(), "labels": LABEL, "labels as numpy": LABEL.numpy(), "numbers": Y,
    "a dict": {}, "a dict of strings": {"a": "b"}, "a function": metric, "half": X.half(),
    "bfloat": X.bfloat16(), "double": X.double(), "needs a gradient": X.clone().requires_grad_(),
    "a batch": Batch(inputs=TOKENS, targets=TOKENS[:, :1], read=(-1,)), "a shuffled view": X.flip(0).T.T,
    "negative": LABEL - 5, "huge": 1e30 * X, "tiny": 1e-30 * X,
}  # fmt: skip

# Each function, its right arguments, and those that are put something else for.
RIGHT = {
    "probe": (probe, {"activations": X, "variable": Y, **QUICK}, None),
    "probe of classes": (
        probe, {"activations": X, "variable": LABEL, "kind": "logistic", **QUICK}, ["variable"],
    ),
    "probe of waves": (probe, {"activations": X, "variable": Y, "kind": "simplex", **QUICK}, ["variable"]),
    "probe more": (
        probe,
        {
            "activations": {"a": X[:, None]}, "variable": {"y": Y}, "kind": "ridge", "mask": None,
            "positions": None, "test": 0.25, "together": None, "untrained": None, "inputs": None,
            "types": None, **QUICK,
        },
        ["kind", "mask", "positions", "test", "together", "untrained", "inputs", "types", "shuffles",
         "permutations"],
    ),
    "online_code": (online_code, {"activations": X, "variable": LABEL}, None),
    "code_length": (code_length, {"x": X, "labels": LABEL, "kinds": 3}, ["x", "labels"]),
    "leace": (leace, {"x": X, "z": Y, "shrinkage": 0.0, "z_as": None}, None),
    "mean_projection": (mean_projection, {"x": X, "z": LABEL}, None),
    "probe_projection": (probe_projection, {"x": X, "z": Y}, None),
    "random_erasers": (random_erasers, {"x": X, "rank": 1}, ["x", "rank"]),
    "decodability": (decodability, {"x": X, "z": Y, "groups": None}, None),
    "decodability of classes": (decodability, {"x": X, "z": LABEL}, ["z"]),
    "an eraser": (leace(X, Y), {"x": X}, None),
    "erasure_effect": (
        erasure_effect,
        {"model": MODEL, "inputs": TOKENS, "site": SITE, "z": Y, "metric": metric, "draws": 2},
        ["inputs", "site", "z", "metric", "draws"],
    ),
    "erasure_curve": (
        erasure_curve,
        {"model": MODEL, "inputs": TOKENS, "site": SITE, "concepts": {"y": Y}, "metric": metric, "draws": 2},
        ["inputs", "site", "concepts", "metric", "draws"],
    ),
    "state_basis": (state_basis, {"x": X, "states": LABEL, "groups": None}, None),
    "cka": (cka, {"x": X, "y": X + 1}, None),
    "procrustes": (procrustes, {"x": X, "y": X + 1}, None),
    "score_and_null": (score_and_null, {"x": X, "y": X + 1, "measure": "cka", "draws": 2}, None),
    "similarity": (similarity, {"first": {"a": X}, "second": {"b": X}, "names": None, "draws": 2}, None),
    "spectrum": (spectrum, {"x": X, "draws": 3}, None),
    "pca": (pca, {"x": X, "k": 2}, None),
    "circularity": (circularity, {"embedding": X, "components": 2}, None),
    "frequency_plane": (frequency_plane, {"embedding": X, "k": 2}, None),
    "axis_ratio": (axis_ratio, {"embedding": X, "k": 2}, None),
    "project_to_simplex": (project_to_simplex, {"x": X}, None),
    "repeated_rows": (lambda given: repeated_rows(given), {"given": X}, None),
}  # fmt: skip


def said(function, given):
    """What a call says, in words."""
    try:
        function(**given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "works"


calls = {}
for name, (function, right, which) in RIGHT.items():
    if name not in ("probe of waves",):
        assert said(function, right) == "works", (name, said(function, right))
    for argument in which or right:
        for what, odd in ODD.items():
            calls[f"{name}, {argument}: {what}"] = said(function, {**right, argument: odd})


def number(found):
    """A number of a result."""
    return found if isinstance(found, float) else float(np.ravel(found.values)[0])


ARRAYS = {
    "probe": lambda of: probe(of(X), of(Y), **QUICK),
    "logistic": lambda of: probe(of(X), of(LABEL), "logistic", **QUICK),
    "online_code": lambda of: online_code(of(X), of(LABEL)),
    "leace": lambda of: leace(of(X), of(Y)).matrix.sum().item(),
    "decodability": lambda of: decodability(of(X), of(LABEL)),
    "state_basis": lambda of: state_basis(of(X), of(LABEL)).accuracy,
    "similarity": lambda of: similarity({"a": of(X)}, {"b": of(X)}, draws=2),
    "spectrum": lambda of: spectrum(of(X), draws=2),
}
arrays = {
    name: [number(call(of)) for of in (torch.Tensor.numpy, torch.Tensor.clone)]
    for name, call in ARRAYS.items()
}

kinds = {"mlp": MLP(hidden=(4,), steps=5), "mlp regression": MLPRegression(hidden=(4,), steps=5)}
python_draws = []
ONE = {name: (lambda call=call: call(torch.Tensor.clone)) for name, call in ARRAYS.items()}
ONE |= {
    name: (lambda kind=kind: probe(X, LABEL if "reg" not in str(kind).lower() else Y, kind, **QUICK))
    for name, kind in kinds.items()
}
ONE["shrunk"] = lambda: leace(X, Y, shrinkage="ledoit-wolf").matrix.sum().item()
for name, call in ONE.items():
    before = random.getstate()
    call()
    if random.getstate() != before:
        python_draws.append(name)

cells = {"a": torch.randn(200, 24, 32, generator=G)}
target = cells["a"][:, 3, 0] + torch.randn(200, generator=G)
by_threads = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    by_threads.append(probe(cells, target, shuffles=2, permutations=20).values)
threads = [] if (by_threads[0] == by_threads[1]).all() else ["ridge of many cells"]
print(json.dumps({"calls": calls, "arrays": arrays, "python draws": python_draws, "threads": threads}))
