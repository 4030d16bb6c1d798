"""What the stages and the plug-ins agree on; standard library only, so that reading a config stays cheap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class UserError(Exception):
    """A mistake that the user can mend: one line that names the place, what was given and what was expected.

    Line breaks, control characters and whatever else cannot be printed, as names and values may hold, are escaped.
    """

    def __init__(self, message: str) -> None:
        escaped = (
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in message.strip()
        )
        super().__init__("".join(escaped))


@dataclass(frozen=True)
class Range:
    """Closed interval of an option's value; `above` excludes the lower end."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        parts = (("at least", self.low), ("above", self.above), ("at most", self.high))
        return " and ".join(f"{word} {bound:g}" for word, bound in parts if bound is not None)


# Types of options. The registry reads them from the signatures, so a config is checked without importing a plug-in.
Count = Annotated[int, Range(low=1)]
Natural = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
Files = Annotated[str | Sequence[str], "files"]
Folder = Annotated[str, "folder"]


class Column(NamedTuple):
    """A column of a measurement's table: Arrow type by name (`float64`, `list<float64>`), what it holds, its unit."""

    type: str
    meaning: str


KEYS: Mapping[str, Column] = {
    "dataset": Column("string", "id of the data set in the config"),
    "classifier": Column("string", "id of the classifier: architecture--training--seed, or a brought one's own"),
    "architecture": Column("string", "id of the architecture in the config"),
    "training": Column("string", "id of the training in the config; `brought` for a classifier trained elsewhere"),
    "seed": Column("int64", "training seed; null for a brought classifier"),
    "measurement": Column("string", "id of the measurement in the config"),
    "sample": Column("string", "stable id of the evaluated image"),
}


class View(NamedTuple):
    """The evaluated images as a measurement sees them: clean, corrupted at one severity, or attacked.

    Attributes:
        name: `clean`, or the id of the corruption or attack in the config.
        kind: `clean`, `corruption` or `attack`.
        severity: 1-5 for corruptions, else None.
        images: (n, c, h, w) float32, in the order of the labels.
        details: of a corruption: `suite` (its id in the config) and `family` (noise, blur, ...). Of an attack:
            `classifier` (id of the one attacked), `norm` (`l2`, `linf`, ...), `epsilon` (None if it minimises the
            norm), `forward_passes` and `backward_passes` (per sample, mean over the samples attacked; an attack without
            the latter needs no gradients of that classifier), `large_epsilon_success` (share of some samples on which
            it succeeds with the whole box as its budget; None without epsilon or box), `warnings` (of the attack's
            library).
    """

    name: str
    kind: str
    severity: int | None
    images: Tensor
    details: Mapping[str, Any]


def canonical(spec: Any) -> str:
    """Canonical JSON of a spec: equal specs give equal text (sorted keys, no blanks, no NaN)."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lineage(spec: Mapping[str, Any], inputs: Sequence[str] = ()) -> str:
    """Digest of a spec and of the lineages of its inputs: everything the config says about how a file was made.

    The workflow computes it from the config alone, the stages from their inputs' metadata; `collect` refuses a file
    for which the two differ.
    """
    return digest(canonical([spec, sorted(inputs)]))


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers: independent of order of execution, batch, shard and machine."""
    return int.from_bytes(hashlib.sha256(canonical(list(parts)).encode()).digest()[:8], "big") >> 1
