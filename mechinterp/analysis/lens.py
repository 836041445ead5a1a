"""What the stream would answer at each depth.

The numbers are those of TransformerLens 4's ``tools.analysis.logit_lens``, on any model that it takes, ours
among them; here they get their baselines. Under TransformerLens 3 it raises ``ImportError``.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import (
    check_evaluation,
    check_inputs,
    check_masked,
    check_model,
    check_one_stack,
    check_read,
)
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.readouts import Read, at_read, read_positions, require_outputs
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.hooks import transformer_lens_tools
from mechinterp.result import Result

_CHUNK = 4096
_NATS = "log-probability of the answer (nats)"


@checked
@torch.no_grad()
def logit_lens(
    model: nn.Module,
    inputs: Tensor,
    targets: Int[Tensor, "batch read"],
    *,
    read: Read = (-1,),
    mask: Tensor | None = None,
    untrained: nn.Module | None = None,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """The log-probability of the right answer if the network stopped at each depth (nostalgebraist 2020).

    The stream there goes through the final normalisation and the readout. A stream in the middle need
    not be written in the readout's basis: a low value does not say that the answer is not there.

    Args:
        targets: right answers at the positions read.
        read: positions read, ``[read]`` or ``[batch, read]``.
        untrained: a network before training, for the control; without one the targets are shuffled.

    Returns:
        Dims ``stream``: mean log-probability in nats. Trivial: that of always giving the answers'
        frequencies. ``accuracy`` (answers tied for the largest share it), ``rank`` (0 is best, ties count
        half), ``low`` and ``high`` (95 % bootstrap over examples), ``shuffled`` and ``by_position``. The
        interval is that of the last stream, the network's own output.

    Raises:
        ValueError: real-valued outputs, targets that are no answers or of another shape, training mode, or
            fewer than two examples.
        ImportError: TransformerLens is older than 4.3.
    """
    check_inputs(inputs, mask)
    check_model(model, "the lens", ("n_layers", "attn_only"), ("W_U",))
    check_one_stack(model, "the lens", "give models.Decoder(model, source) and targets", decoder=True)
    check_evaluation(model)
    check_read(read, inputs, mask, each=True)
    check_masked(model, mask)
    if getattr(model.cfg, "readout", "tokens") == "values":
        raise ValueError("expected a network with logits, got real-valued outputs; these have no logit lens")
    require_outputs("targets", targets, len(inputs), int(model.W_U.shape[1]))
    targets = targets.cpu()
    logits, streams = _streams(model, inputs, read, mask)
    if logits.shape[2] != targets.shape[1]:
        raise ValueError(
            f"expected a target for each of {logits.shape[2]} positions read, got {targets.shape[1]}; give "
            "[batch, read]"
        )
    log_probs = logits.log_softmax(-1)
    # The mean over all orders of the targets gives each example every target.
    frequencies = torch.nn.functional.one_hot(targets, logits.shape[-1]).double().mean(0)
    shuffled = torch.einsum("sbro,ro->sbr", log_probs, frequencies).mean((1, 2))
    control = shuffled
    if untrained is not None:
        control = _of(_streams(untrained, inputs, read, mask)[0].log_softmax(-1), targets).mean((1, 2))
    own = _of(log_probs, targets)
    low, high = bootstrap_means(own.mean(2).mT, seed=seed)
    values = {"value": own.mean((1, 2)), "control": control, "shuffled": shuffled, "low": low, "high": high}

    def array(x: Tensor, units: str = _NATS, *more: str) -> xr.DataArray:
        return xr.DataArray(
            x.numpy(), dims=("stream", *more), coords={"stream": streams}, attrs={"units": units}
        )

    found = {name: array(x) for name, x in values.items()}
    return Result(
        name="logit_lens",
        values=found.pop("value"),
        trivial=-float(torch.special.entr(frequencies.mean(0)).sum()),
        control=found.pop("control"),
        control_kind="untrained network" if untrained is not None else "targets shuffled among examples",
        interval=(float(low[-1]), float(high[-1])),
        provenance=gated(gate, {"n": len(inputs), "seed": seed}),
        extra=found
        | {name: array(x, name) for name, x in _ranking(logits, targets).items()}
        | {"by_position": array(own.mean(1), _NATS, "read")},
    )


def _ranking(logits: Float[Tensor, "stream batch read out"], targets: Tensor) -> dict[str, Tensor]:
    """How often the answer is the largest, and how many are larger, where ties share: they know nothing."""
    right = _of(logits, targets)[..., None]
    ties = (logits == right).sum(-1).double()
    larger = (logits > right).sum(-1)
    accuracy = (larger == 0) / ties
    return {"accuracy": accuracy.mean((1, 2)), "rank": (larger + (ties - 1) / 2).mean((1, 2))}


def _of(x: Float[Tensor, "stream batch read out"], targets: Tensor) -> Float[Tensor, "stream batch read"]:
    return x.gather(-1, targets.expand(len(x), -1, -1)[..., None]).squeeze(-1)


def _streams(
    model: nn.Module, inputs: Tensor, read: Read, mask: Tensor | None
) -> tuple[Float[Tensor, "stream batch read out"], list[str]]:
    """The logits read off the stream at each depth, in float64, and the depths' names."""
    tools, cfg = transformer_lens_tools(), model.cfg
    at = read_positions(read, *inputs.shape[:2])
    alike = bool((at == at[:1]).all())
    options = {"incl_mid": not cfg.attn_only, "positions": at[0].tolist() if alike else None}
    if mask is None:
        found = tools.logit_lens(model, inputs, **options, chunk_size=_CHUNK)
    else:
        _, cache = model.run_with_cache(inputs, attention_mask=mask)
        found = tools.logit_lens(model, cache=cache, **options, chunk_size=_CHUNK)
    values = found.values.double().cpu()
    return values if alike else torch.stack([at_read(each, at) for each in values]), list(found.labels)
