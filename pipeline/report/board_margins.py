"""Numbers of margins along frequencies that several leaderboards share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from pipeline.report import statistics
from pipeline.report.board_columns import NUMBER, Column, Measure, slug
from pipeline.report.board_measures import each
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval


def main(classifiers: Sequence[Outcomes], names: Sequence[str]) -> str:
    """The measurement of margins with the most images, the first of equals."""
    return max(names, key=lambda name: sum(len(o.margins[name]) for o in classifiers if name in o.margins))


def names_of(classifiers: Sequence[Outcomes]) -> list[str]:
    """Measurements of margins along frequencies."""
    return sorted({name for o in classifiers for name in o.margins})


def measures(classifiers: Sequence[Outcomes], name: str, seed: int, smallest: bool = True) -> Iterator[Measure]:
    """Median margins in the lowest and in the highest block of frequencies, and the smallest over the blocks."""
    alone = len(names_of(classifiers)) == 1
    prefix = ("median_margin",) if alone else ("median_margin", name)
    own = [o for o in classifiers if name in o.margins and not o.margins[name].empty]

    def measure(part: str, words: str, block: Callable[[pd.DataFrame], int] | None) -> Measure:
        def estimate(outcomes: Outcomes, seed: int) -> Interval:
            table = outcomes.margins[name]
            picked = table.dropna().min(axis=1) if block is None else table[block(table)].dropna()
            return statistics.bootstrap(picked, statistics.median, seed=seed)

        header = f"Median ℓ₂ margin, {words}{'' if alone else f', {name}'} [pixel range = 1]"
        text = f"median over correctly classified images of the ℓ₂ margin, {words} (pixel range = 1)"
        query = f"measurement == {name!r} and correct"
        column = Column(slug(*prefix, part), header, NUMBER, text, "dct_margin", query)
        found = each(column, own, seed, estimate)
        if block is None:
            return found
        places = {(o.dataset, o.classifier): f"{query} and block == {block(o.margins[name])}" for o in own}
        same = next(iter(places.values())) if len(set(places.values())) == 1 else query
        return found._replace(column=column._replace(query=same), queries=places)

    yield measure("lowest_frequencies", "lowest frequency block", lambda m: int(min(m.columns)))
    yield measure("highest_frequencies", "highest frequency block", lambda m: int(max(m.columns)))
    if smallest:
        yield measure("smallest", "smallest over the blocks", None)
