"""The answers at the head of the page: who is most robust to what, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import outcomes as sources
from pipeline.report import paths
from pipeline.report.comparisons import Comparison
from pipeline.report.leaderboard import WORST, Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.rendering import interval
from pipeline.report.statistics import Interval
from pipeline.report.style import count

NAMED = 4  # classifiers in a sentence at most


class Answer(NamedTuple):
    """Who is first on a leaderboard, or that nobody is.

    Attributes:
        board: its title.
        classifier: who is first; "" if there is no rank.
        card: link to the classifier's page.
        text: by which number, and whether tests tell it apart from the others.
        doubt: the flags of the first, if there are any.
    """

    board: str
    classifier: str
    card: str
    text: str
    doubt: str = ""


class Answers(NamedTuple):
    """The answers on one data set.

    Attributes:
        dataset: its id.
        size: number of classifiers and images.
        answers: one per leaderboard with a rank.
        notes: what else must be known first.
    """

    dataset: str
    size: str
    answers: Sequence[Answer]
    notes: Sequence[str]


def answers(
    classifiers: Sequence[Outcomes], boards: Sequence[Board], comparisons: Sequence[Comparison]
) -> list[Answers]:
    """The answers on each data set."""
    found = []
    for dataset in sources.datasets(classifiers):
        members = sources.shared(classifiers, dataset)
        rows = boards[0].table[boards[0].table["dataset"] == dataset]
        sizes = [int(n) for n in rows["n"].dropna()]
        size = f"{len(members)} classifier{'s' * (len(members) != 1)}" + (f", {count(sizes)}" if sizes else "")
        notes = [*_against_standard([c for c in comparisons if c.dataset == dataset]), *_flagged(rows)]
        found.append(Answers(dataset, size, list(_answers(members, boards, dataset)), notes))
    return found


def _answers(members: Sequence[Outcomes], boards: Sequence[Board], dataset: str) -> Iterator[Answer]:
    taken = set()
    for board in boards:
        name = board.ranked_by.get(dataset, "")
        rows = [row for row in board.table.to_dict("records") if row["dataset"] == dataset]
        ranked = [row for row in rows if not pd.isna(row.get("rank_best"))]
        column = next((column for column in board.columns if column.name == name), None)
        if column is None or not ranked or (name, ranked[0]["classifier"]) in taken:
            continue  # two boards may be ranked by the same number
        taken.add((name, ranked[0]["classifier"]))
        best = ranked[0]
        value = interval(Interval(*(best[name + tail] for tail in ("", "_low", "_high"))), column.kind)
        what, _, unit = column.header.partition(" [")
        text = f"{what[:1].lower()}{what[1:]}: {value} {unit.removesuffix(']')}".rstrip().replace(" %", "\u00a0%")
        threats = sorted({str(threat) for o in members for threat in o.fixed}) if name == WORST.name else []
        text += f", under {', '.join(threats)}" if threats else ""
        doubt = "" if pd.isna(flags := best.get("flags")) else str(flags)
        card = paths.card(dataset, str(best["classifier"]))
        yield Answer(board.title, str(best["classifier"]), card, f"{text}. {_apart(best, ranked)}", doubt)


def _apart(best: Mapping[Any, Any], ranked: Sequence[Mapping[Any, Any]]) -> str:
    others = len(ranked) - 1
    if not others:
        return "It is the only one measured."
    # The worst rank left open counts all that are not told apart, also those that a third one is told apart from.
    if (close := int(best["rank_worst"]) - 1) == 0:
        return (
            f"Paired tests tell it apart from all {others} others."
            if others > 1
            else "A paired test tells it apart from the other."
        )
    level = [str(row["classifier"]) for row in ranked if row is not best and row["rank_best"] == best["rank_best"]]
    names = [*level[:NAMED], *([f"{close - len(level[:NAMED])} more"] if close > len(level[:NAMED]) else [])]
    text = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"Not told apart by paired tests from {text}."


def _against_standard(comparisons: Sequence[Comparison]) -> Iterator[str]:
    if comparisons:
        verdicts = [comparison.verdict for comparison in comparisons]
        higher, lower = verdicts.count("higher"), verdicts.count("lower")
        yield (
            f"Of {len(verdicts)} differences to standard training, {higher} are gains, {lower} are losses, and "
            f"{len(verdicts) - higher - lower} may be chance (paired tests, adjusted by Holm's method)."
        )


def _flagged(rows: pd.DataFrame) -> Iterator[str]:
    if flagged := int(rows["flags"].notna().sum()):
        yield (
            f"What attacks found on {flagged} of {len(rows)} classifiers is in doubt: the column Flags says why. "
            "Their robust accuracy may be too high."
        )
