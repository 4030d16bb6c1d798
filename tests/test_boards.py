"""The leaderboards: their numbers, the rows behind each, their ranks; what stands elsewhere, too, is the same there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import (
    _detection,
    board_attacks,
    board_ranks,
    board_rows,
    boards,
    corruption_calibration,
    corruption_measures,
    envelope,
    invariance,
    leaderboard,
    loops,
    outcomes,
    regions,
    sparse,
    statistics,
    transfer,
)
from pipeline.report._boundary_points import gather, mainly_negative
from pipeline.report.board_columns import KEYS, Board, Column, Measure
from pipeline.report.statistics import Interval
from tests.test_report import accuracy, keys, make_frames, margins, perturbation
from tests.test_report_curvature import points
from tests.test_report_detection import gaussian
from tests.test_report_detection import outcomes as member
from tests.test_report_invariance import random_table
from tests.test_report_regions import keyed, loop, pair

Tables = dict[str, pd.DataFrame]
VALUE = Interval(0.5, 0.4, 0.6)
FIRST, ROBUST = "a--standard--0", "a--robust--0"
SEED = 3


def corrupted(key: dict[str, Any], views: dict[tuple[str, str], int], samples: int = 40) -> list[dict[str, Any]]:
    """Rows of a suite `c`; (family, corruption) -> images that are wrong at severity 1, twice as many at severity 2."""
    rows = []
    for (family, name), wrong in views.items():
        for severity in (1, 2):
            right = [i >= severity * wrong for i in range(samples)]
            own = accuracy(key, right, f"c.{name}", severity)
            rows += [{**row, "suite": "c", "family": family} for row in own]
    return rows


def everything_measured() -> Tables:
    """Tables of all kinds of the data set `d`, and some of `e`."""
    tables = make_frames(("d", "e"), "robust")
    clean = tables["accuracy"][tables["accuracy"]["kind"] == "clean"]
    rows = clean.to_dict("records")
    few = tables["perturbation"].to_dict("records")
    for dataset in ("d", "e"):
        for place, (architecture, training) in enumerate((a, t) for a in "ab" for t in ("standard", "robust")):
            key = keys(dataset, architecture, training)
            wrong = {("noise", "shot_noise"): 4 + place, ("noise", "rain"): 8, ("weather", "fog"): 9 - place}
            rows += [{**row, "confidence": 0.7 + 0.01 * place} for row in corrupted(key, wrong)]
            if dataset == "d":
                right = clean.query("dataset == 'd' and classifier == @key['classifier']")["correct"].tolist()
                counts = [float(1 + (i + place) % 9) if good else 0.0 for i, good in enumerate(right)]
                counts[right.index(True)] = math.inf
                few += perturbation(key, "sigma", "l0", None, counts)
                few += perturbation(key, "fool", "l0", None, [2 * size for size in counts])
    tables |= {"accuracy": pd.DataFrame(rows), "perturbation": pd.DataFrame(few)}
    found = tables["perturbation"]
    found.loc[found["norm"] != "l0", ["l0_pixels", "l0_entries"]] = 64.0  # attacks in other norms change all pixels
    tables["perturbation"] = found.assign(converged_8bit=found["converged"], l0_pixels_8bit=found["l0_pixels"])
    names = (FIRST, ROBUST)
    bends = [points(name, 30, (0.1,), flat=0.1 + place) for place, name in enumerate(names)]
    paths = [pair(1.0)] * 5 + [pair(1.002), pair(1.01), pair(None), pair(1.3, verified=False), pair(1.0, "noise")]
    tables["curvature"] = pd.concat(bends, ignore_index=True)
    tables["regions"] = pd.concat([keyed(paths[place:], name, "regions") for place, name in enumerate(names)])
    tables["loops"] = keyed([loop(), loop(filled=False), loop(connected=False), loop()], FIRST, "loops")
    told = [gaussian(60, 1 + place, place, member=member("a", t)) for place, t in enumerate(("standard", "robust"))]
    tables["detection"] = pd.concat(told, ignore_index=True)
    tables["invariance"] = random_table(member("a", "standard"))
    return tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    return everything_measured()


@pytest.fixture(scope="module")
def members(tables: Tables) -> list[outcomes.Outcomes]:
    return outcomes.gather(tables)


@pytest.fixture(scope="module")
def found(tables: Tables, members: list[outcomes.Outcomes]) -> dict[str, Board]:
    return {board.name: board for board in boards.everything(tables, members, SEED, None)}


@pytest.fixture(scope="module")
def numbers(found: dict[str, Board]) -> pd.DataFrame:
    return boards.numbers(list(found.values()))


def number(board: Board, name: str, classifier: str = FIRST, dataset: str = "d") -> Interval:
    (row,) = board.table[(board.table["dataset"] == dataset) & (board.table["classifier"] == classifier)].to_dict(
        "records"
    )
    return Interval(*(row[name + tail] for tail in ("", "_low", "_high")))


def same(one: Interval, other: Interval) -> bool:
    return one == pytest.approx(other, nan_ok=True)


def test_what_was_measured_has_a_board_and_what_was_not_has_none(tables: Tables, found: dict[str, Board]) -> None:
    assert list(found) == ["overall", "adversarial", "sparse", "corruption", "geometry"]
    assert all(board.title and board.text.endswith(".") for board in found.values())
    clean = {"accuracy": tables["accuracy"][tables["accuracy"]["kind"] == "clean"]}
    assert [b.name for b in boards.everything(clean, outcomes.gather(clean), 0, None)] == ["overall"]
    assert [b.name for b in boards.everything({}, [], 0, None)] == ["overall"]
    few = {"perturbation": tables["perturbation"].query("norm == 'l0'")}
    assert [b.name for b in boards.everything(few, outcomes.gather(few), 0, None)] == ["overall", "sparse"]


def test_the_board_over_everything_is_lean(found: dict[str, Board]) -> None:
    names = [column.name for column in found["overall"].columns if column not in KEYS]
    assert names == [
        "clean_accuracy",
        "mean_corrupted_accuracy",
        "mce",
        "calibration_error",
        "worst_case_robust_accuracy",
        "median_smallest_l2",
        "median_smallest_l0",
        "median_margin_lowest_frequencies",
        "median_margin_highest_frequencies",
    ]
    assert len(found["overall"].table) == 8


def test_every_number_names_rows_that_are_there(tables: Tables, found: dict[str, Board], numbers: pd.DataFrame) -> None:
    shown = sum(int(b.table[c.name].notna().sum()) for b in found.values() for c in b.columns if c.kind != "text")
    assert len(numbers) == shown
    assert list(numbers) == list(boards.MEANINGS)
    for row in numbers.drop_duplicates("rows").to_dict("records"):
        kinds = [name.removeprefix("tables/").removesuffix(".parquet") for name in row["table"].split("; ")]
        queries = row["rows"].split("; ")
        sizes = [len(tables[kind].query(query)) for kind, query in zip(kinds, queries, strict=True)]
        assert sizes[0] == row["n"] > 0 and min(sizes) > 0, row
        own = tables[kinds[0]].query(queries[0])
        assert set(own["dataset"]) == {row["dataset"]} and set(own["classifier"]) == {row["classifier"]}
        assert row["expression"].startswith(f"pandas.read_parquet('{row['table'].split('; ')[0]}').query(")
    for board in found.values():
        for column in board.columns:
            assert (column.source in tables) == (column.kind != "text"), column


def test_shares_and_medians_follow_from_the_rows_alone(tables: Tables, numbers: pd.DataFrame) -> None:
    def infinite(rows: pd.DataFrame, column: str) -> pd.Series[float]:
        return rows[column].astype(float).where(rows["converged"].astype(bool), math.inf)

    computed = {
        "clean_accuracy": lambda rows: rows["correct"].mean(),
        "mean_corrupted_accuracy": lambda rows: rows["correct"].mean(),
        "accuracy_noise": lambda rows: rows["correct"].mean(),
        "accuracy_weather": lambda rows: rows["correct"].mean(),
        "worst_corruption_accuracy": lambda rows: rows["correct"].mean(),
        "calibration_error": lambda rows: statistics.calibration_error(rows[["confidence", "correct"]].to_numpy(float)),
        "worst_case_robust_accuracy": lambda rows: 1 - rows.groupby("sample")["converged"].any().mean(),
        "robust_accuracy_pgd_l2_0_5": lambda rows: 1 - rows["converged"].mean(),
        "median_l2_deepfool": lambda rows: infinite(rows, "l2").median(),
        "median_smallest_l2": lambda rows: infinite(rows, "l2").groupby(rows["sample"]).min().median(),
        "median_smallest_l0": lambda rows: infinite(rows, "l0_pixels").groupby(rows["sample"]).min().median(),
        "fooled_sigma": lambda rows: rows["converged"].mean(),
        "fooled_8bit_sigma": lambda rows: rows["converged_8bit"].mean(),
        "pixels_sigma": lambda rows: infinite(rows, "l0_pixels").median(),
        "entries_fool": lambda rows: infinite(rows, "l0_entries").median(),
        "median_margin_lowest_frequencies": lambda rows: infinite(rows, "margin").median(),
        "median_margin_smallest": lambda rows: infinite(rows, "margin").groupby(rows["sample"]).min().median(),
        "curvature_mean": lambda rows: rows["mean"].median(),
        "curvature_flat": lambda rows: rows["flat"].median(),
        "curvature_mainly_negative": lambda rows: (rows["negative"] > rows["positive"]).mean(),
        "connected": lambda rows: (rows["converged"] & rows["verified"].eq(True)).mean(),
        "straight": lambda rows: rows["straight"].eq(True).mean(),
        "detour": lambda rows: rows["ratio"].median() - 1,
        "filled": lambda rows: rows["converged"].mean(),
    }
    computed["fooled_within_5"] = lambda rows: (infinite(rows, "l0_pixels").groupby(rows["sample"]).min() <= 5).mean()
    assert set(computed) <= set(numbers["column"])
    for row in numbers[numbers["column"].isin(computed)].to_dict("records"):
        kind = row["table"].removeprefix("tables/").partition(".")[0]
        assert computed[row["column"]](tables[kind].query(row["rows"])) == pytest.approx(row["value"]), row


def test_numbers_are_those_of_the_page(
    tables: Tables, members: list[outcomes.Outcomes], found: dict[str, Board]
) -> None:
    own = outcomes.shared(members, "d")
    (first,) = [o for o in own if o.classifier == FIRST]
    (error,) = [e for e in corruption_measures.everything(members, None, SEED) if e.outcomes is first]
    board = found["corruption"]
    assert same(number(board, "mce"), error.mce) and same(number(board, "relative_mce"), error.relative)
    assert same(number(board, "accuracy_noise"), error.families["noise"])
    row = board.table.query("dataset == 'd' and classifier == @FIRST").iloc[0]
    worst = f"c.{row['worst_corruption']}"
    assert error.corruptions[worst].value == min(value.value for value in error.corruptions.values())
    levels = corruption_calibration.calibration(own, "c", statistics.stream(SEED, "d", "c", "calibration"))
    assert same(number(board, "corrupted_calibration_error_2"), levels[FIRST][2])
    few = {r.threat.attack: r for r in sparse.results(own, SEED) if r.outcomes is first}
    assert same(number(found["sparse"], "pixels_sigma"), few["sigma"].pixels)
    assert same(number(found["sparse"], "fooled_8bit_fool"), few["fool"].success_8bit)
    board = found["geometry"]
    (group,) = [g for g in regions.groups(tables["regions"], own, SEED) if g.outcomes is first and "two" in g.kind]
    assert same(number(board, "connected"), group.connected) and same(number(board, "detour"), group.median)
    assert same(number(board, "filled"), loops.results(tables["loops"], own, SEED)[0].filled)
    spots = gather(tables["curvature"], own)[0]
    assert same(number(board, "curvature_mean"), spots.interval(spots.at(0.1)["mean"], "mean", SEED))
    assert same(number(board, "curvature_mainly_negative"), mainly_negative(spots.at(0.1))[0])
    detectors = _detection.detectors(tables["detection"].query("classifier == @FIRST"), SEED)
    areas = {d.statistic: d.auroc for d in detectors if d.alpha == 1}
    assert same(number(board, "auroc_curvature"), areas["mean curvature, radius 0.3"])
    assert same(number(board, "auroc_confidence"), areas["softmax confidence"])
    stable = next(iter(invariance.stability(tables["invariance"], first, SEED)))
    assert same(number(board, "stability"), Interval(stable["stability"], stable["low"], stable["high"]))
    for name in ("worst_case_robust_accuracy", "median_smallest_l2"):
        assert same(number(found["overall"], name), number(found["adversarial"], name))
    for name in ("mean_corrupted_accuracy", "mce"):
        assert same(number(found["overall"], name), number(found["corruption"], name))


def test_the_smallest_perturbation_is_that_of_the_envelope(members: list[outcomes.Outcomes]) -> None:
    for o in outcomes.shared(members, "d"):
        smallest = board_attacks.smallest(o, "l2")
        pd.testing.assert_series_equal(smallest, envelope.found(o, "l2").min(axis=1), check_names=False)


def test_images_of_others_count_where_both_were_right_and_the_attack_succeeded(
    members: list[outcomes.Outcomes], found: dict[str, Board]
) -> None:
    rows = transfer.outcomes_of(outcomes.shared(members, "d"))
    rows = rows[(rows["classifier"] == FIRST) & (rows["source"] != FIRST) & rows["right"] & rows["success"]]
    value = number(found["adversarial"], "transfer_pgd")
    assert value.value == pytest.approx(rows["fooled"].mean()) and value.low < value.value < value.high


def test_agreement_is_a_mean_of_families_not_of_rows(tables: Tables, found: dict[str, Board]) -> None:
    by_family = tables["invariance"].groupby("family")["agrees"].mean()
    assert number(found["geometry"], "agreement").value == pytest.approx(by_family.mean())


def test_attacks_of_one_norm_and_budget_have_a_worst_case() -> None:
    key = keys("d", "a", "standard")
    found = [[0.1, 0.2, math.inf, math.inf], [math.inf, 0.2, 0.3, math.inf], [0.01] + [math.inf] * 3]
    rows = [
        *perturbation(key, "one", "l2", 0.5, found[0]),
        *perturbation(key, "two", "l2", 0.5, found[1]),
        *perturbation(key, "max", "linf", 0.05, found[2]),
    ]
    given = {"perturbation": pd.DataFrame(rows)}
    board = boards.everything(given, outcomes.gather(given), 0, None)[1]
    assert number(board, "worst_case_l2_0_5").value == 0.25
    assert number(board, "robust_accuracy_one_l2_0_5").value == 0.5
    assert "worst_case_linf_0_05" not in board.table


def test_budgets_of_pixels_tell_classifiers_apart(found: dict[str, Board]) -> None:
    names = [c.name for c in found["sparse"].columns if c.name.startswith("fooled_within")]
    assert names == ["fooled_within_1", "fooled_within_2", "fooled_within_5"]
    assert set(found["sparse"].table["dataset"]) == {"d"}
    shares = [number(found["sparse"], name).value for name in names]
    assert shares == sorted(shares)


def planted(gap: float) -> list[Board]:
    """Two classifiers of which the second is better at everything on so many of 60 images."""
    better = int(60 * gap)
    rows, sizes = [], []
    for training, extra in (("standard", 0), ("robust", better)):
        key = keys("d", "a", training)
        rows += accuracy(key, [True] * 60)
        rows += [
            {**row, "suite": "c", "family": "f"} for row in accuracy(key, [i < extra for i in range(60)], "c.x", 1)
        ]
        sizes += perturbation(key, "min", "l2", None, [1.0 + (i < extra) for i in range(60)])
        sizes += perturbation(key, "few", "l0", None, [3.0 + 0 * i if i >= extra else math.inf for i in range(60)])
    given = {"accuracy": pd.DataFrame(rows), "perturbation": pd.DataFrame(sizes)}
    return boards.everything(given, outcomes.gather(given), 0, None)


@pytest.mark.parametrize(("gap", "ranks"), [(0.5, ["1", "2"]), (0.0, ["1–2", "1–2"]), (0.05, ["1–2", "1–2"])])
def test_ranks_of_each_board(gap: float, ranks: list[str]) -> None:
    overall, adversarial, sparse_, corruption = planted(gap)
    assert overall.ranked_by == {"d": "clean_accuracy"} and overall.table["rank"].tolist() == ["1–2", "1–2"]
    assert adversarial.ranked_by == {"d": "median_smallest_l2"}, "no attack has a budget"
    assert sparse_.ranked_by == {"d": "median_smallest_l0"}
    assert corruption.ranked_by == {"d": "mean_corrupted_accuracy"}
    for board in (adversarial, sparse_, corruption):
        assert board.table["rank"].tolist() == ranks
        if gap == 0.5:
            assert board.table["training"].tolist() == ["robust", "standard"]


def test_geometry_has_no_ranks(found: dict[str, Board]) -> None:
    assert not {"rank", "rank_best", "n", "flags"} & set(found["geometry"].table)
    assert "no ranks" in found["geometry"].text and found["geometry"].ranked_by == {}


def test_many_classifiers_are_told_apart_without_more_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(4, 400)) + np.array([[0.0], [0.0], [0.5], [1.5]])
    drawn = board_ranks.of_means(values, 0)
    monkeypatch.setattr(board_ranks, "RESAMPLES", 0)
    assert board_ranks.of_means(values, 0) == drawn == [(3, 4), (3, 4), (2, 2), (1, 1)]
    assert board_ranks.of_means(np.zeros((3, 5)), 0) == [(1, 3)] * 3
    assert board_ranks.of_means(values[:1], 0) == board_ranks.of_medians(values[:1], 0) == [(1, 1)]


def test_the_bound_that_stands_in_for_permutations_is_no_smaller_than_p(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    monkeypatch.setattr(statistics, "holm", lambda chances: seen.append(list(chances)) or list(chances))
    monkeypatch.setattr(board_ranks, "RESAMPLES", 0)
    generator = np.random.default_rng(1)
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 10), axis=-1).reshape(-1, 10)
    for shift in (0.2, 0.8, 6.0):
        gaps = generator.normal(size=10) + shift
        board_ranks.of_means(np.stack([gaps, np.zeros(10)]), 0)
        exact = np.mean(np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9)
        assert seen[-1][0] >= exact
    assert seen[-1][0] < 0.05, "and small where the difference is large"


def test_medians_are_told_apart_by_signs_also_where_they_are_infinite() -> None:
    one = np.array([math.inf] * 20 + [1.0] * 20)
    other = np.array([5.0] * 20 + [1.0] * 20)
    assert board_ranks.of_medians(np.stack([other, one, one]), 0) == [(3, 3), (1, 2), (1, 2)]


def test_flags_stand_where_the_attack_does() -> None:
    frames = everything_measured()
    rows = frames["perturbation"]
    rows.loc[(rows["attack"] == "sigma") & (rows["classifier"] == FIRST), "random_forward"] = True
    rows.loc[(rows["attack"] == "pgd") & (rows["classifier"] == ROBUST), "softmax_output"] = True
    given = {"perturbation": rows[rows["dataset"] == "d"]}
    shown = {
        board.name: board.table.set_index("classifier")["flags"].dropna().to_dict()
        for board in boards.everything(given, outcomes.gather(given), 0, None)
    }
    random, soft = {FIRST: "sigma (ℓ₀): random forward pass"}, {ROBUST: "pgd (ℓ₂ ≤ 0.5): outputs are probabilities"}
    assert shown == {"overall": random | soft, "adversarial": soft, "sparse": random}


def test_a_data_set_has_the_columns_that_were_measured_on_it(found: dict[str, Board]) -> None:
    part = boards.of(found["overall"], "e")
    assert set(part.table["dataset"]) == {"e"} and len(part.table) == 4
    assert "median_smallest_l0" not in part.table and "median_smallest_l0" in boards.of(found["overall"], "d").table
    assert set(part.ranked_by) == {"e"} == {key[0] for key in part.rows} == {e.outcomes.dataset for e in part.errors}
    assert list(part.table["rank_best"]) == sorted(part.table["rank_best"])
    assert boards.of(found["geometry"], "e").table.shape[0] == 4, "margins alone"


def test_only_classifiers_with_numbers_stand_on_a_board(found: dict[str, Board]) -> None:
    assert len(found["sparse"].table) == 4 and len(found["overall"].table) == 8
    assert not found["sparse"].table.drop(columns="flags").isna().any(axis=None)


def test_blocks_may_differ_between_data_sets() -> None:
    rows = margins(keys("d", "a", "standard"), [1.0, 2.0, 3.0], [True] * 3)
    rows += [row for row in margins(keys("e", "a", "standard"), [1.0, 2.0], [True] * 2) if row["block"] < 2]
    given = {"dct_margin": pd.DataFrame(rows)}
    overall = boards.everything(given, outcomes.gather(given), 0, None)[0]
    queries = {key[0]: own.queries[0] for key, own in overall.rows.items() if "highest" in key[2]}
    assert queries["d"].endswith("block == 2") and queries["e"].endswith("block == 1")
    (column,) = [column for column in overall.columns if "highest" in column.name]
    assert column.query == "measurement == 'm' and correct", "what they have in common"


@pytest.mark.parametrize(
    "mark", ["'\"`a`\\ {{ b }} @c # |", "<script>\u202e\n%s</script>", " or classifier == classifier"]
)
def test_queries_hold_for_any_id(mark: str) -> None:
    frames = make_frames(("d",), "robust")
    for frame in frames.values():
        for name in {"dataset", "classifier", "attack", "measurement", "view", "source"} & set(frame):
            frame[name] = frame[name].where(frame[name] == "clean", frame[name] + mark)
    found = boards.everything(frames, outcomes.gather(frames), 0, None)
    rows = [own for board in found for own in board.rows.values()]
    assert len(rows) == len(boards.numbers(found)) > 40
    for own in rows:
        part = frames[own.tables[0]].query(own.queries[0])
        assert len(part) == own.n > 0 and len(set(part["classifier"])) == 1


def test_suites_are_named_by_their_column_or_by_their_corruptions(tables: Tables, found: dict[str, Board]) -> None:
    (column,) = [c for c in found["overall"].columns if c.name == "mean_corrupted_accuracy"]
    assert column.query == "kind == 'corruption' and suite == 'c'"
    plain = {"accuracy": tables["accuracy"].drop(columns=["suite", "family"])}
    overall = boards.everything(plain, outcomes.gather(plain), SEED, None)[0]
    (column,) = [c for c in overall.columns if c.name == "mean_corrupted_accuracy"]
    assert column.query == "kind == 'corruption' and view in ['c.fog', 'c.rain', 'c.shot_noise']"
    assert len(plain["accuracy"].query(column.query)) == len(tables["accuracy"].query("kind == 'corruption'"))


def test_numbers_that_need_others_name_their_rows(found: dict[str, Board]) -> None:
    own = found["overall"].rows["d", ROBUST, "mce"]
    assert own.tables == ("accuracy", "accuracy") and "classifier in ['a--standard--0']" in own.queries[1]
    own = found["adversarial"].rows["d", ROBUST, "transfer_pgd"]
    assert own.tables == ("transfer", "transfer", "perturbation") and "source == classifier" in own.queries[1]


def test_a_published_baseline_has_no_rows(tables: Tables) -> None:
    fog = tables["accuracy"].query("kind == 'clean' or view == 'c.fog'")
    given = {"accuracy": fog}
    overall = boards.everything(given, outcomes.gather(given), SEED, {"baseline": "alexnet"})[0]
    assert overall.rows["d", FIRST, "mce"].tables == ("accuracy",)


def test_units(found: dict[str, Board]) -> None:
    units = {column.name: column.unit for board in found.values() for column in board.columns}
    assert units["clean_accuracy"] == "share" and units["median_smallest_l0"] == "pixels"
    assert units["mce"] == "share, a--standard--0 = 1" or units["mce"].startswith("share, ")
    assert units["auroc_curvature"] == "1" and units["median_l2_deepfool"] == "pixel range = 1"


def test_equal_tables_give_equal_boards(tables: Tables, found: dict[str, Board], numbers: pd.DataFrame) -> None:
    shuffled = {kind: table.sample(frac=1, random_state=0) for kind, table in tables.items() if kind != "detection"}
    given = shuffled | {"detection": tables["detection"]}
    again = boards.everything(given, outcomes.gather(given), SEED, None)
    pd.testing.assert_frame_equal(boards.numbers(again), numbers)


def test_the_leaderboard_alone_has_the_same_numbers(members: list[outcomes.Outcomes], found: dict[str, Board]) -> None:
    alone = leaderboard.build(members, SEED)
    pd.testing.assert_frame_equal(alone.table, found["overall"].table)
    assert not alone.rows and boards.numbers([alone])["n"].eq(0).all()


def test_a_table_without_a_column_has_no_rows_to_name(tables: Tables) -> None:
    column = Column("x", "x", "share", "x", "loops", "unknown == 1")
    assert board_rows.trace([Measure(column, {("d", FIRST): VALUE})], tables) == {}
    known = board_rows.trace([Measure(column._replace(query=""), {("d", FIRST): VALUE})], tables)
    assert known["d", FIRST, "x"].n == len(tables["loops"])
