"""The leaderboard over everything: one row per classifier, a few numbers of each kind of robustness, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import board_attacks, board_margins, board_ranks, corruption_measures
from pipeline.report import board_measures as shared
from pipeline.report.board_columns import (
    CALIBRATION,
    CLEAN,
    CORRUPTED,
    MCE,
    NUMBER,
    SHARE,
    TEXT,
    WORST,
    Board,
    Column,
    Measure,
    of_suite,
    slug,
)
from pipeline.report.board_ranks import Criterion
from pipeline.report.board_rows import Tables
from pipeline.report.board_table import assemble
from pipeline.report.outcomes import Outcomes

__all__ = [
    "CALIBRATION",
    "CLEAN",
    "CORRUPTED",
    "MCE",
    "NUMBER",
    "SHARE",
    "TEXT",
    "WORST",
    "Board",
    "Column",
    "build",
    "criterion",
    "of_suite",
    "slug",
]

TITLE = "Overall"
TEXT_OF_BOARD = (
    "How often each classifier is right on clean, corrupted and attacked images, and how little it takes to fool it. "
    "Ranks are by the worst-case robust accuracy, or by the clean accuracy where no attack has a budget: a rank such "
    "as 2–4 is all that paired tests on the same images leave open. No number stands for all kinds of robustness."
)
NORMS = ("l2", "linf", "l0_pixels")


def build(
    classifiers: Sequence[Outcomes],
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    tables: Tables | None = None,
) -> Board:
    """Leaderboard of all classifiers, sorted by data set, then by the rank's criterion.

    The criterion is the worst-case robust accuracy, or where no attack has a budget, the clean accuracy.

    Args:
        classifiers: of all data sets.
        seed: of the bootstrap.
        config: says what the mCE divides by.
        tables: kind -> rows, for the rows behind each number.
    """
    tables = tables or {}
    errors = corruption_measures.everything(classifiers, config, seed)
    suites = shared.suites(errors)
    measures: list[Measure] = [shared.clean(classifiers, seed)]
    for suite in suites:
        measures.append(shared.mean_corrupted(errors, suite, suites, tables))
        measures.append(shared.mce(errors, suite, suites, tables, config or {}))
    measures += [shared.calibration(classifiers, seed), board_attacks.worst_case(classifiers, seed)]
    norms = [norm for norm in board_attacks.minimised(classifiers) if norm in NORMS]
    measures += [board_attacks.median_smallest(classifiers, norm, seed) for norm in norms]
    if names := board_margins.names_of(classifiers):
        measures += board_margins.measures(classifiers, board_margins.main(classifiers, names), seed, smallest=False)
    criteria = {dataset: _criterion(members) for dataset, members in shared.by_dataset(classifiers)}
    board = assemble(classifiers, measures, board_ranks.ranks(criteria, seed), tables=tables, whole=True)
    return board._replace(errors=errors, title=TITLE, text=TEXT_OF_BOARD)


def criterion(classifiers: Sequence[Outcomes]) -> tuple[Column, dict[str, pd.Series[bool]]]:
    """What the classifiers of one data set are ranked by, and its outcome per sample for those that have it."""
    worst = {o.classifier: o.worst_case for o in classifiers if o.worst_case is not None}
    if worst:
        return WORST, worst
    return CLEAN, {o.classifier: o.clean["correct"].astype(bool) for o in classifiers if o.clean is not None}


def _criterion(members: Sequence[Outcomes]) -> Criterion:
    column, values = criterion(members)
    return Criterion(column, values, board_ranks.of_outcomes)
