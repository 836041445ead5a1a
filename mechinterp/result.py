"""What an analysis returns, and what a study concludes.

A ``Result`` is a value that cannot be separated from its baseline, its control and where it
came from. A ``Claim`` is one sentence with a verdict. Both are frozen, print themselves whole
and are plain JSON on disk.
"""

from __future__ import annotations

import html
import importlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import xarray as xr

from mechinterp.files import plain, read_json, write_json
from mechinterp.formatting import (
    Interval,
    Number,
    format_array,
    format_interval,
    format_number,
    printable,
)
from mechinterp.records import (
    array_from_json,
    array_to_json,
    check_size,
    interval_from_json,
    mapping_from_json,
    number_from_json,
    read_fields,
)

Verdict = Literal["holds", "fails", "untested", "withdrawn"]


class NotLearned(UserWarning):
    """Something is being concluded about a network that did not learn its task, or was not asked whether."""


class PrecisionWarning(UserWarning):
    """Some of the numbers found are no larger than the rounding of the network's dtype."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A measured value with named axes, beside what it is to be compared with.

    Two results are equal if all of this is, numbers that are undefined (NaN) included.

    Args:
        name: which analysis, such as ``"key_frequencies"``; it also picks the figure.
        values: the measurement; dims such as layer, head, position, frequency, step. Its
            ``attrs["units"]`` names the unit.
        trivial: the same measure for the best constant answer or the intact network.
        control: the same measure under the null, of the same dims or without some of them.
        control_kind: which null: shuffled labels, random frequencies, untrained network, ...
        interval: a 95 % interval (low, high) of the headline number, where there is one.
        provenance: model, seed, split, n and whatever else says where the value came from.
        extra: further arrays that the figure draws.
    """

    name: str
    values: xr.DataArray
    trivial: float | None = None
    control: xr.DataArray | None = None
    control_kind: str = ""
    interval: Interval = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, xr.DataArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_control(self.name, self.control, self.control_kind)

    def __str__(self) -> str:
        return printable(result_text(self))

    @property
    def learned(self) -> bool | None:
        """Whether the network had learned its task; ``None`` if nobody asked."""
        return self.provenance.get("learned")

    def claim(
        self,
        id: str,
        statement: str,
        *,
        value: Number,
        holds: bool,
        trivial: Number = None,
        control: Number = None,
        interval: Interval = None,
        interval_over: str = "",
        source: str = "",
    ) -> Claim:
        """One sentence that this result decides.

        Args:
            value: the number that decides.
            trivial, control: the same number of the result's baseline, and under its null.
            holds: whether it does, if the network learned its task.

        Warns:
            NotLearned: the network did not learn its task, or the analysis was given no gate; the
                claim is untested.
        """
        if not self.learned:
            why = (
                "did not learn its task"
                if self.learned is False
                else "was not gated: give gate=Gate.of(model, task)"
            )
            warnings.warn(f"{id} is untested: the network {why}", NotLearned, stacklevel=2)
        return Claim(
            id=id, statement=statement, value=value, trivial=trivial, control=control,
            control_kind=self.control_kind if control is not None else "", interval=interval,
            interval_over=interval_over, verdict=verdict(holds, bool(self.learned)), source=source,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        figure = importlib.import_module("mechinterp.figures.html").in_cell(self)
        return f"{figure}<pre>{html.escape(result_text(self))}</pre>"

    def figure(self) -> Any:
        """A plotly figure of this result, chosen by its name; a table of its values where none is known."""
        # Figures know results, not the other way round: looked up by name, and only when asked.
        return importlib.import_module("mechinterp.figures").draw(self)

    def to_json(self) -> dict[str, Any]:
        """The whole result as plain JSON values; a number that is not finite is null outside of arrays."""
        return {
            "name": self.name,
            "values": array_to_json(self.values),
            "trivial": plain(self.trivial),
            "control": None if self.control is None else array_to_json(self.control),
            "control_kind": self.control_kind,
            "interval": plain(self.interval),
            "provenance": plain(self.provenance),
            "extra": {key: array_to_json(array) for key, array in self.extra.items()},
        }

    @classmethod
    def from_json(cls, record: Any) -> Result:
        """A result from ``to_json``'s record.

        Raises:
            ValueError: the record is not that of a result.
        """
        readers = {
            "values": array_from_json,
            "trivial": number_from_json,
            "control": lambda array: None if array is None else array_from_json(array),
            "interval": interval_from_json,
            "provenance": mapping_from_json,
            "extra": lambda arrays: {key: array_from_json(array) for key, array in arrays.items()},
        }
        if isinstance(record, Mapping) and isinstance(extra := record.get("extra", {}), Mapping):
            check_size([record.get("values"), record.get("control"), *extra.values()])
        return cls(**read_fields(cls, record, readers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.to_json() == other.to_json()

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result that ``save`` wrote.

        Raises:
            ValueError: the file is missing, damaged or not that of a result.
        """
        record = read_json(path)
        try:
            return cls.from_json(record)
        except ValueError as error:
            raise ValueError(f"in {path}: {error}") from None


def result_text(result: Result) -> str:
    """All that a result is, in a few lines."""
    lines = [f"{result.name}  {dict(result.values.sizes)}  {result.values.attrs.get('units', '')}"]
    lines += [f"  value    {format_array(result.values)}"]
    lines += [f"  trivial  {format_number(result.trivial)}"]
    control = "none" if result.control is None else f"{format_array(result.control)}  ({result.control_kind})"
    lines += [f"  control  {control}", f"  interval {format_interval(result.interval)}"]
    if result.learned is False:
        lines += ["  UNTESTED the network did not learn its task"]
    lines += ["  from     " + ", ".join(f"{k} {v}" for k, v in result.provenance.items())]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence about a network, measured.

    Args:
        id: its name in every study, such as ``"few_key_frequencies"``.
        statement: the sentence, with the number that decides.
        value: what was measured.
        trivial: the same for the best constant answer or the intact network; ``None`` where
            there is no such thing.
        theory: what theory says that the value is or tends to, where there is one.
        control: the same under the null.
        control_kind: which null.
        interval: a 95 % interval (low, high), of what ``interval_over`` says.
        verdict: holds, fails, untested because the network did not learn its task, or there was nothing to
            ask about, or withdrawn because what was measured does not show what the sentence says.
        source: who said it: paper and section.
        values_by_seed, holds_by_seed: the same of each network where there are several, in the order of
            their seeds; ``None`` where the network did not learn, or there was nothing to ask about.
        withdrawn: why the claim is withdrawn, in one sentence; empty for every other verdict.

    Raises:
        ValueError: a control without its kind, or a reason without the verdict withdrawn, or the reverse.
    """

    id: str
    statement: str
    value: Number
    trivial: Number = None
    theory: Number = None
    control: Number = None
    control_kind: str = ""
    interval: Interval = None
    interval_over: str = ""
    verdict: Verdict = "untested"
    source: str = ""
    values_by_seed: tuple[Number, ...] = ()
    holds_by_seed: tuple[bool | None, ...] = ()
    withdrawn: str = ""

    def __post_init__(self) -> None:
        _check_control(self.id, self.control, self.control_kind)
        if (self.verdict == "withdrawn") != bool(self.withdrawn.strip()):
            raise ValueError(
                f"expected a reason in `withdrawn` with the verdict withdrawn and with no other, got "
                f"{self.withdrawn!r} and the verdict {self.verdict} of {self.id}; use Claim.withdraw(reason)"
            )

    def withdraw(self, reason: str) -> Claim:
        """Return the same claim with its numbers, withdrawn for a reason.

        Args:
            reason: why what was measured does not show what the sentence says, in one sentence.
        """
        return replace(self, verdict="withdrawn", withdrawn=reason)

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON values; numbers that are not finite become null."""
        return plain(asdict(self))

    @classmethod
    def from_json(cls, record: Any) -> Claim:
        """A claim from ``to_json``'s record.

        Raises:
            ValueError: the record is not that of a claim.
        """
        numbers = dict.fromkeys(("value", "trivial", "theory", "control"), number_from_json)
        others = {
            "interval": interval_from_json,
            "verdict": _verdict_from_json,
            "values_by_seed": lambda values: tuple(map(number_from_json, values)),
            "holds_by_seed": lambda values: tuple(map(_bool_from_json, values)),
        }
        return cls(**read_fields(cls, record, {**numbers, **others}))

    @property
    def seeds(self) -> str:
        """In how many seeds it holds, and in how many it could not be asked.

        Empty where there is one seed, and for a claim that is withdrawn, which counts nowhere as holding.
        """
        if not self.holds_by_seed or self.withdrawn:
            return ""
        asked = [holds for holds in self.holds_by_seed if holds is not None]
        left = len(self.holds_by_seed) - len(asked)
        return f"{sum(asked)} of {len(asked)} seeds" + (f", {left} not asked" if left else "")

    @property
    def by_seed(self) -> str:
        """The value of each seed; empty where there is one."""
        return ", ".join(map(format_number, self.values_by_seed))

    def __str__(self) -> str:
        parts = [
            f"{self.verdict.upper():8} {self.id}: {self.statement}",
            f"value {format_number(self.value)}",
        ]
        if self.by_seed:
            parts.append(f"by seed {self.by_seed}" + (f" (holds in {self.seeds})" if self.seeds else ""))
        if self.trivial is not None:
            parts.append(f"trivial {format_number(self.trivial)}")
        if self.theory is not None:
            parts.append(f"theory {format_number(self.theory)}")
        if self.control is not None:
            parts.append(f"control {format_number(self.control)} ({self.control_kind})")
        if self.interval is not None:
            parts.append(f"interval {format_interval(self.interval)} over {self.interval_over}")
        if self.withdrawn:
            parts.append(f"withdrawn: {self.withdrawn}")
        return printable("; ".join(parts))


def verdict(holds: bool, learned: bool) -> Verdict:
    """A claim is only tested on a network that learned its task."""
    return "untested" if not learned else "holds" if holds else "fails"


def claims_table(claims: Iterable[Claim]) -> str:
    """The claims as a table in Markdown."""
    rows = ["| claim | verdict | value | trivial | control | 95 % interval |", "|---|---|---|---|---|---|"]
    for claim in claims:
        statement, reason = (
            " ".join(text.split()).replace("|", r"\|") for text in (claim.statement, claim.withdrawn)
        )
        said = f"**{claim.verdict}**" + (f" ({claim.seeds})" if claim.seeds else "")
        said += f": {reason}" if reason else ""
        value = format_number(claim.value)
        value += "" if claim.theory is None else f" (theory {format_number(claim.theory)})"
        value += f"; by seed {claim.by_seed}" if claim.by_seed else ""
        control = format_number(claim.control) + (f" ({claim.control_kind})" if claim.control_kind else "")
        interval = format_interval(claim.interval) + (f" ({claim.interval_over})" if claim.interval else "")
        rows.append(
            f"| `{claim.id}`: {statement} | {said} | {value} "
            f"| {format_number(claim.trivial)} | {control} | {interval} |"
        )
    return "\n".join(rows)


def _verdict_from_json(value: Any) -> Verdict:
    if value not in get_args(Verdict):
        raise ValueError(f"expected one of {get_args(Verdict)}, got {value!r}")
    return value


def _bool_from_json(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"expected true, false or null, got {value!r}")
    return value


def _check_control(name: str, control: Any, kind: str) -> None:
    if control is not None and not kind:
        raise ValueError(
            f"expected {name} to say which null its control is, got an empty control_kind; "
            'give it, for example "untrained network"'
        )
