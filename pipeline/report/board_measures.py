"""Numbers that several leaderboards share, of clean and of corrupted images, and what such numbers are made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.report import outcomes as sources
from pipeline.report import resampling, statistics
from pipeline.report.baseline import choose
from pipeline.report.board_columns import CALIBRATION, CLEAN, CORRUPTED, MCE, Column, Key, Measure, of_suite
from pipeline.report.board_rows import Tables, of_views
from pipeline.report.corruption_measures import Errors
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval


def each(
    column: Column, classifiers: Sequence[Outcomes], seed: int, estimate: Callable[[Outcomes, int], Interval | None]
) -> Measure:
    """A column of numbers that belong to one classifier each.

    Args:
        column: what it is; its name is part of every number's seed.
        classifiers: of all data sets.
        seed: of the bootstrap.
        estimate: the number of a classifier, None if it has none; it is given the seed of that number alone.
    """
    values: dict[Key, Interval | str] = {}
    for o in classifiers:
        value = estimate(o, statistics.stream(seed, o.dataset, o.classifier, column.name))
        if value is not None and not math.isnan(value.value):
            values[o.dataset, o.classifier] = value
    return Measure(column, values)


def clean(classifiers: Sequence[Outcomes], seed: int) -> Measure:
    """Accuracy on clean images."""

    def estimate(outcomes: Outcomes, _: int) -> Interval | None:
        return None if outcomes.clean is None else statistics.share(outcomes.clean["correct"])

    return each(CLEAN, classifiers, seed, estimate)


def calibration(classifiers: Sequence[Outcomes], seed: int) -> Measure:
    """Calibration error on clean images."""

    def estimate(outcomes: Outcomes, seed: int) -> Interval | None:
        if outcomes.clean is None:
            return None
        values = outcomes.clean[["confidence", "correct"]].dropna().to_numpy(dtype=float)
        return resampling.calibration_error(values[:, 0], values[:, 1], seed)

    return each(CALIBRATION, classifiers, seed, estimate)


def mean_corrupted(errors: Sequence[Errors], suite: str, suites: Sequence[str], tables: Tables) -> Measure:
    """Accuracy on one suite of corruptions."""
    own = [found for found in errors if found.suite == suite]
    return of_errors(of_suite(CORRUPTED, suite, suites), own, lambda found: complement(found.mean), tables)


def mce(
    errors: Sequence[Errors], suite: str, suites: Sequence[str], tables: Tables, config: Mapping[str, Any] | None
) -> Measure:
    """Mean corruption error on one suite."""
    own = [found for found in errors if found.suite == suite]
    column = with_baseline(of_suite(MCE, suite, suites), own)
    return of_errors(column, own, lambda found: found.mce, tables, config)


def with_baseline(column: Column, errors: Sequence[Errors]) -> Column:
    """A column with what it divides by in its header."""
    names = {found.outcomes.dataset: found.baseline for found in errors}
    alone = len(set(names.values())) == 1
    base = next(iter(names.values())) if alone else "; ".join(f"{name} on {of}" for of, name in names.items())
    return column._replace(header=f"{column.header} [%, {base} = 100]")


def of_errors(
    column: Column,
    errors: Sequence[Errors],
    value: Callable[[Errors], Interval],
    tables: Tables,
    config: Mapping[str, Any] | None = None,
    clean: bool = False,
) -> Measure:
    """A number of what is known of one suite.

    Args:
        column: what it is.
        errors: of the suite.
        value: picks the number.
        tables: kind -> rows, so far as they are known.
        config: given for a number that divides by a baseline, which it names.
        clean: whether the number depends on the clean images, too.
    """
    views = sorted({name for found in errors for name in found.corruptions})
    query = of_views(views, tables.get("accuracy"), suite=errors[0].suite)
    query = f"kind == 'clean' or {query}" if clean else query
    found = {(e.outcomes.dataset, e.outcomes.classifier): value(e) for e in errors}
    beside = {}
    if config is not None:
        for dataset in {key[0] for key in found}:
            base = choose([e.outcomes for e in errors if e.outcomes.dataset == dataset], config)
            names = {e.baseline for e in errors if e.outcomes.dataset == dataset}
            if base.published is None:
                own = f"({query})" if clean else query
                beside[dataset] = [("accuracy", f"classifier in {sorted(names)!r} and {own}")]
    return Measure(column._replace(query=query), known(found), beside=beside)


def known(found: Mapping[Key, Interval]) -> dict[Key, Interval | str]:
    """The numbers that are not NaN."""
    return {key: value for key, value in found.items() if not math.isnan(value.value)}


def complement(value: Interval) -> Interval:
    """Of an error the accuracy, and the other way round."""
    return Interval(1 - value.value, 1 - value.high, 1 - value.low)


def suites(errors: Sequence[Errors]) -> list[str]:
    """Suites of corruptions that any errors are of, in order."""
    return sorted({found.suite for found in errors})


def samples(outcomes: Outcomes) -> int | None:
    """Images that a classifier was evaluated on."""
    parts = [*([] if outcomes.clean is None else [outcomes.clean]), outcomes.corrupted, *outcomes.norms.values()]
    return max(map(len, parts), default=0) or None


def by_dataset(classifiers: Sequence[Outcomes]) -> Iterator[tuple[str, list[Outcomes]]]:
    """Data set and its classifiers, in order."""
    for dataset in sources.datasets(classifiers):
        yield dataset, sources.shared(classifiers, dataset)
