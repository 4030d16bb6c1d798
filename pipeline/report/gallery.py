"""Example images: clean, perturbation, perturbed, with the predicted labels."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.classes import Classes, Named, have_names, named, shortened
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.outcomes import NORMS, REFERENCE, Outcomes, Threat
from pipeline.report.pictures import DIVERGING, UNIT, extent, image, magnification, norms, scaling, shades
from pipeline.report.rendering import number
from pipeline.report.style import Chart, canvas, render

SAMPLES = 3
ROWS = 8
ARCHITECTURES = 2
# Inches: room for the classifiers' names, for the images' ids, and for the predictions between the rows; of a picture.
LEFT, TOP, GAP, SIDE = 1.0, 0.62, 0.22, 0.83
LETTERS = 33  # that fit above the pictures of an image
LETTERS_OF_NAME, SMALL = 14, 7.5  # that fit above one picture, and their points; numbers of classes are larger
PARTS = ("clean", "change", "perturbed")
WRONG, SOFT = "#B02A00", "#555555"


class Scales(NamedTuple):
    """What all pictures of a figure share.

    Values shown as black and white, magnification, whether all are grey, what a class is called, the points of that.
    """

    limits: tuple[float, float]
    factor: float
    grey: bool
    named: Named
    points: float | None


def draw(
    table: pd.DataFrame, classifiers: Sequence[Outcomes] = (), *, classes: Classes | None = None
) -> Iterator[Chart]:
    """One figure per attack of one data set's gallery table.

    Args:
        table: of one data set.
        classifiers: of the data set: they say which norm an attack bounds or minimises; l2 where they do not.
        classes: names of the classes, as far as they are known.
    """
    threats = {threat.attack: threat for outcomes in classifiers for threat in outcomes.norms}
    attacks = sorted({str(attack) for attack in table["attack"]})
    for attack in attacks:
        name = "gallery" if len(attacks) == 1 else f"gallery_{slug(attack)}"
        yield _gallery(table[table["attack"] == attack], threats.get(attack, Threat(attack, "l2")), name, classes)


def _choose(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    table = table.assign(other=table["training"] != REFERENCE).sort_values(["architecture", "other", "classifier"])
    table = table.drop_duplicates(["classifier", "sample"])
    table = table[table["architecture"].isin(list(dict.fromkeys(table["architecture"]))[:ARCHITECTURES])]
    classifiers = list(dict.fromkeys(table["classifier"]))[:ROWS]
    table = table[table["classifier"].isin(classifiers)]
    # Telling samples first: right before, wrong after, for as many of the classifiers as can be.
    telling = (table["clean_prediction"] == table["label"]) & (table["prediction"] != table["label"])
    counts = telling.groupby(table["sample"]).sum()
    samples = sorted(counts.index, key=lambda sample: (-counts[sample], sample))[:SAMPLES]
    return table[table["sample"].isin(samples)], classifiers, samples


def _gallery(everything: pd.DataFrame, threat: Threat, name: str, classes: Classes | None) -> Chart:
    table, classifiers, samples = _choose(everything)
    rows = {(row["classifier"], row["sample"]): row for row in table.to_dict("records")}
    grey = all(row["channels"] == 1 for row in rows.values())
    dataset = str(table["dataset"].iloc[0])
    points = SMALL if have_names(classes, dataset) else None
    scales = Scales(extent(rows.values()), magnification(rows.values()), grey, _short(classes, dataset), points)
    tall = SIDE * max(row["height"] / row["width"] for row in rows.values())
    step = 3 * SIDE + 0.3
    width, height = LEFT + len(samples) * step, TOP + len(classifiers) * (tall + GAP) + (0.55 if grey else 0)
    with canvas(width, height, layout=None) as figure:
        for column, sample in enumerate(samples):
            start = LEFT + column * step
            label = next(row["label"] for key, row in rows.items() if key[1] == sample)
            title = _title(sample, scales.named(label))
            figure.text((start + 1.5 * SIDE) / width, 1 - 0.17 / height, title, ha="center")
            for i, part in enumerate(PARTS):
                place = ((start + (i + 0.48) * SIDE) / width, 1 - 0.36 / height)
                figure.text(*place, part, ha="center", fontsize=8, color=SOFT)
            for line, classifier in enumerate(classifiers):
                foot = height - TOP - (line + 1) * tall - line * GAP
                boxes = [
                    ((start + i * SIDE) / width, foot / height, 0.96 * SIDE / width, tall / height) for i in range(3)
                ]
                axes = [figure.add_axes(box) for box in boxes]
                _triple(axes, rows.get((classifier, sample)), threat, scales)
                if column == 0:
                    words = "\n".join(textwrap.fill(part, 15) for part in classifier.split("--"))
                    axes[0].set_ylabel(words, fontsize=8, rotation=0, ha="right", va="center")
        if grey:
            _colourbar(figure, height, scales.factor)
        png, svg = render(figure)
    data = pd.DataFrame([_numbers(row) for row in rows.values()])
    caption = _caption(everything, threat, scales, samples, classifiers)
    fooled = data[(data["prediction"] != data["label"]) & (data["clean_prediction"] == data["label"])]
    alt = (
        f"{len(samples)} images of {data['dataset'].iloc[0]}, {len(classifiers)} classifiers, {threat}. "
        f"Of {len(data)} pairs {len(fooled)} are right before and wrong after. "
        f"The largest change of a pixel is {data['linf'].max():.3g} of the pixel range."
    )
    return Chart(name, f"Perturbed images, {threat.attack}", caption, alt, png, svg, data)


def _caption(
    everything: pd.DataFrame, threat: Threat, scales: Scales, samples: Sequence[str], classifiers: Sequence[str]
) -> str:
    known, measured = everything["sample"].nunique(), everything["classifier"].nunique()
    some = f" Of {measured} classifiers, {len(classifiers)} are shown." if len(classifiers) < measured else ""
    colouring = "in colours: red brighter, blue darker" if scales.grey else f"on mid-grey, {scaling(scales.factor)}"
    beyond = "" if scales.limits == UNIT else f" The data are no pixels: {shades(scales.limits)}."
    return (
        f"Images of {everything['dataset'].iloc[0]} perturbed by {threat}, n = {len(samples)} of the {known} images of "
        f"the gallery. For each image the clean one; the change, {colouring}, at one scale for all; the perturbed one. "
        "Above the images the predicted class, red where it is wrong; above the change its "
        f"{threat.symbol} norm ({NORMS[threat.norm][2]}).{some}{beyond} Of the gallery's images those are shown that "
        "most classifiers get right before and wrong after the attack: examples, no fair sample."
    )


def _colourbar(figure: Figure, height: float, factor: float) -> None:
    colours = ScalarMappable(Normalize(-0.5 / factor, 0.5 / factor), DIVERGING)
    place = figure.add_axes((0.35, 0.42 / height, 0.3, 0.1 / height))
    bar = figure.colorbar(colours, cax=place, orientation="horizontal", ticks=MaxNLocator(4))
    bar.set_label("change of a pixel [pixel range = 1]", fontsize=8)


def _short(classes: Classes | None, dataset: str) -> Named:
    """What a class is called above a picture."""
    whole = named(classes, dataset)
    return lambda number: shortened(whole(number), LETTERS_OF_NAME)


def _title(sample: str, label: str) -> str:
    """Of an image; only the end of an id that is too long."""
    tail = f", class {label}"
    room = LETTERS - len(tail)
    return (sample if len(sample) <= room else f"…{sample[1 - room :]}") + tail


def _triple(axes: Sequence[Axes], row: Any | None, threat: Threat, scales: Scales) -> None:
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    if row is None:
        return
    clean, perturbed = image(row, "clean"), image(row, "perturbed")
    change = perturbed - clean
    low, high = scales.limits
    flat: dict[str, Any] = {"interpolation": "nearest"}
    for axis, pixels in ((axes[0], clean), (axes[2], perturbed)):
        if row["channels"] == 1:
            axis.imshow(pixels[..., 0], cmap="gray", vmin=low, vmax=high, **flat)
        else:
            axis.imshow(np.clip((pixels - low) / (high - low), 0, 1), **flat)
    if scales.grey:
        limit = 0.5 / scales.factor
        axes[1].imshow(change[..., 0], cmap=DIVERGING, vmin=-limit, vmax=limit, **flat)
    else:
        axes[1].imshow(np.clip(0.5 + scales.factor * change, 0, 1), **flat)
    size = norms(row)[NORMS[threat.norm][0]]
    text = f"{size:.0f}" if isinstance(size, int) or size == 0 else number(size, NUMBER)
    axes[1].set_title(f"{threat.symbol} {text}", pad=3, fontsize=7.5, color=SOFT)
    for axis, column in ((axes[0], "clean_prediction"), (axes[2], "prediction")):
        colour = WRONG if row[column] != row["label"] else "black"
        axis.set_title(scales.named(row[column]), pad=2, color=colour, fontsize=scales.points)


def _numbers(row: Any) -> dict[str, Any]:
    keys = ("dataset", "classifier", "attack", "sample", "label", "clean_prediction", "prediction")
    found = norms(row)
    return {key: row[key] for key in keys} | {name: found[name] for name in ("l0_pixels", "l2", "linf")}
