"""Every tool of the analysis layer finds what is planted, and little where nothing is.

100 random networks a case; benchmarks/calibration.py takes more, and docs/calibration.md has the table. The
trials run in a process of their own, where shapes are not checked: checks would take most of the time.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
import pytest
from cases import NULLS, PLANTED, trials
from trial import LEVEL, Trial, rates

NETWORKS = 100
MORE = (
    "patch_random_pairs",
    "patch_without_control",
    "probe_pooled",
    "procrustes_random",
    "cka_9",
    "procrustes",
)
MORE += (
    "leaks",
    "leaks_random",
    "patch_16",
    "path_16",
    "component_16",
    "ablate_16",
    "directions_16",
)  # left to the benchmark
MOST_MISSED = dict.fromkeys(PLANTED, 0.1) | {
    "pairs": 0.1, "directions_40": 0.25, "probe": 0.25, "erase": 0.35, "groups": 0.25,
    "patch_two_classes": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """The trials of a case, by name and how many."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield cache(lambda name, n=NETWORKS: pool.submit(trials, name, n).result())


@pytest.mark.parametrize("name", [name for name in NULLS if name not in MORE])
def test_where_there_is_nothing_no_more_is_found_than_the_level_allows(run, name):
    found = rates(run(name), level=0.999)
    assert found["crying"]["low"] <= LEVEL
    assert found["alone"]["low"] <= LEVEL


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in MORE])
def test_what_is_planted_is_found(run, name):
    found = rates(run(name))
    assert found["missed"]["rate"] <= MOST_MISSED[name]


ALONE = (
    "scores",
    "erase",
    "groups",
    "transitions",
    "swap",
    "step",
    "component_loss",
)  # nothing beside what is planted
BESIDE = [name for name in PLANTED if name not in (*MORE, *ALONE)]


@pytest.mark.parametrize("name", BESIDE)
def test_of_what_is_found_beside_a_planted_effect_little_is_false(run, name):
    found = rates(run(name), level=0.999)
    assert found["false"]["low"] <= LEVEL


def test_singular_values_of_noise_leave_the_middle_of_their_null_as_often_as_it_says(run):
    found = rates(run("spectrum_random"), level=0.999)
    assert found["alone"]["low"] <= LEVEL


def test_rates_count_what_they_say():
    some, all_ = np.array([True, False, False]), np.ones(3, bool)
    found = rates([Trial(some, some, ~some), Trial(~all_, some, ~some)])
    assert [found[name]["rate"] for name in ("crying", "alone", "missed", "false")] == [0.5, 1.0, 1.0, 0.5]
    assert [found[name]["n"] for name in found] == [2] * 4
    assert found["crying"]["low"] < 0.05 < 0.95 < found["crying"]["high"]
    everywhere = rates([Trial(some, some, all_)] * 2)
    assert everywhere["missed"]["rate"] == pytest.approx(2 / 3)
    assert everywhere["crying"] is everywhere["alone"] is everywhere["false"] is None
