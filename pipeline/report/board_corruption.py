"""The leaderboard of common corruptions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.report import board_measures as shared
from pipeline.report import board_ranks, corruption_calibration, statistics
from pipeline.report.board_columns import CORRUPTED, SHARE, TEXT, Board, Column, Key, Measure, of_suite, slug
from pipeline.report.board_ranks import Criterion
from pipeline.report.board_rows import Tables, of_views
from pipeline.report.board_table import assemble
from pipeline.report.corruption_measures import UNKNOWN, Errors, order
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval

NAME, TITLE = "corruption", "Common corruptions"
TEXT_OF_BOARD = (
    "Accuracy on images that noise, blur, weather and the like make worse, as a mean, by family, and under the worst "
    "of them; mCE and relative mCE divide the errors by those of a baseline. Ranks are by the mean corrupted "
    "accuracy (paired permutation tests over images); a training whose augmentations resemble the corruptions has seen "
    "part of this test."
)
RELATIVE = Column(
    "relative_mce",
    "Relative mCE",
    SHARE,
    "relative mean corruption error: as the mCE, of the errors on top of those on clean images; lower is better",
    "accuracy",
)
WORST = Column(
    "worst_corruption_accuracy",
    "Accuracy under the worst corruption [%]",
    SHARE,
    "lowest accuracy under any one corruption, mean over its severities; as it is the lowest of several, it is biased "
    "downwards, and its interval is that of the named corruption alone",
    "accuracy",
)
NAMED = Column("worst_corruption", "Worst corruption", TEXT, "corruption with the lowest accuracy")
FAMILY = Column("accuracy", "Accuracy", SHARE, "accuracy, mean over corruptions and severities", "accuracy")
CALIBRATION = Column(
    "corrupted_calibration_error",
    "Calibration error under corruption [%]",
    SHARE,
    "expected calibration error, mean over corruptions; lower is better",
    "accuracy",
)


def build(
    classifiers: Sequence[Outcomes],
    errors: Sequence[Errors],
    seed: int,
    config: Mapping[str, Any] | None,
    tables: Tables,
) -> Board | None:
    """Leaderboard of errors under corruption; None without any.

    Args:
        classifiers: of all data sets.
        errors: theirs, on all suites.
        seed: of the bootstrap.
        config: says what the mCE divides by.
        tables: kind -> rows.
    """
    if not errors:
        return None
    suites = shared.suites(errors)
    measures: list[Measure] = []
    for suite in suites:
        own = [found for found in errors if found.suite == suite]
        measures.append(shared.mean_corrupted(errors, suite, suites, tables))
        measures.append(shared.mce(errors, suite, suites, tables, config or {}))
        relative = shared.with_baseline(of_suite(RELATIVE, suite, suites), own)
        measures.append(shared.of_errors(relative, own, lambda e: e.relative, tables, config or {}, clean=True))
        measures += _families(own, suite, suites, tables)
        measures += _worst(own, suite, suites, tables)
        measures += _calibration(classifiers, suite, suites, seed, tables)
    criteria = {dataset: _criterion(members, suites) for dataset, members in shared.by_dataset(classifiers)}
    ranks = board_ranks.ranks(criteria, seed)
    board = assemble(classifiers, measures, ranks, tables=tables, left_out=("flags",))
    return board._replace(name=NAME, title=TITLE, text=TEXT_OF_BOARD, errors=errors)


def _families(errors: Sequence[Errors], suite: str, suites: Sequence[str], tables: Tables) -> Iterator[Measure]:
    """Accuracy on each family of corruptions, where there are several."""
    members: dict[str, set[str]] = {}
    for found in errors:
        for corruption in found.corruptions:
            members.setdefault(found.outcomes.families.get(corruption, UNKNOWN), set()).add(corruption)
    placed = {corruption: family for family, names in members.items() for corruption in names}
    families = list(dict.fromkeys(placed[corruption] for corruption in order(placed, list(placed))))
    for family in families if len(families) > 1 else []:
        column = of_suite(FAMILY, suite, suites)
        column = column._replace(
            name=slug(column.name, family),
            header=f"{column.header}, {family} [%]",
            meaning=f"{column.meaning}, of the family {family}",
            query=of_views(sorted(members[family]), tables.get("accuracy"), suite=suite, family=family),
        )
        own = {_key(e.outcomes): e.families[family] for e in errors if family in e.families}
        yield Measure(column, shared.known(own))


def _worst(errors: Sequence[Errors], suite: str, suites: Sequence[str], tables: Tables) -> Iterator[Measure]:
    """The corruption that a classifier is worst under, and its accuracy there; of equals the first by name."""
    names, values, queries = {}, {}, {}
    for found in errors:
        name = min(sorted(found.corruptions), key=lambda corruption: found.corruptions[corruption].value)
        key = _key(found.outcomes)
        names[key], values[key] = name.removeprefix(f"{suite}."), found.corruptions[name]
        queries[key] = f"kind == 'corruption' and view == {name!r}"
    views = sorted({name for found in errors for name in found.corruptions})
    query = of_views(views, tables.get("accuracy"), suite=suite)
    yield Measure(of_suite(NAMED, suite, suites), dict(names))
    yield Measure(of_suite(WORST, suite, suites)._replace(query=query), shared.known(values), queries)


def _calibration(
    classifiers: Sequence[Outcomes], suite: str, suites: Sequence[str], seed: int, tables: Tables
) -> Iterator[Measure]:
    """Calibration error at the highest severity, as in the figure of the page."""
    found: dict[int, dict[Key, Interval]] = {}
    for dataset, everyone in shared.by_dataset(classifiers):
        highest = max((severity for o in everyone for _, severity in o.views(suite)), default=0)
        members = [part for o in everyone if len((part := _at(o, highest)).views(suite))]
        stream = statistics.stream(seed, dataset, suite, "calibration")
        levels = corruption_calibration.calibration(members, suite, stream)
        own = {_key(o): levels[o.classifier][highest] for o in members if highest in levels[o.classifier]}
        found.setdefault(highest, {}).update(own)
    views = sorted({name for o in classifiers for name, _ in o.views(suite)})
    for severity, values in sorted(found.items()):
        column = of_suite(CALIBRATION, suite, suites)
        header, _, unit = column.header.partition(" [")
        yield Measure(
            column._replace(
                name=f"{column.name}_{severity}",
                header=f"{header}, severity {severity} [{unit}",
                meaning=f"{column.meaning} (severity {severity})",
                query=f"{of_views(views, tables.get('accuracy'), suite=suite)} and severity == {severity}",
            ),
            shared.known(values),
        )


def _at(outcomes: Outcomes, severity: int) -> Outcomes:
    """What a classifier did on the corruptions of one severity."""
    views: Any = outcomes.corrupted.columns.to_list()
    chosen = [view for view in views if view[1] == severity]
    return dataclasses.replace(outcomes, clean=None, corrupted=outcomes.corrupted[chosen])


def _criterion(members: Sequence[Outcomes], suites: Sequence[str]) -> Criterion:
    """Of one data set: the mean over its suite with the most views that classifiers share, on the images of all."""
    shares = {suite: _shared_views(members, suite) for suite in suites}
    suite = max(suites, key=lambda name: len(shares[name]))
    values = {o.classifier: o.corrupted[shares[suite]].dropna().mean(axis=1) for o in members if o.views(suite)}
    known = {name: own for name, own in values.items() if len(own) and shares[suite]}
    return Criterion(of_suite(CORRUPTED, suite, suites), known, board_ranks.of_means)


def _shared_views(members: Sequence[Outcomes], suite: str) -> list[tuple[str, int]]:
    parts = [set(o.views(suite)) for o in members if o.views(suite)]
    return sorted(set.intersection(*parts)) if parts else []


def _key(outcomes: Outcomes) -> Key:
    return outcomes.dataset, outcomes.classifier
