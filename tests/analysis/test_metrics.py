"""Metrics of a few outputs worked out by hand."""

import pytest
import torch

from mechinterp.analysis import metrics

OUTPUTS = torch.tensor([[[1.0, 4.0, 2.0]], [[0.0, -1.0, 3.0]]])
RIGHT, WRONG = torch.tensor([1, 0]), torch.tensor([2, 1])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.logit_difference(RIGHT, WRONG), [2.0, 1.0]),
        (metrics.margin(RIGHT), [2.0, -3.0]),
        (metrics.accuracy(RIGHT), [1.0, 0.0]),
        (metrics.minus_squared_error(torch.tensor([0.0, 2.0])), [-1.0, -4.0]),
    ],
)
def test_by_hand(metric, expected):
    assert metric(OUTPUTS).tolist() == expected


def test_log_probability():
    expected = OUTPUTS.log_softmax(-1)[[0, 1], 0, RIGHT]
    torch.testing.assert_close(metrics.log_probability(RIGHT)(OUTPUTS), expected)


def test_several_positions_are_averaged():
    outputs = OUTPUTS.transpose(0, 1)
    assert metrics.margin(RIGHT[None])(outputs).tolist() == [-0.5]


def test_targets_of_other_examples_are_refused():
    with pytest.raises(ValueError, match="same examples"):
        metrics.margin(RIGHT)(OUTPUTS[:1])
    with pytest.raises(ValueError, match="a wrong answer for each"):
        metrics.logit_difference(RIGHT, WRONG[:1])
