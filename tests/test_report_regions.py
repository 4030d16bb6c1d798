"""What the report makes of tables of paths, loops and planes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import loops, regions, slices
from pipeline.report.claims import FAILS, HOLDS, OPEN
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import wilson
from pipeline.report.style import Look

STANDARD, ROBUST = "n--standard--0", "n--robust--0"
OUTCOMES = [Outcomes("d", STANDARD, "n", "standard", 0), Outcomes("d", ROBUST, "n", "robust", 0)]


def look() -> Look:
    return Look(OUTCOMES, OUTCOMES)


def keyed(rows: list[dict[str, Any]], classifier: str, measurement: str) -> pd.DataFrame:
    architecture, training, seed = classifier.split("--")
    own = {"dataset": "d", "classifier": classifier, "architecture": architecture, "training": training}
    own |= {"seed": int(seed), "measurement": measurement}
    return pd.DataFrame([{**own, "sample": f"s{i}", **row} for i, row in enumerate(rows)])


def pair(ratio: float | None, kind: str = "image", entered: bool = True, verified: bool = True) -> dict[str, Any]:
    """A pair whose path is so much longer than the distance; 1: straight; None: not connected."""
    return {
        "view": "clean",
        "kind": kind,
        "entered": entered,
        "converged": ratio is not None,
        "straight": ratio == 1 if entered else None,
        "verified": verified if ratio is not None else None,
        "anchors": None if ratio is None else (0 if ratio == 1 else 3),
        "ratio": ratio,
    }


def pairs(classifier: str = STANDARD, measurement: str = "regions") -> pd.DataFrame:
    rows = [pair(1.0)] * 5 + [pair(1.0004), pair(1.002), pair(1.0006), pair(1.3, verified=False), pair(None)]
    rows += [pair(1.0, "noise"), pair(None, "noise"), pair(None, "noise", entered=False)]
    return keyed(rows, classifier, measurement)


def test_pairs_that_count() -> None:
    images, noise = regions.groups(pairs(), OUTCOMES, 0)
    assert (images.kind, noise.kind) == ("two images", "noise pushed into the class")
    assert images.n == 10 and images.connected == wilson(8, 10) and images.straight == wilson(5, 10)
    assert sorted(images.excess) == pytest.approx([0.0004, 0.0006, 0.002])  # neither straight ones nor unverified
    assert images.median.value == pytest.approx(0.0006) and images.anchors.value == 3
    assert noise.n == 2 and noise.connected == wilson(1, 2) and not len(noise.excess)


def test_charts_and_table_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.concat([pairs(), pairs(ROBUST).assign(view="df", kind="perturbed")], ignore_index=True)
    (shares,) = regions.draw(rows, OUTCOMES, look(), 0)  # three bent paths are no curve
    monkeypatch.setattr(regions, "FEWEST", 3)
    shares, detours = regions.draw(rows, OUTCOMES, look(), 0)
    assert (shares.name, detours.name) == ("regions", "regions_detours")
    assert shares.section == detours.section == regions.SECTION
    assert set(shares.data["kind"]) == {"two images", "noise pushed into the class", "perturbed by df"}
    assert shares.table is not None and detours.table is None
    texts = [[cell.text for cell in row] for row in shares.table.rows]
    assert texts[0] == [STANDARD, "two images", "10", "80.0", "50.0", "3", "3.00", "0.000600"]
    assert "n = 2 to 12 pairs" in shares.caption and "95 % Wilson" in shares.caption and " d " in shares.caption
    assert detours.data["share"].max() == 1 and detours.data["excess"].max() == pytest.approx(0.002)
    twice = pd.concat([pairs(), pairs(measurement="again")], ignore_index=True)
    assert {chart.name for chart in regions.draw(twice, OUTCOMES, look(), 0)} == {
        "regions_regions",
        "regions_regions_detours",
        "regions_again",
        "regions_again_detours",
    }


def test_classifiers_known_from_one_side_only() -> None:
    rows = pairs("m--other--3")
    (chart,) = regions.draw(rows, OUTCOMES, look(), 0)
    assert set(chart.data["classifier"]) == {"m--other--3"} and set(chart.data["seed"]) == {3}
    assert {claim.subject for claim in regions.claims(rows, OUTCOMES, 0)} == {"m--other--3"}
    assert list(regions.draw(rows.iloc[:0], OUTCOMES, look(), 0)) == []
    assert list(regions.claims(rows.iloc[:0], [], 0)) == []


def judged(rows: pd.DataFrame) -> dict[str, tuple[int, float, str]]:
    return {c.key: (c.n, c.estimate.value, c.verdict) for c in regions.claims(rows, OUTCOMES, 0)}


def test_claims_on_regions() -> None:
    found = judged(pairs())
    assert found["connected"] == (12, 9 / 12, FAILS)
    assert found["not_convex"] == (12, 0.5, HOLDS)
    assert found["nearly_straight"][:2] == (3, pytest.approx(0.0006)) and found["nearly_straight"][2] == OPEN
    many = keyed([pair(1.0)] * 100 + [pair(1.0001)] * 100 + [pair(1.0, "perturbed")] * 50, STANDARD, "regions")
    found = judged(many)
    assert found["connected"] == (250, 1.0, HOLDS) and found["not_convex"] == (250, 0.6, HOLDS)
    assert found["nearly_straight"] == (100, pytest.approx(0.0001), HOLDS)
    found = judged(keyed([pair(1.0)] * 200, STANDARD, "regions"))
    assert found["not_convex"] == (200, 1.0, FAILS) and found["nearly_straight"] == (200, 0.0, HOLDS)
    assert judged(keyed([pair(1.5)] * 20, STANDARD, "regions"))["nearly_straight"] == (20, 0.5, FAILS)
    assert judged(keyed([pair(1.0, "noise")], STANDARD, "regions")).keys() == {"connected", "not_convex"}


def loop(connected: bool = True, filled: bool = True, quads: int = 1, deviation: float = 0.0) -> dict[str, Any]:
    return {
        "loop_connected": connected,
        "converged": connected and filled,
        "patch": connected and filled and quads == 1 if connected else None,
        "quads": quads if connected and filled else None,
        "deviation": deviation if connected and filled else None,
    }


def test_loops() -> None:
    rows = keyed([loop()] * 6 + [loop(quads=7, deviation=0.2), loop(filled=False), loop(False)], STANDARD, "loops")
    none = keyed([loop(False)] * 2, ROBUST, "loops")
    (chart,) = loops.draw(pd.concat([rows, none], ignore_index=True), OUTCOMES, look(), 0)
    assert chart.table is not None and chart.section == loops.SECTION and "n = 0 to 8 loops" in chart.caption
    texts = [[cell.text for cell in row] for row in chart.table.rows]
    assert texts[0] == [STANDARD, "9", "8", "87.5", "75.0", "1.86", "0.0286"]
    assert texts[1] == [ROBUST, "2", "0", "–", "–", "–", "–"]
    (claim,) = loops.claims(pd.concat([rows, none], ignore_index=True), OUTCOMES, 0)
    assert (claim.key, claim.subject, claim.n, claim.estimate) == ("simply_connected", STANDARD, 8, wilson(7, 8))
    assert claim.verdict == OPEN
    (claim,) = loops.claims(keyed([loop()] * 100, STANDARD, "loops"), [], 0)
    assert claim.verdict == HOLDS
    (claim,) = loops.claims(keyed([loop(filled=False)] * 10, STANDARD, "loops"), [], 0)
    assert claim.verdict == FAILS
    assert list(loops.draw(rows.iloc[:0], OUTCOMES, look(), 0)) == []


def plane(view: str, points: int = 12) -> dict[str, Any]:
    """Class 3 on the left, 12 on the right; the right quarter lies outside the box."""
    columns = np.arange(points)[None].repeat(points, axis=0)
    return {
        "view": view,
        "label": 3,
        "second": "a",
        "third": "b",
        "anchors_x": np.array([0.0, 1.0, 0.5]),
        "anchors_y": np.array([0.0, 0.0, 9.0]),
        "anchor_classes": np.array([3, 3, 12]),
        "left": -0.5,
        "bottom": -0.5,
        "side": 2.0,
        "points": points,
        "classes": np.where(columns < 6, 3, 12).astype("<i2").tobytes(),
        "margins": np.ones((points, points), dtype="<f4").tobytes(),
        "inside": (columns < 9).astype("u1").tobytes(),
    }


def test_planes() -> None:
    rows = pd.concat(
        [keyed([plane("clean"), plane("clean"), plane("df")], name, "slices") for name in (STANDARD, ROBUST)],
        ignore_index=True,
    )
    rows = rows[(rows["classifier"] == STANDARD) | (rows["sample"] != "s1")]  # one plane is missing
    clean, attacked = slices.draw(rows, OUTCOMES, look(), 0)
    assert (clean.name, attacked.name) == ("slices_clean", "slices_df") and clean.section == slices.SECTION
    assert len(clean.data) == 3 and len(attacked.data) == 2
    assert clean.data["share"].tolist() == pytest.approx([2 / 3] * 3)
    assert clean.data["classes"].tolist() == [2] * 3
    assert "perturbed by df" in attacked.caption and "same predicted class" in clean.caption
    assert list(slices.claims(rows, OUTCOMES, 0)) == [] and list(slices.draw(rows.iloc[:0], OUTCOMES, look(), 0)) == []
    outside = keyed([{**plane("clean"), "inside": bytes(144)}], STANDARD, "slices")
    (chart,) = slices.draw(outside, OUTCOMES, look(), 0)
    assert math.isnan(chart.data["share"].iloc[0])
