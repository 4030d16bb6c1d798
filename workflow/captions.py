"""Labels of figures and leaderboards in `snakemake --report`, from the list that the report stage writes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any


def section(figures: Path) -> Callable[[Any], str]:
    """Of a figure, for `subcategory`: the section of the page in which it stands."""
    return lambda wildcards: _listed(figures, wildcards.figure)["section"]


def labels(figures: Path) -> Callable[[Any], dict[str, str]]:
    """Of a figure, for `labels`: its title and its data set."""

    def found(wildcards: Any) -> dict[str, str]:
        row = _listed(figures, wildcards.figure)
        return {"figure": row["title"], "data set": row["dataset"] or "all"}

    return found


def _listed(figures: Path, name: str) -> dict[str, str]:
    with (figures / "index.csv").open(encoding="utf-8", newline="") as file:
        return next(row for row in csv.DictReader(file) if row["figure"] == name)
