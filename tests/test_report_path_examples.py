"""Figures of examples of paths, from a fabricated table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.report import path_examples, regions
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Look

POINTS, PICTURES = 9, (0, 4, 8)
NULL = ("verified", "anchors", "length", "share", "margin", "prediction", "pictured", "images")
MEMBERS = [Outcomes("d", f"net--{training}--0", "net", training, 0) for training in ("standard", "robust")]


def path(name: str, margins: list[float | None], pair: int = 0, **own: Any) -> dict[str, Any]:
    """A path in class 3, or 8 where the margin is negative, with grey images of 2 x 3 pixels that grow brighter."""
    pixels = np.linspace(0, 1, len(PICTURES), dtype="<f4")[:, None, None, None] * np.ones((1, 1, 2, 3), dtype="<f4")
    row = {"view": "clean", "kind": "image", "path": name, "pair": pair, "class": 3, "partner": "p", "partner_class": 3}
    row |= {"converged": True, "verified": min(m for m in margins if m is not None) > 0, "anchors": 0, "length": 2.0}
    row |= {"share": np.linspace(0, 1, POINTS), "margin": np.array(margins, dtype=object)}
    row |= {"prediction": np.array([3 if (m or 0) >= 0 else 8 for m in margins]), "pictured": np.array(PICTURES)}
    row |= {"channels": 1, "height": 2, "width": 3, "images": pixels.astype("<f4").tobytes()}
    return row | own


def table(rows: list[dict[str, Any]], outcomes: Outcomes, measurement: str = "path_examples") -> pd.DataFrame:
    own = {"dataset": outcomes.dataset, "classifier": outcomes.classifier, "architecture": outcomes.architecture}
    own |= {"training": outcomes.training, "seed": outcomes.seed, "measurement": measurement, "sample": "s"}
    return pd.DataFrame([own | row for row in rows])


LEAVING: list[float | None] = [2.0, 1.0, 0.5, -0.5, -1.0, -0.5, 0.5, 1.0, 2.0]
STAYING: list[float | None] = [2.0, 1.5, 1.0, 0.6, 0.5, 0.6, 1.0, 1.5, 2.0]
BENT = [path("straight", LEAVING), path("found", STAYING, anchors=3, length=2.5)]
ALIKE = [path("straight", STAYING, 1), path("found", STAYING, 1)]
LOST = [path("straight", LEAVING, 1), path("found", STAYING, 1, converged=False, **dict.fromkeys(NULL))]
ROWS = pd.concat([table(BENT + ALIKE, MEMBERS[0]), table(BENT + LOST, MEMBERS[1])], ignore_index=True)


def drawn(rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[list[Any], list[Figure]]:
    kept: list[Figure] = []
    if monkeypatch is not None:
        original = path_examples.render
        monkeypatch.setattr(path_examples, "render", lambda figure: (kept.append(figure), original(figure))[1])
    return list(path_examples.draw(rows, MEMBERS, Look(MEMBERS, MEMBERS), 0)), kept


def test_curves_and_film_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    (chart,), (figure,) = drawn(ROWS, monkeypatch)
    assert chart.name == "path_examples_image" and chart.section == path_examples.SECTION == regions.SECTION
    assert " d," in chart.caption and "n = 2 pairs a classifier" in chart.caption and "examples" in chart.caption
    assert "No path was found for 1 of 4 pairs" in chart.caption and chart.alt != chart.caption
    assert "for 3 of them" in chart.alt and "-1 " in chart.alt
    data = chart.data
    assert len(data) == 7 * POINTS and set(data["path"]) == {"straight", "found"}
    own = data[(data["classifier"] == MEMBERS[0].classifier) & (data["pair"] == 0) & (data["path"] == "straight")]
    assert own["margin"].tolist() == LEAVING and own["share"].tolist() == np.linspace(0, 1, POINTS).tolist()
    assert own["prediction"].tolist() == [3, 3, 3, 8, 8, 8, 3, 3, 3]
    curves = [axis for axis in figure.axes if len(axis.lines) > 1]
    assert len(curves) == 4
    lines = [[list(line.get_ydata()) for line in axis.lines[1:]] for axis in curves]
    assert lines == [[LEAVING, STAYING], [STAYING, STAYING], [LEAVING, STAYING], [LEAVING]]
    strips = [axis for axis in figure.axes if axis not in curves]
    words = [[text.get_text() for text in axis.texts] for axis in strips]
    assert words[:2] == [["straight", "3", "8", "3"], ["found", "3", "3", "3"]]
    assert words[3] == ["found:\nsame", "3", "3", "3"] and words[-1] == ["found", "no path found"]
    shown = [[float(image.get_array().mean()) for image in axis.images] for axis in strips]
    assert shown[0] == pytest.approx([0, 0.5, 1]) and shown[-1] == []
    centres = [sum(image.get_extent()[:2]) / 2 for image in strips[0].images]
    assert centres == pytest.approx([0, 0.5, 1])  # below the places of the curves that they are from
    assert strips[0].get_xlim() == curves[0].get_xlim()
    assert strips[0].get_position().x0 == curves[0].get_position().x0
    box, size = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0 and box.x1 <= size[0] and box.y1 <= size[1]
    assert drawn(ROWS)[0][0].png == chart.png


def test_a_figure_for_each_kind_view_and_measurement() -> None:
    attacked = [{**row, "view": "df", "kind": "perturbed", "partner_class": 5} for row in BENT]
    pushed = [{**row, "kind": "perturbed"} for row in BENT]
    charts, _ = drawn(table(attacked + pushed + BENT, MEMBERS[0]))
    assert [chart.name for chart in charts] == [f"path_examples_{name}" for name in ("image", "perturbed", "df")]
    assert "df perturbed" in charts[2].caption and len({chart.title for chart in charts}) == 3
    again = pd.concat([table(BENT, MEMBERS[0]), table(BENT, MEMBERS[0], "again")])
    assert [chart.name for chart in drawn(again)[0]] == [
        "path_examples_again_image",
        "path_examples_path_examples_image",
    ]
    assert drawn(ROWS.iloc[:0])[0] == [] and list(path_examples.claims(ROWS, MEMBERS, 0)) == []


def test_unusual_tables() -> None:
    missing = [{**path("straight", [1.0, None, *STAYING[2:]])}, {**path("found", STAYING), "verified": False}]
    (chart,), _ = drawn(table(missing, MEMBERS[0]))
    assert chart.data["margin"].isna().sum() == 1 and "1 of the paths found leave" in chart.caption
    colours = {"channels": 3, "images": np.full((3, 3, 2, 3), 1.5, dtype="<f4").tobytes()}
    flat = [{**row, **colours, "margin": np.full(POINTS, math.inf)} for row in ALIKE]
    (chart,), _ = drawn(table(flat, Outcomes("d", "own", "own", "brought", None)).assign(seed=None))
    assert set(chart.data["classifier"]) == {"own"}


def test_one_of_each_recipe_is_shown() -> None:
    many = [Outcomes("d", f"net--t{i}--{seed}", "net", f"t{i}", seed) for i in range(8) for seed in (0, 1)]
    rows = pd.concat([table(BENT, outcomes) for outcomes in many])
    (chart,) = path_examples.draw(rows, many, Look(many, many), 0)
    assert list(dict.fromkeys(chart.data["classifier"])) == [f"net--t{i}--0" for i in range(path_examples.ROWS)]
    assert f"{path_examples.ROWS} of 16 classifiers" in chart.caption
