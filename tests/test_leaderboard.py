"""Leaderboards as text for people and papers and as files for machines; names that other parts of the report use."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.report import boards, leaderboard, outcomes, rendering
from pipeline.report.board_columns import KEYS, Board
from pipeline.report.statistics import Interval
from tests.test_report import HOSTILE, accuracy, keys, make_frames, perturbation

HARD = r"50%_of$x^2 & {y}~z\textbf{!} #1 \\ [2em] --- <b> | ℓ₂"


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return make_frames(("digits", "colours"))


@pytest.fixture(scope="module")
def found(frames: dict[str, pd.DataFrame]) -> dict[str, Board]:
    return {board.name: board for board in boards.everything(frames, outcomes.gather(frames), 0, None)}


def test_mean_corrupted_accuracy_uses_samples_that_all_views_share() -> None:
    key = keys("d", "a", "standard")
    rows = accuracy(key, [1, 0, 1], "fog", 1) + accuracy(key, [1, 1], "fog", 2)
    (only,) = outcomes.gather({"accuracy": pd.DataFrame(rows)})
    board = leaderboard.build([only])
    assert board.table["mean_corrupted_accuracy"].tolist() == [0.75]
    assert "clean_accuracy" not in board.table


def test_numbers_for_people() -> None:
    share, number = leaderboard.SHARE, leaderboard.NUMBER
    assert rendering.number(0.9312, share) == "93.1"
    assert rendering.number(0.45, number) == "0.450"
    assert rendering.number(123.4, number) == "123"
    assert rendering.number(-math.inf, number) == "−∞"
    assert rendering.signed(0.021, share) == "+2.1"
    assert rendering.signed(-0.021, share) == "−2.1"
    assert rendering.interval(Interval(0.931, 0.91, 0.948), share) == "93.1 [91.0, 94.8]"


def planted(better: int, training: str = "robust") -> Board:
    """Two classifiers, the second of which is right on so many more of 40 images."""
    rows = accuracy(keys("d", "a", "standard"), [i >= better for i in range(40)])
    rows += accuracy(keys("d", "a", training), [True] * 40)
    return leaderboard.build(outcomes.gather({"accuracy": pd.DataFrame(rows)}))


def test_the_criterion_and_its_names() -> None:
    board = planted(20)
    assert board.name == "overall" and board.ranked_by == {"d": leaderboard.CLEAN.name}
    assert board.table["rank"].tolist() == ["1", "2"] and board.table["training"].tolist() == ["robust", "standard"]
    key = keys("d", "a", "standard")
    tables = {"accuracy": pd.DataFrame(accuracy(key, [True] * 3))}
    tables["perturbation"] = pd.DataFrame(perturbation(key, "pgd", "l2", 0.5, [0.1, math.inf, 0.2]))
    members = outcomes.gather(tables)
    column, values = leaderboard.criterion(members)
    assert column == leaderboard.WORST and values["a--standard--0"].tolist() == [False, True, False]
    assert leaderboard.build(members).ranked_by == {"d": "worst_case_robust_accuracy"}


def test_bold_is_what_paired_tests_tell_apart() -> None:
    for better, bold in ((20, 1), (2, 0)):
        board = planted(better)
        text = rendering.to_markdown(board)
        assert len(re.findall(r"\*\*100\.0 \[", text)) == bold and text.count("**") == 2 * bold
        assert rendering.to_latex(board).count(r"\textbf{100.0") == bold
    alone = leaderboard.build(outcomes.gather({"accuracy": pd.DataFrame(accuracy(keys("d", "a", "x"), [True] * 40))}))
    assert "**" not in rendering.to_markdown(alone), "there is nothing to tell it apart from"


def test_markdown_says_what_is_compared(found: dict[str, Board]) -> None:
    for board in found.values():
        text = rendering.to_markdown(board)
        assert text.startswith(f"# {board.title}\n\n{board.text}\n\n| Data set |")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(board.table)
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {1 + len(board.columns)}
        assert HOSTILE not in text


def balanced(text: str) -> bool:
    """Whether braces and environments nest."""
    depth = 0
    for mark in re.findall(r"(?<!\\)(?:\\\\)*([{}])", text):
        depth += 1 if mark == "{" else -1
        if depth < 0:
            return False
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            return False
    return depth == 0 and not opened


@pytest.mark.parametrize("training", ["robust", HOSTILE, HARD])
def test_latex_of_any_ids(training: str) -> None:
    tables = make_frames(("digits",), training)
    for board in boards.everything(tables, outcomes.gather(tables), 0, None):
        text = rendering.to_latex(board)
        assert balanced(text) and text.count(r"\caption{") == text.count(r"\label{tab:digits-") == 1
        parts = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
        numbers = [column for column in board.columns if column not in KEYS]
        heads = 2 if board.ranked_by else 1
        assert sum(len(aligned) - heads for aligned, _ in parts) == len(numbers)
        for aligned, body in parts:
            assert [body.count(mark) for mark in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
            lines = [line for line in body.splitlines() if not line.endswith("rule")]
            assert len(lines) == 1 + len(board.table) and all(line.endswith(r" \\") for line in lines)
            assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(aligned) - 1}
        plain = re.sub(r"\$[^$]*\$", "", re.sub(r"\\[%#$&_{}]", "", text))  # without escaped characters and formulas
        assert not re.search(r"[%#$_^~]", plain)
        assert text.isascii() or training != "robust"


def test_latex_shows_every_character() -> None:
    assert rendering.escape("a_b & 5 % {c} $d #e") == r"a\_b \& 5 \% \{c\} \$d \#e"
    assert rendering.escape("\\x~y^z") == r"\textbackslash{}x\textasciitilde{}y\textasciicircum{}z"
    assert rendering.escape("a--b---c-d – −1 ∞ ℓ₂ ≤ ℓ∞") == (
        r"a{-}{-}b{-}{-}{-}c-d -- $-$1 $\infty$ $\ell_2$ $\leq$ $\ell_\infty$"
    )
    assert rendering.escape("[x]* new\n line") == "{[}x]{*} new line", "after a line's end [ and * would be read as its"


def test_latex_has_numbers_and_notes() -> None:
    tables = make_frames(("digits",), "robust")
    tables["perturbation"].loc[tables["perturbation"]["classifier"] == "a--robust--0", "random_forward"] = True
    board = leaderboard.build(outcomes.gather(tables))
    text = rendering.to_latex(board)
    row = board.table.iloc[0]
    value = Interval(*(row[f"clean_accuracy{tail}"] for tail in ("", "_low", "_high")))
    assert rendering.interval(value, "share").replace(" [", r" \,[") in text
    assert r"a{-}{-}robust{-}{-}0$^{1}$ &" in text and "$^{1}$ random forward pass." in text


def test_latex_of_several_data_sets_names_them(found: dict[str, Board]) -> None:
    assert rendering.to_latex(found["overall"]).count("Data set &") == rendering.to_latex(found["overall"]).count(
        "tabular}{"
    )
    assert "Data set" not in rendering.to_latex(boards.of(found["overall"], "digits"))


def test_empty_boards_are_files_all_the_same() -> None:
    board = leaderboard.build([])
    texts = (rendering.to_markdown(board), rendering.to_csv(board), rendering.to_latex(board))
    assert all(texts) and balanced(texts[2]) and rendering.to_parquet(board, "{}")


def fields(board: Board) -> dict[str, dict[str, str]]:
    schema = pq.read_schema(pa.BufferReader(rendering.to_parquet(board, "made by")))
    assert schema.metadata[b"pipeline"] == b"made by"
    return {n: {k.decode(): v.decode() for k, v in schema.field(n).metadata.items()} for n in schema.names}


def test_fields_say_what_they_are_and_where_they_are_from(found: dict[str, Board]) -> None:
    for board in found.values():
        known: dict[str, Any] = fields(board)
        assert list(known) == list(board.table) and all(own["meaning"] for own in known.values())
        for column in board.columns:
            if column.kind != "text":
                own = known[f"{column.name}_low"]
                assert own == known[column.name] and own["source"] == column.source and own["unit"] == column.unit
                assert own.get("query", "") == column.query
    assert fields(found["overall"])["clean_accuracy"]["query"] == "kind == 'clean'"
    assert "unit" not in fields(found["overall"])["rank_best"]
