"""Example images: clean, perturbation, perturbed, with the predicted labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import REFERENCE
from pipeline.report.style import Chart, canvas, render

SAMPLES = 3
ROWS = 8
ARCHITECTURES = 2
DIVERGING = "RdBu_r"
# Inches: room for the classifiers' names, for the images' ids, and for the predictions between the rows.
LEFT, TOP, GAP = 1.0, 0.45, 0.22


def draw(table: pd.DataFrame) -> Iterator[Chart]:
    """One figure per attack of one data set's gallery table."""
    attacks = sorted(set(table["attack"]))
    for attack in attacks:
        name = "gallery" if len(attacks) == 1 else f"gallery_{slug(attack)}"
        yield _gallery(table[table["attack"] == attack], str(attack), name)


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


def _image(row: Any, column: str) -> NDArray[Any]:
    pixels = np.frombuffer(row[column], dtype="<f4").reshape(row["channels"], row["height"], row["width"])
    return pixels.transpose(1, 2, 0)


def _factor(largest: float) -> float:
    """Magnification, with one leading digit, that makes the largest change fill half the pixel range."""
    if largest == 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(0.5 / largest))
    return max(1.0, math.floor(0.5 / largest / scale) * scale)


def _gallery(table: pd.DataFrame, attack: str, name: str) -> Chart:
    table, classifiers, samples = _choose(table)
    rows = {(row["classifier"], row["sample"]): row for row in table.to_dict("records")}
    largest = max(float(np.abs(_image(row, "perturbed") - _image(row, "clean")).max()) for row in rows.values())
    factor = _factor(largest)
    grey = all(row["channels"] == 1 for row in rows.values())
    side, tall = 0.83, 0.83 * max(row["height"] / row["width"] for row in rows.values())
    width, height = LEFT + len(samples) * (3 * side + 0.3), TOP + len(classifiers) * (tall + GAP) + (0.5 if grey else 0)
    with canvas(width, height, layout=None) as figure:
        for column, sample in enumerate(samples):
            start = LEFT + column * (3 * side + 0.3)
            label = next(row["label"] for key, row in rows.items() if key[1] == sample)
            figure.text((start + 1.5 * side) / width, 1 - 0.17 / height, f"image {sample}, class {label}", ha="center")
            for line, classifier in enumerate(classifiers):
                foot = height - TOP - (line + 1) * tall - line * GAP
                boxes = [
                    ((start + i * side) / width, foot / height, 0.96 * side / width, tall / height) for i in range(3)
                ]
                axes = [figure.add_axes(box) for box in boxes]
                _triple(axes, rows.get((classifier, sample)), factor, grey)
                if column == 0:
                    words = "\n".join(textwrap.fill(part, 15) for part in classifier.split("--"))
                    axes[0].set_ylabel(words, fontsize=8, rotation=0, ha="right", va="center")
        if grey:
            limit = 0.5 / factor
            colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
            place = figure.add_axes((0.35, 0.37 / height, 0.3, 0.1 / height))
            bar = figure.colorbar(colours, cax=place, orientation="horizontal")
            bar.set_label("change of a pixel [pixel range = 1]", fontsize=8)
        png, svg = render(figure)
    data = pd.DataFrame([_numbers(row) for row in rows.values()])
    colouring = "diverging colours: red brighter, blue darker" if grey else "on mid-grey"
    size = "not magnified" if factor == 1 else f"magnified {factor:g} times"
    caption = (
        f"Images of {table['dataset'].iloc[0]} perturbed by {attack}. For each image, from left to right: clean; "
        f"perturbation, {size} ({colouring}); perturbed. Above the images: the predicted class; "
        "above the perturbation: its ℓ₂ norm (pixel range = 1). Shown are images that as many classifiers as possible "
        "classify correctly before and wrongly after the attack: examples, not a sample."
    )
    changed = int((data["prediction"] != data["clean_prediction"]).sum())
    alt = (
        f"Grid of {len(samples)} images for {len(classifiers)} classifiers; {changed} of {len(data)} perturbed images "
        f"shown change the prediction. The largest change of a pixel is {largest:.3g} of the pixel range."
    )
    return Chart(name, f"Perturbed images, {attack}", caption, alt, png, svg, data)


def _triple(axes: Any, row: Any | None, factor: float, grey: bool) -> None:
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    if row is None:
        return
    clean, perturbed = _image(row, "clean"), _image(row, "perturbed")
    change = perturbed - clean
    flat = {"interpolation": "nearest"}
    if row["channels"] == 1:
        axes[0].imshow(clean[..., 0], cmap="gray", vmin=0, vmax=1, **flat)
        axes[2].imshow(perturbed[..., 0], cmap="gray", vmin=0, vmax=1, **flat)
    else:
        axes[0].imshow(np.clip(clean, 0, 1), **flat)
        axes[2].imshow(np.clip(perturbed, 0, 1), **flat)
    if grey:
        axes[1].imshow(change[..., 0], cmap=DIVERGING, vmin=-0.5 / factor, vmax=0.5 / factor, **flat)
    else:
        axes[1].imshow(np.clip(0.5 + factor * change, 0, 1), **flat)
    axes[0].set_title(str(row["clean_prediction"]), pad=2)
    axes[1].set_title(f"ℓ₂ {np.linalg.norm(change):.2f}", pad=2, fontsize=7.5, color="#555555")
    wrong = row["prediction"] != row["label"]
    axes[2].set_title(str(row["prediction"]), pad=2, color="#B02A00" if wrong else "black")


def _numbers(row: Any) -> dict[str, Any]:
    change = np.frombuffer(row["perturbed"], dtype="<f4") - np.frombuffer(row["clean"], dtype="<f4")
    keys = ("dataset", "classifier", "attack", "sample", "label", "clean_prediction", "prediction")
    return {key: row[key] for key in keys} | {"l2": float(np.linalg.norm(change)), "linf": float(np.abs(change).max())}
