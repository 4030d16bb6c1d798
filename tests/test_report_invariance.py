"""Invariance in the report: numbers from made-up tables, and figures that stand on them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import invariance, statistics
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Look

FAMILIES = {"rotation": (10.0, 20.0), "colour": (0.25,), "diffeomorphism": (0.05, 0.1)}


def outcomes(architecture: str, training: str) -> Outcomes:
    return Outcomes("d", f"{architecture}--{training}--0", architecture, training, 0)


def table(member: Outcomes, found: dict[tuple[str, float], Sequence[Sequence[int]]], **own: Any) -> pd.DataFrame:
    """Rows of a classifier; found[family, strength][sample][element] is the prediction, the label 1 throughout."""
    rows = []
    for (family, strength), samples in found.items():
        for sample, predictions in enumerate(samples):
            for element, prediction in enumerate(predictions):
                key = {"dataset": "d", "classifier": member.classifier, "measurement": "m", "sample": f"s{sample}"}
                row = {"family": family, "strength": strength, "element": element, "transform": family}
                row |= {"label": 1, "clean_prediction": 1, "prediction": prediction, "change": None}
                rows.append({**key, **row, "noise_change": None, "pair_change": None, **own})
    frame = pd.DataFrame(rows)
    return frame.assign(
        correct=frame["prediction"] == frame["label"], agrees=frame["prediction"] == frame["clean_prediction"]
    )


def random_table(member: Outcomes, samples: int = 30, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    found = {
        (family, strength): generator.integers(0, 3, size=(samples, 4)).clip(0, 1).tolist()
        for family, strengths in FAMILIES.items()
        for strength in strengths
    }
    frame = table(member, found)
    deformed = frame["family"] == "diffeomorphism"
    for column in ("change", "noise_change", "pair_change"):
        frame[column] = np.where(deformed, generator.exponential(size=len(frame)), np.nan)
    return frame


def test_mean_and_worst_of_an_orbit() -> None:
    member = outcomes("net", "standard")
    rows = table(
        member,
        {
            ("rotation", 10.0): [[1, 1], [1, 0], [1, 1], [0, 0]],
            ("rotation", 20.0): [[1, 1], [1, 1], [0, 1], [1, 1]],
            ("scale", 0.1): [[1], [1], [0], [1]],
        },
    )
    found = invariance.shares(rows, "correct").set_index(["family", "strength", "sample"])
    assert found.loc[("rotation", 10.0), "mean"].tolist() == [1, 0.5, 1, 0]
    assert found.loc[("rotation", 10.0), "worst"].tolist() == [True, False, True, False]
    # what a smaller strength broke stays broken
    assert found.loc[("rotation", 20.0), "worst"].tolist() == [True, False, False, False]
    assert found.loc[("scale", 0.1), "worst"].tolist() == [True, True, False, True]


def test_a_misclassified_image_is_not_correct_in_its_worst_element_but_may_agree() -> None:
    member = outcomes("net", "standard")
    rows = table(member, {("rotation", 10.0): [[1, 1], [0, 0], [0, 1]]})
    rows["clean_prediction"] = [1, 1, 0, 0, 0, 0]
    rows["agrees"] = rows["prediction"] == rows["clean_prediction"]
    rows.loc[rows["sample"] == "s1", "correct"] = True  # every element is right, the clean image is not
    assert invariance.shares(rows, "correct")["worst"].tolist() == [True, False, False]
    assert invariance.shares(rows, "agrees")["worst"].tolist() == [True, True, False]


def test_relative_stability_is_a_ratio_of_medians_of_means() -> None:
    member = outcomes("net", "standard")
    rows = table(member, {("diffeomorphism", 0.1): [[1, 1]] * 5})
    rows["change"] = [1, 3, 2, 2, 10, 30, 0, 2, 4, 4]  # means 2, 2, 20, 1, 4: median 2
    rows["noise_change"] = [8, 8, 4, 4, 5, 5, 6, 6, 1, 1]  # median 5
    rows["pair_change"] = np.repeat([10.0, 20, 30, 40, 50], 2)
    (row,) = invariance.stability(rows, member, 0)
    assert (row["strength"], row["n"], row["stability"]) == (0.1, 5, pytest.approx(0.4))
    assert row["low"] <= 0.4 <= row["high"]
    assert (row["deformation"], row["noise"]) == (pytest.approx(2 / 30), pytest.approx(5 / 30))
    rows["change"] *= 7
    rows["noise_change"] *= 7
    (scaled,) = invariance.stability(rows, member, 0)
    for name in ("stability", "low", "high"):
        assert scaled[name] == pytest.approx(row[name])


def test_stability_of_a_constant_classifier_is_not_known() -> None:
    member = outcomes("net", "standard")
    rows = table(member, {("diffeomorphism", 0.1): [[1, 1]] * 5}, change=0.0, noise_change=0.0, pair_change=0.0)
    (row,) = invariance.stability(rows, member, 0)
    assert math.isnan(row["stability"])
    charts = list(invariance.draw(rows, [member], Look([member], [member]), 0))
    assert charts[0].table.rows[0][-1].text == "–"


def test_charts_hold_the_numbers() -> None:
    members = [outcomes(net, training) for net in ("a", "b") for training in ("standard", "robust", "prime")]
    absent = outcomes("a", "unmeasured")
    frames = [random_table(member, seed=i) for i, member in enumerate(members)]
    everyone = [*members, absent]
    charts = {c.name: c for c in invariance.draw(pd.concat(frames), everyone, Look(everyone, everyone), 0)}
    assert set(charts) == {"invariance_accuracy", "invariance_agreement", "invariance_stability"}
    for chart in charts.values():
        assert chart.section == invariance.SECTION
        assert chart.png.startswith(b"\x89PNG")
        assert "n = 30 images" in chart.caption and " d" in chart.caption and "95 %" in chart.caption
        assert set(chart.data["classifier"]) == {member.classifier for member in members}
    data = charts["invariance_accuracy"].data
    first = data[(data["classifier"] == members[0].classifier) & (data["family"] == "rotation")].set_index(
        ["orbit", "strength"]
    )
    assert first.loc[("mean", 0.0), "share"] == 1
    own = frames[0]
    small = own[(own["family"] == "rotation") & (own["strength"] == 10)]
    assert first.loc[("mean", 10.0), "share"] == pytest.approx(small["correct"].mean())
    whole = own[own["family"] == "rotation"].groupby("sample")["correct"].all()
    found = first.loc[("worst", 20.0)]
    assert (found["share"], found["low"], found["high"]) == statistics.share(whole)
    assert (data["low"] <= data["share"]).all() and (data["share"] <= data["high"]).all()
    table = charts["invariance_accuracy"].table
    assert table is not None and len(table.rows) == 6
    assert [cell.text for cell in table.rows[0]][:3] == [members[0].classifier, "30", "100.0"]
    assert table.rows[0][3].text == f"{100 * whole.mean():.1f}"
    assert [re.sub(r".*, ", "", name) for name in table.headers[3:6]] == [
        "rotation up to 20 [%]",
        "colour up to 0.25 [%]",
        "diffeomorphism up to 0.1 [%]",
    ]


def test_equal_tables_give_equal_figures_and_ids_part_them() -> None:
    member = outcomes("a", "standard")
    rows = random_table(member)
    rows = rows[rows["family"] == "diffeomorphism"]
    look = Look([member], [member])
    one, other = ([(c.name, c.png) for c in invariance.draw(rows, [member], look, 3)] for _ in range(2))
    assert one == other
    twice = pd.concat([rows, rows.assign(measurement="zeros padding")])
    names = [chart.name for chart in invariance.draw(twice, [member], look, 0)]
    assert len(set(names)) == 6
    assert "invariance_accuracy_zeros_padding" in names


def test_a_run_without_deformations_has_no_stability() -> None:
    member = outcomes("a", "standard")
    rows = random_table(member)
    rows = rows[rows["family"] == "rotation"]
    charts = list(invariance.draw(rows, [member], Look([member], [member]), 0))
    assert [chart.name for chart in charts] == ["invariance_accuracy", "invariance_agreement"]
    assert not list(invariance.draw(rows, [outcomes("b", "standard")], Look([member], [member]), 0))
    assert not list(invariance.claims(rows, [member], 0))
