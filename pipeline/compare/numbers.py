"""Every number that two runs have, side by side, with the change and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.compare import common, gaps
from pipeline.compare.common import AFTER, BEFORE, Images
from pipeline.compare.folders import Folder, gather
from pipeline.compare.gaps import Gap, Values
from pipeline.compare.quantities import Setting, quantities
from pipeline.report import board_geometry, boards, statistics
from pipeline.report.baseline import choose
from pipeline.report.board_columns import MCE, SHARE, TEXT, Column
from pipeline.report.board_corruption import RELATIVE
from pipeline.report.outcomes import Outcomes, shared
from pipeline.report.statistics import Interval

LOWER = "lower is better"  # in what a column means

KIND = "accuracy"  # table of the errors that the mCE divides
END = " = 100]"  # of the header of a column that divides by a baseline
Limits = tuple[Interval, int]  # a number of a leaderboard, and how many rows of a table it is made of

EQUAL, NOTHING_SHOWN, CHANGED, BETTER, WORSE = "equal", "no change shown", "changed", "better", "worse"
UNTESTED = "not tested"  # without limits there is no test


class Alone(NamedTuple):
    """A number that is defined for a classifier in one run alone, though both have measured what it is made of.

    Attributes:
        dataset: id of the data set.
        classifier: id of the classifier.
        column: name of the number.
        before: whether it is the first run that has it.
    """

    dataset: str
    classifier: str
    column: str
    before: bool


class Number(NamedTuple):
    """A number of one classifier in both runs.

    Attributes:
        dataset: id of the data set.
        classifier: id of the classifier, in the second run.
        column: what the number is.
        direction: 1 if higher is better, -1 if lower is, 0 if neither is, as of an mCE whose baseline has changed.
        change: of it.
        adjusted: p-value, adjusted by Holm's method over all numbers that could have changed; NaN without a test.
        verdict: in words.
        harm: by how much it is worse: of shares absolute, else as a part of the number before; below 0 if better.
        regression: whether that is more than is tolerated.
    """

    dataset: str
    classifier: str
    column: Column
    direction: int
    change: Gap
    adjusted: float = math.nan
    verdict: str = EQUAL
    harm: float = 0.0
    regression: bool = False


def numbers(
    before: Folder, after: Folder, images: Mapping[str, Images], *, level: float, seed: int
) -> tuple[list[Number], list[Alone]]:
    """Numbers of the classifiers that both runs have, and those that are defined in one of them alone.

    Args:
        before: the first run, with the ids of classifiers of the second.
        after: the second run.
        images: of each data set.
        level: of the intervals.
        seed: of resampling and permutations.
    """
    tables = common.restricted(before, after), common.restricted(after, before)
    same = common.equal(*tables)
    datasets = set(images)
    kinds = {*tables[0], *tables[1]}
    changed = {place[0] for kind in kinds for place in _places(kind, *tables) if (kind, place) not in same}
    untouched = datasets - changed if _divided_alike(before, after) else set()
    joined = common.joined(*tables, untouched)
    everyone = gather(after._replace(tables=joined))
    columns, found, neutral = _boards(joined, everyone, before, after, seed)
    setting = Setting(everyone, list(columns))
    unsteady = {dataset for dataset in datasets if not _steady(dataset, before, after, everyone, same, untouched)}
    results: list[Number] = []
    alone: list[Alone] = []
    for dataset, classifier in sorted(before.classifiers & after.classifiers):
        first = BEFORE + dataset if dataset not in untouched else AFTER + dataset
        own = _values(first, classifier, before, setting), _values(AFTER + dataset, classifier, after, setting)
        for name, column in columns.items():
            values = own[0].get(name), own[1].get(name)
            limits = found.get((first, classifier, name)), found.get((AFTER + dataset, classifier, name))
            if limits[0] is None or limits[1] is None:
                alone += [Alone(dataset, classifier, column.name, limits[0] is not None)] if any(limits) else []
                continue
            stream = statistics.stream(seed, dataset, classifier, name)
            equal = (column.source, (dataset, classifier)) in same
            change = _change(values, (limits[0], limits[1]), images[dataset].same, equal, level, stream)
            moved = dataset in unsteady and name.startswith((MCE.name, RELATIVE.name))
            direction = 0 if name in neutral or moved else -1 if LOWER in column.meaning else 1
            results.append(Number(dataset, classifier, column, direction, change))
    return results, alone


def judged(found: Sequence[Number], *, level: float, tolerance: float) -> list[Number]:
    """Numbers with their verdicts.

    Those of which no image differs are left out of Holm's adjustment, as their tests cannot reject: Tarone, "A modified
    Bonferroni method for discrete data", Biometrics 46 (1990).

    Args:
        found: numbers.
        level: 1 minus this is the level of the tests, over all numbers together.
        tolerance: harm up to which a number that is worse is no regression.
    """
    tested = [number for number in found if number.change.test and not math.isnan(number.change.p)]
    adjusted = dict(zip(map(id, tested), statistics.holm([number.change.p for number in tested]), strict=True))
    results = []
    for number in found:
        p, gap = adjusted.get(id(number), math.nan), number.change.gap.value
        harm = _harm(number)
        verdict = EQUAL if number.change.equal else NOTHING_SHOWN if not gap or not math.isnan(p) else UNTESTED
        if p < 1 - level:
            verdict = CHANGED if not number.direction or not gap else WORSE if number.direction * gap < 0 else BETTER
        regression = verdict == WORSE and harm > tolerance
        results.append(number._replace(adjusted=p, verdict=verdict, harm=harm, regression=regression))
    return results


def _harm(number: Number) -> float:
    gap = number.change.gap.value
    harm = -number.direction * gap if gap else 0.0
    if number.column.kind == SHARE or not harm:
        return harm
    scale = abs(number.change.before)
    if math.isinf(harm):
        return harm
    return harm / scale if scale else math.copysign(math.inf, harm)


def _places(kind: str, *sides: Mapping[str, pd.DataFrame]) -> Iterator[common.Place]:
    for tables in sides:
        if kind in tables:
            yield from common.parts(kind, tables[kind])


def _steady(
    dataset: str,
    before: Folder,
    after: Folder,
    everyone: Sequence[Outcomes],
    same: set[tuple[str, common.Place]],
    untouched: set[str],
) -> bool:
    """Whether the mCE of both runs divides by the same errors; else no direction of it is better."""
    if dataset in untouched:
        return True
    bases = [
        choose(shared(everyone, prefix + dataset), folder.config)
        for prefix, folder in ((BEFORE, before), (AFTER, after))
    ]
    published = all(base.published is not None for base in bases)
    return _divided_alike(before, after) and (published or (KIND, (dataset, bases[1].name)) in same)


def _plain(column: Column) -> Column:
    """A column whose header, if it names a baseline for each data set, names those of the second run by their ids."""
    start, _, names = column.header.partition("[%, ")
    kept = [name.replace(f" on {AFTER}", " on ") for name in names.split("; ") if f" on {BEFORE}" not in name]
    if f" on {AFTER}" not in names:
        return column
    return column._replace(header=f"{start}[%, {'; '.join(kept).removesuffix(END)}{END}")


def _divided_alike(before: Folder, after: Folder) -> bool:
    """Whether both configs say the same of what the mCE divides by."""
    old, new = (folder.config or {} for folder in (before, after))
    return all(old.get(key) == new.get(key) for key in ("baseline", "corruptions"))


def _boards(
    joined: Mapping[str, pd.DataFrame], everyone: Sequence[Outcomes], before: Folder, after: Folder, seed: int
) -> tuple[dict[str, Column], dict[tuple[str, str, str], Limits], set[str]]:
    """Columns, (data set, classifier, column) -> number, and the columns of which no direction is better."""
    columns: dict[str, Column] = {}
    found: dict[tuple[str, str, str], Limits] = {}
    neutral: set[str] = set()
    alike = _divided_alike(before, after)
    for prefix, folder in ((AFTER, after),) if alike else ((AFTER, after), (BEFORE, before)):
        for board in boards.everything(joined, everyone, seed, folder.config):
            own = [_plain(column) for column in board.columns if column.kind != TEXT]
            columns = {column.name: column for column in own} | columns
            neutral |= {column.name for column in own} if board.name == board_geometry.NAME else set()
            for row in board.table.to_dict("records"):
                for column in own if alike or str(row["dataset"]).startswith(prefix) else []:
                    limits = Interval(*(float(row[column.name + end]) for end in ("", "_low", "_high")))
                    key = (str(row["dataset"]), str(row["classifier"]), column.name)
                    if not math.isnan(limits.value):
                        found[key] = limits, board.rows[key].n if key in board.rows else 0
    return columns, found, neutral


def _values(dataset: str, classifier: str, folder: Folder, setting: Setting) -> dict[str, Values]:
    members = shared(setting.everyone, dataset)
    own = [outcomes for outcomes in members if outcomes.classifier == classifier]
    return dict(quantities(own[0], members, folder.config, setting)) if own else {}


def _change(
    values: tuple[Values | None, Values | None],
    limits: tuple[Limits, Limits],
    same: bool,
    equal: bool,
    level: float,
    seed: int,
) -> Gap:
    """From the images' values where both runs have them, else from the leaderboards' limits."""
    first, second = values
    if first is not None and second is not None and _shape(first) == _shape(second):
        change = gaps.compared(first, second, same=same, level=level, seed=seed)
        if not (math.isnan(change.before) or math.isnan(change.after)):
            return change
    (before, n), (after, m) = limits
    return gaps.of_limits(before, after, (n, m), level, equal and before.value == after.value)


def _shape(values: Values) -> tuple[str, int]:
    return values.kind, len(values.rows.columns)
