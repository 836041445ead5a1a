"""What tells a task's answer though it should not: a classifier on parts of the input from which it cannot be
meant to be read.

A network that scores well may have learned such a part alone. Examples that share what leaks, such as a
sequence and its other order, are held out together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.probes import probe
from mechinterp.result import Result


@checked
def leaks(
    views: Mapping[str, Float[Tensor, "_ _"]],
    answers: Int[Tensor, " _"],
    together: Int[Tensor, " _"],
    *,
    test: float = 0.5,
    seed: int = 0,
) -> Result:
    """How often a logistic regression on each part of the input gives the answer, held out.

    Args:
        views: features by the name of the part that is seen.
        answers: the classes.
        together: the group of each example; groups are held out whole.
        test: the share of groups held out.

    Returns:
        Dim ``view``: accuracies. Trivial is the most frequent answer, the control the mean of fits to
        shuffled answers: within groups where their members have different ones, else by whole groups.
        ``p_value``, ``p_adjusted`` as ``probe`` has them.

    Raises:
        ValueError: no views, lengths that differ, or as ``probe``.
    """
    sizes = {len(answers), len(together), *map(len, views.values())}
    if not views or len(sizes) > 1:
        raise ValueError(
            f"expected at least one view, and as many features as answers and groups, got {len(views)} views "
            f"and lengths {sorted(sizes)}; give one row for each example"
        )
    at = together.unique(return_inverse=True)[1]
    one_of_group = answers.new_zeros(len(at)).scatter(0, at, answers)
    found = probe(
        {name: seen[:, None] for name, seen in views.items()}, answers, "logistic", test=test,
        together=together, within=bool((one_of_group[at] != answers).any()), seed=seed,
    )  # fmt: skip

    def by_view(cells: xr.DataArray) -> xr.DataArray:
        return cells.isel(position=0, drop=True).rename(hook="view")

    assert found.control is not None
    return replace(
        found,
        name="leaks",
        values=by_view(found.values),
        control=by_view(found.control),
        extra={name: by_view(cells) for name, cells in found.extra.items()},
    )
