"""How near augmentations come to corruptions, beside the accuracy that training on them gains there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import heatmap, statistics
from pipeline.report._nearness import correlation, gains, nearness
from pipeline.report._point_labels import label
from pipeline.report.claims import Claim
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.rendering import interval
from pipeline.report.statistics import NOTHING, Interval
from pipeline.report.style import Chart, Look, canvas, count, panels, render

KIND = "augmentation_distance"
SECTION = "Augmentations and corruptions"
TEXT = (
    "How near do the images on which a classifier was trained come to corrupted ones? Distances are between the "
    "penultimate features of a classifier that was trained without that augmentation, and relative to the distance of "
    "the clean image: the further below 1, the better an augmentation imitates a corruption. Beside it stands the "
    "accuracy that training with the augmentation gains under that corruption."
)
PANEL, ROW = (4.4, 3.3), 0.26  # inches: a scatter plot; height of a row of the heat map
MEANS = {
    "per_image": (
        "median over images of the {metric} distance between the features of a corrupted image and those of the "
        "nearest of {draws} random augmentations of the same image"
    ),
    "mean": (
        "minimal sample distance, the {metric} distance between the mean features of the corrupted images and of the "
        "images under the nearest of {draws} random augmentations"
    ),
}


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Relative distances, and gains of accuracy against them.

    Args:
        rows: the collected table of one data set.
        classifiers: of the data set. Of each architecture the features of one are shown: of `standard` training if it
            was measured, else of the first that was.
        look: colours and markers.
        seed: of the bootstrap.
    """
    names = sorted(set(rows["measurement"]))
    for name in names:
        mine = rows[rows["measurement"] == name]
        spaces = _spaces(mine, classifiers)
        data = pd.DataFrame(
            [row for o in spaces for row in nearness(mine[mine["classifier"] == o.classifier], o, seed)]
        )
        if data.empty:
            continue
        tail = "" if len(names) == 1 else f"_{slug(name)}"
        kind = {column: str(mine[column].iloc[0]) for column in ("mode", "metric")} | {
            "draws": str(mine["draws"].max())
        }
        yield _map(data, kind, tail)
        points = pd.DataFrame([row for o in spaces for row in gains(data, o, classifiers, seed)])
        if len(points):
            yield _gains(points, classifiers, look, kind, seed, tail)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """No claim of the table is about distances to corruptions."""
    return iter(())


def _spaces(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Outcomes]:
    """Of each architecture one measured classifier."""
    measured = [o for o in classifiers if o.classifier in set(rows["classifier"])]
    measured.sort(key=lambda o: o.training != REFERENCE)
    first = {o.architecture: o for o in reversed(measured)}
    return [o for o in classifiers if o is first.get(o.architecture)]


def _short(names: Sequence[str]) -> dict[str, str]:
    """Names without their suite, where that leaves them apart."""
    bare = {name: name.rpartition(".")[2].replace("_", " ") for name in names}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in names}


def _map(data: pd.DataFrame, kind: Mapping[str, str], tail: str) -> Chart:
    corruptions = list(dict.fromkeys(data["corruption"]))
    short = _short(corruptions)
    pairs = list(dict.fromkeys(zip(data["classifier"], data["augmentation"], strict=True)))
    wide, high = (
        data.pivot_table(index="corruption", columns=["classifier", "augmentation"], values=column, dropna=False)
        .reindex(index=corruptions, columns=pd.MultiIndex.from_tuples(pairs))
        .to_numpy(dtype=float)
        for column in ("relative", "high")
    )
    texts = [["–" if math.isnan(v) else f"{v:.2f}" if v < 10 else f"{v:.0f}" for v in line] for line in wide]
    unsure = [(int(row), int(column)) for row, column in np.argwhere(high >= 1)]
    columns = [f"{augmentation}, {classifier}" for classifier, augmentation in pairs]
    rows = [short[name] for name in corruptions]
    grid = heatmap.Grid("relative distance", rows, columns, np.clip(1 - wide, 0, 1), texts, unsure)
    with heatmap.drawn([grid], "corruption", "augmentation, features of", ROW) as figure:
        png, vector = render(figure)
    first: dict[Any, Any] = data.iloc[0].to_dict()
    caption = (
        f"How near augmentations come to corruptions of severity {first['severity']} on {first['dataset']}, "
        f"{count(data['n'].tolist())}: {MEANS[kind['mode']].format(**kind)}, over the same of the clean image. At 1 "
        "an augmentation comes no nearer than the clean image; darker is nearer. Framed: the 95 % interval (bootstrap "
        "over images) reaches 1. –: not known, or the corruption moves the clean image by less than 1 % of what "
        "another one does. Of each architecture the features of standard training are taken if they were measured."
    )
    known = data[data["relative"].notna()].sort_values("relative", kind="stable")
    ends = [f"{row['augmentation']} to {row['corruption']} {row['relative']:.2f}" for row in known.to_dict("records")]
    alt = f"Heat map of relative distances, {len(corruptions)} corruptions by {len(pairs)} augmentations. "
    alt += f"Nearest: {ends[0]}; farthest: {ends[-1]}." if ends else "No distance is known."
    title = "Distance of augmentations to corruptions"
    return Chart(f"augmentation_distance{tail}", title, caption, alt, png, vector, data, SECTION, _table(data))


def _table(data: pd.DataFrame) -> Table:
    """Per classifier and corruption: distance of the clean image, relative distance of each augmentation."""
    augmentations = list(dict.fromkeys(data["augmentation"]))
    headers = ["Corruption", "Features of", "n", "Distance of the clean image"]
    headers += [f"{name}, relative" for name in augmentations]
    lines = []
    for (classifier, corruption), part in data.groupby(["classifier", "corruption"], sort=False):
        by_name: dict[str, dict[Any, Any]] = {row["augmentation"]: row for row in part.to_dict("records")}
        first = next(iter(by_name.values()))
        cells = [*words(str(corruption), str(classifier)), whole(int(part["n"].max()))]
        cells.append(_cell(first, "clean", "clean_low", "clean_high"))
        lines.append(cells + [_cell(by_name.get(name), "relative", "low", "high") for name in augmentations])
    return Table(headers, lines)


def _cell(row: Mapping[Any, Any] | None, *names: str) -> Cell:
    return estimate(NOTHING if row is None else Interval(*(row[name] for name in names)), NUMBER)


def _gains(
    points: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, kind: Mapping[str, str], seed: int, tail: str
) -> Chart:
    groups = list(points.groupby(["classifier", "augmentation"], sort=False))
    lines: list[list[Cell]] = []
    width, height = PANEL
    across = min(2, len(groups))
    short = _short(list(dict.fromkeys(points["corruption"])))
    with canvas(width * across + 0.4, height * math.ceil(len(groups) / across) + 0.3) as figure:
        axes = panels(figure, len(groups), across, sharex=True, sharey=True)
        axes[0].set_xlim(_limits(points["nearer"]))
        axes[0].set_ylim(_limits(100 * points["gain"]))
        for axis, (key, part) in zip(axes, groups, strict=True):
            classifier, augmentation = map(str, key)
            architecture = str(part["architecture"].iloc[0])
            stream = statistics.stream(seed, str(part["dataset"].iloc[0]), classifier, KIND, augmentation, *tail)
            value = correlation(part["nearer"].tolist(), part["gain"].tolist(), stream)
            gain = statistics.bootstrap(part["gain"], statistics.mean, seed=stream)
            lines.append(
                [*words(architecture, augmentation), whole(len(part)), estimate(value, NUMBER), estimate(gain)]
            )
            member = next(o for o in classifiers if (o.architecture, o.training) == (architecture, augmentation))
            _scatter(axis, part, look(member))
            named = [short[name] for name in part["corruption"]]
            label(axis, list(zip(part["nearer"], 100 * part["gain"], strict=True)), named, width - 0.7, height - 0.7)
            axis.set_title(f"{architecture}, {augmentation}: ρ = {interval(value, NUMBER)}")
        figure.supxlabel("how much nearer the augmentation comes than the clean image", fontsize=9)
        figure.supylabel("gain of accuracy [points]", fontsize=9)
        png, vector = render(figure)
    first: dict[Any, Any] = points.iloc[0].to_dict()
    caption = (
        f"Accuracy that a training gains over standard training of the same architecture under a corruption of "
        f"severity {first['severity']} on {first['dataset']} ({count(points['images'].tolist())}), against how much "
        "nearer its augmentation comes: 1 minus the relative distance of the heat map "
        f"({count(points['n'].tolist())}). Each point is a corruption; bars: 95 % intervals, bootstrap over images, "
        "cut at the frame; grey lines lead to names, of which those without room are left out. "
        "ρ: Spearman's rank correlation over the corruptions and its 95 % interval, bootstrap over corruptions. The "
        "training may differ from standard training in more than its augmentation."
    )
    said = "; ".join(f"{row[0].text}, {row[1].text}: {row[3].text}" for row in lines)
    alt = f"Scatter plots of gain of accuracy against nearness, {len(groups)} panels. Rank correlation: {said}."
    title = "Nearness of augmentations and gain of accuracy"
    headers = ["Architecture", "Training", "Corruptions", "Rank correlation", "Mean gain of accuracy [points]"]
    table = Table(headers, lines)
    return Chart(f"augmentation_distance_gain{tail}", title, caption, alt, png, vector, points, SECTION, table)


def _scatter(axis: Axes, points: pd.DataFrame, style: Mapping[str, Any]) -> None:
    for line in (axis.axhline, axis.axvline):
        line(0, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)))
    arms = [
        [scale * (points[name] - points[f"{name}_low"]), scale * (points[f"{name}_high"] - points[name])]
        for name, scale in (("nearer", 1), ("gain", 100))
    ]
    look = {"color": style["color"], "marker": style["marker"], "markersize": 4.5, "linestyle": "none"}
    axis.errorbar(
        points["nearer"],
        100 * points["gain"],
        xerr=arms[0],
        yerr=arms[1],
        ecolor=(style["color"], 0.4),
        elinewidth=0.8,
        **look,
    )


def _limits(values: pd.Series[float]) -> tuple[float, float]:
    """Ends of an axis that shows the values and zero."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    margin = 0.15 * (high - low) or 0.1
    return low - margin, high + margin
