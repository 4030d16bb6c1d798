"""The data sets of a config."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import registry, specs
from pipeline.contracts import Files, Folder, UserError

FIELDS = ("frequency", "seed", "test_share", "validation", "train_size", "evaluation", "loading")
SPLITS = ("train", "test", "val")  # folders of a source that hold the folders of the classes


def prepared(config: Mapping[str, Any], name: str) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """((data set, split), spec) of every split.

    Args:
        config: the whole config, checked against the schema.
        name: of the config file, for messages.

    Raises:
        UserError: a source, an option or a file that there is not.
    """
    for dataset, options in config["datasets"].items():
        where = f"{name}: datasets.{dataset}"
        for split in ("train", "evaluation"):
            entry = dict(options or {})
            given = {field: entry.pop(field) for field in FIELDS if field in entry}
            source = entry.pop("source", dataset)
            given = {"seed": config["seed"], **given, "dataset": dataset, "split": split}
            spec = specs.complete("prepare", {**given, "source": source, "options": entry}, where)
            for path in source_paths(spec):
                if not glob.glob(path, recursive=True):
                    raise UserError(f"{where}: no such file or folder: {path}")
            yield (dataset, split), spec


def source_paths(spec: Mapping[str, Any]) -> Iterator[str]:
    """Files, folders or patterns of them that a source's options name."""
    for key, option in registry.options("source", spec["source"]).items():
        value = spec["options"][key]
        if value is not None and option.type in (Files, Files | None, Folder):
            yield from [value] if isinstance(value, str) else value


def with_folders(paths: Iterable[str]) -> list[str]:
    """The paths and, of those that are folders, the classes' folders in them, which change with what they hold.

    A source of a million files is too much to name one by one: so an image that is added or taken away is noticed, one
    whose content alone changes is not.
    """
    found = []
    for path in paths:
        below = sorted(glob.glob(f"{glob.escape(path)}/*/"))
        splits = [folder for folder in below if Path(folder).name in SPLITS]
        inner = [each for folder in splits for each in sorted(glob.glob(f"{glob.escape(folder)}*/"))]
        found += [path, *(folder.rstrip("/") for folder in below + inner)]
    return found
