"""Report of margins: maps, pairs of data sets and trainings, margins in subspaces, and the claims on them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline import registry
from pipeline.report import blocks, margin_effects, margins, outcomes, subspace_margins, subspaces
from pipeline.report.claims import CLAIMS, FAILS, HOLDS, OPEN, Claim
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Chart, Look

SAMPLES = 30
SIZES = np.random.default_rng(0).lognormal(0, 0.5, SAMPLES)  # an image's margins, up to the block's factor
CURVE, ENERGY = (0.5, 1.0, 2.0, 4.0), (30.0, 3.0, 0.3, 0.03)
CONFIG: dict[str, Any] = {
    "datasets": {
        "plain": {"root": "downloads"},
        "flipped": {"source": "plain", "root": "downloads", "frequency": "flip"},
        "smooth": {"source": "plain", "root": "downloads", "frequency": {"low_pass": 4}},
    },
    "trainings": {"standard": None, "robust": {"method": "adversarial", "norm": "l2"}, "adversarial_prime": {}},
}
INF = math.inf


def keys(dataset: str, training: str, measurement: str = "margin", architecture: str = "net") -> dict[str, Any]:
    classifier = f"{architecture}--{training}--0"
    own = {"dataset": dataset, "classifier": classifier, "architecture": architecture, "training": training}
    return own | {"seed": 0, "measurement": measurement}


def rows_of(
    key: dict[str, Any],
    curve: Sequence[float] = CURVE,
    energy: Sequence[float] = ENERGY,
    starts: Sequence[tuple[int, int]] = ((0, 0), (2, 2), (4, 4), (6, 6)),
) -> pd.DataFrame:
    """Margins size x factor of a block; the first image is misclassified."""
    rows = []
    for sample, size in enumerate(SIZES):
        for block, (factor, part, (row, column)) in enumerate(zip(curve, energy, starts, strict=True)):
            found = math.isfinite(factor)
            own = {"block": block, "frequency": row, "column": column, "label": 1, "prediction": int(sample > 0)}
            own |= {"correct": sample > 0, "converged": found, "margin": size * factor if found else None}
            rows.append({**key, "sample": f"s{sample}", **own, "energy": part * size})
    return pd.DataFrame(rows)


def table(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True)


def known(rows: pd.DataFrame, kind: str = "dct_margin") -> list[Outcomes]:
    return outcomes.gather({kind: rows})


def claims(rows: pd.DataFrame, config: dict[str, Any] | None = CONFIG) -> list[Claim]:
    return list(margins.claims(rows, known(rows), 0, config))


def one(rows: pd.DataFrame, key: str, config: dict[str, Any] | None = CONFIG) -> Claim:
    (claim,) = [claim for claim in claims(rows, config) if claim.key == key]
    return claim


def across(rows: pd.DataFrame, config: dict[str, Any] = CONFIG) -> dict[str, Chart]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # constrained layout gives up with a warning
        charts = list(margins.draw_across(rows, known(rows), config, 0))
    assert len({chart.name for chart in charts}) == len(charts)
    return {chart.name: chart for chart in charts}


def test_only_correct_images_with_all_blocks_count_and_nulls_are_infinite() -> None:
    rows = rows_of(keys("plain", "standard"), (1, 2, INF, 4))
    rows = rows[~((rows["sample"] == "s5") & (rows["block"] == 3))].sample(frac=1, random_state=1)
    (found,) = blocks.gather(rows, known(rows))
    assert sorted(found.margins.index) == sorted(f"s{i}" for i in range(1, SAMPLES) if i != 5)
    np.testing.assert_allclose(found.margins.loc["s7"], SIZES[7] * np.array([1, 2, INF, 4]))
    assert found.energy is not None
    np.testing.assert_allclose(found.energy.loc["s7"], SIZES[7] * np.array(ENERGY))
    assert found.frequencies == [0, 2, 4, 6]


def test_rows_of_classifiers_that_nothing_else_is_known_of() -> None:
    rows = table(rows_of(keys("plain", "standard")), rows_of(keys("plain", "robust") | {"seed": None}))
    found = blocks.gather(rows, known(rows)[:1])
    assert [b.outcomes.training for b in found] == ["standard", "robust"]
    assert (found[1].outcomes.classifier, found[1].outcomes.seed) == ("net--robust--0", None)
    assert blocks.gather(rows[:0], []) == []


GRID = [(row, column) for row in (0, 2) for column in (0, 2)]


def test_grids_are_told_from_diagonals() -> None:
    plain, grid = rows_of(keys("plain", "standard")), rows_of(keys("plain", "standard", "map"), starts=GRID)
    rows = table(plain, grid)
    assert blocks.grids(rows) == ["map"]
    assert blocks.grids(plain.drop(columns="column")) == []
    old = table(plain.assign(column=None), grid)  # two versions of a table
    assert blocks.grids(old) == ["map"]
    (curve,) = blocks.profiles(blocks.gather(rows, known(rows)))
    assert (curve.measurement, curve.frequencies) == ("margin", [0, 2, 4, 6])
    (curve,) = blocks.profiles(blocks.gather(grid, known(grid)))  # nothing but a grid: its diagonal
    assert curve.starts == [(0, 0), (2, 2)]
    assert curve.margins.loc["s3"].tolist() == pytest.approx([SIZES[3] * CURVE[0], SIZES[3] * CURVE[3]])


def test_maps_show_the_median_of_every_block() -> None:
    parts = [rows_of(keys("plain", name, "map"), (1, 2, INF, 4), starts=GRID) for name in ("standard", "robust")]
    rows = table(*parts, rows_of(keys("plain", "standard")))
    members = known(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (chart,) = margins.draw(rows, members, Look(members, members), 0)
    assert (chart.name, chart.section, len(chart.data)) == ("margin_map_map", margins.SECTION, 8)
    middle = float(np.median(SIZES[1:]))
    shown = chart.data[chart.data["training"] == "robust"].set_index(["row", "column"])
    assert shown["median"].to_dict() == pytest.approx(
        {(0, 0): middle, (0, 2): 2 * middle, (2, 0): INF, (2, 2): 4 * middle}
    )
    assert (shown["low"] <= shown["median"]).all() and (shown["median"] <= shown["high"]).all()
    assert "n = 29 images" in chart.caption
    assert chart.table is not None
    assert [len(row) for row in chart.table.rows] == [len(chart.table.headers)] * 2
    assert chart.table.rows[0][4].text == "∞"
    assert list(margins.draw(parts[0][:0], members, Look(members, members), 0)) == []


def test_data_sets_belong_together_if_they_differ_in_the_map_alone() -> None:
    assert list(blocks.derived(CONFIG, "flip")) == [("plain", "flipped", 0)]
    assert list(blocks.derived(CONFIG, "low_pass")) == [("plain", "smooth", 4)]
    assert list(blocks.derived(CONFIG, "high_pass")) == []
    other = {"source": "plain", "root": "downloads", "seed": 1, "frequency": "flip"}
    assert list(blocks.derived({"datasets": {"plain": {"root": "downloads"}, "other": other}}, "flip")) == []
    assert list(blocks.derived({"datasets": {"a": None, "b": {"source": "a", "frequency": "flip"}}}, "flip")) == [
        ("a", "b", 0)
    ]
    assert list(blocks.derived({}, "flip")) == []


def test_rank_correlation_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 4, (2, 5, 8)).astype(float)
    first[0, :3] = INF
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(blocks.rank_correlation(first, second), expected, atol=1e-12)
    assert blocks.rank_correlation(np.ones(4), np.arange(4.0)) == 0


def test_quotient_of_infinite_margins() -> None:
    found = blocks.quotient(np.array([INF, INF, 1, 3, 0]), np.array([INF, 2, INF, 2, 0]))
    assert found.tolist() == [1, INF, 0, 1.5, 1]


def test_flipped_data_reverse_the_curve_or_do_not() -> None:
    plain = rows_of(keys("plain", "standard"))
    mirror = rows_of(keys("flipped", "standard"), CURVE[::-1])
    claim = one(table(plain, mirror), "flip")
    assert (claim.estimate, claim.verdict, claim.n) == ((1, 1, 1), HOLDS, SAMPLES - 1)
    assert (claim.dataset, claim.subject) == ("flipped", "net--standard--0")
    claim = one(table(plain, rows_of(keys("flipped", "standard"))), "flip")
    assert (claim.estimate, claim.verdict) == ((-1, -1, -1), FAILS)
    assert [c.key for c in claims(table(plain, mirror), None)] == ["frequencies"] * 2  # nobody says what is flipped


def test_images_are_paired_by_their_ids() -> None:
    plain, mirror = rows_of(keys("plain", "standard")), rows_of(keys("flipped", "standard"), CURVE[::-1])
    mirror.loc[mirror["sample"] == "s9", "correct"] = False
    expected = one(table(plain, mirror), "flip")
    assert expected.n == SAMPLES - 2
    assert one(table(mirror.sample(frac=1, random_state=3), plain), "flip") == expected
    renamed = mirror.assign(sample=mirror["sample"] + "x")
    assert [c for c in claims(table(plain, renamed)) if c.key == "flip"] == []
    coarse = mirror[mirror["block"] < 3]  # other blocks cannot be compared
    assert [c for c in claims(table(plain, coarse)) if c.key == "flip"] == []


def test_an_images_blocks_stay_together() -> None:
    """All blocks of an image share its size, so medians of a resample keep their order: no correlation but 1."""
    near = (1.0, 1.01, 1.02, 1.03)
    rows = table(rows_of(keys("plain", "standard"), near), rows_of(keys("flipped", "standard"), near[::-1]))
    assert one(rows, "flip").estimate == (1, 1, 1)


@pytest.mark.parametrize(("factor", "verdict"), [(3.0, HOLDS), (1.5, FAILS), (INF, HOLDS)])
def test_low_passed_data_count_where_they_lack_frequencies(factor: float, verdict: str) -> None:
    gains = (0.5, 1.0, 0.5 * factor, 1.5 * factor)
    low = rows_of(keys("smooth", "standard"), tuple(np.multiply(CURVE, gains)), (30, 3, 0, 0))
    rows = table(rows_of(keys("plain", "standard")), low)
    claim = one(rows, "low_pass")
    assert tuple(claim.estimate) == pytest.approx((factor,) * 3)
    assert claim.verdict == verdict
    chart = across(rows)["margins_low_pass_smooth_margin"]
    assert chart.data["ratio"].tolist() == pytest.approx(gains)
    assert CLAIMS["low_pass"][1] in chart.caption and "below 4" in chart.caption


def test_adversarial_training_against_the_energy_of_the_data() -> None:
    plain = rows_of(keys("plain", "standard"))
    gains = np.array([1.1, 1.5, 2.0, 3.0])
    robust = rows_of(keys("plain", "robust"), tuple(CURVE * gains))
    other = rows_of(keys("plain", "robust", architecture="other"))  # no standard training of that architecture
    rows = table(plain, robust, other)
    claim = one(rows, "adversarial_where_least")
    assert (claim.estimate, claim.verdict) == ((-1, -1, -1), HOLDS)
    assert claim.subject == "net--robust--0 against net--standard--0"
    assert [c.key for c in claims(rows, None)] == ["frequencies"] * 3  # `robust` is no method
    chart = across(rows)["margins_adversarial_margin"]
    assert chart.data["ratio"].tolist() == pytest.approx(gains.tolist())
    assert chart.data["energy"].tolist() == pytest.approx((np.array(ENERGY) * SIZES[1:].mean()).tolist())
    reverse = table(plain, rows_of(keys("plain", "robust"), tuple(CURVE * gains[::-1])))
    assert one(reverse, "adversarial_where_least").verdict == FAILS
    assert across(rows.drop(columns="energy")) == {}


def test_energies_that_are_rounding_are_alike() -> None:
    energy = np.array([30.0, 3.0, 2e-13, 1e-13])
    assert blocks.negligible(energy).tolist() == [False, False, True, True]
    values = np.ones((5, 3, 4))
    values[:, 1], values[:, 2] = [1, 2, 3, 4], energy
    # ranks of the energy: 4, 3, 1.5, 1.5
    assert blocks.against_energy(values) == pytest.approx(
        scipy.stats.spearmanr([1, 2, 3, 4], [4, 3, 1.5, 1.5]).statistic
    )
    low = [rows_of(keys("smooth", name), (1, 2, 3, k), tuple(energy)) for name, k in (("standard", 4), ("robust", 5))]
    assert set(across(table(*low))) == {"margins_adversarial_margin"}


def test_methods_of_adversarial_training_exist() -> None:
    assert set(blocks.ADVERSARIAL) < set(registry.names("training"))


def test_margins_grow_with_frequency_on_natural_data_alone() -> None:
    rows = table(rows_of(keys("plain", "standard")), rows_of(keys("flipped", "standard"), CURVE[::-1]))
    claim = one(rows, "frequencies")
    assert (claim.dataset, claim.verdict) == ("plain", HOLDS)
    assert tuple(claim.estimate) == pytest.approx((8, 8, 8))
    assert one(rows_of(keys("plain", "standard"), CURVE[::-1]), "frequencies").verdict == FAILS


def test_two_measurements_give_two_claims_and_figures() -> None:
    names = ("margin", "boxed")
    rows = table(*(rows_of(keys(d, "standard", name)) for d in ("plain", "flipped") for name in names))
    assert len([c for c in claims(rows) if c.key == "flip"]) == 2
    assert set(across(rows)) == {f"margins_flip_flipped_{name}" for name in names}


def test_figure_of_the_flip_shows_both_curves() -> None:
    rows = table(
        *(rows_of(keys("plain", t, architecture=a)) for t in ("standard", "robust") for a in ("net", "other")),
        *(
            rows_of(keys("flipped", t, architecture=a), CURVE[::-1])
            for t in ("standard", "robust")
            for a in ("net", "other")
        ),
    )
    chart = across(rows)["margins_flip_flipped_margin"]
    assert chart.section == margins.SECTION and CLAIMS["flip"][1] in chart.caption and "n = 29 images" in chart.caption
    middle = float(np.median(SIZES[1:]))
    one_of = chart.data[chart.data["classifier"] == "net--standard--0"]
    assert one_of["normal"].tolist() == pytest.approx([middle * factor for factor in CURVE])
    assert one_of["flipped_reversed"].tolist() == pytest.approx([middle * factor for factor in CURVE])
    assert chart.table is not None
    assert [len(row) for row in chart.table.rows] == [3] * 4


def test_a_single_image_has_no_interval() -> None:
    rows = table(rows_of(keys("plain", "standard")), rows_of(keys("flipped", "standard"), CURVE[::-1]))
    rows = rows[rows["sample"].isin(["s0", "s4"])]
    claim = one(rows, "flip")
    assert (claim.n, claim.verdict) == (1, OPEN)
    assert set(across(rows)) == {"margins_flip_flipped_margin"}


# subspaces

SYNTHETIC: dict[str, Any] = {
    "datasets": {
        "one": {"source": "synthetic", "epsilon": 2},
        "half": {"source": "synthetic", "epsilon": 2, "rho": "1/2"},
        "synthetic": None,
        "images": {"source": "digits"},
    }
}


def spaces(
    dataset: str, found: dict[tuple[str, int], float], training: str = "standard", noise: float = 0
) -> pd.DataFrame:
    """Margins in subspaces, (kind, index) -> factor; the first sample is misclassified."""
    rows = []
    for sample, size in enumerate(1 + noise * (SIZES - np.median(SIZES[1:]))):
        for (kind, index), factor in found.items():
            own = {"subspace": kind, "index": index, "dimension": 1 if kind == "discriminative" else 3}
            own |= {"correct": sample > 0, "converged": math.isfinite(factor)}
            own["margin"] = factor * size if own["converged"] else None
            rows.append({**keys(dataset, training, "spaces"), "sample": f"s{sample}", **own})
    return pd.DataFrame(rows)


def verdicts(rows: pd.DataFrame, config: dict[str, Any] | None = SYNTHETIC) -> dict[str, tuple[float, str]]:
    found = subspace_margins.claims(rows, known(rows, "subspace_margin"), 0, config)
    return {claim.key: (claim.estimate.value, claim.verdict) for claim in found}


def test_defaults_of_the_source_are_those_of_its_signature() -> None:
    options = registry.options("source", "synthetic")
    assert (options["epsilon"].default, options["rho"].default) == (subspaces.EPSILON, subspaces.RHO)
    assert subspaces.features(SYNTHETIC) == {"one": (2, 0), "half": (2, 0.5), "synthetic": (5, 0)}
    assert subspaces.families(SYNTHETIC) == [["one", "half"], ["synthetic"]]
    assert subspaces.features(None) == {} and subspaces.families(None) == []


@pytest.mark.parametrize(("factor", "verdict"), [(1.04, HOLDS), (1.06, FAILS), (0.94, FAILS)])
def test_the_margin_along_the_feature_is_the_datas(factor: float, verdict: str) -> None:
    rows = spaces("one", {("discriminative", 0): 2 * factor, ("complement", 0): 30, ("complement", 1): 50})
    found = verdicts(rows)
    assert found["discriminative"] == (pytest.approx(factor), verdict)
    assert found["orthogonal"] == (pytest.approx(20 / factor), HOLDS)  # median over both subspaces: 40
    assert set(verdicts(rows, None)) == {"orthogonal"}
    assert verdicts(spaces("one", {("discriminative", 0): 2, ("complement", 0): 15}))["orthogonal"] == (7.5, FAILS)
    assert verdicts(spaces("one", {("discriminative", 0): 2, ("complement", 0): INF}))["orthogonal"] == (INF, HOLDS)


@pytest.mark.parametrize(("second", "orthogonal", "verdict"), [(18, 40, HOLDS), (30, 40, FAILS), (INF, INF, FAILS)])
def test_how_near_the_boundary_comes_along_a_second_feature(second: float, orthogonal: float, verdict: str) -> None:
    rows = spaces("half", {("discriminative", 0): 2, ("discriminative", 1): second, ("complement", 0): orthogonal})
    found = verdicts(rows)
    ratio = 1 if second == INF else second / orthogonal
    assert found["elasticity"] == (pytest.approx(ratio), verdict)
    assert "discriminative" not in found  # the widest margin along the first one is larger than epsilon


def test_a_samples_subspaces_stay_together() -> None:
    single = spaces("one", {("complement", 0): 10}, noise=1)
    triple = spaces("one", {("complement", index): 10 for index in range(3)}, noise=1)
    one_of, three = (subspaces.gather(rows, [])[0].median(subspaces.COMPLEMENT, 0) for rows in (single, triple))
    assert one_of == three and one_of[1] == SAMPLES - 1
    assert one_of[0].low < one_of[0].value < one_of[0].high


def test_kinds_are_compared_on_the_samples_that_both_have() -> None:
    rows = spaces("one", {("discriminative", 0): 2, ("complement", 0): 40})
    rows = rows[~((rows["subspace"] == "complement") & rows["sample"].isin(["s1", "s2"]))]
    (claim,) = [c for c in subspace_margins.claims(rows, [], 0, SYNTHETIC) if c.key == "orthogonal"]
    assert (claim.n, claim.estimate.value) == (SAMPLES - 3, 20)


def subspace_charts(rows: pd.DataFrame, config: dict[str, Any] = SYNTHETIC) -> dict[str, Chart]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = list(subspace_margins.draw_across(rows, known(rows, "subspace_margin"), config, 0))
    return {chart.name: chart for chart in charts}


def test_figures_of_synthetic_data() -> None:
    first = spaces("one", {("discriminative", 0): 2.1, ("complement", 0): INF, ("random", 0): 9}, noise=1)
    both = {("discriminative", 0): 2.2, ("discriminative", 1): 7.0, ("complement", 0): 40.0}
    rows = table(first, spaces("half", both, noise=1))
    charts = subspace_charts(rows)
    assert set(charts) == {"subspaces_spaces", "elasticity_one_spaces"}
    chart = charts["subspaces_spaces"]
    for key in ("discriminative", "orthogonal"):
        assert CLAIMS[key][1] in chart.caption
    assert chart.data[chart.data["subspace"] == "discriminative"]["epsilon"].tolist() == [2, 2, 2]
    assert chart.table is not None
    assert [[cell.text for cell in row][1:3] for row in chart.table.rows] == [["half", "29"], ["one", "29"]]
    assert CLAIMS["elasticity"][1] in charts["elasticity_one_spaces"].caption
    assert set(subspace_charts(first)) == {"subspaces_spaces"}  # no second feature, no elasticity
    members = known(rows, "subspace_margin")
    assert list(subspace_margins.draw(rows, members, Look(members, members), 0)) == []  # shown across data sets


def test_figure_of_random_subspaces_of_images() -> None:
    found = {("random", index): 3.0 for index in range(2)}
    rows = table(spaces("images", found, noise=1), spaces("images", found, "robust", noise=1))
    members = known(rows, "subspace_margin")
    for listed in (members, members[:1]):
        (chart,) = subspace_margins.draw(rows, listed, Look(listed, listed), 0)
        assert (chart.name, chart.section, len(chart.data)) == ("subspaces_spaces", subspace_margins.SECTION, 2)
        assert "2 of 3 dimensions" in chart.caption and "epsilon" not in chart.caption
    assert subspace_charts(rows) == {}


def test_every_claim_is_one_of_the_papers() -> None:
    gains = tuple(np.multiply(CURVE, (1, 1, 3, 3)))
    rows = table(
        *(rows_of(keys(dataset, name)) for dataset in ("plain", "flipped") for name in ("standard", "robust")),
        rows_of(keys("smooth", "standard"), gains),
    )
    found = claims(rows)
    second = spaces("half", {("discriminative", 0): 2, ("discriminative", 1): 1, ("complement", 0): 40})
    first = spaces("one", {("discriminative", 0): 2})
    found += subspace_margins.claims(table(first, second), [], 0, SYNTHETIC)
    wanted = {
        "frequencies",
        "flip",
        "low_pass",
        "adversarial_where_least",
        "discriminative",
        "orthogonal",
        "elasticity",
    }
    assert {claim.key for claim in found} == wanted <= set(CLAIMS)
    assert all(claim.estimate.low <= claim.estimate.value <= claim.estimate.high for claim in found)
    (effect,) = margin_effects.low_passes(blocks.gather(rows, []), CONFIG, 0)
    assert (effect.bandwidth, effect.n) == (4, SAMPLES - 1)
