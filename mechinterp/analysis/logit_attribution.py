"""What each component adds to an answer: direct logit attribution.

The numbers are those of TransformerLens 4's ``tools.analysis.direct_logit_attribution``, on any model that it
takes, ours among them; here they get their baselines. Under TransformerLens 3 it raises ``ImportError``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_masked, check_model, check_one_stack, check_read
from mechinterp.analysis.effects import HALF, warn_of_precision
from mechinterp.analysis.folded import require_folded
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.readouts import at_read, read_positions, require_outputs
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means
from mechinterp.hooks import transformer_lens_tools
from mechinterp.result import Result

_SUM_TOLERANCE = 1e-3
_SUM_ROUNDINGS = 8
"""In half precision the sum may be wrong by so many times the last bit of the largest part."""


@checked
@torch.no_grad()
def direct_logit_attribution(
    model: nn.Module,
    inputs: Tensor,
    right: Int[Tensor, " batch"],
    wrong: Int[Tensor, " batch"],
    *,
    unit: Literal["component", "head"] = "component",
    read: int | Int[Tensor, " batch"] = -1,
    mask: Tensor | None = None,
    draws: int = 500,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """What each component writes along the direction that tells a right answer from a wrong one.

    Elhage et al. (2021); Wang et al. (2022), "Interpretability in the Wild", section 3. Where the
    stream is normalised, each example's own final scale is used.

    Args:
        right, wrong: an output for each example.
        unit: embeddings and sublayers, or heads and the remainder.
        read: the position read, the same for all or one for each.

    Returns:
        Dims ``component``: means over examples in logits. The last is ``b_U``, the readout's bias, and all
        sum to the difference of logits, ``difference``; ``sum_error`` is the largest error of that. Control:
        the root mean square along directions turned at random, those of all examples by one rotation,
        which keeps their lengths and angles; ``p`` (two-sided) and ``p_adjusted`` are against these. ``low``
        and ``high``: 95 % bootstrap over examples. The interval is that of the largest, which provenance
        names.

    Raises:
        ValueError: a normalisation that is not folded, dropout at work, fewer than two examples, or outputs
            that there are not.
        RuntimeError: the parts do not sum to the difference of logits.
        ImportError: TransformerLens is older than 4.3.
    """
    check_inputs(inputs, mask)
    check_model(model, "direct attribution", ("n_layers", "normalization_type"), ("W_U", "b_U"))
    require_folded(model, "direct logit attribution")
    check_one_stack(model, "direct attribution", "ablate its components, with component_ablation")
    n = len(inputs)
    if draws < 1:
        raise ValueError(f"expected at least 1 draw, got {draws}; give some hundreds")
    for name, x in (("right", right), ("wrong", wrong)):
        require_outputs(name, x, n, int(model.W_U.shape[1]))
    at = read_positions(read if isinstance(read, int) else torch.as_tensor(read)[:, None], n, inputs.shape[1])
    check_read(at, inputs, mask, each=True)
    check_masked(model, mask)
    right, wrong = right.cpu(), wrong.cpu()
    parts, names, difference, cache = _parts(model, inputs, right, wrong, unit, at, mask)
    error = float((parts.sum(1) - difference).abs().max())
    null = _along_turned(cache, unit, at, (model.W_U[:, right] - model.W_U[:, wrong]).mT, draws, seed)
    means, (low, high) = parts.mean(0), bootstrap_means(parts, seed=seed)
    p = (1 + (null.abs() >= means[:-1].abs()).sum(0)).double().numpy() / (draws + 1)
    p = np.append(p, np.nan)
    largest = int(means.abs().argmax())

    def array(x: Any, units: str = "logits") -> xr.DataArray:
        return xr.DataArray(
            np.asarray(x), dims="component", coords={"component": names}, attrs={"units": units}
        )

    return Result(
        name="direct_logit_attribution",
        values=array(means),
        trivial=0.0,
        control=array(np.append(null.pow(2).mean(0).sqrt(), np.nan)),
        control_kind=f"directions turned at random, root mean square of {draws}",
        interval=(float(low[largest]), float(high[largest])),
        provenance=gated(gate, {"n": n, "unit": unit, "seed": seed, "largest": names[largest]}),
        extra={
            "low": array(low), "high": array(high), "p": array(p, "p-value"),
            "p_adjusted": array(benjamini_hochberg(p), "p-value, Benjamini-Hochberg"),
            "difference": xr.DataArray(float(difference.mean()), attrs={"units": "logits"}),
            "sum_error": xr.DataArray(error, attrs={"units": "logits"}),
        },
    )  # fmt: skip


def _parts(
    model: nn.Module, inputs: Tensor, right: Tensor, wrong: Tensor, unit: str, at: Tensor, mask: Tensor | None
) -> tuple[Float[Tensor, "batch component"], list[str], Float[Tensor, " batch"], Any]:
    """Attributions by example, their names, the difference of logits that they sum to, and the cache."""
    tools = transformer_lens_tools()
    padding = {} if mask is None else {"attention_mask": mask}
    logits, cache = model.run_with_cache(inputs, **padding)
    found = tools.direct_logit_attribution(model, None, right, wrong, unit=unit, pos=None, cache=cache)
    parts = at_read(found.attribution.movedim(0, -1), at)[:, 0].double().cpu()
    bias = (model.b_U[right] - model.b_U[wrong]).double().cpu()
    parts = torch.cat((parts, bias[:, None]), 1)
    outputs = at_read(logits, at)[:, 0].double().cpu()
    difference = (outputs.gather(1, right[:, None]) - outputs.gather(1, wrong[:, None]))[:, 0]
    error = float((parts.sum(1) - difference).abs().max())
    eps = torch.finfo(logits.dtype).eps
    size = max(1.0, float(outputs.abs().max()))
    if eps >= HALF:  # the parts were rounded too, and may be larger than their sum
        size = max(size, float(parts.abs().max()))
    if not error <= max(_SUM_TOLERANCE, _SUM_ROUNDINGS * eps) * size:
        raise RuntimeError(
            f"expected attributions that sum to the difference of logits, got an error of {error:.3g}; the "
            "model reads out something else than its normalised stream times W_U, and has no such parts"
        )
    if error > _SUM_TOLERANCE * size:
        warn_of_precision(
            f"attributions sum to the difference of logits up to {error:.3g}, the rounding of "
            f"{logits.dtype}; model.float() makes that small"
        )
    return parts, [*found.labels, "b_U"], difference, cache


def _along_turned(
    cache: Any, unit: str, at: Tensor, directions: Float[Tensor, "batch d_model"], draws: int, seed: int
) -> Float[Tensor, "draw component"]:
    """Mean attributions along the directions after random rotations (Haar)."""
    heads = unit == "head"
    stack = cache.stack_head_results(incl_remainder=True) if heads else cache.decompose_resid()
    stack = cache.apply_ln_to_stack(stack)
    parts = torch.stack([at_read(each, at)[:, 0] for each in stack]).double().cpu()
    # The mean over examples of x Q u is the sum of Q's entries times those of the mean of x u'.
    products = torch.einsum("cbi,bj->cij", parts, directions.double().cpu()) / len(directions)
    d_model = directions.shape[1]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator, dtype=torch.float64))
        found.append(torch.einsum("cij,ij->c", products, q * r.diagonal().sign()))
    return torch.stack(found)
