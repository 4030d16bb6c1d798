"""The results of a run as they are compared: tables, what made them, config, evaluation images."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline import store
from pipeline.contracts import UserError
from pipeline.report import outcomes
from pipeline.report.outcomes import Outcomes
from pipeline.stages.tables import read_table

BOARD = "leaderboard.parquet"  # carries the config
SEPARATOR = "="  # between an old and a new id


class Folder(NamedTuple):
    """What is known of a run.

    Attributes:
        path: the results.
        tables: kind -> rows, of the kinds that the report makes numbers of.
        made: kind -> provenance of the table, of all kinds.
        config: as the user wrote it; None if no leaderboard tells.
        images: data set -> SHA-256 of the file of evaluation images, where it is there.
    """

    path: Path
    tables: Mapping[str, pd.DataFrame]
    made: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any] | None
    images: Mapping[str, str]

    @property
    def classifiers(self) -> set[tuple[str, str]]:
        """(data set, classifier) of every table."""
        frames = (table[outcomes.KEYS].drop_duplicates() for table in self.tables.values())
        return {(str(dataset), str(name)) for frame in frames for dataset, name in frame.itertuples(index=False)}


def read(path: Path) -> Folder:
    """Read the results of a run.

    Raises:
        UserError: there are no tables, or one is damaged.
    """
    files = sorted((path / "tables").glob("*.parquet"))
    if not files:
        raise UserError(f"{path}: no tables/*.parquet in it; give the folder of a finished run, such as results")
    tables, made = {}, {}
    for file in files:
        found = read_table(file.stem, file, file.stem in outcomes.KINDS)
        made[file.stem] = found.provenance
        if found.frame is not None:
            tables[file.stem] = found.frame
    if not tables:
        raise UserError(f"{path}: its tables have no rows; measure something, then compare")
    board = path / BOARD
    config = store.read_metadata(board).get("spec") if board.is_file() else None
    images = {}
    for file in sorted(path.glob("data/*/evaluation.safetensors")):
        with contextlib.suppress(OSError):
            images[file.parent.name] = store.sha256(file)
    return Folder(path, tables, made, config if isinstance(config, dict) else None, images)


def gather(folder: Folder) -> list[Outcomes]:
    """What the classifiers of a run did.

    Raises:
        UserError: a table lacks a column, or holds a norm that nobody knows.
    """
    try:
        return outcomes.gather(folder.tables)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder.path}: its tables are not those of this version ({error}); measure again") from None


def renamed(before: Folder, after: Folder, pairs: Sequence[str]) -> Folder:
    """`before` with the ids that its classifiers have in `after`.

    Args:
        before: the run whose classifiers are renamed.
        after: the run that has the new ids.
        pairs: `old=new`, each.

    Raises:
        UserError: an id is unknown, or two classifiers would have the same one.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition(SEPARATOR)
        if not equals or old in names:
            raise UserError(f"--pair {pair}: expected old=new, each old id once")
        for name, folder in ((old, before), (new, after)):
            known = sorted({own for _, own in folder.classifiers})
            if name not in known:
                raise UserError(f"--pair {pair}: {folder.path} has no classifier '{name}'; it has {', '.join(known)}")
        names[old] = new
    places = sorted((dataset, names.get(name, name)) for dataset, name in before.classifiers)
    if twice := [name for name, follower in itertools.pairwise(places) if name == follower]:
        raise UserError(f"--pair: {before.path} would have two classifiers '{twice[0][1]}'; rename the other one, too")
    tables = {
        kind: table.assign(**{name: table[name].replace(names) for name in ("classifier", "source") if name in table})
        for kind, table in before.tables.items()
    }
    config = before.config
    if config is not None and config.get("baseline") in names:
        config = {**config, "baseline": names[config["baseline"]]}
    return before._replace(tables=tables, config=config)
