"""Position vectors: what they look like, whether a shift of them is a linear map, and whether networks care.

A shift of sinusoidal positions is a rotation, whatever the position (Vaswani et al. 2017, section 3.5), which
one linear map may do. That it may is no reason that it is done: moved positions say whether a network goes by
the distance between tokens or by where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.setting import Metric, Setting
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.hooks import Edit, Site, run_with_cache
from mechinterp.result import Result

PENALTIES = tuple(10.0**power for power in range(-6, 4))
"""Of ridge regressions from a position's vector to that of a later one."""


@checked
def position_table(
    trained: Float[Tensor, "position d_model"],
    untrained: Float[Tensor, "position d_model"] | None = None,
    *,
    gate: Gate | None = None,
) -> Result:
    """Position vectors, beside those before training, and at which frequencies they vary along the sequence.

    Returns:
        Dims ``position``, ``dimension``. The control is the untrained table. ``spectrum`` has
        dims ``of``, ``frequency`` (cycles a token): the share of the variance over positions, summed over
        dimensions; alike at all frequencies for random vectors, but for the highest of an even number of
        positions, which has half. Trivial is that even share.

    Raises:
        ValueError: fewer than four positions, or tables of other shapes.
    """
    tables = {"trained": trained} | ({} if untrained is None else {"untrained": untrained})
    if len(trained) < 4 or any(table.shape != trained.shape for table in tables.values()):
        shapes = [tuple(table.shape) for table in tables.values()]
        raise ValueError(f"expected tables of the same four or more positions, got {shapes}; give such")
    frequencies = np.fft.rfftfreq(len(trained))[1:]
    shares = np.stack([_spectrum(table) for table in tables.values()])

    def array(table: Tensor) -> xr.DataArray:
        values = table.detach().double().cpu().numpy()
        return xr.DataArray(values, dims=("position", "dimension"), attrs={"units": "vector entry"})

    return Result(
        name="position_table",
        values=array(trained),
        trivial=1 / len(frequencies),
        control=None if untrained is None else array(untrained),
        control_kind="" if untrained is None else "untrained table",
        provenance=gated(gate, {"positions": len(trained)}),
        extra={
            "spectrum": xr.DataArray(
                shares, dims=("of", "frequency"), coords={"of": list(tables), "frequency": frequencies},
                attrs={"units": "share of variance"},
            )
        },
    )  # fmt: skip


def _spectrum(table: Float[Tensor, "position d_model"]) -> np.ndarray:
    """Shares of the variance over positions, by frequency but 0."""
    x = table.detach().double().cpu()
    power = torch.fft.rfft(x - x.mean(0), dim=0).abs().square().sum(1)[1:]
    if len(x) % 2 == 0:
        power[-1] /= 2  # the highest has no mirror image
    return (power / power.sum().clamp_min(1e-300)).numpy()


@checked
def shift_maps(
    tables: Mapping[str, Float[Tensor, "position _"]], shifts: Sequence[int] = (1, 2, 4), *, seed: int = 0
) -> Result:
    """How well the vector of position p + k is a linear map of that of p, the same for all p.

    Each position is predicted from a ridge regression on all others; its penalty is chosen among these.

    Args:
        tables: position vectors by name.
        shifts: of k.
        seed: of the random order.

    Returns:
        Dims ``table``, ``shift``: R² of a linear map and an offset, held out. The control has the same
        vectors in a random order, in which nothing but chance leads from one to the next. Trivial is that of
        the mean of all, 0; that of the mean of all others, which alone can be known, is a little below.

    Raises:
        ValueError: a shift that leaves fewer than four positions.
    """
    shortest = min((len(table) for table in tables.values()), default=0)
    if not shifts or not 1 <= min(shifts) <= max(shifts) <= shortest - 4:
        raise ValueError(
            f"expected shifts of 1 to {shortest - 4}, which leave four positions, got {list(shifts)}; give "
            "smaller ones, or longer tables"
        )
    generator = torch.Generator().manual_seed(seed)
    own, mixed = (np.zeros((len(tables), len(shifts))) for _ in range(2))
    for row, table in enumerate(tables.values()):
        x = table.detach().double().cpu()
        other = x[torch.randperm(len(x), generator=generator)]
        for column, k in enumerate(shifts):
            own[row, column], mixed[row, column] = (_predicted(z[:-k], z[k:]) for z in (x, other))
    coords = {"table": list(tables), "shift": list(shifts)}
    return Result(
        name="shift_maps",
        values=xr.DataArray(own, dims=list(coords), coords=coords, attrs={"units": "R², held out"}),
        trivial=0.0,
        control=xr.DataArray(mixed, dims=list(coords), coords=coords),
        control_kind="positions in a random order",
        provenance={"seed": seed, "positions": shortest},
    )


def _predicted(x: Tensor, y: Tensor) -> float:
    """R² of each row's prediction from a linear map fitted to the others."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    answers = cross_val_predict(RidgeCV(PENALTIES), x.numpy(), y.numpy(), cv=LeaveOneOut())
    return float(1 - np.square(answers - y.numpy()).sum() / (y - y.mean(0)).square().sum().item())


@checked
@torch.no_grad()
def moved_positions(
    model: nn.Module,
    inputs: Tensor,
    metric: Metric,
    moves: Mapping[str, Int[Tensor, " pos"]],
    *,
    read: Sequence[int] = (-1,),
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """What a network makes of tokens whose position vectors are those of other positions.

    A network that goes by distances does not care where a sequence begins, as long as all move alike.

    Args:
        model: one whose position vectors are added to the stream, at ``hook_pos_embed``.
        inputs: ids ``[batch, pos]``.
        metric: takes outputs ``[batch, read, d_out]``, gives one number for each example ``[batch]``.
        moves: rows of ``W_pos`` that the tokens get, by name.
        read: the positions read.
        seed: of the random orders and of the bootstrap.

    Returns:
        Dim ``move``: means of the metric. Trivial is the intact network's, the control that of positions in
        a random order, other ones in each example. ``low``, ``high``: 95 % bootstrap intervals; ``flat``: the
        mean position vector for all tokens.

    Raises:
        ValueError: positions that are not added, rows that there are not, or too few; a metric that is not
            one number an example.
    """
    check_inputs(inputs)
    check_model(model)
    if not hasattr(model, "hook_pos_embed") or not hasattr(model, "W_pos"):
        raise ValueError(
            "expected position vectors that are added to the stream, got none; rotary positions and ALiBi "
            "know distances only"
        )
    table, n_pos = model.W_pos.detach(), inputs.shape[1]
    if not moves:
        raise ValueError("expected at least one move, got none; give rows of W_pos by name")
    for name, rows in moves.items():
        if rows.shape != (n_pos,) or int(rows.min()) < 0 or int(rows.max()) >= len(table):
            raise ValueError(
                f"expected {n_pos} rows within [0, {len(table)}) for {name!r}, got {rows.tolist()}; give one "
                "for each token"
            )

    setting = Setting(model, inputs, metric, read)
    intact = setting.intact()

    def with_vectors(vectors: Tensor) -> Tensor:
        moved = Edit(Site("hook_pos_embed"), lambda *_: vectors, "moved positions")
        return setting.measure(setting.outputs(edits=[moved]), "moved positions")

    own = run_with_cache(model, inputs[:1], names=["hook_pos_embed"])[1]["hook_pos_embed"][0]
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(inputs), n_pos, generator=generator).argsort(1).to(own.device)
    found = torch.stack([with_vectors(table[rows]) for rows in moves.values()])
    flat, mixed = with_vectors(own.mean(0)), with_vectors(own[order])
    ends = bootstrap_means(found.T, seed=seed)

    def array(values: Tensor) -> xr.DataArray:
        of = {"move": list(moves)}
        return xr.DataArray(values.double().cpu().numpy(), dims="move", coords=of, attrs={"units": "metric"})

    return Result(
        name="moved_positions",
        values=array(found.mean(1)),
        trivial=float(intact.mean()),
        control=xr.DataArray(float(mixed.mean())),
        control_kind="positions in a random order",
        provenance=gated(gate, {"n": len(inputs), "positions": n_pos, "seed": seed}),
        extra={
            "low": array(ends[0]), "high": array(ends[1]), "flat": xr.DataArray(float(flat.mean())),
        },
    )  # fmt: skip
