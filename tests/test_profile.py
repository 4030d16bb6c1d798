"""The profile: one row per sample from many tables, and what its figures say about planted ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.report import _profile_rows, profile
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Look


def outcomes(architecture: str, training: str, dataset: str = "d") -> Outcomes:
    return Outcomes(dataset, f"{architecture}--{training}--0", architecture, training, 0)


ONE = outcomes("net", "standard")


def rows(member: Outcomes = ONE, **columns: Any) -> pd.DataFrame:
    """A table of one classifier; `sample` numbers the samples, all else is as given."""
    frame = pd.DataFrame({"measurement": "m", **columns})
    names = [f"s{i}" for i in frame.pop("sample")]
    return frame.assign(dataset=member.dataset, classifier=member.classifier, sample=names)


def row(tables: Mapping[str, pd.DataFrame], sample: str = "s0") -> dict[str, Any]:
    frame = profile.joined(tables, [ONE])
    return dict(frame[frame["sample"] == sample].iloc[0])


def test_accuracy_and_corruptions() -> None:
    seen = [("clean", "clean", None), ("fog", "corruption", 1), ("fog", "corruption", 2), ("snow", "corruption", 1)]
    frame = pd.DataFrame(seen, columns=["view", "kind", "severity"])
    table = rows(sample=[0] * 4, **frame.to_dict("list"), correct=[True, True, False, False], confidence=0.25)
    found = row({"accuracy": pd.concat([table, table.assign(measurement="again")])})
    assert (found["correct"], found["confidence"]) == (1, 0.25)
    assert found["corrupted"] == pytest.approx(1 / 3)
    assert list(found)[:6] == ["dataset", "classifier", "architecture", "training", "seed", "sample"]
    assert (found["architecture"], found["training"], found["seed"]) == ("net", "standard", 0)


def test_smallest_norms_are_the_envelope_of_all_attacks() -> None:
    table = rows(
        sample=[0, 0, 0, 1, 1, 1],
        attack=["df", "pgd", "sparse"] * 2,
        norm=["l2", "linf", "l0"] * 2,
        epsilon=[None, 0.1, None] * 2,
        converged=[True, True, True, False, False, False],
        l0_pixels=[60, 64, 3, None, None, None],
        l2=[0.5, 0.4, 2.0, None, None, None],
        linf=[0.3, 0.1, 1.0, None, None, None],
    )
    found = row({"perturbation": table})
    assert [found[f"smallest_{norm}"] for norm in ("l2", "linf", "l0")] == [0.4, 0.1, 3]
    assert found["robust_pgd"] == 0
    safe = row({"perturbation": table}, "s1")
    assert [safe[f"smallest_{norm}"] for norm in ("l2", "linf", "l0")] == [math.inf] * 3
    assert safe["robust_pgd"] == 1
    assert "robust_df" not in found
    without = row({"perturbation": table[table["norm"] != "l0"]})
    assert "smallest_l0" not in without  # no attack sought few pixels


def test_margins() -> None:
    grid = {"frequency": [0, 0, 4], "column": [0, 4, 4], "block": [0, 1, 2]}
    table = rows(sample=[0] * 3, **grid, converged=[True, True, False], margin=[0.5, 0.1, None])
    found = row({"dct_margin": table})
    assert (found["margin_low"], found["margin_high"]) == (0.5, math.inf)
    diagonal = table.drop(columns="column")[table["frequency"] == table["column"]]
    assert row({"dct_margin": diagonal}) == found
    second = row({"dct_margin": pd.concat([table, table.assign(measurement="boxed")])})
    assert {"margin_low_m", "margin_high_boxed"} <= set(second)
    assert "margin_high" not in row({"dct_margin": table[table["frequency"] == 0]})
    both = pd.concat([table[table["frequency"] == table["column"]], table.assign(measurement="map", margin=9.0)])
    assert row({"dct_margin": both}) == found  # the map's own diagonal says nothing new
    own = {"subspace": ["random"] * 3 + ["given"], "index": [0, 1, 2, 0]}
    table = rows(sample=[0] * 4, **own, converged=[True, True, False, True], margin=[3.0, 1.0, None, 7.0])
    found = row({"subspace_margin": table})
    assert (found["margin_random"], found["margin_given"]) == (3, 7)


def test_geometry() -> None:
    swept = rows(
        sample=[0] * 6,
        view=["df", "df", "df", "sdf", "sdf", "sdf"],
        radius=[0.01, 0.1, 1.0] * 2,
        exact=False,
        converged=True,
        mean=[9.0, 1.0, 9.0, 9.0, 3.0, 9.0],
        largest=[9.0, 5.0, 9.0, 9.0, None, 9.0],
    )
    found = row({"curvature": swept})
    assert (found["curvature_mean"], found["curvature_largest"]) == (2, 5)  # the middle radius, mean over attacks
    assert "loss_curvature" not in found
    exact = rows(sample=[0], view="df", radius=[None], exact=True, converged=True, mean=4.0, largest=6.0)
    assert row({"curvature": pd.concat([swept, exact])})["curvature_mean"] == 4
    pairs = rows(
        sample=[0, 0, 0],
        kind=["image", "image", "noise"],
        converged=[True, False, True],
        straight=[True, False, False],
        ratio=[1.2, None, 9.0],
    )
    found = row({"regions": pairs})
    assert (found["connected"], found["straight"], found["detour"]) == (0.5, 0.5, 1.2)
    refuted = row({"regions": pairs.assign(verified=[False, None, None])})
    assert (refuted["connected"], refuted["straight"]) == (0, 0)
    assert math.isnan(refuted["detour"])
    seen = rows(sample=[0] * 3, alpha=[0, 0, 1], adaptive=[False, True, False], radius=0.1, rho=[2.0, 7.0, 7.0])
    assert row({"detection": seen})["detection_rho"] == 2


def test_invariance() -> None:
    own = {"clean_prediction": 1, "label": 1, "correct": [True, True, False, True], "agrees": [True, True, False, True]}
    changes = {"change": [1.0, 3.0, 7.0, 7.0], "noise_change": [4.0, 4.0, None, None]}
    table = rows(sample=[0] * 4, family=["diffeomorphism"] * 2 + ["rotation"] * 2, **own, **changes)
    found = row({"invariance": table})
    assert (found["agreement"], found["invariant"], found["stability"]) == (0.75, 0, 0.5)
    fine = table.assign(correct=True)
    assert row({"invariance": fine})["invariant"] == 1
    assert row({"invariance": fine.assign(clean_prediction=0)})["invariant"] == 0


def test_rows_of_all_tables_stand_together() -> None:
    other = outcomes("net", "robust")
    away = outcomes("net", "standard", "elsewhere")
    margin = {"frequency": 0, "block": 0, "converged": True, "margin": 1.0}
    tables = {
        "invariance": rows(other, sample=[0, 1], clean_prediction=1, label=1, correct=True, agrees=True)
        .assign(change=1.0, noise_change=2.0),
        "dct_margin": pd.concat([rows(member, sample=[1, 2], **margin) for member in (ONE, other, away)]),
        "gallery": rows(ONE, sample=[0]),
        "regions": pd.DataFrame(),
    }  # fmt: skip
    found = profile.joined(tables, [other, ONE])
    assert list(zip(found["classifier"], found["sample"], strict=True)) == [
        *((other.classifier, f"s{i}") for i in range(3)),
        *((ONE.classifier, f"s{i}") for i in (1, 2)),
    ]
    assert found["margin_low"].isna().tolist() == [True, False, False, False, False]
    assert found["stability"].notna().tolist() == [True, True, False, False, False]
    assert set(profile.meanings(found)) == {"margin_low", "agreement", "invariant", "stability"}
    assert profile.joined({}, [ONE]).empty
    assert not list(profile.draw({}, [ONE], Look([ONE], [ONE]), 0))


def planted(members: list[Outcomes], n: int = 60) -> dict[str, pd.DataFrame]:
    """Tables in which the margin follows the smallest l2 norm, and the detour goes against it."""
    generator = np.random.default_rng(0)
    tables: dict[str, list[pd.DataFrame]] = {}
    ids = list(range(n))
    for number, member in enumerate(members):
        size = generator.exponential(size=n) * (1 + number)
        noise = [generator.normal(size=n) for _ in range(5)]
        clean = {"view": "clean", "kind": "clean", "severity": None, "correct": np.arange(n) % 10 > 0}
        attack = {"attack": "df", "norm": "l2", "epsilon": None, "converged": size < 2.5 * (1 + number)}
        found = {
            "accuracy": {**clean, "confidence": generator.uniform(size=n)},
            "perturbation": {**attack, "l2": size, "linf": size / 3, "l0_pixels": 64},
            "dct_margin": {"frequency": 0, "block": 0, "converged": True, "margin": size + 0.1 * noise[0]},
            "curvature": {"radius": 0.1, "converged": True, "mean": noise[1], "largest": noise[1] + noise[2]},
            "regions": {"kind": "image", "converged": True, "straight": True, "ratio": 1 - size + 0.3 * noise[3]},
            "detection": {"alpha": 0, "rho": noise[4]},
        }
        for kind, columns in found.items():
            tables.setdefault(kind, []).append(rows(member, sample=ids, **columns))
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in tables.items()}


@pytest.mark.parametrize("count", [2, 6])
def test_charts_say_what_was_planted(count: int) -> None:
    members = [outcomes(net, training) for net in ("a", "b") for training in ("standard", "robust", "prime")][:count]
    tables = planted(members)
    charts = {chart.name: chart for chart in profile.draw(tables, members, Look(members, members), 0)}
    assert set(charts) == {"profile_correlations", "profile_robustness"}
    for chart in charts.values():
        assert chart.section == profile.SECTION and chart.png.startswith(b"\x89PNG")
        assert "n = 54 images" in chart.caption and "classifies correctly" in chart.caption
    data = charts["profile_robustness"].data.set_index("quantity")
    assert data.loc["margin_low", "low"] > 0.9
    assert data.loc["detour", "high"] < -0.7
    assert data.loc["detection_rho", "low"] < 0 < data.loc["detection_rho", "high"]
    assert data.loc["margin_low", "p_holm"] < 1e-6
    frame = profile.joined(tables, members)
    part = frame[(frame["correct"] == 1) & (frame["classifier"] == members[0].classifier)]
    cells = charts["profile_correlations"].data.set_index(["first", "second"])
    assert not {"connected", "straight", "correct"} & set(cells.index.get_level_values(0))  # the same for all
    if count == 6:
        assert data.loc["margin_low", "across"] == pytest.approx(1)
        assert data.loc["margin_low", "across_p"] == pytest.approx(2 / 720)
        assert "only 6 classifiers" in charts["profile_robustness"].caption
        medians = frame.groupby("classifier", sort=False)[["margin_low", "smallest_l2"]].median()
        summary = profile.summaries(frame, ["margin_low", "smallest_l2", "straight"], members)
        np.testing.assert_allclose(summary[["margin_low", "smallest_l2"]], medians)
        assert (summary["straight"] == 1).all()
    else:
        assert "Right:" not in charts["profile_robustness"].caption
        each = [
            scipy.stats.spearmanr(p["margin_low"], p["smallest_l2"].rank()).statistic
            for _, p in frame[frame["correct"] == 1].groupby("classifier")
        ]
        assert data.loc["margin_low", "correlation"] == pytest.approx(np.mean(each))
    assert len(part) == 54
    table = charts["profile_robustness"].table
    assert table is not None and len(table.headers) == (7 if count == 6 else 4)
    assert len(table.rows) == len(data)


def test_without_attacks_there_is_no_target() -> None:
    members = [outcomes("a", "standard")]
    tables = planted(members)
    del tables["perturbation"]
    (chart,) = profile.draw(tables, members, Look(members, members), 0)
    assert chart.name == "profile_correlations"


def test_every_quantity_has_a_label() -> None:
    for name in ("robust_pgd_l2", "margin_random", "margin_low_boxed", "smallest_l2"):
        assert _profile_rows.label(name)
    assert _profile_rows.label("robust_pgd_l2") == "robust, pgd l2"
    assert _profile_rows.label("margin_low_boxed") == "margin, low freq. boxed"
    assert [_profile_rows.is_share(name) for name in ("robust_x", "agreement", "smallest_l2")] == [True, True, False]
