"""What no score is defined for is refused, with what was expected, what was got, and what to do."""

import pytest
import torch

from mechinterp.analysis.probes import Fourier, Periods, online_code, probe

N, LENGTH = 40, 3
X = torch.randn(N, LENGTH, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(N, generator=torch.Generator().manual_seed(1))
LABELS = (Y > 0).long()
FIRST = torch.arange(N) < N // 2
NAN = torch.where(torch.arange(N) == 3, torch.nan, Y)
BY_POSITION = torch.stack([Y, torch.ones(N), Y], 1)
BELIEFS = torch.rand(N, 3)
FEW = torch.arange(N)[:, None].expand(-1, LENGTH) < torch.tensor([N, 4, N])

REFUSED = {
    "a constant target": (lambda: probe(X, torch.ones(N)), r"constant over the train examples .*R²"),
    "constant but for rounding": (lambda: probe(X, 1e6 + 1e-5 * Y.double()), "constant over the train"),
    "constant in training": (lambda: probe(X, Y * FIRST, test=FIRST), "constant over the train examples"),
    "constant in the test": (lambda: probe(X, Y * ~FIRST, test=FIRST), "constant over the test examples"),
    "constant at a position": (lambda: probe(X, BY_POSITION), r"constant .* at position 1.*positions="),
    "one constant of several": (lambda: probe(X, {"a": Y, "b": 0 * Y}), "target b constant"),
    "a single class": (lambda: probe(X, torch.ones(N).long(), "logistic"), "constant over the train"),
    "a single class, in bits": (lambda: online_code(X, torch.ones(N).long()), "constant over the all"),
    "a wave that stands still": (lambda: probe(X, torch.arange(N), Periods(periods=(1.0,))), "constant"),
    "a NaN in the target": (lambda: probe(X, NAN), "expected finite numbers in the variable"),
    "a NaN in the activations": (lambda: probe(X / X.ceil().clamp(min=0), Y), "numbers in activations"),
    "too few examples": (lambda: probe(X[:8], Y[:8]), "at least 5 real tokens in each split, got 2 for test"),
    "too few real tokens": (lambda: probe(X, Y, mask=FEW), r"at least 5 real .*at position \[1\]"),
    "nothing held out": (lambda: probe(X, Y, test=FIRST & ~FIRST), "got 0 for test"),
    "a share of everything": (lambda: probe(X, Y, test=1.0), "share of held-out examples between 0 and 1"),
    "marks of another length": (lambda: probe(X, Y, test=FIRST[1:]), "mark 40 examples"),
    "an empty mask": (lambda: probe(X, Y, mask=torch.zeros(N, LENGTH).bool()), "mask with real tokens"),
    "a mask of another shape": (lambda: probe(X, Y, mask=torch.ones(N, 2).bool()), "boolean mask of shape"),
    "activations of integers": (lambda: probe(X.long(), Y), "floating-point activations .* got torch.int64"),
    "attention patterns": (lambda: probe({"p": torch.rand(N, 2, 3, 3)}, Y), r"\[batch, pos, d\] of p"),
    "no activations": (lambda: probe({}, Y), "at least one hook point"),
    "hooks of two runs": (lambda: probe({"a": X, "b": X[1:]}, Y), "all must come from one run"),
    "a variable of another length": (lambda: probe(X, Y[1:]), r"a variable of 40 examples .*got \[39, 1\]"),
    "targets for positions": (lambda: probe(X, torch.randn(N, 7)), r"are \[batch, 1, target\]"),
    "no position": (lambda: probe(X, Y, positions=[]), "at least one position"),
    "a position that is not there": (lambda: probe(X, Y, positions=[3]), r"within \[-3, 3\), got 3"),
    "numbers as classes": (lambda: probe(X, Y, "logistic"), "expected integer classes, got torch.float32"),
    "numbers mod p": (lambda: probe(X, Y, Fourier(p=5)), "expected integers mod 5"),
    "an unknown kind": (lambda: probe(X, Y, "lasso"), "expected a kind of .*'ridge'.*got 'lasso'"),
    "beliefs that do not sum to 1": (lambda: probe(X, BELIEFS, "simplex"), "sum to 1"),
    "beliefs without an axis": (lambda: probe(X, Y, "simplex"), r"beliefs \[batch, state\]"),
    "another network's hooks": (lambda: probe({"a": X}, Y, untrained={"b": X}), r"none of \['a'\]"),
    "another network's inputs": (lambda: probe(X, Y, untrained=X[1:]), "run the same inputs"),
    "others' inputs": (lambda: probe(X, Y, inputs=torch.zeros(3, LENGTH).long()), "the activations' inputs"),
    "types of another length": (lambda: probe(X, Y, types=torch.zeros(3).long()), "expected input types"),
    "types that are numbers": (lambda: probe(X, Y, types=Y), "integer input types"),
    "frequency 0": (lambda: Fourier(p=7, frequencies=[7]), "no multiples of p"),
    "a period of 0": (lambda: Periods(periods=(0, 1)), "periods > 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
