"""Many patches of one run, as few forward passes as memory allows.

A sweep runs a network once for each of many patches: one activation of one layer, at some
positions, of a head or a group of neurons or all, takes a donor's values. Patches are folded
into the batch. A network that knows how to ``rerun`` computes only what each patch can reach; any
other with TransformerLens's hook names takes the plain way, which is also what checks the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.patches import Patch, grouped, parts
from mechinterp.analysis.setting import Progress, Setting
from mechinterp.analysis.sweep_reruns import reruns
from mechinterp.hooks import Edit, Site


def sweep(
    setting: Setting,
    activation: str,
    patches: Sequence[Patch],
    donor: Mapping[str, Tensor],
    *,
    fast: bool = True,
    progress: Progress | None = None,
) -> Float[Tensor, "patch batch"]:
    """The metric of every example under every patch; of one that a patch leaves as it was, to the last bit.

    Args:
        activation: a short name of ``HEADS``, ``STREAMS`` or ``NEURONS``.
        donor: by hook name, the values that the patches bring, of a batch of 1 or of all.
        fast: rerun only what a patch can reach, where the model can.
    """
    own = any(patch.hook for patch in patches)
    way = reruns if fast and setting.can_rerun and not own else _whole_runs
    found: dict[int, Tensor] = {}
    for which, outputs in way(setting, activation, list(patches), donor):
        found[which] = setting.measure(outputs, patches[which])
        if progress is not None:
            progress(len(found), len(patches))
    return torch.stack([found[which] for which in range(len(patches))])


def _whole_runs(
    setting: Setting, activation: str, patches: list[Patch], donor: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Patches of one layer at a time, whole forward passes with hooks."""
    names = [patch.name(activation) for patch in patches]
    base, intact = setting.activations(list(dict.fromkeys(names))), setting.outputs()
    for (_, name), some in grouped(lambda patch: (patch.layer, patch.name(activation)), patches):
        old = base[name]
        new = donor[name].to(old).expand_as(old)
        keys = [patches[which].site(activation).key(name, old.shape) for which in some]
        for which, key, outputs in zip(some, keys, _swapped(setting, name, new, keys)):
            changed = (new[key] != old[key]).flatten(1).any(1)
            yield which, torch.where(changed[:, None, None], outputs, intact)


def _swapped(setting: Setting, name: str, new: Tensor, keys: list) -> Iterator[Tensor]:
    """Outputs with new values at each of some places of a hook point, many in one batch."""
    shape = setting.inputs.shape
    width = getattr(getattr(setting.model, "cfg", None), "d_model", None) or new[:, :1].numel() // shape[0]
    at_once = max(1, setting.memory // (shape[0] * shape[1] * 64 * width))
    for chunk in parts(keys, at_once):

        def swap(tensor: Tensor, _: str, chunk: list = chunk) -> Tensor:
            rows = tensor.clone().unflatten(0, (len(chunk), shape[0]))
            for row, key in zip(rows, chunk):
                row[key] = new[key]
            return rows.flatten(0, 1)

        outputs = setting.outputs(len(chunk), [Edit(Site(name), swap, "patches")])
        yield from outputs.unflatten(0, (len(chunk), shape[0]))
