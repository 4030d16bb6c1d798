"""Trainings over seeds and classifiers pair by pair: closed forms, who is compared with whom, what the page shows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.report import comparisons, outcomes, pairwise, resampling, sections, seeds, statistics, trainings
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Look
from tests.test_report import accuracy, keys, perturbation

N = 60


def gathered(frames: dict[str, list[dict[str, Any]]]) -> list[Outcomes]:
    return outcomes.gather({kind: pd.DataFrame(rows) for kind, rows in frames.items()})


def charts(module: Any, members: list[Outcomes]) -> list[Any]:
    return list(module.draw(members, Look(members, members), 0))


def first(n: int, total: int = N) -> list[bool]:
    """The first n of all are right."""
    return [i < n for i in range(total)]


def test_seeds_that_all_images_agree_on_are_a_t_interval_over_seeds() -> None:
    numbers = np.array([0.2, 0.5, 0.3])
    found = seeds.estimate(np.tile(numbers[:, None], (1, N)), statistics.mean)
    reference = scipy.stats.ttest_1samp(numbers, 0).confidence_interval()
    assert found == pytest.approx((numbers.mean(), reference.low, reference.high))


def test_images_that_all_seeds_agree_on_are_a_t_interval_over_images() -> None:
    values = np.random.default_rng(0).normal(size=N)
    found = seeds.estimate(np.tile(values, (4, 1)), statistics.mean)
    reference = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert found == pytest.approx((values.mean(), reference.low, reference.high))


def test_differences_of_seeds_alone_are_welchs_test() -> None:
    one, other = np.array([0.2, 0.5, 0.3]), np.array([0.9, 0.85, 0.7])
    found = seeds.difference(*(np.tile(part[:, None], (1, N)) for part in (one, other)), statistics.mean)
    reference = scipy.stats.ttest_ind(one, other, equal_var=False)
    interval = reference.confidence_interval()
    assert found.value == pytest.approx((one.mean() - other.mean(), interval.low, interval.high))
    assert found.p == pytest.approx(reference.pvalue)


def test_differences_on_images_alone_are_the_paired_t_test() -> None:
    one, other = np.random.default_rng(1).normal([[0.3], [0.0]], size=(2, N))
    found = seeds.difference(np.tile(one, (2, 1)), np.tile(other, (5, 1)), statistics.mean)
    assert found.p == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue)
    back = seeds.difference(np.tile(other, (5, 1)), np.tile(one, (2, 1)), statistics.mean)
    assert back.p == pytest.approx(found.p)
    assert back.value == pytest.approx((-found.value.value, -found.value.high, -found.value.low))


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.median])
def test_a_seed_more_alike_or_more_images_tell_more(statistic: Any) -> None:
    generator = np.random.default_rng(2)
    values = generator.lognormal(size=(2, 400)) + np.array([[0.0], [0.02]])
    wide = seeds.estimate(values, statistic)
    apart = seeds.estimate(values + np.array([[0.0], [1.0]]), statistic)
    few = seeds.estimate(values[:, :40], statistic)
    assert wide.low < wide.value < wide.high
    assert apart.high - apart.low > 5 * (wide.high - wide.low)
    assert few.high - few.low > wide.high - wide.low
    moved = seeds.estimate(3 * values + 1, statistic)
    assert moved == pytest.approx([3 * part + 1 for part in wide])
    assert seeds.estimate(values, statistic, seed=0) == wide


def test_shares_at_their_limit_have_a_width() -> None:
    found = seeds.estimate(np.ones((3, N)), statistics.mean)
    assert found.value == found.high == 1
    assert 0.9 < found.low < 1
    same = seeds.difference(np.ones((2, N)), np.ones((2, N)), statistics.mean)
    assert same.p == 1 and same.value.value == 0
    assert -0.15 < same.value.low < 0 < same.value.high < 0.15
    opposite = seeds.difference(np.ones((2, N)), np.zeros((2, N)), statistics.mean)
    assert opposite.value.value == opposite.value.high == 1
    assert opposite.p < 1e-6


def test_equal_medians_of_counts_are_no_proof_that_seeds_do_not_matter() -> None:
    generator = np.random.default_rng(3)
    few, many = generator.poisson(4, (2, 1000)), generator.poisson(5, (2, 1000))
    assert set(np.median(few, axis=1)) == {4.0} and set(np.median(many, axis=1)) == {5.0}
    own, gap = seeds.estimate(few, statistics.median), seeds.difference(many, few, statistics.median)
    # Half of what a step hides, with two seeds: t of one degree of freedom.
    half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(1 / 24)
    assert own.low <= 4 - half and own.high >= 4 + half
    assert gap.value.value == 1 and gap.value.low < 0 and gap.p > 0.05
    # Of numbers that are no counts nothing is added.
    continuous = few + np.linspace(0, 1e-6, 1000)
    assert seeds.estimate(continuous, statistics.median).high - own.low < own.high - own.low


def test_infinite_medians_have_no_interval() -> None:
    values = np.ones((2, N))
    values[1] = math.inf
    found = seeds.estimate(values, statistics.median)
    assert found.value == math.inf and math.isnan(found.low) and math.isnan(found.high)
    gap = seeds.difference(values, np.ones((2, N)), statistics.median)
    assert gap.value.value == math.inf and math.isnan(gap.p)
    # Half of the resamples have more than half of their images infinite.
    values = np.ones((2, N))
    values[:, : N // 2 - 1] = math.inf
    near = seeds.estimate(values, statistics.median)
    assert near.value == 1 and math.isnan(near.high)


def test_deviation() -> None:
    value, low, high = seeds.deviation([1.0, 2.0, 3.0])
    assert (value, low, high) == pytest.approx((1, math.sqrt(2 / 7.377759), math.sqrt(2 / 0.0506356)))
    assert all(math.isnan(part) for part in seeds.deviation([1.0]))
    assert all(math.isnan(part) for part in seeds.deviation([1.0, math.inf]))
    assert seeds.deviation([0.5, 0.5])[0] == 0 and math.isnan(seeds.deviation([0.5, 0.5]).high)


def test_calibration_error_is_that_of_statistics() -> None:
    generator = np.random.default_rng(3)
    confidence, correct = generator.random(300), (generator.random(300) < 0.5).astype(float)
    found = resampling.calibration_error(confidence, correct, 0)
    assert found.value == pytest.approx(statistics.calibration_error(np.stack([confidence, correct], -1)))
    assert 0 < found.low < found.value < found.high


def frames() -> dict[str, list[dict[str, Any]]]:
    """Two trainings of two seeds and one of a single seed, one brought classifier; in the second data set, no pair."""
    found: dict[str, list[dict[str, Any]]] = {"accuracy": [], "perturbation": []}
    for training, seed, right in (("standard", 0, 40), ("standard", 1, 44), ("x", 0, 50), ("x", 1, 52), ("one", 0, 30)):
        key = keys("d", "a", training, seed)
        found["accuracy"] += accuracy(key, first(right)) + accuracy(key, first(right - 20), "fog", 1)
        norms = [0.01 * i + (training == "x") + 0.1 * seed for i in range(N)]
        found["perturbation"] += perturbation(key, "deepfool", "l2", None, norms)
        found["perturbation"] += perturbation(
            key, "pgd", "linf", 0.5, [math.inf if r else 0.1 for r in first(right - 30)]
        )
    brought = {**keys("d", "b", "brought"), "seed": None, "classifier": "mine"}
    found["accuracy"] += accuracy(brought, first(35))
    for training in ("standard", "x"):
        found["accuracy"] += accuracy(keys("e", "a", training), first(20 if training == "x" else 45))
    return found


def members(dataset: str = "d") -> list[Outcomes]:
    return outcomes.shared(gathered(frames()), dataset)


def test_trainings_are_means_over_their_seeds() -> None:
    found = {(t.members[0].training, t.measure.header): t for t in trainings.trainings(members(), 0)}
    assert {training for training, _ in found} == {"standard", "x"}
    clean = found["standard", "Clean accuracy [%]"]
    assert clean.mean.value == pytest.approx(42 / 60)
    assert clean.deviation.value == pytest.approx(np.std([40 / 60, 44 / 60], ddof=1))
    assert [value.value for value in clean.each] == pytest.approx([40 / 60, 44 / 60])
    assert clean.each[0] == statistics.wilson(40, 60)
    assert all(clean.mean.low < value.value < clean.mean.high for value in clean.each)
    values = {header: t.mean.value for (training, header), t in found.items() if training == "x"}
    assert list(values.values()) == pytest.approx([51 / 60, 31 / 60, 21 / 60, 1.295 + 0.05])
    assert [header.partition(",")[0] for header in values] == [
        "Clean accuracy [%]",
        "Mean corrupted accuracy [%]",
        "Worst-case robust accuracy [%]",
        "Median ℓ₂",
    ]


def test_gaps_of_trainings() -> None:
    found = trainings.gaps(trainings.trainings(members(), 0), 0)
    assert [(gap.one.members[0].training, gap.other.members[0].training) for gap in found] == [("x", "standard")] * 4
    assert [gap.gap.value for gap in found] == pytest.approx([9 / 60, 9 / 60, 9 / 60, 1.0])
    assert [gap.adjusted for gap in found] == pytest.approx(statistics.holm([gap.p for gap in found]))
    assert all((gap.p < 0.05) == (gap.gap.low > 0) for gap in found)
    assert all(gap.verdict in ("higher", "no difference shown") for gap in found)


def test_only_images_and_threats_that_seeds_share_count() -> None:
    found = frames()
    found["accuracy"] = [r for r in found["accuracy"] if (r["seed"], r["training"]) != (1, "x") or r["sample"] < "s5"]
    other = keys("d", "a", "x", 1)
    found["perturbation"] += perturbation(other, "square", "linf", 0.5, [math.inf] * N)
    for training in trainings.trainings(outcomes.shared(gathered(found), "d"), 0):
        if training.members[0].training == "x":
            assert training.measure.header != "Worst-case robust accuracy [%]", "of other attacks than the others'"
            assert len(training.table) == (
                N if "Median" in training.measure.header else sum(f"s{i}" < "s5" for i in range(N))
            )


def test_charts_of_trainings() -> None:
    overview, apart = charts(trainings, members())
    assert (overview.name, apart.name) == ("trainings", "trainings_apart")
    assert "n = 60 images" in overview.caption and "2 seeds" in overview.caption
    assert [row[1].text for row in overview.table.rows] == ["standard", "x"]
    assert {len(row) for row in overview.table.rows} == {len(overview.table.headers)} == {12}
    assert overview.table.rows[0][4].text == "70.0" and overview.table.rows[0][4].limits.startswith("[")
    assert len(overview.data) == 2 * 4 * 3 and overview.data["seeds"].notna().sum() == 8
    assert len(apart.data) == len(apart.table.rows) == 4
    assert (apart.data["difference"] > 0).all()
    again = charts(trainings, members())
    assert [(c.png, c.vector, c.caption) for c in again] == [(c.png, c.vector, c.caption) for c in (overview, apart)]


def test_a_single_seed_shows_no_spread() -> None:
    assert charts(trainings, members("e")) == []
    (chart,) = charts(pairwise, members("e"))
    assert "One seed a training: nothing is known" in chart.caption
    (chart,) = charts(pairwise, members("d"))
    assert "One seed" not in chart.caption
    few = {
        "accuracy": accuracy(keys("d", "a", "standard", 0), first(9))
        + accuracy(keys("d", "a", "standard", 1), first(8))
    }
    assert [chart.name for chart in charts(trainings, gathered(few))] == ["trainings"], "nothing to compare with"


def test_infinite_medians_are_drawn_and_tabled() -> None:
    rows: list[dict[str, Any]] = []
    for training, seed in itertools.product(("standard", "x"), (0, 1)):
        norms = [math.inf if training == "x" else 0.01 * (i + 1) for i in range(N)]
        rows += perturbation(keys("d", "a", training, seed), "deepfool", "l2", None, norms)
    overview, apart = charts(trainings, gathered({"perturbation": rows}))
    assert overview.table.rows[1][4].text == "∞"
    assert apart.table.rows[0][-1].text == "no difference shown"


def classifiers(shares: list[int], total: int = 200) -> list[Outcomes]:
    """Each gets a run of the images right, from a place of its own on."""
    rows: list[dict[str, Any]] = []
    for place, right in enumerate(shares):
        rows += accuracy(keys("d", "a", f"t{place:02d}"), np.roll(np.arange(total) < right, 3 * place).tolist())
    return gathered({"accuracy": rows})


def test_pairs_agree_with_rank_sets() -> None:
    everyone = classifiers([150, 60, 148, 110, 112])
    found = comparisons.pairs(everyone)
    assert len(found) == 10 and all(gap.gap.value >= 0 for gap in found)
    assert [gap.adjusted for gap in found] == statistics.holm([gap.p for gap in found])
    assert any(gap.p < gap.adjusted < 1 for gap in found)
    assert list(dict.fromkeys(gap.classifier for gap in found))[:2] == ["a--t00--0", "a--t02--0"]
    names = [o.classifier for o in everyone]
    better, worse = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for gap in found:
        if gap.adjusted < 0.05:
            better[gap.reference] += 1
            worse[gap.classifier] += 1
    sets = statistics.rank_sets([o.clean["correct"] for o in everyone if o.clean is not None])
    assert [(1 + better[name], len(names) - worse[name]) for name in names] == sets
    assert sets[0] == sets[2] == (1, 2) and sets[1] == (5, 5)


def test_pairs_of_many_are_neighbours_adjusted_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    many = classifiers([190 - 7 * i for i in range(14)])
    found = comparisons.pairs(many)
    assert [(gap.classifier, gap.reference) for gap in found] == [
        (f"a--t{i:02d}--0", f"a--t{i + 1:02d}--0") for i in range(13)
    ]
    (chart,) = charts(pairwise, many)
    assert "neighbours in rank alone" in chart.caption and len(chart.data) == 13
    assert comparisons.pairs(many[:1]) == []
    monkeypatch.setattr(comparisons, "MOST", 14)
    every = comparisons.pairs(many)
    assert len(every) == 91 and [gap for gap in every if gap in found] == found


def test_ties_are_pairs_without_a_difference() -> None:
    tied = [*classifiers([120]), *classifiers([120])]
    tied[1] = Outcomes(**{**vars(tied[1]), "classifier": "other"})
    (gap,) = comparisons.pairs(tied)
    assert gap.gap.value == 0 and gap.gap.low < 0 < gap.gap.high
    assert gap.p == gap.adjusted == 1 and gap.verdict == "no difference shown"
    (chart,) = charts(pairwise, tied)
    assert chart.table.rows[0][-1].text == "no difference shown"


def test_matrix_is_of_every_pair() -> None:
    (chart,) = charts(pairwise, classifiers([150, 60, 148]))
    assert len(chart.data) == len(chart.table.rows) == 3
    assert list(chart.data["difference"]) == pytest.approx([0.01, 0.45, 0.44])
    assert "3 pairs of 3 classifiers, 2 of them told apart" in chart.alt
    assert "n = 200 images" in chart.caption


def test_sections_are_drawn_and_explained() -> None:
    everyone = gathered(frames())
    found = {
        dataset: [(chart.name, chart.section) for chart in sections.draw({}, members(dataset), everyone, dataset, 0)]
        for dataset in ("d", "e")
    }
    one, other = pairwise.SECTION, trainings.SECTION
    assert found == {"d": [("pairs", one), ("trainings", other), ("trainings_apart", other)], "e": [("pairs", one)]}
    assert list(sections.texts())[:2] == [one, other]
    assert sections.texts()[other] == trainings.TEXT and pairwise.TEXT.endswith(".")
