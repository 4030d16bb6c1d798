"""Shards: an attack or a measurement split into jobs, each of which takes some of the samples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline import specs
from pipeline.contracts import UserError
from pipeline.suites import SEPARATOR


def split(
    stage: str,
    methods: Mapping[str, Mapping[str, Any]],
    section: Mapping[str, Any],
    prepared: Collection[Mapping[str, Any]],
    where: str,
) -> dict[str, Mapping[str, Any]]:
    """Id -> spec of each job on a classifier: an entry with `shards: 3` makes `id.1-of-3`, `id.2-of-3`, `id.3-of-3`.

    Without shards, or with one, id and spec stay as they are.

    Args:
        stage: attack or measure.
        methods: id -> complete spec of each entry.
        section: the entries as the config has them.
        prepared: specs of the data sets' splits.
        where: config path of the section, for messages.

    Raises:
        UserError: the method looks across samples, or there are fewer samples than shards.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for entry, spec in methods.items():
        of = (section[entry] or {}).get("shards", 1)
        if of == 1:
            found[entry] = spec
            continue
        place = f"{where}.{entry}.shards"
        counts = [split.get("evaluation") for split in prepared] + [spec["options"].get("samples")]
        for index in range(1, of + 1):
            job = specs.complete(stage, {**spec, "shard": {"index": index, "of": of}}, place)
            _check_count(of, counts, place)
            found[f"{entry}{SEPARATOR}{index}-of-{of}"] = job
    return found


def entry_of(job: str) -> str:
    """Id of the entry that a job belongs to."""
    return job.partition(SEPARATOR)[0]


def grouped(jobs: Iterable[str]) -> dict[str, list[str]]:
    """Id of an entry -> ids of its jobs."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(entry_of(job), []).append(job)
    return found


def _check_count(of: int, counts: Iterable[int | None], where: str) -> None:
    """Raise UserError if there are more shards than samples, as far as the config says how many samples there are."""
    most = min(filter(None, counts), default=of)
    if of > most:
        raise UserError(f"{where}: given {of} for {most} samples, expected at most {most}")
