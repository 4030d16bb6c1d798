"""Distances of augmentations to corruptions in the report: numbers from made-up tables, figures that stand on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.report import _nearness, _point_labels, augmentation_distance
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Chart, Look

CORRUPTIONS = ("c.noise", "c.blur", "c.fog", "c.contrast", "c.pixelate", "c.jpeg")


def outcomes(architecture: str, training: str, seed: int = 0, corrupted: pd.DataFrame | None = None) -> Outcomes:
    frame = pd.DataFrame() if corrupted is None else corrupted
    return Outcomes("d", f"{architecture}--{training}--{seed}", architecture, training, seed, corrupted=frame)


def table(member: Outcomes, found: Mapping[tuple[str, str], Sequence[float | None]], **own: Any) -> pd.DataFrame:
    """Rows of a classifier; found[augmentation, corruption][sample] is a distance."""
    key = {"dataset": "d", "classifier": member.classifier, "measurement": "m"}
    kind = {"mode": "per_image", "metric": "cosine", "draws": 50, "severity": 3, "suite": "c", "family": "noise"}
    return pd.DataFrame(
        [
            {**key, "sample": f"s{i}", "augmentation": a, "corruption": c, **kind, "distance": value, **own}
            for (a, c), values in found.items()
            for i, value in enumerate(values)
        ]
    )


def random_table(member: Outcomes, augmentations: Sequence[str], samples: int = 30, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    found: dict[tuple[str, str], Any] = {}
    for place, corruption in enumerate(CORRUPTIONS):
        clean = generator.exponential(size=samples) + 0.1
        found["none", corruption] = clean.tolist()
        for augmentation in augmentations:
            shares = generator.uniform(0.05 + 0.12 * place, 0.25 + 0.12 * place, size=samples)
            found[augmentation, corruption] = (shares * clean).tolist()
    return table(member, found)


def accuracies(level: Mapping[str, float], samples: int = 30, seed: int = 0) -> pd.DataFrame:
    """Correctness under each corruption at severity 3 (and another one that does not count)."""
    generator = np.random.default_rng(seed)
    columns = {(name, s): generator.random(samples) < level[name] for name in level for s in (1, 3)}
    frame = pd.DataFrame(columns, index=[f"s{i}" for i in range(samples)]).astype(float)
    frame.columns = pd.MultiIndex.from_tuples(frame.columns, names=["view", "severity"])
    return frame


def charts_of(rows: pd.DataFrame, members: Sequence[Outcomes], seed: int = 0) -> dict[str, Chart]:
    return {c.name: c for c in augmentation_distance.draw(rows, members, Look(members, members), seed)}


def test_a_relative_distance_is_a_quotient_of_medians_of_the_same_images() -> None:
    member = outcomes("net", "standard")
    rows = table(
        member,
        {("none", "c.fog"): [1.0, 2, 4, 6, None], ("prime", "c.fog"): [0.5, 1, 2, 12, 0.1], ("x", "c.fog"): [3.0] * 5},
    )
    prime, other = _nearness.nearness(rows, member, 0)
    assert prime["clean"] == 3 and prime["clean_low"] <= 3 <= prime["clean_high"]
    assert (prime["relative"], prime["distance"], prime["n"]) == (pytest.approx(0.5), 1.5, 4)
    assert (
        other["relative"] == 1
        and other["high"] >= 1
        and prime["low"] <= 0.5 <= prime["high"]
        and prime["classifier"] == member.classifier
    )
    means = list(_nearness.nearness(rows.assign(mode="mean", metric="l2"), member, 0))
    assert means[0]["relative"] == pytest.approx((15.5 / 4) / (13 / 4))


def test_where_nothing_changes_there_is_no_quotient() -> None:
    member = outcomes("net", "standard")
    rows = table(member, {("none", "c.fog"): [1e-14] * 4, ("prime", "c.fog"): [1e-14] * 4})
    assert all(math.isnan(row["relative"]) for row in _nearness.nearness(rows, member, 0))
    chart = charts_of(rows, [member])["augmentation_distance"]
    assert chart.table is not None and chart.table.rows[0][-1].text == "–"
    unknown = table(member, {("none", "c.fog"): [None] * 4, ("prime", "c.fog"): [None] * 4})
    assert charts_of(unknown, [member]) == {}
    # one corruption hardly moves the features beside what another does: as lengths, by 0.5 % and by 2 %
    for metric, share in (("l2", (0.005, 0.02)), ("cosine", (0.005**2, 0.02**2))):
        found = {(a, c): [s] * 4 for c, s in zip(CORRUPTIONS, (*share, 1.0), strict=False) for a in ("none", "p")}
        known = [
            not math.isnan(row["relative"])
            for row in _nearness.nearness(table(member, found, metric=metric), member, 0)
        ]
        assert known == [False, True, True]
    partly = table(member, {("none", "c.fog"): [1.0, 2, 3], ("p", "c.fog"): [None] * 3, ("q", "c.fog"): [0.5, None, 1]})
    (row,) = _nearness.nearness(partly, member, 0)
    assert (row["augmentation"], row["n"], row["clean"]) == ("q", 2, 2)


def test_gain_is_paired_over_images_and_a_mean_over_seeds() -> None:
    index = ["s0", "s1", "s2", "s3"]
    views = pd.MultiIndex.from_tuples([("c.fog", 3)])

    def correct(*values: float) -> pd.DataFrame:
        return pd.DataFrame(np.array(values)[:, None], index=index[: len(values)], columns=views)

    space = outcomes("net", "standard", 0, correct(0, 0, 1, 1))
    others = [
        outcomes("net", "standard", 1, correct(0, 1, 1, 1)),
        outcomes("net", "prime", 0, correct(1, 1, 1, math.nan)),
        outcomes("other", "prime", 0, correct(0, 0, 0, 0)),
    ]
    rows = table(space, {("none", "c.fog"): [1.0] * 4, ("prime", "c.fog"): [0.3] * 4, ("mine", "c.fog"): [0.2] * 4})
    data = pd.DataFrame(_nearness.nearness(rows, space, 0))
    (gain,) = _nearness.gains(data, space, [space, *others], 0)
    assert (gain["augmentation"], gain["images"]) == ("prime", 3)
    assert gain["gain"] == pytest.approx(1 - (0 + 0.5 + 1) / 3)
    assert gain["nearer"] == pytest.approx(0.7)
    assert gain["gain_low"] <= gain["gain"] <= gain["gain_high"]
    assert list(_nearness.gains(data, space, [space], 0)) == []
    assert list(_nearness.gains(data.assign(severity=5), space, [space, *others], 0)) == []


def test_rank_correlation() -> None:
    generator = np.random.default_rng(0)
    one, noise = generator.normal(size=(2, 12))
    value = _nearness.correlation(one.tolist(), (one + noise).tolist(), 0)
    assert value.value == pytest.approx(scipy.stats.spearmanr(one, one + noise).statistic)
    assert value.low <= value.value <= value.high and value.high - value.low > 0.1
    assert _nearness.correlation([1.0, 2, 2, 4], [1.0, 5, 5, 9], 0).value == pytest.approx(1)
    for few in (
        _nearness.correlation([1.0, 2, 3], [1.0, 2, 3], 0),
        _nearness.correlation([1.0] * 5, [1.0, 2, 3, 4, 5], 0),
    ):
        assert math.isnan(few.value)


def full_run(trainings: Sequence[str]) -> tuple[pd.DataFrame, list[Outcomes]]:
    members, frames = [], []
    for number, net in enumerate(("resnet", "vit")):
        for place, training in enumerate(("standard", *trainings)):
            gain = 0.0 if training == "standard" else 0.4
            level = {c: 0.5 + gain * (1 - i / 6) for i, c in enumerate(CORRUPTIONS)}
            members.append(outcomes(net, training, 0, accuracies(level, 80, 10 * number + place)))
            frames.append(random_table(members[-1], trainings, seed=10 * number + place))
    return pd.concat(frames), members


def test_charts_hold_the_numbers() -> None:
    rows, members = full_run(("prime", "augmix"))
    charts = charts_of(rows, members)
    assert list(charts) == ["augmentation_distance", "augmentation_distance_gain"]
    for chart in charts.values():
        assert chart.section == augmentation_distance.SECTION and chart.png.startswith(b"\x89PNG")
        assert "95 %" in chart.caption and "n = 30 images" in chart.caption and " d" in chart.caption
        assert set(chart.data["classifier"]) == {"resnet--standard--0", "vit--standard--0"}, "their features"
    first = rows[(rows["classifier"] == "resnet--standard--0") & (rows["corruption"] == "c.blur")]
    by_name = first.groupby("augmentation")["distance"].median()
    chart = charts["augmentation_distance"]
    cell = chart.data.set_index(["classifier", "augmentation", "corruption"]).loc[
        ("resnet--standard--0", "prime", "c.blur")
    ]
    assert cell["relative"] == pytest.approx(by_name["prime"] / by_name["none"])
    assert chart.table is not None and len(chart.table.rows) == 2 * 6
    assert [cell.text for cell in chart.table.rows[1]][:3] == ["c.blur", "resnet--standard--0", "30"]
    assert chart.table.rows[1][4].text == f"{cell['relative']:.3f}"
    assert "50 random augmentations" in chart.caption and "cosine" in chart.caption
    gain = charts["augmentation_distance_gain"]
    assert len(gain.data) == 2 * 2 * 6 and gain.table is not None and len(gain.table.rows) == 4
    part = gain.data[(gain.data["architecture"] == "vit") & (gain.data["augmentation"] == "augmix")]
    row = next(r for r in gain.table.rows if [c.text for c in r[:2]] == ["vit", "augmix"])
    rho = scipy.stats.spearmanr(part["nearer"], part["gain"]).statistic
    assert row[3].key == pytest.approx(rho) and rho > 0.5
    assert f"{100 * part['gain'].mean():.1f}" == row[4].text
    view = ("c.fog", 3)
    wanted = members[4].corrupted[view].mean() - members[3].corrupted[view].mean()
    found = gain.data[(gain.data["architecture"] == "vit") & (gain.data["augmentation"] == "prime")]
    assert found.set_index("corruption").loc["c.fog", "gain"] == pytest.approx(wanted)


def test_what_is_shown_when_little_was_measured() -> None:
    rows, members = full_run(("prime",))
    brought = [Outcomes(o.dataset, o.classifier, o.architecture, o.training, o.seed) for o in members]
    assert list(charts_of(rows, brought)) == ["augmentation_distance"], "no accuracy, no gain"
    robust = rows[rows["classifier"] == "vit--prime--0"]
    charts = charts_of(robust, members)
    assert set(charts["augmentation_distance"].data["classifier"]) == {"vit--prime--0"}
    assert charts_of(rows[rows["augmentation"] == "none"], members) == {}
    assert charts_of(rows, members[:0]) == {} and list(augmentation_distance.claims(rows, members, 0)) == []
    two = pd.concat([rows, rows.assign(measurement="other", mode="mean", metric="l2")])
    charts = charts_of(two[two["corruption"].isin(CORRUPTIONS[:2])], members)
    assert set(charts) == {f"augmentation_distance{kind}_{name}" for kind in ("", "_gain") for name in ("m", "other")}
    assert "minimal sample distance" in charts["augmentation_distance_other"].caption
    assert charts["augmentation_distance_gain_other"].table.rows[0][3].text == "–", "two corruptions have no rank"


def test_equal_tables_give_equal_figures() -> None:
    rows, members = full_run(("prime",))
    one, other = ([(c.png, c.svg) for c in charts_of(rows, members, 3).values()] for _ in range(2))
    assert one == other


def test_names_lose_their_suite_only_where_they_stay_apart() -> None:
    member = outcomes("a", "standard")
    clash = {("none", c): [1.0, 2, 3] for c in ("c.fog", "mine.fog")} | {
        ("p", c): [1.0, 1, 1] for c in ("c.fog", "mine.fog")
    }
    svg = charts_of(table(member, clash), [member])["augmentation_distance"].svg.decode()
    assert "<!-- c.fog -->" in svg and "<!-- mine.fog -->" in svg
    apart = charts_of(table(member, {k: v for k, v in clash.items() if k[1] == "c.fog"}), [member])
    assert "<!-- fog -->" in apart["augmentation_distance"].svg.decode()


def test_labels_do_not_cover_each_other_or_points() -> None:
    generator = np.random.default_rng(0)
    points = [tuple(point) for point in generator.uniform((40, 30), (220, 170), size=(19, 2))]
    names = ["brightness"] * 19
    boxes = _point_labels.place(points, names, 260, 200)
    placed = [box for box in boxes if box is not None]
    assert len(placed) >= 17
    dots = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    for place, box in enumerate(placed):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 260 and box[3] <= 200
        for other in [*placed[:place], *dots]:
            assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
    assert _point_labels.place([(5.0, 5.0)], ["a very long name"], 20, 10) == [None]
