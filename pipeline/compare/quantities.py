"""What the leaderboards' numbers are made of, image by image, so far as that can be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.compare.gaps import Values, single
from pipeline.report import board_attacks, board_corruption, board_margins
from pipeline.report.baseline import Baseline, choose
from pipeline.report.board_columns import CALIBRATION, CLEAN, CORRUPTED, MCE, WORST, of_suite, slug
from pipeline.report.corruption_measures import UNKNOWN
from pipeline.report.outcomes import NORMS, Outcomes, suites
from pipeline.report.resampling import BINS
from pipeline.report.sparse import BYTES
from pipeline.report.statistics import Array

FOOLED_WITHIN = "fooled_within_"


class Setting(NamedTuple):
    """What the names of columns depend on.

    Attributes:
        everyone: all classifiers of both runs.
        columns: names of all columns.
    """

    everyone: Sequence[Outcomes]
    columns: Sequence[str]


def quantities(
    outcomes: Outcomes, members: Sequence[Outcomes], config: Mapping[str, Any] | None, setting: Setting
) -> Iterator[tuple[str, Values]]:
    """Names of columns, and what a classifier's numbers in them are made of.

    Args:
        outcomes: of the classifier.
        members: of all classifiers of the run and of the data set.
        config: of the run; says what the mCE divides by.
        setting: what the names of columns depend on.
    """
    if outcomes.clean is not None:
        yield CLEAN.name, single(outcomes.clean["correct"], "outcome")
        yield CALIBRATION.name, _calibration(outcomes.clean[["confidence", "correct"]].dropna())
    every = suites(setting.everyone)
    for suite in suites([outcomes]):
        rows = outcomes.complete(suite)
        if len(rows):
            yield of_suite(CORRUPTED, suite, every).name, _mean(rows)
            yield of_suite(board_corruption.WORST, suite, every).name, _worst(rows)
            views: list[Any] = list(rows.columns)
            families = [outcomes.families.get(view[0], UNKNOWN) for view in views]
            for family in sorted(set(families)):
                name = slug(of_suite(board_corruption.FAMILY, suite, every).name, family)
                yield name, _mean(rows.loc[:, [each == family for each in families]])
        if (mce := _mce(outcomes, suite, choose(members, config))) is not None:
            yield of_suite(MCE, suite, every).name, mce
    if outcomes.worst_case is not None:
        yield WORST.name, single(outcomes.worst_case, "outcome")
    yield from _attacks(outcomes, setting)
    yield from _margins(outcomes, setting)


def _calibration(rows: pd.DataFrame) -> Values:
    """As `statistics.calibration_error`, of the means of each bin's gaps between confidence and correctness."""
    confidence, correct = rows.to_numpy(dtype=float).T
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.zeros((len(rows), BINS))
    gaps[np.arange(len(rows)), number] = confidence - correct
    return Values(pd.DataFrame(gaps, index=rows.index), "biased", lambda means: np.abs(means).sum(axis=-1))


def _mean(rows: pd.DataFrame) -> Values:
    means = rows.mean(axis=1)
    return single(means, "outcome" if means.isin((0, 1)).all() else "means")


def _worst(rows: pd.DataFrame) -> Values:
    """Accuracy under each corruption, of whose means the lowest counts."""
    found = rows.T.groupby(level=0).mean().T
    return Values(found, "means", lambda means: means.min(axis=-1))


def _mce(outcomes: Outcomes, suite: str, baseline: Baseline) -> Values | None:
    """As in `corruption_measures.errors`: its own errors and the baseline's, side by side."""
    own = 1 - outcomes.complete(suite)
    views: list[Any] = list(own.columns)
    if baseline.outcomes is not None:
        frame = baseline.outcomes.corrupted
        if any(view not in frame for view in views):
            return None
        base = 1 - frame[views].dropna()
    else:
        known = [baseline.known(view) for view in views]
        if None in known:
            return None
        base = pd.DataFrame([known] * len(own), index=own.index)
    rows = pd.concat([own.set_axis(range(len(views)), axis=1), base.set_axis(range(len(views)), axis=1)], axis=1)
    rows = rows.dropna().astype(float)
    groups = [[i for i, (name, _) in enumerate(views) if name == group] for group in dict.fromkeys(v[0] for v in views)]

    def ratio(means: Array) -> Array:
        parts = []
        for group in groups:
            under = means[..., [place + len(views) for place in group]].sum(axis=-1)
            parts.append(means[..., group].sum(axis=-1) / np.where(under > 1e-12, under, math.nan))
        return np.asarray(np.mean(parts, axis=0))

    return Values(rows, "means", ratio) if len(rows) else None


def _attacks(outcomes: Outcomes, setting: Setting) -> Iterator[tuple[str, Values]]:
    several = {threat for each in setting.everyone for threat in each.norms}
    for threat, norms in outcomes.norms.items():
        if not threat.minimal:
            name = slug("robust_accuracy", threat.attack, threat.norm, f"{threat.epsilon:.4g}")
            yield name, single(outcomes.robust(threat), "outcome")
        else:
            yield slug("median", threat.norm, threat.attack), single(norms, "median")
        if NORMS[threat.norm][0].startswith("l0"):
            twins = sum(NORMS[t.norm][0].startswith("l0") and t.attack == threat.attack for t in several) > 1
            tail = f"{threat.attack} {threat.norm} {threat.epsilon:g}" if twins else threat.attack
            rows = outcomes.attacks
            rows = rows[(rows["attack"] == threat.attack) & (rows["epsilon"] == threat.epsilon)]
            yield from _few(_right(rows).set_index("sample").sort_index(), tail)
    for norm in board_attacks.minimised([outcomes]):
        found = board_attacks.smallest(outcomes, norm)
        if found is not None and len(found):
            yield board_attacks.smallest_column(norm).name, single(found, "median")
    pixels = board_attacks.smallest(outcomes, "l0_pixels")
    if pixels is not None:
        pixels = pixels[pixels.index.isin(_right(outcomes.attacks)["sample"])]
        for name in setting.columns:
            if name.startswith(FOOLED_WITHIN) and len(pixels):
                yield name, single(pixels <= int(name.removeprefix(FOOLED_WITHIN)), "outcome")


def _few(rows: pd.DataFrame, tail: str) -> Iterator[tuple[str, Values]]:
    """An attack on few pixels, on the images that are classified correctly."""
    measured: list[tuple[str, str, str]] = [("", "converged", "l0_pixels")]
    if all(column in rows and rows[column].notna().any() for column in BYTES.values()):
        measured.append(("_8bit", BYTES["success"], BYTES["pixels"]))
    for mark, converged, pixels in measured if len(rows) else []:
        success = rows[converged].eq(True)
        yield slug(f"fooled{mark}", tail), single(success, "outcome")
        yield slug(f"pixels{mark}", tail), single(rows[pixels].astype(float).where(success, math.inf), "median")
        if not mark:
            entries = rows["l0_entries"].astype(float).where(success, math.inf)
            yield slug("entries", tail), single(entries, "median")


def _right(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["clean_prediction"] == rows["label"]]


def _margins(outcomes: Outcomes, setting: Setting) -> Iterator[tuple[str, Values]]:
    alone = len(board_margins.names_of(setting.everyone)) == 1
    picks: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "lowest_frequencies": lambda table: table[min(table.columns)],
        "highest_frequencies": lambda table: table[max(table.columns)],
        "smallest": lambda table: table.dropna().min(axis=1),
    }
    for name, table in outcomes.margins.items():
        for part, pick in picks.items() if not table.empty else ():
            values = pick(table).dropna()
            prefix = ("median_margin",) if alone else ("median_margin", name)
            if len(values):
                yield slug(*prefix, part), single(values, "median")
