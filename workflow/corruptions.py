"""The corruptions of a config: a suite's or an archive's entry stands for all its members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import archives, registry
from pipeline.contracts import UserError
from pipeline.suites import SEPARATOR, SUITES


def expanded(config: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Id -> method and options of each corruption; the entry `c` becomes `c.fog`, `c.snow`, ...

    An entry stands for a suite if it, its `suite`, or its id says so, and for an archive likewise. An entry such as
    `c.fog` changes or adds options of one member.

    Args:
        config: the whole config, checked against the schema.
        name: of the config file, for messages.

    Raises:
        UserError: a suite, an archive or a member that there is not.
    """
    given = {entry: dict(options or {}) for entry, options in config["corruptions"].items()}
    found: dict[str, dict[str, Any]] = {}
    for entry in sorted(given, key=lambda entry: SEPARATOR in entry):  # what changes a member comes last
        options = given[entry]
        where = f"{name}: corruptions.{entry}"
        members = _members(entry, options, where)
        if members is None:
            suite, separator, member = entry.partition(SEPARATOR)
            if separator and entry not in found:
                known = [each.partition(SEPARATOR)[2] for each in found if each.startswith(suite + SEPARATOR)]
                hint = registry.nearest(member, known)
                raise UserError(f"{where}: corruptions has no suite or archive '{suite}' with a '{member}'{hint}")
            if not separator and "method" not in options and entry not in registry.names("corruption"):
                known = [*SUITES, *archives.ARCHIVES, *registry.names("corruption")]
                there = f"suites are {', '.join(SUITES)}; archives are {', '.join(archives.ARCHIVES)}"
                raise UserError(
                    f"{where}: no suite, archive or corruption '{entry}'{registry.nearest(entry, known)}; {there}; "
                    "corruptions are listed by python -m pipeline methods --kind corruption"
                )
            found[entry] = {**found.get(entry, {"method": entry}), **options}
        else:
            found |= {f"{entry}{SEPARATOR}{member}": dict(own) for member, own in members}
    return found


def check_folders(corruptions: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Raise UserError unless the archives' folders are there.

    Args:
        corruptions: id -> complete spec.
        name: of the config file, for messages.
    """
    for entry, spec in corruptions.items():
        folder = spec["options"].get("folder")
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"{name}: corruptions.{entry}.folder: no such folder: {folder}")


def group(corruptions: Sequence[str], word: str) -> list[str]:
    """Ids of the members of the suite or archive with the id `word`."""
    return [entry for entry in corruptions if entry.startswith(word + SEPARATOR)]


def _members(entry: str, options: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """Members of a suite or archive with their methods and options; None for a single corruption."""
    settings = dict(options)
    chosen = settings.pop("members", None)
    suite, archive = settings.pop("suite", None), settings.pop("archive", None)
    if suite is None and archive is None and "method" not in options:
        suite, archive = entry if entry in SUITES else None, entry if entry in archives.ARCHIVES else None
    if suite is not None:
        _check("suite", suite, SUITES, where)
        every: Mapping[str, dict[str, Any]] = {member: {"method": member} for member in SUITES[suite]}
    elif archive is not None and "method" not in options:
        catalogued = archives.archive_named(archive, where)
        if not catalogued.parts and settings.get("folder") is None:
            raise UserError(
                f"{where}: {archive} is published without a checksum, so it is not downloaded; give the folder of the "
                f"unpacked archive as `folder` (see {catalogued.published})"
            )
        every = {
            member: {"method": catalogued.method, "archive": archive, "corruption": member}
            for member in catalogued.members
        }
    else:
        return None
    for member in chosen or ():
        _check("member", member, every, f"{where}.members")
    if chosen is None:  # an archive's four corruptions for validation are in no published mean
        chosen = [member for member in every if archive is None or member not in archives.FOR_VALIDATION]
    return ((member, {**own, **settings}) for member, own in every.items() if member in chosen)


def _check(what: str, given: str, known: Mapping[str, Any], where: str) -> None:
    if given not in known:
        there = ", ".join(known)
        raise UserError(f"{where}: no {what} '{given}'{registry.nearest(given, known)}; there are {there}")
