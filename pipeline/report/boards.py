"""The leaderboards: one over everything, one for each kind of robustness that was measured, one of geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import board_adversarial, board_corruption, board_geometry, board_sparse, leaderboard
from pipeline.report.board_columns import Board
from pipeline.report.board_rows import MEANINGS, numbers
from pipeline.report.board_table import of
from pipeline.report.outcomes import Outcomes

__all__ = ["MEANINGS", "everything", "numbers", "of"]


def everything(
    tables: Mapping[str, pd.DataFrame], classifiers: Sequence[Outcomes], seed: int, config: Mapping[str, Any] | None
) -> list[Board]:
    """All leaderboards that have numbers, over all data sets; that over everything is there always, and first.

    Args:
        tables: kind of measurement -> collected table.
        classifiers: what they did, of all data sets.
        seed: of the bootstrap.
        config: says what the mCE divides by.
    """
    overall = leaderboard.build(classifiers, seed, config, tables)
    others = (
        board_adversarial.build(classifiers, seed, tables),
        board_sparse.build(classifiers, seed, tables),
        board_corruption.build(classifiers, overall.errors, seed, config, tables),
        board_geometry.build(classifiers, seed, tables),
    )
    return [overall, *(board for board in others if board is not None)]
