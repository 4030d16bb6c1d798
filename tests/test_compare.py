"""Comparing two runs: the leaderboards' numbers, closed forms of intervals and tests, verdicts, exit codes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commandline import main
from pipeline.compare import comparing, gaps, numbers, showing
from pipeline.compare.gaps import Gap, Values, single
from pipeline.compare.numbers import Number
from pipeline.contracts import UserError
from pipeline.report import boards, outcomes, statistics
from pipeline.report.board_columns import CALIBRATION, CLEAN, NUMBER, Column
from pipeline.report.statistics import Interval
from tests.test_boards import everything_measured
from tests.test_report import accuracy, keys, perturbation

Tables = dict[str, pd.DataFrame]
Edit = Callable[[Tables], object]
N = 60
STANDARD, ROBUST = "a--standard--0", "a--robust--0"


def small() -> Tables:
    """Two classifiers, two corruptions, two attacks."""
    generator = np.random.default_rng(0)
    rows, found = [], []
    for training, size in (("standard", 0.3), ("robust", 0.9)):
        key = keys("d", "a", training)
        correct = np.arange(N) >= 3
        rows += accuracy(key, correct)
        for view, severity in itertools.product(("fog", "snow"), (1, 2)):
            rows += accuracy(key, generator.random(N) < 0.8, view, severity)
        norms = np.where(correct, size * generator.exponential(size=N) + 0.01, 0.0)
        found += perturbation(key, "deepfool", "l2", None, norms)
        found += perturbation(key, "pgd", "l2", 0.5, np.where(norms <= 0.5, norms, math.inf))
    return {"accuracy": pd.DataFrame(rows), "perturbation": pd.DataFrame(found)}


def write(folder: Path, tables: Tables, spec: dict[str, Any] | None = None, **provenance: Any) -> Path:
    (folder / "tables").mkdir(parents=True)
    for kind, frame in tables.items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(
            table.replace_schema_metadata({"pipeline": json.dumps(provenance)}), folder / f"tables/{kind}.parquet"
        )
    if spec is not None:
        board = pa.table({"a": [1]}).replace_schema_metadata({"pipeline": json.dumps({"spec": spec})})
        pq.write_table(board, folder / "leaderboard.parquet")
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("before") / "results", small())


def edited(folder: Path, *edits: Edit) -> Path:
    tables = small()
    for edit in edits:
        edit(tables)
    return write(folder / "after", tables)


def wrong(count: int, classifier: str = STANDARD) -> Edit:
    """Makes clean images that were classified correctly wrong."""

    def edit(tables: Tables) -> None:
        rows = tables["accuracy"]
        chosen = rows.index[(rows["classifier"] == classifier) & (rows["kind"] == "clean") & rows["correct"]]
        rows.loc[chosen[:count], "correct"] = False

    return edit


def without(kind: str, query: str) -> Edit:
    def edit(tables: Tables) -> None:
        tables[kind] = tables[kind].query(f"not ({query})").reset_index(drop=True)

    return edit


def one(found: comparing.Comparison, name: str, classifier: str = STANDARD) -> Number:
    (number,) = [n for n in found.numbers if (n.column.name, n.classifier) == (name, classifier)]
    return number


def names(found: comparing.Comparison) -> set[tuple[str, str]]:
    return {(each.what, each.name) for each in found.missing}


def fisher(one: int, other: int, n: int) -> float:
    """Two-sided p-value of two shares of n each."""
    total = one + other
    ways = [math.comb(n, k) * math.comb(n, total - k) for k in range(max(0, total - n), min(n, total) + 1)]
    seen = math.comb(n, one) * math.comb(n, other)
    return sum(way for way in ways if way <= seen) / math.comb(2 * n, total)


def test_every_number_of_the_leaderboards_is_compared_and_has_its_value_there(tmp_path: Path) -> None:
    tables = everything_measured()
    for kind, table in tables.items():
        parts = table["classifier"].str.split("--", expand=True)
        tables[kind] = table.assign(architecture=parts[0], training=parts[1], seed=0)
    folder = write(tmp_path / "results", tables)
    found = comparing.compare(folder, folder)
    shown = boards.numbers(boards.everything(tables, outcomes.gather(tables), 0, None))
    expected = {(row["dataset"], row["classifier"], row["column"]): row for row in shown.to_dict("records")}
    assert {(n.dataset, n.classifier, n.column.name) for n in found.numbers} == set(expected)
    assert {n.verdict for n in found.numbers} == {numbers.EQUAL}
    assert not found.regression and not found.missing and not found.new and not found.facts
    # from the images' values, and not by way of the leaderboards
    everyone = outcomes.gather(tables)
    setting = numbers.Setting(everyone, list(dict.fromkeys(shown["column"])))
    compared = {(n.dataset, n.classifier, n.column.name): n.change for n in found.numbers}
    checked = set()
    for o in everyone:
        for name, _ in numbers.quantities(o, outcomes.shared(everyone, o.dataset), None, setting):
            key = (o.dataset, o.classifier, name)
            if key in expected:
                assert compared[key].before == pytest.approx(expected[key]["value"]), key
                assert compared[key].paired, key
                checked.add(name)
    assert len(checked) > 20


def test_fewer_right_images_are_a_regression_by_mcnemars_test(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = edited(tmp_path, wrong(12))
    found = comparing.compare(reference, after)
    number = one(found, CLEAN.name)
    assert (number.change.before, number.change.after) == (pytest.approx(57 / 60), pytest.approx(45 / 60))
    assert number.change.gap.value == pytest.approx(-12 / 60) and number.change.gap.high < 0
    assert number.change.p == pytest.approx(2 * 0.5**12) and number.change.paired and number.change.n == (N, N)
    tested = [n for n in found.numbers if n.verdict != numbers.EQUAL]
    assert number.adjusted <= number.change.p * len(tested)
    assert {n.classifier for n in tested} == {STANDARD}
    assert number.verdict == numbers.WORSE and number.regression and number.harm == pytest.approx(0.2)
    assert one(found, CALIBRATION.name).verdict in (numbers.WORSE, numbers.NOTHING_SHOWN)
    assert main(["compare", str(reference), str(after)]) == 1
    assert "REGRESSION" in capsys.readouterr().out
    assert main(["compare", str(reference), str(after), "--tolerance", "0.3"]) == 0
    assert "within the tolerance" in capsys.readouterr().out
    assert main(["compare", str(reference), str(after), "--only", "median_*"]) == 0
    assert main(["compare", str(after), str(reference)]) == 0
    assert "better" in capsys.readouterr().out


def test_directions() -> None:
    column = Column("x", "X", NUMBER, "a number")
    rows = [
        Number(
            "d", "c", column, direction, Gap(2.0, 2.0 + gap, Interval(gap, gap, gap), "sign", p, (9, 9), True, False)
        )
        for direction, gap, p in itertools.product((1, -1, 0), (0.5, -0.5), (1e-6, 0.5))
    ]
    found = numbers.judged(rows, level=0.95, tolerance=0.2)
    verdicts = [n.verdict for n in found if n.change.p < 0.01]
    assert verdicts == ["better", "worse", "worse", "better", "changed", "changed"]
    assert {n.verdict for n in found if n.change.p > 0.01} == {numbers.NOTHING_SHOWN}
    assert [n.harm for n in found if n.verdict == numbers.WORSE] == [0.25, 0.25]
    assert [n.regression for n in found if n.change.p < 0.01] == [False, True, True, False, False, False]
    assert not any(n.regression for n in numbers.judged(rows, level=0.95, tolerance=0.25))
    known = Gap(2.0, 3.0, Interval(1.0, math.nan, math.nan), "", math.nan, (9, 9), False, False)
    (untested,) = numbers.judged([Number("d", "c", column, 1, known)], level=0.95, tolerance=0)
    assert untested.verdict == numbers.UNTESTED and not untested.regression


def test_larger_minimal_perturbations_are_better_and_tested_by_signs(reference: Path, tmp_path: Path) -> None:
    def larger(tables: Tables) -> None:
        rows = tables["perturbation"]
        rows.loc[(rows["attack"] == "deepfool") & (rows["classifier"] == ROBUST), "l2"] *= 1.1

    found = comparing.compare(reference, edited(tmp_path, larger))
    number = one(found, "median_l2_deepfool", ROBUST)
    assert number.verdict == numbers.BETTER and number.change.p == pytest.approx(2 * 0.5**57)
    assert number.change.gap.value == pytest.approx(0.1 * number.change.before)
    assert not found.regression


def test_what_is_missing(reference: Path, tmp_path: Path) -> None:
    lost = comparing.compare(
        reference,
        edited(
            tmp_path,
            without("accuracy", f"view == 'snow' and classifier == '{ROBUST}'"),
            without("accuracy", f"view == 'fog' and severity == 2 and classifier == '{STANDARD}'"),
            without("perturbation", f"attack == 'pgd' and classifier == '{ROBUST}'"),
        ),
    )
    assert names(lost) == {("corruption", "snow"), ("corruption", "fog at severity 2"), ("attack", "pgd (l2 ≤ 0.5)")}
    assert lost.regression
    # on the views that both have nothing has changed
    assert {n.verdict for n in lost.numbers if not n.column.name.startswith("mce")} == {numbers.EQUAL}
    back = comparing.compare(lost.after, reference)
    assert not back.missing and not back.regression and {each.what for each in back.new} == {"corruption", "attack"}


def test_missing_classifiers_and_measurements(reference: Path, tmp_path: Path) -> None:
    after = edited(tmp_path, lambda tables: tables.pop("perturbation"))
    assert names(comparing.compare(reference, after)) == {("measurement", "perturbation")}
    assert main(["compare", str(reference), str(after)]) == 1
    assert main(["compare", str(reference), str(after), "--allow-missing"]) == 0
    gone = edited(tmp_path / "gone", *(without(kind, f"classifier == '{ROBUST}'") for kind in small()))
    assert names(comparing.compare(reference, gone)) == {("classifier", ROBUST)}


def test_new_doubts_about_an_attack(reference: Path, tmp_path: Path) -> None:
    def blind(tables: Tables) -> None:
        rows = tables["perturbation"]
        rows.loc[(rows["attack"] == "pgd") & (rows["classifier"] == ROBUST), "zero_gradient"] = True

    found = comparing.compare(reference, edited(tmp_path, blind))
    assert [(flag.classifier, flag.attack) for flag in found.flags] == [(ROBUST, "pgd (ℓ₂ ≤ 0.5)")]
    assert found.regression and not any(number.regression for number in found.numbers)
    assert not comparing.compare(found.after, found.after).flags


def test_renamed_classifiers(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rename(tables: Tables) -> None:
        for table in tables.values():
            table["classifier"] = table["classifier"].replace({ROBUST: "new", STANDARD: ROBUST})

    after = edited(tmp_path, rename)
    pairs = ["--pair", f"{ROBUST}=new", "--pair", f"{STANDARD}={ROBUST}"]
    assert main(["compare", str(reference), str(after), *pairs]) == 0
    for wrong_pairs, words in (
        (["--pair", "nobody=new"], "has no classifier 'nobody'"),
        (["--pair", "new"], "expected old=new"),
        (["--pair", f"{STANDARD}={ROBUST}"], "two classifiers"),
    ):
        assert main(["compare", str(reference), str(after), *wrong_pairs]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1


@pytest.mark.parametrize("column", ["sample", "label"])
def test_other_images_are_not_paired(reference: Path, tmp_path: Path, column: str) -> None:
    def replace(tables: Tables) -> None:
        for table in tables.values():
            table[column] = "other " + table[column] if column == "sample" else table[column] + 1

    found = comparing.compare(reference, edited(tmp_path, replace, wrong(12)))
    assert not found.images["d"].same
    number = one(found, CLEAN.name)
    assert not number.change.paired and number.verdict != numbers.EQUAL
    assert number.change.gap == gaps.apart(statistics.wilson(57, 60), statistics.wilson(45, 60))
    assert number.change.test == "Fisher's exact" and number.change.p == pytest.approx(fisher(57, 45, 60))
    assert "unpaired" in showing.text(found)
    assert one(found, CLEAN.name, ROBUST).change.gap.value == 0
    others = [n for n in found.numbers if n.classifier == ROBUST]
    assert {n.change.test for n in others} > {"Fisher's exact", "Mann-Whitney", "permutation"}
    assert all(0.5 < n.change.p <= 1 and n.verdict == numbers.NOTHING_SHOWN for n in others if n.change.gap.value == 0)
    assert not any(n.verdict in (numbers.WORSE, numbers.BETTER) for n in others)


def test_what_made_the_runs(tmp_path: Path) -> None:
    made = {"measured_on": ["cpu"], "measured_with": {"torch": ["1"]}, "made": [{"code": "a"}]}
    spec = {"attacks": {"pgd": {"steps": 5}}, "seeds": [0]}
    before = write(tmp_path / "before", small(), spec, **made)
    made |= {"measured_with": {"torch": ["2"]}, "made": [{"code": "b"}]}
    after = write(tmp_path / "after", small(), {"attacks": {"pgd": {"steps": 9}}, "seeds": [0], "new": None}, **made)
    facts = {fact.what: (fact.before, fact.after) for fact in comparing.compare(before, after).facts}
    assert facts == {
        "config: attacks.pgd.steps": ("5", "9"),
        "config: new": ("absent", "null"),
        "code of accuracy": ("a", "b"),
        "code of perturbation": ("a", "b"),
        "version of torch": ("1", "2"),
    }


def test_mce_divides_by_the_baseline_of_each_config(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, small(), {"baseline": name}) for name in (STANDARD, ROBUST)]
    found = comparing.compare(*folders)
    change = one(found, "mce").change
    shares = small()["accuracy"].query("kind == 'corruption'").groupby(["classifier", "view"])["correct"].mean()
    assert change.before == 1 and not change.equal
    assert change.after == pytest.approx(((1 - shares[STANDARD]) / (1 - shares[ROBUST])).mean())
    assert {n.column.name for n in found.numbers if n.verdict != numbers.EQUAL} == {"mce", "relative_mce"}


def test_a_better_baseline_makes_no_other_classifier_worse(reference: Path, tmp_path: Path) -> None:
    def better(tables: Tables) -> None:
        rows = tables["accuracy"]
        chosen = rows.index[(rows["classifier"] == STANDARD) & (rows["kind"] == "corruption") & ~rows["correct"]]
        rows.loc[chosen[::2], "correct"] = True

    def worse(tables: Tables) -> None:
        rows = tables["accuracy"]
        chosen = rows.index[(rows["classifier"] == ROBUST) & (rows["kind"] == "corruption") & rows["correct"]]
        rows.loc[chosen[::2], "correct"] = False

    found = comparing.compare(reference, edited(tmp_path, better))
    assert one(found, "mean_corrupted_accuracy").verdict == numbers.BETTER
    assert one(found, "mce", ROBUST).verdict == numbers.CHANGED and not found.regression
    found = comparing.compare(reference, edited(tmp_path / "worse", worse))
    assert one(found, "mce", ROBUST).verdict == numbers.WORSE and one(found, "mce", ROBUST).regression


def test_headers_name_data_sets_as_the_runs_do(tmp_path: Path) -> None:
    tables = small()
    for kind, table in tables.items():
        tables[kind] = pd.concat([table, table.query(f"classifier == '{ROBUST}'").assign(dataset="e")])
    after = write(tmp_path / "after", tables)
    tables["accuracy"] = tables["accuracy"].assign(confidence=0.8)
    found = comparing.compare(write(tmp_path / "before", tables), after)
    header = f"mCE [%, {STANDARD} on d; {ROBUST} on e = 100]"
    assert {n.column.header for n in found.numbers if n.column.name == "mce"} == {header}
    assert {n.dataset for n in found.numbers} == {"d", "e"}


def test_files_for_people_and_programs(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = edited(tmp_path, wrong(12), without("perturbation", "attack == 'pgd'"))
    texts = []
    for number in range(2):
        files = [tmp_path / f"{number}.md", tmp_path / f"{number}.json"]
        assert main(["compare", str(reference), str(after), "--markdown", str(files[0]), "--json", str(files[1])]) == 1
        texts.append([capsys.readouterr().out, *(file.read_text(encoding="utf-8") for file in files)])
    assert texts[0] == texts[1]
    found = json.loads(texts[0][2])
    assert found["regression"] and sum(found["counts"].values()) == len(found["numbers"])
    (clean,) = [n for n in found["numbers"] if (n["number"], n["classifier"]) == (CLEAN.name, STANDARD)]
    assert clean["change"] == pytest.approx(-0.2) and clean["verdict"] == "worse" and clean["higher_is_better"]
    lines = [line for line in texts[0][1].splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "Clean accuracy" in lines[2] and "-20.00" in lines[2].replace("−", "-")


def test_mistakes_are_one_line(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = edited(tmp_path)
    path = damaged / "tables" / "accuracy.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    other = edited(tmp_path / "other", lambda tables: [t.__setitem__("dataset", "e") for t in tables.values()] and None)
    for arguments, words in (
        ([str(reference), str(tmp_path / "nowhere")], "no tables"),
        ([str(reference), str(damaged)], "accuracy.parquet"),
        ([str(reference), str(other)], "in common"),
        ([str(reference), str(reference), "--only", "nothing*"], "matches none"),
        ([str(reference), str(reference), "--json", str(tmp_path / "no" / "file")], "cannot be written"),
    ):
        assert main(["compare", *arguments]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1 and message.startswith("error: ")


def test_limits_of_different_images_are_newcombes() -> None:
    found = gaps.apart(statistics.wilson(48, 80), statistics.wilson(56, 70))  # Newcombe 1998, table II, (a), method 10
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_limits_alone_give_the_test_that_they_invert() -> None:
    half = 1.959964
    found = gaps.of_limits(Interval(0, -half, half), Interval(4, 4 - half, 4 + half), (9, 9), 0.95, False)
    assert found.gap == pytest.approx((4, 4 - half * math.sqrt(2), 4 + half * math.sqrt(2)))
    assert found.p == pytest.approx(math.erfc(4 / 2), rel=1e-4)  # z = 4 / sqrt(2)
    wide = gaps.of_limits(Interval(0, -half, half), Interval(4, 4 - half, 4 + half), (9, 9), 0.99, False)
    assert wide.p == found.p and (wide.gap.high - 4) / (found.gap.high - 4) == pytest.approx(2.575829 / 1.959964)
    point = Interval(1.0, 1.0, 1.0)
    assert math.isnan(gaps.of_limits(point, Interval(2.0, 2.0, 2.0), (9, 9), 0.95, False).p)


def test_swaps_and_groups_have_the_shares_of_all_of_them() -> None:
    def first(means: np.ndarray) -> np.ndarray:
        return means[..., 0]

    before, after = np.zeros((5, 1)), np.arange(1.0, 6.0)[:, None]
    assert gaps.swap_test(before, after, first, 0) == pytest.approx(2 / 2**5, abs=0.01)
    assert gaps.swap_test(before, before, first, 0) == 1
    assert gaps.group_test(np.arange(4.0)[:, None], np.arange(10.0, 14.0)[:, None], first, 0) == pytest.approx(
        2 / math.comb(8, 4), abs=0.01
    )
    many = np.ones((200, 1))
    z = math.sqrt(200)  # beyond what was drawn: the normal tail
    assert gaps.swap_test(0 * many, many, first, 0) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1)
    noise = np.random.default_rng(0).normal(size=(2, 80, 1))
    expected = statistics.sign_flip_test(noise[0, :, 0], noise[1, :, 0])
    assert gaps.swap_test(noise[0], noise[1], first, 1) == pytest.approx(expected, abs=0.03)


def test_order_of_images_does_not_count() -> None:
    generator = np.random.default_rng(0)
    one, other = (pd.Series(generator.normal(size=50), index=[f"s{i}" for i in range(50)]) for _ in range(2))
    for kind in ("median", "means"):
        straight, shuffled = (
            gaps.compared(single(one, kind), single(second, kind), same=True, level=0.95, seed=0)  # type: ignore[arg-type]
            for second in (other, other.sample(frac=1, random_state=0))
        )
        assert straight == shuffled and straight.gap.low < straight.gap.value < straight.gap.high


def test_intervals_cover_the_change_of_a_function_of_means() -> None:
    def ratio(means: np.ndarray) -> np.ndarray:
        return np.asarray(means[..., 0] / means[..., 1])

    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        base = 2 + generator.normal(size=(80, 1))
        rows = [
            pd.DataFrame(np.concatenate([base * scale + generator.normal(size=(80, 1)), base], axis=1))
            for scale in (1.0, 1.5)
        ]
        values = [Values(own, "means", ratio) for own in rows]
        gap = gaps.compared(values[0], values[1], same=True, level=0.9, seed=trial).gap
        covered += gap.low <= 0.5 <= gap.high
    assert 46 <= covered <= 60  # of 54 expected, three standard deviations


def test_unknown_norms_are_told(tmp_path: Path) -> None:
    folder = edited(tmp_path, lambda tables: tables["perturbation"].__setitem__("norm", "l7"))
    with pytest.raises(UserError, match="l7"):
        comparing.compare(folder, folder)
