"""The leaderboard of geometry: margins, curvature, regions, detection and invariance side by side, without ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from pipeline.report import board_margins, board_regions, curvature, detection, invariance, loops, regions, statistics
from pipeline.report import board_measures as shared
from pipeline.report._boundary_points import Points, gather, main, mainly_negative
from pipeline.report._detection import OTHERS, detectors, first_radius
from pipeline.report.board_columns import NUMBER, SHARE, Board, Column, Key, Measure, slug
from pipeline.report.board_regions import key_of, named
from pipeline.report.board_rows import Tables
from pipeline.report.board_table import assemble
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval

NAME, TITLE = "geometry", "Geometry of the decision boundary"
TEXT_OF_BOARD = (
    "How far the boundary is along low and high frequencies, how it is curved, how the regions hang together, whether "
    "curvature gives perturbed images away, and how much of harmless changes a classifier ignores. There are no ranks: "
    "no direction is better in itself. A flat or a distant boundary is a fact about a classifier, not a merit."
)


def build(classifiers: Sequence[Outcomes], seed: int, tables: Tables) -> Board | None:
    """Leaderboard of geometry; None if nothing of it was measured.

    Args:
        classifiers: of all data sets.
        seed: of the bootstrap.
        tables: kind -> rows.
    """
    measures: list[Measure] = []
    for name in board_margins.names_of(classifiers):
        measures += board_margins.measures(classifiers, name, seed)
    for kind, read in (
        (curvature.KIND, _curvature),
        (regions.KIND, board_regions.pairs),
        (loops.KIND, board_regions.filled),
        (detection.KIND, _detection),
        (invariance.KIND, _invariance),
    ):
        if len(rows := tables.get(kind, pd.DataFrame())):
            measures += read(rows, classifiers, seed)
    if not any(measure.cells for measure in measures):
        return None
    board = assemble(classifiers, measures, tables=tables, left_out=("rank", "n", "flags"))
    return board._replace(name=NAME, title=TITLE, text=TEXT_OF_BOARD)


def _curvature(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """As the page's table of spectra: where each attack crosses the boundary, at one radius."""
    chosen = main(gather(rows, classifiers))
    groups: dict[tuple[str, str, str], list[Points]] = {}
    for points in chosen:
        groups.setdefault((points.measurement, points.view, f"{points.radius:g}"), []).append(points)
    for (measurement, view, _), members in sorted(groups.items()):
        radius = members[0].radius
        exact = math.isnan(radius)
        at = "exact" if exact else f"radius {radius:g}"
        where = f"where {view} crosses the boundary ({measurement}, {'exact derivatives' if exact else at})"
        tail = "" if len(groups) == 1 else f", {view} ({measurement}, {at})"
        names = ("curvature",) if len(groups) == 1 else ("curvature", measurement, view, at)
        query = f"measurement == {measurement!r} and view == {view!r} and converged"
        query += " and radius != radius" if exact else f" and radius == {radius!r}"
        parts = {points.outcomes: (points, points.at(radius)) for points in members}
        for part, header, kind, text in (
            ("mean", f"Median mean curvature{tail or f', {at}'} [1 / pixel range]", NUMBER, "mean principal curvature"),
            ("flat", f"Flat directions{tail} [%]", SHARE, "share of flat directions"),
        ):
            meaning = f"{text}, median over points {where}"
            column = Column(slug(*names, part), header, kind, meaning, "curvature", query)
            values = {key_of(o): points.interval(own[part], part, seed) for o, (points, own) in parts.items()}
            yield Measure(column, shared.known(values))
        column = Column(
            slug(*names, "mainly_negative"),
            f"Points curved mainly negatively{tail} [%]",
            SHARE,
            "share of points with more directions of clearly negative than of clearly positive curvature, of those "
            f"with more of one kind, {where}",
            "curvature",
            f"{query} and negative != positive",
        )
        yield Measure(column, shared.known({key_of(o): mainly_negative(own)[0] for o, (_, own) in parts.items()}))


def _detection(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """As the page's figures of detection, at the smallest strength, of an attacker who does not know the detector."""
    groups = list(rows.groupby(detection.GROUP))
    for (measurement, view), part in groups:
        found: dict[tuple[str, str, float], dict[Key, Interval]] = {}
        for key, own in part.groupby(["dataset", "classifier"], sort=False):
            alpha = float(own.loc[own["alpha"] > 0, "alpha"].min())
            own = first_radius(own)
            # What is not asked for takes time: other strengths in the test half, other statistics.
            asked = own[(own["split"] != "test") | (own["alpha"].isin([0, alpha]) & ~own["adaptive"].astype(bool))]
            asked = asked.assign(**{name: math.nan for name in OTHERS if name != "confidence"})
            for detector in detectors(asked, seed) if len(asked) else []:
                if detector.alpha == alpha:
                    place = (detector.statistic, _is("radius", float(own["radius"].iloc[0])), alpha)
                    found.setdefault(place, {})[str(key[0]), str(key[1])] = detector.auroc
        tail = "" if len(groups) == 1 else f", {measurement}, {view}"
        names = () if len(groups) == 1 else (str(measurement), str(view))
        for (statistic, radius, alpha), values in found.items():
            what = "curvature" if statistic.startswith("mean curvature") else "confidence"
            query = f"measurement == {measurement!r} and view == {view!r} and {radius} and split == 'test'"
            column = Column(
                slug("auroc", what, *names),
                f"AUROC of perturbed images (α = {alpha:g}), {statistic}{tail}",
                NUMBER,
                f"area under the ROC curve of natural images against those perturbed by {view} (α = {alpha:g}), told "
                f"by {statistic}, on the test half; the sign comes from the calibration half; 0.5 is chance",
                "detection",
                f"{query} and (alpha == 0 or alpha == {alpha!r} and changed and not adaptive)",
            )
            yield Measure(column, shared.known(values))


def _invariance(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """Agreement, mean over families; relative stability as in the page's table, at the middle strength."""
    for measurement, _, part in regions.by_measurement(rows, invariance.KIND):
        name, tail = named(rows, measurement)
        families = sorted(set(part["family"]))
        column = Column(
            slug("agreement", *name),
            f"Agreement along orbits, mean over families{tail} [%]",
            SHARE,
            "share of the transformed images that keep the prediction of the clean one: mean over strengths, over "
            f"families ({', '.join(families)}) and over images",
            "invariance",
            f"measurement == {measurement!r}",
        )
        agreement: dict[Key, Interval] = {}
        stable: dict[float, dict[Key, Interval]] = {}
        for outcomes in regions.members(part, classifiers):
            own = regions.of(part, outcomes)
            shares = invariance.shares(own, "agrees")
            each = shares.groupby(["family", "sample"])["mean"].mean().groupby("sample").mean()
            stream = statistics.stream(seed, *key_of(outcomes), column.name)
            agreement[key_of(outcomes)] = statistics.bootstrap(each, statistics.mean, seed=stream)
            lines = list(invariance.stability(own, outcomes, seed))
            if lines:
                line = lines[(len(lines) - 1) // 2]
                value = Interval(line["stability"], line["low"], line["high"])
                stable.setdefault(float(line["strength"]), {})[key_of(outcomes)] = value
        yield Measure(column, shared.known(agreement))
        for strength, values in sorted(stable.items()):
            names = (*name, f"{strength:g}") if len(stable) > 1 else name
            column = Column(
                slug("stability", *names),
                f"Relative stability R at {strength:g} of the side{tail}",
                NUMBER,
                "median squared change of the logits under smooth deformations over that under noise of the same norm; "
                "below 1 a classifier hardly sees what is only deformed",
                "invariance",
                f"measurement == {measurement!r} and family == {invariance.DEFORMATION!r} and strength == {strength!r}",
            )
            yield Measure(column, shared.known(values))


def _is(column: str, value: float) -> str:
    """A query for a value that may be missing."""
    return f"{column} != {column}" if math.isnan(value) else f"{column} == {value!r}"
