"""What the numbers of a classifier were made with: per measurement its code, device, versions and hash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Table, whole, words
from pipeline.report.site import Source

SHORT = 12  # digits of a hash that are shown where the whole of it is not needed


class Origin(NamedTuple):
    """What one measurement of a classifier was made with.

    Attributes:
        measurement: its id in the config, with the number of the shard where it has several.
        kind: of the table that its rows went into.
        options: what the config says of it.
        code: digest of the code.
        device: it was measured on.
        versions: of the packages, in words.
        sha256: of the table of this measurement alone.
    """

    measurement: str
    kind: str
    options: str
    code: str
    device: str
    versions: str
    sha256: str


def origins(outcomes: Outcomes, sources: Sequence[Source], config: Mapping[str, Any] | None) -> list[Origin]:
    """All measurements of a classifier, by table."""
    prefix = f"{outcomes.dataset}/{outcomes.classifier}/"
    entries = (config or {}).get("measurements") or {}
    found = []
    for source in sources:
        inputs = source.provenance.get("inputs")
        for name, facts in _made(source.provenance):
            if name.startswith(prefix):
                measurement = name.removeprefix(prefix)
                entry = measurement.partition(".")[0]
                known = inputs.get(name) if isinstance(inputs, Mapping) else None
                own = (
                    _options(entries[entry]) if entry in entries else "–",
                    str(facts.get("code") or "–"),
                    str(facts.get("device") or "–"),
                    _versions(facts.get("versions")),
                    str(known.get("sha256", "–")) if isinstance(known, Mapping) else "–",
                )
                found.append(Origin(measurement, source.kind, *own))
    return found


def table(found: Sequence[Origin]) -> Table:
    """One line per measurement; packages by the number of their list."""
    lists = versions(found)
    rows = []
    for each in found:
        packages = str(1 + lists.index(each.versions)) if each.versions else "–"
        own = (each.measurement, each.kind, each.options, each.code, each.device, packages, each.sha256[:SHORT])
        rows.append(words(*own))
    return Table(("Measurement", "Table", "Options", "Code", "Device", "Packages", "SHA-256, first digits"), rows)


def versions(found: Sequence[Origin]) -> list[str]:
    """The different lists of packages."""
    return list(dict.fromkeys(each.versions for each in found if each.versions))


def tables(found: Sequence[Origin], sources: Sequence[Source]) -> Table:
    """The collected tables that hold rows of the classifier."""
    kinds = {each.kind for each in found}
    rows = [
        [*words(source.kind), whole(source.rows), *words(str(source.provenance.get("code", "–")), source.sha256)]
        for source in sources
        if source.kind in kinds
    ]
    return Table(("Table", "Rows, all classifiers", "Code", "SHA-256"), rows)


def _made(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(measurement, facts) as far as the metadata have the form that `collect` gives them."""
    made = provenance.get("made")
    for facts in made if isinstance(made, list) else []:
        names = facts.get("tables") if isinstance(facts, Mapping) else None
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str):
                yield name, facts


def _options(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True, ensure_ascii=False) if entry else "all defaults"


def _versions(given: Any) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(given.items())) if isinstance(given, Mapping) else ""
