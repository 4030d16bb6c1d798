"""The calibration error under corruption, per severity, with intervals over samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report import resampling, statistics
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval

Array = NDArray[Any]
BINS = 15  # of confidence
FEWER = 500  # resamples where samples are many


def calibration(members: Sequence[Outcomes], suite: str, seed: int) -> dict[str, dict[int, Interval]]:
    """Classifier -> severity (0: clean) -> expected calibration error, mean over corruptions.

    The error of each corruption is computed for itself, so that too much confidence under one does not make up for too
    little under another. 15 equal-width bins, as in `statistics.calibration_error`. Predictions without a confidence
    are left out.
    """
    found: dict[str, dict[int, Interval]] = {o.classifier: {} for o in members}
    severities = sorted({severity for o in members for _, severity in o.views(suite)})
    for severity in (0, *severities):
        given = {o.classifier: _confidence(o, suite, severity) for o in members}
        parts = {name: part for name, part in given.items() if part is not None and len(part[0])}
        tables = [pd.DataFrame(_bins(*part), index=part[0].index) for part in parts.values()]
        few = all(len(table) <= statistics.JACKKNIFE for table in tables)
        resamples = statistics.RESAMPLES if few else FEWER
        for name, draws in zip(parts, resampling.draw(tables, seed, resamples), strict=True):
            found[name][severity] = draws.symmetric(_calibration_error)
    return found


def _confidence(outcomes: Outcomes, suite: str, severity: int) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Confidence and correctness, sample x corruption, of one severity; 0: of the clean images."""
    if severity == 0:
        return None if outcomes.clean is None else (outcomes.clean[["confidence"]], outcomes.clean[["correct"]])
    views = [view for view in outcomes.views(suite) if view[1] == severity]
    return (outcomes.confidence[views], outcomes.corrupted[views]) if views else None


def _bins(confidence: pd.DataFrame, correct: pd.DataFrame) -> Array:
    """(n, corruptions * (bins + 1)): confidence minus correctness in its bin, and whether it is known."""
    sure, right = confidence.to_numpy(dtype=float), correct.to_numpy(dtype=float)
    known = ~np.isnan(sure) & ~np.isnan(right)
    number = np.clip(np.ceil(np.where(known, sure, 0) * BINS).astype(int) - 1, 0, BINS - 1)
    found = np.zeros((*sure.shape, BINS + 1))
    np.put_along_axis(found, number[..., None], np.where(known, sure - right, 0)[..., None], axis=-1)
    found[..., BINS] = known
    return found.reshape(len(sure), -1)


def _calibration_error(means: Array) -> Array:
    parts = means.reshape(*means.shape[:-1], -1, BINS + 1)
    each = np.abs(parts[..., :BINS]).sum(axis=-1) / np.where(parts[..., BINS] > 0, parts[..., BINS], math.nan)
    known = ~np.isnan(each)
    return np.asarray(
        np.where(known, each, 0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), math.nan)
    )
