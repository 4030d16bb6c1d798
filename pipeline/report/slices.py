"""Planes through images: which class a classifier predicts where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.report.claims import Claim
from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.regions import SECTION as REGIONS
from pipeline.report.regions import by_measurement, members, of
from pipeline.report.style import Chart, Look, canvas, record, render, wrapped

KIND = "slices"
SECTION = REGIONS
TEXT = (
    "Planes of the input space through three images show the regions that the classes get. A plane is two of many "
    "dimensions: regions apart in it may be connected outside of it."
)
# Lightened from Tol's and Okabe and Ito's colours; the numbers in the regions tell classes apart where colours repeat.
COLOURS = ("#88CCEE", "#EE8866", "#BBCC33", "#AA9DD0", "#FFE680", "#44BB99", "#E3A5C3", "#B08B5C", "#6F8FC9", "#D0D0D0")
POINTS = (("o", "#000000"), ("^", "#000000"), ("s", "#000000"))
ROWS, COLUMNS = 8, 3  # classifiers and samples shown
SIDE, LEFT, TOP, FOOT, GAP = 1.75, 1.3, 0.34, 0.55, 0.3  # inches
MARK = 0.07  # share of the side around a mark that is kept free of numbers
SMALLEST = 0.012  # share of the plane from which a part of a region gets a number
NARROWEST = 0.035  # share of the side that a number needs around its centre


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Per measurement and view: the planes of a few samples (columns) for the classifiers (rows)."""
    for _, name, part in by_measurement(rows, KIND):
        views = sorted(set(part["view"]), key=lambda view: (view != "clean", view))
        for view in views:
            own = part[part["view"] == view].drop_duplicates(["classifier", "sample"])
            yield _chart(own, members(own, classifiers)[:ROWS], str(view), f"{name}_{slug(str(view))}")


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """None: a plane shows, it does not prove."""
    return iter(())


def _grid(row: Any, column: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(row[column], dtype=kind).reshape(row["points"], row["points"])


def _chart(rows: pd.DataFrame, shown: Sequence[Outcomes], view: str, name: str) -> Chart:
    attacked = view != "clean"
    samples = list(dict.fromkeys(rows["sample"]))[:COLUMNS]
    width = LEFT + len(samples) * (SIDE + 0.12) + 0.1
    height = TOP + FOOT + len(shown) * (SIDE + GAP)
    records = []
    with canvas(width, height, layout=None) as figure:
        for column, sample in enumerate(samples):
            label = rows.loc[rows["sample"] == sample, "label"].iloc[0]
            start = LEFT + column * (SIDE + 0.12)
            title = f"image {sample}\nclass {label}"
            figure.text((start + SIDE / 2) / width, 1 - 0.03 / height, title, ha="center", va="top", fontsize=8)
            for line, outcomes in enumerate(shown):
                foot = height - TOP - line * GAP - (line + 1) * SIDE - 0.08
                axis = figure.add_axes((start / width, foot / height, SIDE / width, SIDE / height))
                own = of(rows, outcomes)
                own = own[own["sample"] == sample]
                axis.set(xticks=[], yticks=[])
                axis.grid(False)
                for row in own.to_dict("records"):
                    records.append(_panel(axis, row) | {"view": view, "sample": sample} | record(outcomes))
                if not len(own):
                    axis.axis("off")
                if column == 0:
                    text = "\n".join(wrapped(part, 17) for part in outcomes.classifier.split("--"))
                    place = (LEFT - 0.1) / width, (foot + SIDE / 2) / height
                    figure.text(*place, text, ha="right", va="center", fontsize=8)
        second = "perturbed image" if attacked else "image of the same class"
        words = ("image", second, "image of another class", "edge of the valid images")
        handles = [Line2D([], [], marker=marker, color=colour, linestyle="none") for marker, colour in POINTS]
        handles.append(Line2D([], [], color="#000000", linestyle=(0, (3, 2)), linewidth=1.0))
        figure.legend(handles, words, loc="lower center", ncols=2, fontsize=8)
        png, vector = render(figure)
    data = pd.DataFrame(records)
    plane = (
        f"the image perturbed by {view} and an image of another class, up to three lengths of the perturbation away"
        if attacked
        else "another image of the same predicted class and one of another"
    )
    caption = (
        f"Planes through images of {shown[0].dataset} and {plane}. Colours and numbers: the predicted class; pale: not "
        "valid images. Axes in ℓ₂, alike in both directions; below each plane stands the length of its side (pixel "
        "range = 1), as planes have scales of their own. Marks outside of a plane are not shown. The first images of "
        "the evaluation set: examples, not a sample."
    )
    alt = (
        f"Grid of {len(data)} planes, {len(samples)} images for {len(shown)} classifiers. The class of the image takes "
        f"up {100 * data['share'].min():.0f} to {100 * data['share'].max():.0f} % of the valid part of a plane."
    )
    title = f"Planes through images perturbed by {view}" if attacked else "Planes through three images"
    return Chart(name, title, caption, alt, png, vector, data, SECTION)


def _depth(region: NDArray[Any]) -> NDArray[Any]:
    """How far each point of a region lies from its edge, in points."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1])


def _panel(axis: Axes, row: Any) -> dict[str, Any]:
    """One plane; returns what it shows in numbers."""
    classes, inside = _grid(row, "classes", "<i2"), _grid(row, "inside", "u1").astype(bool)
    left, bottom, side, points = row["left"], row["bottom"], row["side"], row["points"]
    ticks = np.linspace(0, side, points)
    across, up = left + ticks, bottom + ticks
    step = side / max(points - 1, 1) / 2
    extent = (left - step, left + side + step, bottom - step, bottom + side + step)
    look: dict[str, Any] = {"extent": extent, "origin": "lower", "interpolation": "nearest"}
    axis.imshow(classes % len(COLOURS), cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=len(COLOURS) - 0.5, **look)
    present = np.unique(classes)
    if points > 1 and len(present) > 1:
        for own in present:
            axis.contour(across, up, classes == own, levels=[0.5], colors="#333333", linewidths=0.5)
    axis.imshow(np.where(inside, np.nan, 1.0), cmap=ListedColormap(["white"]), alpha=0.6, **look)
    if points > 1 and inside.any() and not inside.all():
        axis.contour(across, up, inside, levels=[0.5], colors="black", linewidths=1.0, linestyles=[(0, (3, 2))])
    marked = np.zeros_like(inside)
    for x, y in zip(row["anchors_x"], row["anchors_y"], strict=True):
        marked |= np.hypot(across[None] - x, up[:, None] - y) < MARK * side
    for own in present:
        parts, count = ndimage.label(classes == own)
        for part in range(1, count + 1):
            if (parts == part).mean() >= SMALLEST:
                depth = _depth((parts == part) & ~marked)  # a number must not lie on a mark, if it can lie elsewhere
                depth = depth if depth.max() >= NARROWEST * points else _depth(parts == part)
                if depth.max() < NARROWEST * points:
                    continue
                line, column = np.unravel_index(int(depth.argmax()), depth.shape)
                rim = [patheffects.withStroke(linewidth=2, foreground="white")]
                place = (across[column], up[line], str(own))
                axis.text(*place, ha="center", va="center", fontsize=7, color="#222222", path_effects=rim)
    for (marker, colour), x, y in zip(POINTS, row["anchors_x"], row["anchors_y"], strict=True):
        if extent[0] <= x <= extent[1] and extent[2] <= y <= extent[3]:
            edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.8, "markersize": 5.5, "zorder": 5}
            axis.plot([x], [y], marker=marker, color=colour, **edge)
    axis.set_xlim(*extent[:2])
    axis.set_ylim(*extent[2:])
    axis.spines[:].set_visible(True)
    axis.set_xlabel(f"side: ℓ₂ {side:.2f}", fontsize=7.5, labelpad=2)
    share = float((classes[inside] == row["anchor_classes"][0]).mean()) if inside.any() else float("nan")
    return {"side": side, "second": row["second"], "third": row["third"], "share": share, "classes": len(present)}
