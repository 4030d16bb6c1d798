"""Example images: clean, perturbation, perturbed, with the predicted labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import REFERENCE
from pipeline.report.style import WIDTH, Chart, canvas, render

SAMPLES = 3
ROWS = 8
ARCHITECTURES = 2


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
    with canvas(WIDTH, 0.6 + 1.12 * len(classifiers) + (0.5 if grey else 0)) as figure:
        body, foot = figure.subfigures(2, 1, height_ratios=(len(classifiers), 0.5)) if grey else (figure, None)
        blocks = body.subfigures(1, len(samples), wspace=0.03, squeeze=False)[0]
        drawn = None
        for block, sample in zip(blocks, samples, strict=True):
            grid = block.subplots(len(classifiers), 3, squeeze=False)
            label = next(row["label"] for key, row in rows.items() if key[1] == sample)
            block.suptitle(f"image {sample}, class {label}", fontsize=9)
            for line, classifier in zip(grid, classifiers, strict=True):
                drawn = _triple(line, rows.get((classifier, sample)), factor, grey) or drawn
                if sample == samples[0]:
                    line[0].set_ylabel(
                        classifier.replace("--", "\n"), fontsize=7.5, rotation=0, ha="right", va="center"
                    )
        if foot is not None and drawn is not None:
            bar = foot.colorbar(drawn, cax=foot.add_axes((0.35, 0.62, 0.3, 0.2)), orientation="horizontal")
            bar.set_label("change of a pixel [pixel range = 1]", fontsize=8)
        png, svg = render(figure)
    data = pd.DataFrame([_numbers(row) for row in rows.values()])
    colours = "diverging colours: red brighter, blue darker" if grey else "on mid-grey"
    caption = (
        f"Images of {table['dataset'].iloc[0]} perturbed by {attack}. For each image, from left to right: clean; "
        f"perturbation, magnified {factor:g} times ({colours}); perturbed. Above the images: the predicted class; "
        "above the perturbation: its ℓ₂ norm (pixel range = 1). Shown are images that as many classifiers as possible "
        "classify correctly before and wrongly after the attack: examples, not a sample."
    )
    changed = int((data["prediction"] != data["clean_prediction"]).sum())
    alt = (
        f"Grid of {len(samples)} images for {len(classifiers)} classifiers; {changed} of {len(data)} perturbed images "
        f"shown change the prediction. The largest change of a pixel is {largest:.3g} of the pixel range."
    )
    return Chart(name, f"Perturbed images, {attack}", caption, alt, png, svg, data)


def _triple(axes: Any, row: Any | None, factor: float, grey: bool) -> Any | None:
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    if row is None:
        return None
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
        drawn = axes[1].imshow(change[..., 0], cmap="RdBu_r", vmin=-0.5 / factor, vmax=0.5 / factor, **flat)
    else:
        drawn = axes[1].imshow(np.clip(0.5 + factor * change, 0, 1), **flat)
    axes[0].set_title(str(row["clean_prediction"]), pad=2)
    axes[1].set_title(f"ℓ₂ {np.linalg.norm(change):.2f}", pad=2, fontsize=7.5, color="#555555")
    wrong = row["prediction"] != row["label"]
    axes[2].set_title(str(row["prediction"]), pad=2, color="#B02A00" if wrong else "black")
    return drawn


def _numbers(row: Any) -> dict[str, Any]:
    change = np.frombuffer(row["perturbed"], dtype="<f4") - np.frombuffer(row["clean"], dtype="<f4")
    keys = ("dataset", "classifier", "attack", "sample", "label", "clean_prediction", "prediction")
    return {key: row[key] for key in keys} | {"l2": float(np.linalg.norm(change)), "linf": float(np.abs(change).max())}
