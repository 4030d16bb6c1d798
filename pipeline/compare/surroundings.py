"""What two runs differ in beside their numbers: what one of them lacks, doubts about attacks, what made the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.compare import common
from pipeline.compare.folders import Folder
from pipeline.report.outcomes import Outcomes

NONE = "none"


class Absent(NamedTuple):
    """Something that one run has and the other one lacks.

    Attributes:
        what: `data set`, `classifier`, `measurement`, `attack`, `corruption` or `table`.
        name: its id.
        places: where it is missing: data sets, or data set and classifier.
    """

    what: str
    name: str
    places: Sequence[str]


class Flag(NamedTuple):
    """A reason to doubt an attack that the second run has and the first has not."""

    dataset: str
    classifier: str
    attack: str
    reason: str


class Fact(NamedTuple):
    """Something about how the runs were made, in words."""

    what: str
    before: str
    after: str


def absent(one: Folder, other: Folder) -> list[Absent]:
    """What a run has and another one lacks, each thing once.

    Args:
        one: the run that has it.
        other: the run that lacks it.
    """
    found: dict[tuple[str, str], list[str]] = {}
    datasets = {dataset for dataset, _ in other.classifiers}
    shared = one.classifiers & other.classifiers
    for dataset, classifier in sorted(one.classifiers - shared):
        if dataset in datasets:
            found.setdefault(("classifier", classifier), []).append(dataset)
        else:
            found["data set", dataset] = []
    for kind, table in one.tables.items():
        own = common.parts(kind, table)
        theirs = common.parts(kind, other.tables[kind]) if kind in other.tables else {}
        for place in sorted(own.keys() & shared):
            if place not in theirs:
                found.setdefault(("measurement", kind), []).append("/".join(place))
            for what, name in sorted(_named(kind, own[place], theirs[place]) if place in theirs else ()):
                found.setdefault((what, name), []).append("/".join(place))
    for kind in sorted(one.made.keys() - other.made.keys() - one.tables.keys()):
        found["table", kind] = []
    return [Absent(what, name, places) for (what, name), places in found.items()]


def _named(kind: str, own: set[common.Part], theirs: set[common.Part]) -> Iterator[tuple[str, str]]:
    """What rows of a kind are of that the other run lacks, and its id."""
    if kind == "accuracy":
        severities: dict[str, list[str]] = {}
        for _, view, severity in sorted(own - theirs):
            severities.setdefault(view, []).append(severity)
        kept = {view for _, view, _ in theirs}
        for view, lost in severities.items():
            yield "corruption", f"{view} at severity {', '.join(lost)}" if view in kept else view
        return
    for part in own - theirs:
        if kind == "perturbation":
            yield "attack", f"{part[0]} ({part[1]}" + (f" ≤ {part[2]})" if part[2] else ")")
        elif kind != "transfer":  # what is missing there comes from missing attacks and classifiers
            yield "measurement", " of ".join(part)


def flags(before: Sequence[Outcomes], after: Sequence[Outcomes]) -> list[Flag]:
    """New doubts about attacks that both runs have made; numbers in a reason do not make it another one."""
    known = {(o.dataset, o.classifier): o for o in before}
    found = []
    for outcomes in after:
        first = known.get((outcomes.dataset, outcomes.classifier))
        for threat, reasons in outcomes.doubts.items() if first is not None else ():
            if first is None or threat not in first.doubts:
                continue
            old = {_worded(reason) for reason in first.doubts[threat]}
            new = [reason for reason in reasons if _worded(reason) not in old]
            found += [Flag(outcomes.dataset, outcomes.classifier, str(threat), reason) for reason in new]
    return found


def _worded(reason: str) -> str:
    return re.sub(r"\d+", "#", reason)


def facts(before: Folder, after: Folder) -> list[Fact]:
    """Differences of the configs, and of code, package versions and devices that made the tables."""
    found = []
    if (before.config is None) != (after.config is None):
        texts = ["not known (no leaderboard.parquet)" if f.config is None else "known" for f in (before, after)]
        found.append(Fact("config", texts[0], texts[1]))
    elif before.config is not None:
        found = [Fact(f"config: {path}", old, new) for path, old, new in _changes(before.config, after.config)]
    for kind in sorted(before.made.keys() & after.made.keys()):
        for what, old, new in zip(("code", "device"), *(_made(f.made[kind]) for f in (before, after)), strict=True):
            if old and new and old != new:
                found.append(Fact(f"{what} of {kind}", ", ".join(old), ", ".join(new)))
    versions = [_versions(folder) for folder in (before, after)]
    for package in sorted(versions[0].keys() | versions[1].keys()):
        old, new = (", ".join(sorted(own.get(package, ()))) or NONE for own in versions)
        found += [Fact(f"version of {package}", old, new)] if old != new else []
    return found


def _changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Path of keys, old and new value, of everything that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys(), key=str):
            below = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                first, second = (_short(side[key]) if key in side else "absent" for side in (old, new))
                yield below, first, second
            else:
                yield from _changes(old[key], new[key], below)
    elif old != new:
        yield path, _short(old), _short(new)


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _made(provenance: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Digests of the code that measured what stands in a table, and devices."""
    parts = provenance.get("made")
    codes = {str(part.get("code")) for part in parts if isinstance(part, dict)} if isinstance(parts, list) else set()
    return sorted(codes), sorted(map(str, provenance.get("measured_on", [])))


def _versions(folder: Folder) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for provenance in folder.made.values():
        for package, versions in provenance.get("measured_with", {}).items():
            found.setdefault(str(package), set()).update(versions)
    return found
