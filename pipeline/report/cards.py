"""A page per classifier: how it was made, every number with the rows behind it, its mistakes, what measured it.

The idea is that of Mitchell et al., "Model cards for model reporting", FAT* 2019. Departures: a page says nothing of
intended use, of ethics, or of groups of people, of which the data say nothing; it adds what made each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import (
    card_mistakes,
    card_numbers,
    card_origin,
    card_recipe,
    card_words,
    corruption_measures,
    outcomes,
    pagetables,
    paths,
)
from pipeline.report.claims import CLAIMS, Claim
from pipeline.report.classes import Classes, named
from pipeline.report.comparisons import Comparison
from pipeline.report.corruption_measures import Errors
from pipeline.report.leaderboard import SHARE, Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.rendering import signed
from pipeline.report.site import Source
from pipeline.report.style import Chart
from pipeline.report.templating import template

AGAINST = " against "  # between the classifiers of a claim on two
OF_ROWS = ("accuracy", "gallery")  # tables that a page reads row by row
Tables = Mapping[str, pd.DataFrame]


def pages(
    *,
    classifiers: Sequence[Outcomes],
    boards: Sequence[Board],
    tables: Tables,
    sources: Sequence[Source],
    config: Mapping[str, Any] | None,
    charts: Mapping[str, Sequence[tuple[str, Chart]]],
    seed: int,
    title: str,
    comparisons: Sequence[Comparison] = (),
    claims: Sequence[Claim] = (),
    classes: Classes | None = None,
) -> dict[str, str]:
    """The pages of all classifiers: path below the report's folder -> HTML.

    Args:
        classifiers: of all data sets.
        boards: leaderboards, the overall one first; a classifier that is on none has a page without numbers.
        tables: kind of measurement -> collected table, as far as they were read.
        sources: all tables, with their provenance.
        config: of the run, if it is known.
        charts: data set -> (name of the files, figure); those that show a classifier are named on its page.
        seed: of the bootstrap, where no leaderboard has the errors under corruption.
        title: of the report.
        comparisons: with standard training.
        claims: of papers, on classifiers of this run.
        classes: names of the classes, as far as they are known.
    """
    errors = next((board.errors for board in boards if board.errors), None)
    if errors is None:
        errors = corruption_measures.everything(classifiers, config, seed)
    parts = {kind: _split(tables[kind]) for kind in OF_ROWS if kind in tables}
    pictured = set(tables["gallery"]["dataset"].astype(str)) if "gallery" in tables else set()
    found = {}
    for one in classifiers:
        key = one.dataset, one.classifier
        page = paths.card(*key)
        rows = {kind: part[key] for kind, part in parts.items() if key in part}
        numbers = card_numbers.parts(one, boards)
        origins = card_origin.origins(one, sources, config)
        found[page] = template("card.html.j2").render(
            title=f"{one.classifier} on {one.dataset} – {title}",
            report=title,
            one=one,
            home=paths.link(paths.INDEX, page),
            samples=paths.link(paths.samples(one.dataset), page) if one.dataset in pictured else "",
            headline=list(card_words.headline(one, numbers[0].rank if numbers else "", _own(one, errors))),
            flags=card_words.flags(one),
            recipe=card_recipe.recipe(one, config),
            seed=card_recipe.seed(one),
            evaluated=card_recipe.evaluated(rows.get("accuracy")),
            relatives=card_recipe.relatives(one, classifiers),
            command=card_recipe.command(one),
            provenance=card_recipe.provenance(one),
            snippet=card_recipe.snippet(one),
            parts=numbers,
            comparisons=_comparisons(one, comparisons),
            claims=_claims(one, claims),
            gallery=card_mistakes.gallery(one, rows.get("gallery"), named(classes, one.dataset)),
            confusions=card_mistakes.confusions(one, rows.get("accuracy"), named(classes, one.dataset)),
            corruptions=card_mistakes.corruptions(one, _own(one, errors)),
            figures=_figures(one, charts),
            origins=card_origin.table(origins),
            versions=card_origin.versions(origins),
            tables=card_origin.tables(origins, sources),
        )
    return found


def _split(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    return {(str(of), str(name)): part for (of, name), part in table.groupby(outcomes.KEYS)}


def _own(one: Outcomes, errors: Sequence[Errors]) -> list[Errors]:
    return [e for e in errors if (e.outcomes.dataset, e.outcomes.classifier) == (one.dataset, one.classifier)]


def _comparisons(one: Outcomes, comparisons: Sequence[Comparison]) -> Table:
    """Differences to the standard classifier of the same architecture and seed."""
    rows = []
    for c in comparisons:
        if (c.dataset, c.classifier) == (one.dataset, one.classifier):
            limits = f"[{signed(c.gap.low, c.kind)}, {signed(c.gap.high, c.kind)}]"
            gap = Cell(signed(c.gap.value, c.kind), pagetables.sort_key(c.gap.value), limits, True)
            reference = Cell(c.reference, c.reference, link=_link(one, c.reference))
            chance = Cell(f"{c.adjusted:.3f}" if c.adjusted >= 0.001 else "< 0.001", c.adjusted, numeric=True)
            rows.append([*words(c.measure), gap, whole(c.n), *words(c.test), chance, *words(c.verdict), reference])
    return Table(("Measure", "Difference", "n", "Test", "p, Holm", "Reading", "Compared with"), rows)


def _claims(one: Outcomes, claims: Sequence[Claim]) -> Table:
    """Claims on the classifier, alone or against another."""
    rows = []
    for claim in claims:
        subjects = claim.subject.split(AGAINST)
        if claim.dataset == one.dataset and one.classifier in (claim.subject, *subjects):
            paper, statement = CLAIMS[claim.key]
            about = claim.subject if claim.subject != one.classifier else "this classifier"
            result = [*words(claim.verdict), estimate(claim.estimate, claim.kind), whole(claim.n)]
            measured = f"{claim.measured} [%]" if claim.kind == SHARE else claim.measured
            rows.append([*words(statement), *result, *words(measured, about, paper)])
    return Table(("Claim", "Verdict", "Estimate", "n", "Measured", "About", "Paper"), rows)


def _link(one: Outcomes, classifier: str) -> str:
    return paths.link(paths.card(one.dataset, classifier), paths.card(one.dataset, one.classifier))


def _figures(one: Outcomes, charts: Mapping[str, Sequence[tuple[str, Chart]]]) -> list[tuple[str, str]]:
    """(title, name of the files) of the figures of the data set that show the classifier."""
    return [
        (chart.title, name)
        for name, chart in charts.get(one.dataset, ())
        if "classifier" in chart.data and (chart.data["classifier"].astype(str) == one.classifier).any()
    ]
