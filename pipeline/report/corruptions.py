"""Common corruptions: the section of the page, one data set at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from pipeline.report import (
    corruption_calibration,
    corruption_figures,
    corruption_measures,
    corruption_tables,
    statistics,
)
from pipeline.report import outcomes as sources
from pipeline.report.baseline import choose
from pipeline.report.corruption_figures import of
from pipeline.report.corruption_measures import Errors
from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import DOTS, Chart, Look, canvas, count, extremes, limits, panels, record, render

SECTION = "Common corruptions"
COMMON: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
)
COMMON += ("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
AUGMENTING = ("augmix", "hybrid_augment", "prime")  # trainings that augment images by themselves


def draw(
    members: Sequence[Outcomes],
    errors: Sequence[Errors],
    look: Look,
    seed: int,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Chart]:
    """Figures of one data set.

    Args:
        members: classifiers of the data set.
        errors: under corruption, of all data sets and suites.
        look: colours and markers.
        seed: of the bootstrap.
        config: says what the mCE divides by, and which trainings augment their images.
    """
    suites = sorted({*sources.suites(members), *(found.suite for found in errors)})
    mine = [found for found in errors if found.outcomes.dataset == members[0].dataset]
    for chart in _charts(members, mine, suites, look, seed, config):
        yield chart._replace(section=SECTION)


def _charts(
    members: Sequence[Outcomes],
    errors: Sequence[Errors],
    suites: Sequence[str],
    look: Look,
    seed: int,
    config: Mapping[str, Any] | None,
) -> Iterator[Chart]:
    for suite in suites:
        tail = f"_{slug(suite)}" if len(suites) > 1 else ""
        what = of(suite, suites)
        own = [o for o in members if o.views(suite)]
        if not own:
            continue
        found = [e for e in errors if e.suite == suite]
        if found:
            baseline = choose(members, config)
            yield corruption_tables.errors_chart(found, baseline, look, f"corruption_errors{tail}", what)
            yield corruption_figures.heat_map(found, f"corruption_map{tail}", what)
            families = corruption_figures.by_family(found, look, f"corruption_families{tail}", what)
            yield from [families] if families is not None else []
        yield corruption_figures.curves(own, look, suite, f"corruptions{tail}", what)
        stream = statistics.stream(seed, members[0].dataset, suite, "calibration")
        levels = corruption_calibration.calibration(own, suite, stream)
        shifted = corruption_figures.shifted_calibration(own, levels, look, f"corruption_calibration{tail}", what)
        yield from [shifted] if shifted is not None else []
        stream = statistics.stream(seed, members[0].dataset, suite, "differences")
        differences = corruption_measures.differences(own, suite, stream)
        if differences:
            yield corruption_tables.differences_chart(differences, own, look, f"corruption_differences{tail}", what)
    yield from _side_by_side(errors, look, config)


def augmented(outcomes: Outcomes, config: Mapping[str, Any] | None) -> bool:
    """Whether a training showed its classifier augmented images beyond crops and flips, by the config or by its id."""
    entry = ((config or {}).get("trainings") or {}).get(outcomes.training) or {}
    return bool(entry.get("augmentation")) or entry.get("method", outcomes.training) in AUGMENTING


def _side_by_side(errors: Sequence[Errors], look: Look, config: Mapping[str, Any] | None) -> Iterator[Chart]:
    """The suite that has most of the common corruptions against each of the others, a point per classifier."""
    names = {e.suite: {corruption.rpartition(".")[2] for corruption in e.corruptions} for e in errors}
    if len(names) < 2:
        return
    first = max(sorted(names), key=lambda suite: len(names[suite] & set(COMMON)))
    others = [suite for suite in sorted(names) if suite != first]
    by_suite = {(e.suite, e.outcomes): e for e in errors}
    members = [o for o in dict.fromkeys(e.outcomes for e in errors) if (first, o) in by_suite]
    pairs = [(suite, o) for suite in others for o in members if (suite, o) in by_suite]
    others = [suite for suite in others if any(suite == shown for shown, _ in pairs)]
    if not pairs:
        return
    rows = []
    width = max(4.8, 3.5 * min(3, len(others)))
    with canvas(width, 3.9 * -(-len(others) // 3) + look.room_of(width)) as figure:
        for axis, suite in zip(panels(figure, len(others), 3), others, strict=True):
            ends = []
            for outcomes in (o for shown, o in pairs if shown == suite):
                across, up = (_accuracy(by_suite[name, outcomes]) for name in (first, suite))
                style, ring = look(outcomes), augmented(outcomes, config)
                arms = [[[100 * (v.value - v.low)], [100 * (v.high - v.value)]] for v in (across, up)]
                place = ([100 * across.value], [100 * up.value])
                points = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 5}
                axis.errorbar(*place, xerr=arms[0], yerr=arms[1], elinewidth=0.9, **points)
                if ring:
                    axis.plot(*place, "o", mfc="none", mec="#555555", markersize=12, mew=0.9)
                ends += [100 * limit for v in (across, up) for limit in v]
                sizes = {"n": by_suite[first, outcomes].n, "n_other": by_suite[suite, outcomes].n}
                own: dict[str, Any] = {"suite": first, "other": suite, "augmented": ring, **sizes, **limits(across)}
                rows.append(record(outcomes, **own, other_share=up.value, other_low=up.low, other_high=up.high))
            low, high = min(ends) - 2, min(max(ends) + 2, 101)
            axis.plot([low, high], [low, high], color="#aaaaaa", linewidth=0.8, zorder=0)
            axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            if any(augmented(outcomes, config) for outcomes in members):
                axis.set_title("ring: trained on augmented images")
            axis.set_xlabel(f"accuracy on {first} [%]")
            axis.set_ylabel(f"accuracy on {suite} [%]")
        look.legend(figure, linestyle="none", markersize=5)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    counted = count([*data["n"].tolist(), *data["n_other"].tolist()])
    caption = (
        f"Mean accuracy on one suite of corruptions against another on {members[0].dataset}, {counted}. Below the "
        f"diagonal a classifier does better on {first}. Ringed: trained on augmented images; augmentations may "
        f"resemble corruptions of {first}, and then a gain there says less than one on the other suite. Bars: 95 % "
        f"intervals (bootstrap over images). {DOTS}"
    )
    parts = [(first, data), *((str(name), p.assign(share=p["other_share"])) for name, p in data.groupby("other"))]
    alt = f"Scatter of {len(members)} classifiers. "
    alt += " ".join(extremes(part, f"Accuracy on {name}") for name, part in parts)
    yield Chart("corruption_suites", "Suites side by side", caption, alt, png, vector, data)


def _accuracy(errors: Errors) -> Interval:
    return Interval(1 - errors.mean.value, 1 - errors.mean.high, 1 - errors.mean.low)
