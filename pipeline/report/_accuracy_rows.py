"""The table of accuracy, taken apart: the clean images, the corrupted ones, and the suites that these belong to."""

from __future__ import annotations

from typing import Any

import pandas as pd

ALONE = "corruptions"  # suite of corruptions that are configured one by one
SEPARATOR = "."  # between the ids of a suite and of a corruption in it
VIEW = ["sample", "kind", "view", "severity"]
COLUMNS = [*VIEW, "correct", "confidence"]


def clean(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Columns `correct` and `confidence` by sample; None if no clean image was measured."""
    rows = _once(rows, "clean")
    return rows.set_index("sample")[["correct", "confidence"]].sort_index() if len(rows) else None


def corrupted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sample x (corruption, severity): whether it is correct as 1 or 0, and the confidence; NaN where it is missing."""
    rows = _once(rows, "corruption")
    if rows.empty:
        return pd.DataFrame(), pd.DataFrame()
    rows = rows.astype({"view": str, "severity": int, "correct": float, "confidence": float})
    keys: dict[str, Any] = {"index": "sample", "columns": ["view", "severity"]}
    correct, confidence = (rows.pivot_table(**keys, values=name) for name in ("correct", "confidence"))
    return correct, confidence.reindex(index=correct.index, columns=correct.columns)


def suites(rows: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Suite and, where it is known, family of each corruption.

    A table without the suites has them in the ids, as in `c.fog`.
    """
    known = rows[rows["kind"] == "corruption"].drop_duplicates("view").astype({"view": str}).set_index("view")
    found = {view: view.partition(SEPARATOR)[0] if SEPARATOR in view else ALONE for view in known.index}
    given = {name: dict(known[name].dropna()) if name in known else {} for name in ("suite", "family")}
    return found | given["suite"], given["family"]


def _once(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows of a kind."""
    # Several measurements may hold the same view of a sample; they agree, as measuring is deterministic.
    return rows[rows["kind"] == kind].drop_duplicates(VIEW)
