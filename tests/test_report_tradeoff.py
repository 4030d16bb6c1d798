"""The leaderboard's numbers as figures: accuracy against robustness, and all measures side by side."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.report import _estimates, figures, profile_plot, tradeoff
from pipeline.report._corner_labels import Cross, Label, place
from pipeline.report.leaderboard import CALIBRATION, CLEAN, CORRUPTED, MCE, NUMBER, SHARE, TEXT, WORST, Board, Column
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, Look

NAME = Column("classifier", "Classifier", TEXT, "id")
SMALLEST = Column("median_smallest_l2", "Median smallest ℓ₂, all attacks [pixel range = 1]", NUMBER, "median")
CURVED = Column("curvature", "Curvature [1 / pixel range]", NUMBER, "median curvature")
NUMBERS = (CLEAN, WORST, SMALLEST, CORRUPTED)


def member(training: str, seed: int = 0, architecture: str = "net", dataset: str = "d") -> Outcomes:
    return Outcomes(dataset, f"{architecture}--{training}--{seed}", architecture, training, seed)


def board(rows: dict[Outcomes, dict[str, tuple[float, ...]]], columns: tuple[Column, ...] = NUMBERS) -> Board:
    """A leaderboard; numbers are given as (value, low, high), as (value,) with an interval of 0.02 around it."""
    table: list[dict[str, Any]] = []
    for outcomes, given in rows.items():
        row: dict[str, Any] = {"dataset": outcomes.dataset, "classifier": outcomes.classifier, "n": 40}
        for column in columns:
            value = given.get(column.name, (math.nan,) * 3)
            low, high = value[1:] if len(value) == 3 else (value[0] - 0.01, value[0] + 0.01)
            row |= {column.name: value[0], f"{column.name}_low": low, f"{column.name}_high": high}
        table.append(row)
    return Board(pd.DataFrame(table), (NAME, *columns), {})


STANDARD, ROBUST, OTHER = member("standard"), member("robust"), member("other")
ROWS: dict[Outcomes, dict[str, tuple[float, ...]]] = {
    STANDARD: {CLEAN.name: (0.9,), WORST.name: (0.2,), SMALLEST.name: (0.3,), CORRUPTED.name: (0.5,)},
    ROBUST: {CLEAN.name: (0.8,), WORST.name: (0.6, 0.5, 0.7), SMALLEST.name: (math.inf, 2.0, math.inf)},
    OTHER: {CLEAN.name: (0.7,), WORST.name: (0.4,), SMALLEST.name: (0.2,), CORRUPTED.name: (0.7,)},
}


def looked(members: list[Outcomes]) -> Look:
    return Look(members, members)


def texts(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are rendered from now on."""
    kept: list[Figure] = []
    for module in (tradeoff, profile_plot):
        original = module.render
        monkeypatch.setattr(module, "render", lambda figure, own=original: (kept.append(figure), own(figure))[1])
    return kept


def written(figure: Figure) -> set[str]:
    return {text.get_text() for axis in figure.axes for text in axis.texts if text.get_text()}


def test_numbers_are_those_of_the_leaderboard(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts(monkeypatch)
    members = [STANDARD, ROBUST, OTHER]
    chart = tradeoff.draw(members, board({**ROWS, member("standard", dataset="e"): ROWS[OTHER]}), looked(members))
    assert (
        chart is not None and chart.name == "tradeoff" and " d," in chart.caption and "n = 40 images" in chart.caption
    )
    data = chart.data.set_index(["measure", "classifier"])
    assert data.groupby("measure").size().to_dict() == {WORST.name: 3, SMALLEST.name: 3, CORRUPTED.name: 2}
    row = data.loc[WORST.name, ROBUST.classifier]
    assert [row[name] for name in ("value", "value_low", "value_high")] == pytest.approx([60, 50, 70])
    assert row["clean_accuracy"] == pytest.approx(80) and row["clean_accuracy_low"] == pytest.approx(79)
    assert data.loc[SMALLEST.name, STANDARD.classifier]["value"] == pytest.approx(0.3)
    assert math.isinf(data.loc[SMALLEST.name, ROBUST.classifier]["value"]) and "infinity" in chart.caption
    assert "95 %" in chart.caption and "Wilson" in chart.caption and chart.alt != chart.caption
    (figure,) = drawn
    assert [axis.get_ylabel().replace("\n", " ") for axis in figure.axes] == [
        WORST.header,
        SMALLEST.header,
        CORRUPTED.header,
    ]
    assert written(figure) == {"net, standard", "net, robust", "net, other"} and not figure.legends
    twice = tradeoff.draw(members, board(ROWS), looked(members))
    assert twice is not None and twice.png == chart.png and twice.svg == chart.svg


def test_only_what_was_measured_has_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts(monkeypatch)
    members = [STANDARD, ROBUST]
    own = {o: {CLEAN.name: (0.9,), WORST.name: (0.5,)} for o in members}
    chart = tradeoff.draw(members, board(own, (CLEAN, WORST)), looked(members))
    assert chart is not None and len(drawn[0].axes) == 1 and "front" not in chart.caption
    assert tradeoff.draw([STANDARD], board({STANDARD: ROWS[STANDARD]}), looked([STANDARD])) is None
    assert tradeoff.draw(members, board({o: {WORST.name: (0.5,)} for o in members}), looked(members)) is None
    assert tradeoff.draw(members, board({o: {CLEAN.name: (0.5,)} for o in members}), looked(members)) is None
    suites = tuple(CORRUPTED._replace(name=f"{CORRUPTED.name}_{suite}", header=suite) for suite in ("c", "c_bar"))
    own = {o: {CLEAN.name: (0.9,)} | {c.name: (0.5,) for c in suites} for o in members}
    chart = tradeoff.draw(members, board(own, (CLEAN, *suites)), looked(members))
    assert chart is not None and set(chart.data["measure"]) == {c.name for c in suites}


def test_seeds_of_a_training_are_joined_and_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts(monkeypatch)
    members = [member(training, seed) for training in ("standard", "robust") for seed in (0, 1)]
    own = {o: {CLEAN.name: (0.9 - 0.02 * i,), WORST.name: (0.2 + 0.1 * i,)} for i, o in enumerate(members)}
    chart = tradeoff.draw(members, board(own), looked(members))
    assert chart is not None and "join the seeds" in chart.caption and len(chart.data) == 4
    (axis,) = drawn[0].axes
    assert sorted(t.get_text() for t in axis.texts if t.get_text()) == ["net, robust", "net, standard"]
    joins = [line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_zorder() == 1.5]
    assert sorted(tuple(sorted(line.get_xdata())) for line in joins) == [
        pytest.approx((84.0, 86.0)),
        pytest.approx((88.0, 90.0)),
    ]


def test_a_legend_where_names_find_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts(monkeypatch)
    members = [member(f"training_with_a_long_name_{i}") for i in range(14)]
    own = {o: {CLEAN.name: (0.9 + 1e-4 * i,), WORST.name: (0.5,)} for i, o in enumerate(members)}
    assert tradeoff.draw(members, board(own), looked(members)) is not None
    (figure,) = drawn
    assert len(figure.legends) == 1 and not written(figure)


def test_front() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (2.0, 1.0), (3.0, 2.0), (0.5, 3.0), (1.5, math.inf)]
    assert tradeoff.front(points) == [(1.5, math.inf), (3.0, 2.0)]
    assert tradeoff.front([(1.0, 1.0), (1.0, 1.0)]) == [(1.0, 1.0)]


def test_labels_cover_neither_bars_nor_each_other() -> None:
    crosses = [Cross(x, y, x - 20, x + 20, y - 15, y + 15) for x, y in ((60, 60), (70, 64), (150, 120), (152, 60))]
    placed = place([Label(f"name {i}", [cross]) for i, cross in enumerate(crosses)], 220, 180)
    assert placed is not None
    taken = [box for cross in crosses for box in cross.boxes()]
    boxes = [label.box for label in placed]
    for one, other in [*itertools.combinations(boxes, 2), *itertools.product(boxes, taken)]:
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(min(box) >= 0 and box[2] <= 220 and box[3] <= 180 for box in boxes)
    assert place([Label("too long a name", crosses[:1])], 60, 60) is None
    # of several points the one with room close by bears the name
    (label,) = place([Label("standard", [crosses[0], Cross(5, 175, 0, 10, 170, 180), crosses[2]])], 220, 180) or []
    assert label.cross in (crosses[0], crosses[2])


def side_by_side(boards: list[Board], members: list[Outcomes]) -> Chart:
    chart = profile_plot.draw(members, boards, looked(members))
    assert chart is not None
    return chart


def test_every_number_once_on_an_axis_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = texts(monkeypatch)
    members = [STANDARD, ROBUST, OTHER]
    overall = board({o: ROWS[o] for o in (ROBUST, OTHER, STANDARD)})
    geometry = board({o: {CLEAN.name: (0.1,), CURVED.name: (-0.5, -2.0, 1.0)} for o in members[:2]}, (CLEAN, CURVED))
    chart = side_by_side([overall, geometry], members)
    assert chart.name == "profile_plot" and "95 %" in chart.caption and "n = 40 images" in chart.caption
    data = chart.data.set_index(["measure", "classifier"])
    assert data.loc[CLEAN.name, STANDARD.classifier]["value"] == pytest.approx(90)  # of the first leaderboard
    assert data.loc[CURVED.name, STANDARD.classifier][["value", "low", "high"]].tolist() == [-0.5, -2.0, 1.0]
    assert set(data.loc[CURVED.name].index) == {STANDARD.classifier, ROBUST.classifier}
    (figure,) = drawn
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title(loc="left") for axis in shown] == [
        column.header.partition(" [")[0] for column in (CLEAN, WORST, SMALLEST, CORRUPTED, CURVED)
    ]
    names = [ROBUST.classifier, OTHER.classifier, STANDARD.classifier]
    assert [label.get_text() for label in shown[0].get_yticklabels()] == names
    for axis in shown[:4]:
        assert "better →" in axis.get_xlabel()
    assert shown[-1].get_xlabel() == "[1 / pixel range]"  # no direction
    low, high = shown[-1].get_xlim()
    assert low < -2 and high > 1 and "infinity" in chart.caption
    assert profile_plot.draw([member("x")], [overall], looked(members)) is None
    assert side_by_side([overall, geometry], members).png == chart.png


def test_directions() -> None:
    assert [_estimates.direction(c) for c in (CLEAN, WORST, SMALLEST, CORRUPTED)] == [1] * 4
    assert [_estimates.direction(c) for c in (MCE, CALIBRATION)] == [-1] * 2
    assert _estimates.direction(CURVED) == 0
    margin = Column("median_margin_lowest_frequencies", "Median ℓ₂ margin", NUMBER, "median of the margin")
    assert _estimates.direction(margin) == 0
    assert _estimates.direction(Column("fooled", "Fooled [%]", SHARE, "share; lower is better")) == -1
    assert _estimates.direction(Column("pixels", "Pixels", NUMBER, "median; higher is better")) == 1


def test_limits_hold_all_that_is_finite() -> None:
    limits = _estimates.span([Interval(0.5, 0.2, 0.9), Interval(math.inf, 0.4, math.inf), Interval(0.3, math.nan, 0.4)])
    assert limits.low < 0.2 and limits.high > 0.9 and not limits.log
    assert _estimates.inside(math.inf, limits) == limits.high and _estimates.inside(0.5, limits) == 0.5
    far = [Interval(0.01, 0.005, 0.02), Interval(1.0, 0.5, 2.0)]
    assert _estimates.span(far, log=True).log and not _estimates.span(far).log
    assert not _estimates.span([Interval(0.0, 0.0, 1.0), *far], log=True).log
    same = _estimates.span([Interval(1.0, 1.0, 1.0)])
    assert same.low < 1 < same.high
    nothing = _estimates.span([Interval(math.inf, math.inf, math.inf)])
    assert math.isfinite(nothing.low) and nothing.low < nothing.high


@pytest.mark.parametrize(("count", "letters"), [(2, 3), (16, 40)])
def test_nothing_leaves_the_canvas(monkeypatch: pytest.MonkeyPatch, count: int, letters: int) -> None:
    drawn = texts(monkeypatch)
    members = [member(f"{i:02d}{'t' * letters}") for i in range(count)]
    numbers = [{c.name: (0.5 + 0.4 * math.sin(7 * i + j),) for j, c in enumerate(NUMBERS)} for i in range(count)]
    own = dict(zip(members, numbers, strict=True))
    assert tradeoff.draw(members, board(own), looked(members)) is not None
    side_by_side([board(own)], members)
    for figure in drawn:
        drawn_on = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())  # inches
        width, height = figure.get_size_inches()
        assert drawn_on.x0 >= -0.02 and drawn_on.y0 >= -0.02
        assert drawn_on.x1 <= width + 0.02 and drawn_on.y1 <= height + 0.02


def test_both_figures_are_among_those_of_a_data_set() -> None:
    members = [STANDARD, OTHER]
    geometry = board({o: {CURVED.name: (1.0,)} for o in members}, (CURVED,))
    found = {
        c.name: c for c in figures.draw(members, board({o: ROWS[o] for o in members}), members, further=[geometry])
    }
    assert list(found)[:3] == ["overview", "tradeoff", "profile_plot"]
    assert CURVED.name in set(found["profile_plot"].data["measure"])
