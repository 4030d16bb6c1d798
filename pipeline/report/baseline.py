"""What the mCE divides by: the errors of a classifier of the run, or published ones that ship in `baselines`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.report.outcomes import REFERENCE, Outcomes

FOLDER = Path(__file__).parent / "baselines"


class Published(NamedTuple):
    """Errors that were published.

    Attributes:
        source: where, in words, and of which images.
        sha256: of the file that holds them.
        clean: error on clean images.
        errors: corruption -> errors at the severities 1 to 5.
    """

    source: str
    sha256: str
    clean: float
    errors: Mapping[str, Sequence[float]]


class Baseline(NamedTuple):
    """What the errors of one data set are divided by.

    Attributes:
        name: id of the classifier, or name of the published one.
        outcomes: of the classifier; None for a published one.
        published: None for a classifier of the run.
        methods: corruption's id -> its method, where they differ.
    """

    name: str
    outcomes: Outcomes | None
    published: Published | None
    methods: Mapping[str, str]

    def known(self, view: tuple[str, int]) -> float | None:
        """A published error under a corruption at a severity, if there is one."""
        if self.published is None:
            return None
        errors = self.published.errors.get(self.methods.get(view[0], view[0].rpartition(".")[2]), ())
        return errors[view[1] - 1] if view[1] <= len(errors) else None


def shipped() -> list[str]:
    """Names of the published baselines."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def load(name: str) -> Published:
    """A shipped baseline."""
    content = (FOLDER / f"{name}.json").read_bytes()
    given = json.loads(content)
    source = f"{given['name']} on {given['data']} ({given['source']})"
    return Published(source, hashlib.sha256(content).hexdigest(), given["clean"], given["errors"])


def mistake(config: Mapping[str, Any] | None, classifiers: Sequence[Outcomes]) -> str | None:
    """What is wrong with the baseline of the config, in one line; None if nothing is."""
    name = (config or {}).get("baseline")
    known = sorted({o.classifier for o in classifiers}), shipped()
    if name is None or not classifiers or name in known[0] or name in known[1]:
        return None
    return (
        f"config: baseline: '{name}' is neither a classifier of this run ({', '.join(known[0])}) nor a published "
        f"baseline ({', '.join(known[1])}); name one of them, or null for standard training"
    )


def choose(members: Sequence[Outcomes], config: Mapping[str, Any] | None) -> Baseline:
    """The baseline of one data set.

    That is what the config names. If it names none, or a classifier that this data set lacks, it is the first
    classifier with standard training, or without one the first of all.

    Args:
        members: the classifiers of the data set, in order; at least one.
        config: its `baseline`, and the methods of its `corruptions`.
    """
    config = config or {}
    entries = config.get("corruptions") or {}
    methods = {name: entry["method"] for name, entry in entries.items() if entry and "method" in entry}
    name = config.get("baseline")
    named = [o for o in members if o.classifier == name]
    if name in shipped() and not named:
        return Baseline(name, None, load(name), methods)
    chosen = [*named, *(o for o in members if o.training == REFERENCE), *members][0]
    return Baseline(chosen.classifier, chosen, None, methods)
