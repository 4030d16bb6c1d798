"""Shards: a job that takes some of the samples alone, and what puts its file together with those of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.contracts import UserError

Shard = Mapping[str, int]  # index, from 1, and of: the number of shards


def rows(shard: Shard | None, count: int) -> slice:
    """The samples of a shard, of `count`: consecutive ones, as many as the other shards have, or one fewer or more.

    Raises:
        UserError: there are fewer samples than shards.
    """
    if shard is None:
        return slice(0, count)
    index, of = shard["index"], shard["of"]
    if of > count:
        raise UserError(f"shards: given {of} for {count} samples, expected at most {count}")
    return slice(count * (index - 1) // of, count * index // of)


def check_complete(metas: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise UserError unless files, path -> metadata, are all shards of one job, in order."""
    found = [meta["spec"]["shard"] for meta in metas.values()]
    of = found[0]["of"]
    if found != [{"index": index, "of": of} for index in range(1, of + 1)]:
        given = ", ".join(f"{shard['index']} of {shard['of']}" for shard in found)
        raise UserError(f"{next(iter(metas))}: given the shards {given}, expected all {of}, in order")


def effort(counts: Mapping[str, int]) -> dict[str, float | None]:
    """What an attack's counts say per sample.

    Args:
        counts: `attacked` samples, `forward` and `backward` passes of all of them, and of those that had the whole box
            as their budget how many there were (`probed`) and how many changed their class (`fooled`).

    Returns:
        `forward_passes`, `backward_passes`, `large_epsilon_success`, as in `contracts.View`.
    """
    attacked, probed = max(counts["attacked"], 1), counts["probed"]
    return {
        "forward_passes": counts["forward"] / attacked,
        "backward_passes": counts["backward"] / attacked,
        "large_epsilon_success": counts["fooled"] / probed if probed else None,
    }


def joined(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata of an attack as those of all its shards say."""
    if len(metas) == 1:
        return dict(metas[0])
    counts = {name: sum(meta["counts"][name] for meta in metas) for name in metas[0]["counts"]}
    warnings = sorted({warning for meta in metas for warning in meta["warnings"]})
    return {**metas[0], "counts": counts, "warnings": warnings, **effort(counts)}
