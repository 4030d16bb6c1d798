"""The report on curvature and shared directions, from fabricated tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import curvature, shared_directions
from pipeline.report._boundary_points import gather, main, mainly_negative
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import wilson
from pipeline.report.style import Look

NODES = [-4.0, -1.0, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0, 2.0]


def keys(classifier: str, measurement: str, count: int, dataset: str = "d") -> pd.DataFrame:
    architecture, training, seed = classifier.split("--")
    own = {"dataset": dataset, "classifier": classifier, "architecture": architecture, "training": training}
    own |= {"seed": int(seed), "measurement": measurement}
    return pd.DataFrame(
        {**{name: [value] * count for name, value in own.items()}, "sample": [f"s{i}" for i in range(count)]}
    )


def points(
    classifier: str = "net--standard--0", count: int = 40, radii: Sequence[Any] = (0.03, 0.1, 0.3), **own: Any
) -> pd.DataFrame:
    """Points of one classifier, the last of which was not found; curvatures fall with the radius."""
    parts = []
    for radius in radii:
        part = keys(classifier, own.get("measurement", "bends"), count)
        factor = 1.0 if radius is None else 0.1 / radius
        part = part.assign(view="df", radius=radius, exact=radius is None, label=0, prediction=0, other=1)
        part = part.assign(converged=[True] * (count - 1) + [False], distance=0.5, gap=0.0, slope=1.0)
        part = part.assign(smallest=-4 * factor, largest=2 * factor, mean=-0.28 * factor, flat=0.85)
        part = part.assign(asymmetry=0.1, loss_curvature=9.0, nonlinearity=0.2)
        part["negative"] = [0.2 if row % 10 else 0.1 for row in range(count)]
        part["positive"] = [0.1 if row % 10 else 0.2 for row in range(count)]
        part["nodes"] = [[factor * node for node in NODES]] * count
        part["weights"] = [[0.1] * 10] * count
        numbers = [*part.columns[part.columns.get_loc("distance") :]]
        part.loc[count - 1, [name for name in numbers if name not in ("nodes", "weights")]] = math.nan
        part["radius"] = part["radius"].astype(float)
        parts.append(part.assign(**{name: value for name, value in own.items() if name != "measurement"}))
    return pd.concat(parts, ignore_index=True)


def outcomes(*names: str) -> list[Outcomes]:
    return [Outcomes("d", name, *name.split("--")[:2], 0) for name in names]


def test_groups_and_radius() -> None:
    members = outcomes("b--standard--0", "a--standard--0")
    rows = pd.concat([points("a--standard--0"), points("b--standard--0", radii=(0.1, 0.2)), points("c--other--1")])
    found = gather(rows, members)
    assert [p.outcomes.classifier for p in found] == ["b--standard--0", "a--standard--0", "c--other--1"]
    assert [p.radius for p in found] == [0.1, 0.1, 0.1]
    assert found[2].outcomes.training == "other"
    assert len(found[0].at(0.1)) == 39
    exact = gather(points(radii=(None,)), [])[0]
    assert math.isnan(exact.radius)
    assert len(exact.at(exact.radius)) == 39
    small = points("a--standard--0", count=6, measurement="sweep")
    assert {p.measurement for p in main(gather(pd.concat([small, rows]), members))} == {"bends"}


def test_sign_test_leaves_ties_out() -> None:
    rows = pd.DataFrame({"negative": [0.2] * 9 + [0.1, 0.3], "positive": [0.1] * 9 + [0.2, 0.3]})
    found, apart, p = mainly_negative(rows)
    assert (found, apart) == (wilson(9, 10), 10)
    assert p == pytest.approx(2 * (1 + 10) / 2**10)


def test_quantiles_of_a_density() -> None:
    shares = np.array([0.05, 0.2, 0.5, 0.95])
    assert curvature.quantiles([3.0, 1.0, 2.0], [0.1, 0.1, 0.8], shares).tolist() == [1, 2, 2, 3]
    middles = (np.arange(10) + 0.5) / 10
    assert curvature.quantiles(NODES, [0.1] * 10, middles).tolist() == sorted(NODES)


@pytest.mark.parametrize("count", [1, 6])
def test_figures_of_curvature(count: int) -> None:
    names = [f"{net}--{training}--0" for net in ("resnet", "vit") for training in ("standard", "robust", "prime")][
        :count
    ]
    members = outcomes(*names)
    rows = pd.concat([points(name, radii=(None, 0.03, 0.1, 0.3)) for name in names])
    charts = list(curvature.draw(rows, members, Look(members, members), 0))
    assert [chart.name for chart in charts] == ["bends_spectra", "bends_radii"]
    assert all(chart.section == curvature.SECTION and chart.png[:4] == b"\x89PNG" for chart in charts)
    spectra, radii = charts
    assert "radius 0.1" in spectra.caption
    assert "n = 39 images" in spectra.caption
    first = spectra.data[spectra.data["classifier"] == names[0]]
    assert first["median"].tolist() == sorted(NODES)
    assert spectra.table is not None
    assert len(spectra.table.rows) == count
    assert [cell.text for cell in spectra.table.rows[0][:4]] == [names[0], "39", "85.0", "89.7"]
    assert [cell.text for cell in spectra.table.rows[0][5:8]] == ["−0.280", "4.00", "0.100"]
    assert len(radii.data) == 4 * count
    tops = radii.data[radii.data["classifier"] == names[0]].sort_values("radius")["top"].tolist()
    assert tops == pytest.approx([4 / 0.3, 4, 4 / 3, 4])  # the exact one last


def test_one_radius_has_no_sweep_and_unknown_classifiers_are_drawn() -> None:
    rows = points("net--standard--0", radii=(0.1,))
    nobody: list[Outcomes] = []
    charts = list(curvature.draw(rows, nobody, Look(nobody, nobody), 0))
    assert [chart.name for chart in charts] == ["bends_spectra"]
    assert list(curvature.draw(rows[~rows["converged"]], nobody, Look(nobody, nobody), 0)) == []
    assert list(curvature.claims(rows[~rows["converged"]], nobody, 0)) == []
    two = pd.concat([rows, rows.assign(view="other")])
    assert {chart.name for chart in curvature.draw(two, nobody, Look(nobody, nobody), 0)} == {
        "bends_df_spectra",
        "bends_other_spectra",
    }


def test_claims_on_curvature() -> None:
    rows = pd.concat([points("a--standard--0"), points("b--standard--0", flat=0.5, positive=0.3)])
    claims = {(c.key, c.subject): c for c in curvature.claims(rows, [], 0)}
    assert {key: claim.verdict for key, claim in claims.items()} == {
        ("flat", "a--standard--0"): "holds",
        ("flat", "b--standard--0"): "does not hold",
        ("asymmetric", "a--standard--0"): "holds",
        ("asymmetric", "b--standard--0"): "does not hold",
    }
    assert claims["flat", "a--standard--0"].estimate.value == 0.85
    assert claims["asymmetric", "a--standard--0"].estimate == wilson(35, 39)
    assert claims["asymmetric", "a--standard--0"].n == 39


def directions(classifier: str = "net--standard--0", count: int = 40, **own: Any) -> pd.DataFrame:
    """The first half fitted, of the second half all but the last measured."""
    rows = keys(classifier, "shared", count)
    half = count // 2
    rows["view"], rows["role"] = "df", ["fit"] * half + ["test"] * half
    rows["converged"] = [False] * half + [True] * (half - 1) + [False]
    rows = rows.assign(points=half, dimension=4, chance=0.25, projected=0.6, curvature_shared=2.0, curvature_flat=0.1)
    rows = rows.assign(curvature_random=0.3, distance=0.5, noise=2.0, draws=20, flips_random=3, label=0)
    rows["flips_shared"] = [10 + row % 3 for row in range(count)]
    rows["flips_flat"] = [row % 2 for row in range(count)]
    return rows.assign(**own)


def test_numbers_of_shared_directions() -> None:
    rows = directions()
    (found,) = shared_directions.gather(rows, outcomes("net--standard--0"), 0)
    assert len(found.rows) == 19
    assert found.projected.value == 0.6
    measured = rows[rows["converged"]]
    assert found.flips["shared"].value == pytest.approx(measured["flips_shared"].mean() / 20)
    assert found.flips["shared"].low < found.flips["shared"].value < found.flips["shared"].high
    assert found.ratio.value == pytest.approx(measured["flips_shared"].sum() / measured["flips_flat"].sum())
    assert found.ratio.low < found.ratio.value < found.ratio.high


def test_ratio_without_flips() -> None:
    (never,) = shared_directions.gather(directions(flips_flat=0), [], 0)
    assert never.flips["flat"] == wilson(0, 19)
    assert never.ratio.value == math.inf
    assert never.ratio.low == pytest.approx(never.flips["shared"].low / wilson(0, 19).high)
    (nowhere,) = shared_directions.gather(directions(flips_flat=0, flips_shared=0), [], 0)
    assert math.isnan(nowhere.ratio.value)


@pytest.mark.parametrize("count", [1, 6])
def test_figure_of_shared_directions(count: int) -> None:
    names = [f"{net}--{training}--0" for net in ("resnet", "vit") for training in ("standard", "robust", "prime")][
        :count
    ]
    members = outcomes(*names)
    rows = pd.concat([directions(name, flips_flat=0 if name == names[-1] else 1) for name in names])
    (chart,) = shared_directions.draw(rows, members, Look(members, members), 0)
    assert chart.name == "shared"
    assert chart.section == curvature.SECTION
    assert "n = 19 images" in chart.caption
    assert "noise of 4 times" in chart.caption
    assert chart.data["classifier"].tolist() == names
    assert chart.table is not None
    assert [cell.text for cell in chart.table.rows[0][:4]] == [names[0], "19", "0.600", "0.250"]
    assert chart.table.rows[-1][-1].text == "∞"


def test_claims_on_shared_directions() -> None:
    parts = [
        directions("a--x--0"),
        directions("b--x--0", projected=0.3, flips_flat=8),
        directions("c--x--0", flips_flat=0, flips_shared=5),
    ]
    rows = pd.concat(parts)
    claims = {(c.key, c.subject): c for c in shared_directions.claims(rows, [], 0)}
    assert claims["shared_directions", "a--x--0"].estimate.value == pytest.approx(2.4)
    assert {key: claim.verdict for key, claim in claims.items()} == {
        ("shared_directions", "a--x--0"): "holds",
        ("shared_directions", "b--x--0"): "does not hold",
        ("shared_directions", "c--x--0"): "holds",
        ("curved_noise", "a--x--0"): "holds",
        ("curved_noise", "b--x--0"): "does not hold",
        ("curved_noise", "c--x--0"): "undecided",  # 0 of 19 images says less than that
    }
    nothing = directions()
    assert list(shared_directions.claims(nothing[nothing["role"] == "fit"], [], 0)) == []
