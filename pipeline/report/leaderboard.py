"""One row per classifier: every number with its interval, and the ranks that the data leave open."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import corruption_measures, statistics
from pipeline.report import outcomes as sources
from pipeline.report.corruption_measures import Errors
from pipeline.report.outcomes import NORMS, Outcomes, Threat
from pipeline.report.statistics import NOTHING, Interval

SHARE, NUMBER, TEXT = "share", "number", "text"


class Column(NamedTuple):
    """A column of the leaderboard.

    Attributes:
        name: in Parquet and CSV; an estimate has `name`, `name`_low and `name`_high.
        header: for people, with the unit.
        kind: `share` (shown in percent), `number` (shown with three digits) or `text`.
        meaning: definition and unit, also kept in the Parquet field's metadata.
    """

    name: str
    header: str
    kind: str
    meaning: str


class Board(NamedTuple):
    """The leaderboard.

    Attributes:
        table: one row per classifier.
        columns: what its columns are.
        ranked_by: data set -> name of the column that its ranks are by.
        errors: under corruption, from which some of its columns are.
    """

    table: pd.DataFrame
    columns: Sequence[Column]
    ranked_by: Mapping[str, str]
    errors: Sequence[Errors] = ()


Measure = tuple[Column, Callable[[Outcomes, int], Interval]]

KEYS = (
    Column("dataset", "Data set", TEXT, "id of the data set"),
    Column("rank", "Rank", TEXT, "ranks that paired tests leave open (Holm-adjusted McNemar, 5 %)"),
    Column("classifier", "Classifier", TEXT, "id of the classifier"),
    Column("architecture", "Architecture", TEXT, "id of the architecture"),
    Column("training", "Training", TEXT, "id of the training"),
    Column("seed", "Seed", TEXT, "training seed; none for a brought classifier"),
    Column("n", "n", TEXT, "evaluated images"),
    Column("flags", "Flags", TEXT, "reasons to doubt what the attacks found, by attack"),
)
CLEAN = Column("clean_accuracy", "Clean accuracy [%]", SHARE, "share of clean images classified correctly")
CORRUPTED = Column(
    "mean_corrupted_accuracy",
    "Mean corrupted accuracy [%]",
    SHARE,
    "accuracy, mean over corruptions and severities; not divided by a baseline's, so not an mCE",
)
MCE = Column(
    "mce",
    "mCE",
    SHARE,
    "mean corruption error: the error summed over severities, divided by that of the baseline, mean over corruptions; "
    "lower is better",
)
CALIBRATION = Column(
    "calibration_error",
    "Calibration error [%]",
    SHARE,
    "expected calibration error on clean images, 15 equal-width bins of confidence; lower is better",
)
WORST = Column(
    "worst_case_robust_accuracy",
    "Worst-case robust accuracy [%]",
    SHARE,
    "share of images that survive every attack with a budget (union of threats)",
)


def slug(*parts: str) -> str:
    """Parts as one snake_case name."""
    return re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")


def of_suite(column: Column, suite: str, suites: Sequence[str]) -> Column:
    """A column for one of several suites of corruptions; of a single one the column itself."""
    if len(suites) < 2:
        return column
    header, bracket, unit = column.header.partition(" [")
    header = f"{header}, {suite}{bracket}{unit}"
    return column._replace(name=slug(column.name, suite), header=header, meaning=f"{column.meaning} (suite {suite})")


def build(classifiers: Sequence[Outcomes], seed: int = 0, config: Mapping[str, Any] | None = None) -> Board:
    """Leaderboard of all classifiers, sorted by data set, then by the rank's criterion.

    The criterion is the worst-case robust accuracy, or where no attack has a budget, the clean accuracy.

    Args:
        classifiers: of all data sets.
        seed: of the bootstrap.
        config: says what the mCE divides by.
    """
    errors = corruption_measures.everything(classifiers, config, seed)
    measures = list(_measures(classifiers, errors))
    sets, ranked_by = _ranks(classifiers)
    rows = []
    for outcomes in classifiers:
        row: dict[str, Any] = {name: getattr(outcomes, name) for name in ("dataset", "classifier", "architecture")}
        row |= {"training": outcomes.training, "seed": outcomes.seed, "n": _size(outcomes), "flags": _flags(outcomes)}
        best, worst = sets.get((outcomes.dataset, outcomes.classifier), (None, None))
        row |= {"rank_best": best, "rank_worst": worst}
        row["rank"] = None if best is None else str(best) if best == worst else f"{best}–{worst}"
        for column, estimate in measures:
            stream = statistics.stream(seed, outcomes.dataset, outcomes.classifier, column.name)
            value = estimate(outcomes, stream)
            row |= {column.name: value.value, f"{column.name}_low": value.low, f"{column.name}_high": value.high}
        rows.append(row)
    columns = (*KEYS, *(column for column, _ in measures))
    return Board(_sorted(pd.DataFrame(rows, columns=_names(columns)), ranked_by), columns, ranked_by, errors)


def _names(columns: Sequence[Column]) -> list[str]:
    names: list[str] = []
    for column in columns:
        tails = ("",) if column.kind == TEXT else ("", "_low", "_high")
        names += [column.name + tail for tail in tails]
        names += ["rank_best", "rank_worst"] if column.name == "rank" else []
    return names


def _sorted(table: pd.DataFrame, ranked_by: Mapping[str, str]) -> pd.DataFrame:
    integers = dict.fromkeys(("seed", "n", "rank_best", "rank_worst"), "Int64")
    table = table.astype({**integers, **{c: float for c in table if c not in integers and table[c].isna().all()}})
    if table.empty:
        return table
    score = [row.get(ranked_by.get(row["dataset"], ""), math.nan) for row in table.to_dict("records")]
    order = table.assign(score=score).sort_values(
        ["dataset", "score", "classifier"], ascending=[True, False, True], na_position="last", kind="stable"
    )
    return order.drop(columns="score").reset_index(drop=True)


def _size(outcomes: Outcomes) -> int | None:
    clean = [] if outcomes.clean is None else [outcomes.clean]
    return max((len(part) for part in (*clean, outcomes.corrupted, *outcomes.norms.values())), default=0) or None


def _flags(outcomes: Outcomes) -> str | None:
    """Reasons per attack, or, where all attacks have one in common, once; None where there is none."""
    if not outcomes.doubts:
        return None
    common = set.intersection(*(set(reasons) for reasons in outcomes.doubts.values()))
    own = {str(threat): [r for r in reasons if r not in common] for threat, reasons in outcomes.doubts.items()}
    texts = [*sorted(common), *(f"{threat}: {', '.join(reasons)}" for threat, reasons in own.items() if reasons)]
    return "; ".join(texts) or None


def criterion(classifiers: Sequence[Outcomes]) -> tuple[Column, dict[str, pd.Series[bool]]]:
    """What the classifiers of one data set are ranked by, and its outcome per sample for those that have it."""
    worst = {o.classifier: o.worst_case for o in classifiers if o.worst_case is not None}
    if worst:
        return WORST, worst
    return CLEAN, {o.classifier: o.clean["correct"].astype(bool) for o in classifiers if o.clean is not None}


def _ranks(classifiers: Sequence[Outcomes]) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[str, str]]:
    sets, ranked_by = {}, {}
    for dataset in sources.datasets(classifiers):
        column, results = criterion(sources.shared(classifiers, dataset))
        if not results:
            continue
        ranked_by[dataset] = column.name
        frame = pd.concat(results, axis=1, join="inner")
        for name, ranks in zip(results, statistics.rank_sets(list(frame.to_numpy().T)), strict=True):
            sets[dataset, name] = ranks
    return sets, ranked_by


def _measures(classifiers: Sequence[Outcomes], errors: Sequence[Errors]) -> Iterator[Measure]:
    if any(o.clean is not None for o in classifiers):
        yield CLEAN, lambda o, _: NOTHING if o.clean is None else statistics.share(o.clean["correct"])
    suites = sorted({found.suite for found in errors})
    taken: set[str] = set()
    for suite in suites:
        for column, estimate in _corruption_measures([e for e in errors if e.suite == suite], suite, suites):
            yield _apart(column, taken), estimate
    if any(o.clean is not None for o in classifiers):
        yield CALIBRATION, _calibration
    if any(o.fixed for o in classifiers):
        yield WORST, lambda o, _: NOTHING if o.worst_case is None else statistics.share(o.worst_case)
    threats = sorted({threat for o in classifiers for threat in o.norms})
    for threat in sorted(threats, key=lambda t: (t.minimal, t)):
        yield _apart(_column(threat), taken), _minimal(threat) if threat.minimal else _fixed(threat)
    names = sorted({name for o in classifiers for name in o.margins})
    for name in names:
        yield from _margin_measures(name, alone=len(names) == 1)


def _apart(column: Column, taken: set[str]) -> Column:
    """A column with a name that is not taken yet, for ids that differ in punctuation alone."""
    while column.name in taken:
        column = column._replace(name=column.name + "_")
    taken.add(column.name)
    return column


def _corruption_measures(errors: Sequence[Errors], suite: str, suites: Sequence[str]) -> Iterator[Measure]:
    means = {found.outcomes: _complement(found.mean) for found in errors}
    yield of_suite(CORRUPTED, suite, suites), lambda o, _: means.get(o, NOTHING)
    ratios = {found.outcomes: found.mce for found in errors}
    if any(not math.isnan(value.value) for value in ratios.values()):
        names = {found.outcomes.dataset: found.baseline for found in errors}
        alone = len(set(names.values())) == 1
        base = next(iter(names.values())) if alone else "; ".join(f"{name} on {of}" for of, name in names.items())
        column = of_suite(MCE, suite, suites)
        yield column._replace(header=f"{column.header} [%, {base} = 100]"), lambda o, _: ratios.get(o, NOTHING)


def _complement(value: Interval) -> Interval:
    return Interval(1 - value.value, 1 - value.high, 1 - value.low)


def _calibration(outcomes: Outcomes, seed: int) -> Interval:
    if outcomes.clean is None:
        return NOTHING
    values = outcomes.clean[["confidence", "correct"]].dropna().to_numpy(dtype=float)
    return statistics.bootstrap(values, statistics.calibration_error, seed=seed)


def _column(threat: Threat) -> Column:
    _, symbol, unit = NORMS[threat.norm]
    if threat.minimal:
        return Column(
            slug("median", threat.norm, threat.attack),
            f"Median {symbol} to misclassification, {threat.attack} [{unit}]",
            NUMBER,
            f"median over all images of the smallest {symbol} norm found by {threat.attack} ({unit}); an image that is "
            "misclassified anyway counts as 0, one without a perturbation found as infinite",
        )
    return Column(
        slug("robust_accuracy", threat.attack, threat.norm, f"{threat.epsilon:.4g}"),
        f"Robust accuracy, {threat} [%]",
        SHARE,
        f"share of images that survive {threat.attack} with {symbol} at most {threat.epsilon:.4g} (pixel range = 1)",
    )


def _fixed(threat: Threat) -> Callable[[Outcomes, int], Interval]:
    return lambda o, _: statistics.share(o.robust(threat)) if threat in o.norms else NOTHING


def _minimal(threat: Threat) -> Callable[[Outcomes, int], Interval]:
    def estimate(outcomes: Outcomes, seed: int) -> Interval:
        norms = outcomes.norms.get(threat)
        return NOTHING if norms is None else statistics.bootstrap(norms, statistics.median, seed=seed)

    return estimate


def _margin_measures(name: str, alone: bool) -> Iterator[Measure]:
    prefix = ("median_margin",) if alone else ("median_margin", name)
    suffix = "" if alone else f", {name}"

    def measure(part: str, words: str, pick: Callable[[pd.DataFrame], pd.Series[float]]) -> Measure:
        def estimate(outcomes: Outcomes, seed: int) -> Interval:
            margins = outcomes.margins.get(name)
            if margins is None or margins.empty:
                return NOTHING
            return statistics.bootstrap(pick(margins).dropna(), statistics.median, seed=seed)

        text = f"median over correctly classified images of the ℓ₂ margin, {words} (pixel range = 1)"
        header = f"Median ℓ₂ margin, {words}{suffix} [pixel range = 1]"
        return Column(slug(*prefix, part), header, NUMBER, text), estimate

    yield measure("lowest_frequencies", "lowest frequency block", lambda m: m[min(m.columns)])
    yield measure("highest_frequencies", "highest frequency block", lambda m: m[max(m.columns)])
    yield measure("smallest", "smallest over the blocks", lambda m: m.dropna().min(axis=1))
