"""Errors under corruption: exact on tables with known errors, intervals, baselines, and what reaches page and files."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.contracts import UserError
from pipeline.report import (
    baseline,
    comparisons,
    corruption_calibration,
    corruption_measures,
    corruptions,
    figures,
    leaderboard,
    outcomes,
    profile,
    resampling,
    seed_claims,
    statistics,
)
from pipeline.report.corruption_measures import Difference, Errors
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Chart, Look
from tests.test_report import keys, run, write

FAMILIES = {"fog": "weather", "snow": "weather", "shot_noise": "noise", "contrast": "digital", "lines": "pattern"}


def rows(
    training: str,
    wrong: dict[tuple[str, int], int],
    n: int = 20,
    clean: int | None = 0,
    new: bool = True,
    **own: Any,
) -> list[dict[str, Any]]:
    """Rows of one classifier, of whose n images the first few are misclassified: (view, severity) -> how many."""
    key = keys(own.get("dataset", "d"), own.get("architecture", "a"), training, own.get("seed", 0))
    given = {**({("clean", 0): clean} if clean is not None else {}), **wrong}
    found = []
    for (view, severity), errors in given.items():
        kind = "clean" if view == "clean" else "corruption"
        suite, point, name = view.rpartition(".")
        details = {"suite": suite if point else "corruptions", "family": FAMILIES.get(name)} if new else {}
        details = details if kind == "corruption" or not new else {"suite": None, "family": None}
        for i in range(n):
            row = {"view": view, "kind": kind, "severity": severity or None, "label": 1, "prediction": int(i >= errors)}
            found.append({**key, "sample": f"s{i:04d}", **row, **details, "correct": i >= errors, "confidence": 0.9})
    return found


def gathered(*tables: list[dict[str, Any]]) -> list[Outcomes]:
    return outcomes.gather({"accuracy": pd.DataFrame([row for table in tables for row in table])})


def measured(members: list[Outcomes], config: dict[str, Any] | None = None) -> dict[tuple[str, str], Errors]:
    return {(e.outcomes.training, e.suite): e for e in corruption_measures.everything(members, config, 0)}


STANDARD = {("c.fog", 1): 2, ("c.fog", 2): 6, ("c.shot_noise", 1): 4, ("c.shot_noise", 2): 12}
OTHER = {("c.fog", 1): 1, ("c.fog", 2): 3, ("c.shot_noise", 1): 8, ("c.shot_noise", 2): 12}


def test_numbers_by_hand() -> None:
    found = measured(gathered(rows("standard", STANDARD, clean=1), rows("prime", OTHER, clean=0)))
    one, other = found["standard", "c"], found["prime", "c"]
    assert one.baseline == other.baseline == "a--standard--0" and one.n == 20
    assert one.mean.value == pytest.approx(24 / 80) and other.mean.value == pytest.approx(24 / 80)
    assert one.mce == one.relative == (1, 1, 1)
    assert other.mce.value == pytest.approx((4 / 8 + 20 / 16) / 2)
    assert other.relative.value == pytest.approx((4 / (8 - 2) + 20 / (16 - 2)) / 2)
    assert {name: value.value for name, value in other.families.items()} == pytest.approx(
        {"weather": 1 - 4 / 40, "noise": 1 - 20 / 40}
    )
    assert {name: value.value for name, value in other.corruptions.items()} == pytest.approx(
        {"c.fog": 1 - 4 / 40, "c.shot_noise": 1 - 20 / 40}
    )
    for value in (one.mean, other.mean, other.mce, other.relative, *other.families.values()):
        assert value.low < value.value < value.high
    assert not one.notes and not other.notes


def test_what_divides_by_nothing_is_missing_with_a_note() -> None:
    base = {("c.fog", 1): 0, ("c.shot_noise", 1): 3}
    found = measured(
        gathered(rows("standard", base, clean=3), rows("prime", {("c.fog", 1): 2, ("c.shot_noise", 1): 3}))
    )
    one = found["prime", "c"]
    assert all(math.isnan(part) for part in (*one.mce, *one.relative)) and one.mean.value == pytest.approx(5 / 40)
    assert one.notes == [
        "no mCE: a--standard--0 makes no error under c.fog",
        "no relative mCE: a--standard--0 is no worse than on clean images under c.fog, c.shot_noise",
    ]
    (alone,) = measured(gathered(rows("standard", {("fog", 1): 4}, clean=None))).values()
    assert alone.suite == "corruptions" and alone.mce.value == 1 and math.isnan(alone.relative.value)
    assert alone.notes == ["no relative mCE: no clean images of the same samples"]


def test_a_ratio_near_nothing_has_no_interval() -> None:
    members = gathered(rows("standard", {("c.fog", 1): 1}), rows("prime", {("c.fog", 1): 5}))
    one = measured(members)["prime", "c"]
    assert one.mce.value == 5 and math.isnan(one.mce.low)
    assert "no interval of the mCE: in more than 1 % of the resamples it divides by 0 or less" in one.notes


def test_published_baseline() -> None:
    given = baseline.load("alexnet")
    assert len(given.errors) == 19 and given.clean == 0.4345 and len(given.sha256) == 64
    means = {name: sum(errors) / 5 for name, errors in given.errors.items()}
    assert means["gaussian_noise"] == pytest.approx(0.886428) and means["jpeg_compression"] == pytest.approx(0.6065)
    assert sum(means[name] for name in corruptions.COMMON) / 15 == pytest.approx(0.788993, abs=1e-6)
    wrong = {(f"c.{name}", severity): 5 for name in ("fog", "snow") for severity in (1, 2)}
    members = gathered(rows("standard", wrong | {("c_bar.lines", 1): 3}))
    found = measured(members, {"baseline": "alexnet"})
    fog, snow = (sum(given.errors[name][:2]) for name in ("fog", "snow"))
    assert found["standard", "c"].mce.value == pytest.approx((0.5 / fog + 0.5 / snow) / 2)
    expected = (0.5 / (fog - 2 * 0.4345) + 0.5 / (snow - 2 * 0.4345)) / 2
    assert found["standard", "c"].relative.value == pytest.approx(expected)
    bar = found["standard", "c_bar"]
    assert math.isnan(bar.mce.value) and bar.notes == ["no mCE: alexnet was not measured on c_bar.lines"]
    renamed = gathered(rows("standard", {("mist", 1): 5}))
    config = {"baseline": "alexnet", "corruptions": {"mist": {"method": "fog"}}}
    assert measured(renamed, config)["standard", "corruptions"].mce.value == pytest.approx(0.25 / 0.67474)


def test_which_baseline() -> None:
    tables = [rows("prime", OTHER), rows("standard", STANDARD), rows("prime", OTHER, dataset="e")]
    members = gathered(*tables)
    first, second = outcomes.shared(members, "d"), outcomes.shared(members, "e")
    assert baseline.choose(first, None).name == baseline.choose(first, {"baseline": None}).name == "a--standard--0"
    assert baseline.choose(first, {"baseline": "a--prime--0"}).name == "a--prime--0"
    assert baseline.choose(second, {"baseline": "a--standard--0"}).name == "a--prime--0", "as `e` has no standard one"
    assert baseline.mistake({"baseline": "a--standard--0"}, members) is None
    board = leaderboard.build(members)
    header = next(column.header for column in board.columns if column.name == "mce")
    assert header == "mCE [%, a--standard--0 on d; a--prime--0 on e = 100]"


def test_unknown_baseline_is_one_line(tmp_path: Any) -> None:
    tables = write(tmp_path / "tables", {"accuracy": pd.DataFrame(rows("standard", STANDARD))})
    with pytest.raises(UserError) as error:
        run(tmp_path / "out", tables, spec={"baseline": "alexnett"})
    assert "\n" not in str(error.value)
    for word in ("alexnett", "a--standard--0", "(alexnet)"):
        assert word in str(error.value)


def test_missing_views_and_suites() -> None:
    lacking = {view: errors for view, errors in OTHER.items() if view != ("c.fog", 2)}
    bar = {("c_bar.lines", 1): 7}
    members = gathered(rows("standard", STANDARD | bar), rows("prime", lacking), rows("mixed", bar))
    found = measured(members)
    assert set(found) == {("standard", "c"), ("standard", "c_bar"), ("prime", "c"), ("mixed", "c_bar")}
    assert found["prime", "c"].notes[0] == "lacks 1 of 4 views"
    assert found["prime", "c"].mce.value == pytest.approx((1 / 2 + 20 / 16) / 2), "on the views that it has"
    members = gathered(rows("standard", lacking), rows("prime", OTHER))
    one = measured(members)["prime", "c"]
    assert math.isnan(one.mce.value) and one.notes == ["no mCE: a--standard--0 was not measured on c.fog"]


def test_samples_that_the_baseline_lacks_do_not_count_in_the_ratio() -> None:
    members = gathered(rows("standard", {("c.fog", 1): 5}, n=10), rows("prime", {("c.fog", 1): 2}, n=20))
    one = measured(members)["prime", "c"]
    assert (one.n, one.mean.value, one.mce.value) == (20, pytest.approx(0.1), pytest.approx(2 / 5))


def test_old_tables_have_their_suites_in_the_ids() -> None:
    members = gathered(rows("standard", STANDARD | {("fog", 1): 3}, new=False))
    assert outcomes.suites(members) == ["c", "corruptions"] and members[0].families == {}
    assert set(measured(members)["standard", "c"].families) == {corruption_measures.UNKNOWN}


def bernoulli(generator: np.random.Generator, n: int, easier: float = 0.0) -> list[Outcomes]:
    hard = generator.normal(size=n)
    tables = []
    for training, level in (("standard", 0.3), ("prime", 0.3 + easier)):
        for view in ("c.fog", "c.snow"):
            right = hard + generator.normal(size=n) < level
            for i in range(n):
                own = {"view": view, "kind": "corruption", "severity": 1, "correct": right[i], "confidence": 0.7}
                tables.append({**keys("d", "a", training), "sample": f"s{i}", **own})
    return gathered(tables)


def test_intervals_cover_and_shrink() -> None:
    truth = 1 - 0.5 * (1 + math.erf(0.3 / math.sqrt(2) / math.sqrt(2)))
    hits = ratios = 0
    for trial in range(60):
        members = bernoulli(np.random.default_rng(trial), 80)
        one = measured(members)["prime", "c"]
        hits += one.mean.low <= truth <= one.mean.high
        ratios += one.mce.low <= 1 <= one.mce.high
    assert hits >= 51 and ratios >= 51  # of 57 expected; 51 leaves 3 standard deviations
    few, many = (measured(bernoulli(np.random.default_rng(1), n))["prime", "c"] for n in (100, 1600))
    for name in ("mean", "mce"):
        wide, narrow = (getattr(e, name).high - getattr(e, name).low for e in (few, many))
        assert 2 < wide / narrow < 10  # 4 expected


def test_interval_of_a_mean_is_scipys_bca() -> None:
    values = np.random.default_rng(0).exponential(size=(60, 1))
    (draws,) = resampling.draw([pd.DataFrame(values)], 1, 20000)
    ours = draws.interval(lambda means: means[..., 0])
    theirs = statistics.bootstrap(values[:, 0], statistics.mean, seed=1, resamples=20000)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low))
    (lone,) = resampling.draw([pd.DataFrame([[0.3]])], 1)
    value = lone.interval(lambda means: means[..., 0])
    assert value.value == 0.3 and math.isnan(value.low)


def test_tables_of_the_same_samples_are_resampled_together() -> None:
    values = pd.DataFrame(np.random.default_rng(0).random((50, 2)))
    same, shuffled, part = resampling.draw([values, values.sample(frac=1, random_state=1), values[:30]], 3)
    np.testing.assert_allclose(same.resampled, shuffled.resampled)
    assert part.resampled.shape == (statistics.RESAMPLES, 2)
    assert part.resampled.mean(axis=0) == pytest.approx(values[:30].mean().to_numpy(), abs=0.01)


def test_planted_difference_is_found_and_none_is_not() -> None:
    (planted,) = corruption_measures.differences(bernoulli(np.random.default_rng(5), 300, easier=0.5), "c", 0)
    assert (planted.one, planted.other, planted.n) == ("a--prime--0", "a--standard--0", 300)
    assert planted.gap.high < 0 and planted.adjusted < 0.001 and planted.verdict == "fewer errors"
    found = [corruption_measures.differences(bernoulli(np.random.default_rng(s), 60), "c", s)[0] for s in range(40)]
    assert sum(difference.real for difference in found) <= 6  # 2 expected
    assert sum(d.gap.low <= 0 <= d.gap.high for d in found) >= 33


def test_differences_are_within_architecture_and_seed_and_adjusted() -> None:
    more = {view: errors + 1 for view, errors in STANDARD.items()}
    tables = [rows("standard", STANDARD), rows("prime", OTHER), rows("mixed", more), rows("prime", OTHER, seed=1)]
    members = gathered(*tables, rows("standard", STANDARD, architecture="b"))
    found = corruption_measures.differences(members, "c", 0)
    assert [(d.one, d.other) for d in found] == [
        ("a--mixed--0", "a--standard--0"),
        ("a--prime--0", "a--standard--0"),
        ("a--prime--0", "a--mixed--0"),
    ]
    assert found[0].gap.value == pytest.approx(0.05) and found[1].gap.value == pytest.approx(0)
    assert [d.adjusted for d in found] == pytest.approx(statistics.holm([d.p for d in found]))


def test_a_difference_is_real_if_test_and_interval_say_so() -> None:
    for low, high, p, real in ((-2, -0.1, 0.01, True), (-2, 0.1, 0.01, False), (-2, -0.1, 0.06, False)):
        difference = Difference("a", "b", 10, statistics.Interval(-1, low, high), p, p)
        assert difference.real is real and difference.verdict == ("fewer errors" if real else "no difference shown")


def test_sign_flips_of_many_are_those_of_one() -> None:
    gaps = np.random.default_rng(0).normal(0.2, 1, size=(40, 3))
    many = statistics.sign_flip_tests(gaps, seed=4)
    assert many == [statistics.sign_flip_test(gaps[:, i], np.zeros(40), seed=4) for i in range(3)]


def test_calibration_per_severity() -> None:
    table = pd.DataFrame(rows("standard", {("c.fog", 1): 4, ("c.snow", 1): 0, ("c.fog", 2): 10}, clean=2))
    table.loc[(table["view"] == "c.snow") & (table["sample"] > "s0009"), "confidence"] = math.nan
    (one,) = outcomes.gather({"accuracy": table})
    found = corruption_calibration.calibration([one], "c", 0)[one.classifier]
    assert {s: v.value for s, v in found.items()} == pytest.approx({0: 0.0, 1: (0.1 + 0.1) / 2, 2: 0.4}, abs=1e-6)
    assert all(value.low <= value.value <= value.high for value in found.values())
    table["confidence"] = np.random.default_rng(0).random(len(table))
    (one,) = outcomes.gather({"accuracy": table})
    found = corruption_calibration.calibration([one], "c", 0)[one.classifier]
    values = np.stack([one.confidence["c.fog", 2], one.corrupted["c.fog", 2]], axis=-1)
    assert found[2].value == pytest.approx(float(statistics.calibration_error(values)))
    table["confidence"] = math.nan
    assert set(corruption_calibration.calibration(gathered(table.to_dict("records")), "c", 0)[one.classifier]) <= {
        0,
        1,
        2,
    }


def drawn(members: list[Outcomes], config: dict[str, Any] | None = None) -> dict[str, Chart]:
    errors = corruption_measures.everything(members, config, 0)
    return {c.name: c for c in corruptions.draw(members, errors, Look(members, members), 0, config)}


def test_charts_of_one_suite() -> None:
    charts = drawn(gathered(rows("standard", STANDARD, clean=1), rows("prime", OTHER)))
    names = ["errors", "map", "families", "calibration", "differences"]
    assert sorted(charts) == sorted(["corruptions", *(f"corruption_{name}" for name in names)])
    for chart in charts.values():
        assert chart.section == corruptions.SECTION and "n = 20 images" in chart.caption and "95 %" in chart.caption
        assert chart.png[:4] == b"\x89PNG" and len(chart.data) and len(chart.alt) > 40
    errors = charts["corruption_errors"].table
    assert errors is not None and errors.headers[3] == "mCE [%, a--standard--0 = 100]"
    assert [row[3].text for row in errors.rows] == ["100.0", "87.5"]
    table = charts["corruptions"].table
    assert table is not None and len(table.rows) == 4
    assert table.headers == [
        *("Classifier", "Corruption", "Family", "n"),
        *(f"Accuracy at severity {severity} [%]" for severity in (1, 2)),
    ]
    assert [cell.text for cell in table.rows[0]] == ["a--standard--0", "shot noise", "noise", "20", "80.0", "40.0"]
    grid = charts["corruption_map"].data.set_index(["classifier", "corruption"])["share"]
    assert grid["a--prime--0", "c.fog"] == pytest.approx(0.9) and grid["a--prime--0", "mean"] == pytest.approx(0.7)


def test_charts_of_a_lone_corruption_without_families_confidence_or_peers() -> None:
    table = [{**row, "family": None, "confidence": None} for row in rows("standard", {("fog", 3): 2}, clean=None)]
    assert sorted(drawn(gathered(table))) == ["corruption_errors", "corruption_map", "corruptions"]
    nobody = gathered(rows("standard", {}, clean=3))
    assert drawn(nobody) == {} and corruption_measures.everything(nobody, None, 0) == []


def test_suites_side_by_side() -> None:
    bar = {("c_bar.lines", 1): 7}
    config = {"trainings": {"prime": None, "mixed": {"method": "standard", "augmentation": {"method": "augmix"}}}}
    members = gathered(rows("standard", STANDARD | bar), rows("prime", OTHER), rows("mixed", OTHER | bar))
    charts = drawn(members, config)
    assert {"corruptions_c", "corruptions_c_bar", "corruption_map_c_bar"} < set(charts)
    data = charts["corruption_suites"].data.set_index("training")
    assert list(data.index) == ["standard", "mixed"] and data["suite"].tolist() == ["c", "c"]
    assert data["augmented"].tolist() == [False, True]
    assert data["other_share"].tolist() == pytest.approx([13 / 20] * 2)
    assert corruptions.augmented(members[2], config) and not corruptions.augmented(members[0], config)


def test_leaderboard_comparisons_claims_and_profile_know_the_suites() -> None:
    bar = {("c_bar.lines", 1): 7}
    single = [rows("standard", STANDARD), rows("prime", OTHER)]
    board = leaderboard.build(gathered(*single)).table.set_index("training")
    assert board["mean_corrupted_accuracy"].tolist() == pytest.approx([0.7, 0.7])
    assert board["mce"].to_dict() == pytest.approx({"standard": 1, "prime": 0.875})
    several = [rows("standard", STANDARD | bar), rows("prime", OTHER | bar)]
    members = gathered(*several)
    board = leaderboard.build(members).table
    columns = [f"{name}_{suite}" for suite in ("c", "c_bar") for name in ("mean_corrupted_accuracy", "mce")]
    assert [c for c in board if c in columns] == columns and "mean_corrupted_accuracy" not in board
    assert [c.measure for c in comparisons.compare(members)][1:] == [
        "Mean corrupted accuracy, c [%]",
        "Mean corrupted accuracy, c_bar [%]",
    ]
    assert [c.measure for c in comparisons.compare(gathered(*single))][1:] == ["Mean corrupted accuracy [%]"]
    tables = {"accuracy": pd.DataFrame([row for table in several for row in table])}
    said = [c.measured for c in seed_claims.claims(tables, members, 0, None) if c.key == "prime_corruptions"]
    assert said == [f"mean accuracy on corrupted images of {suite}, difference" for suite in ("c", "c_bar")]
    joined = profile.joined(tables, members)
    assert joined["corrupted_c_bar"].mean() == pytest.approx(13 / 20) and "corrupted_c" in joined
    assert set(profile.meanings(joined)) >= {"corrupted_c", "corrupted_c_bar"}


def test_page_and_files(tmp_path: Any) -> None:
    table = pd.DataFrame(rows("standard", STANDARD | {("c_bar.lines", 1): 7}) + rows("prime", OTHER))
    tables = write(tmp_path / "tables", {"accuracy": table})
    files = run(tmp_path / "out", tables, spec={"baseline": "alexnet"})
    page = files["report/index.html"].decode()
    section = page.partition(f'">{corruptions.SECTION}</h2>')[2].partition("<h2")[0]
    assert section.count("<figure>") == len([name for name in files if name.endswith(".svg") and "corrupt" in name])
    assert baseline.load("alexnet").sha256 in section and "mCE [%, alexnet = 100]" in section
    found = pd.read_csv(io.BytesIO(files["figures/d_corruption_errors_c.csv"]))
    assert set(found["baseline"].dropna()) == {"alexnet"}
    assert run(tmp_path / "again", tables, spec={"baseline": "alexnet"}) == files
    assert json.loads((baseline.FOLDER / "alexnet.json").read_text())["source"] in page.replace("&amp;", "&")


def test_overview_has_a_panel_per_suite() -> None:
    several = {("c.fog", 1): 2, ("c_bar.lines", 1): 7, ("snow", 1): 3}
    members = gathered(rows("standard", several), rows("prime", several))
    board = leaderboard.build(members)
    overview = next(chart for chart in figures.draw(members, board, members) if chart.name == "overview")
    columns = ["clean_accuracy", *(f"mean_corrupted_accuracy_{suite}" for suite in ("c", "c_bar", "corruptions"))]
    assert list(dict.fromkeys(overview.data["measure"])) == columns


def test_figure_of_many_differences_keeps_to_standard_training() -> None:
    trainings = ("standard", *(f"t{number}" for number in range(9)))
    charts = drawn(gathered(*(rows(name, {("c.fog", 1): place}) for place, name in enumerate(trainings))))
    chart = charts["corruption_differences"]
    assert len(chart.data) == 45 and chart.table is not None and len(chart.table.rows) == 45
    assert "The figure shows 9 of 45 rows of the table." in chart.caption


def test_order_of_families() -> None:
    known = {"a": "pattern", "b": "digital", "c": "noise", "d": "warp", "e": "noise"}
    assert corruption_measures.order(known, ["f", "d", "e", "c", "b", "a"]) == ["c", "e", "b", "a", "d", "f"]
