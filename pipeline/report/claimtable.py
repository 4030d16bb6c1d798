"""The table of claims: a line per claim for readers, a row per test for those who check, and both as files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from pipeline.report.claims import CLAIMS, FAILS, HOLDS, OPEN, UNTESTED, Claim
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.rendering import number

SUBJECTS, QUANTITIES = 3, 2  # named in a line at most


def ordered(claims: Sequence[Claim]) -> list[Claim]:
    """Claims in the order of `CLAIMS`; those of one key as they are given.

    Raises:
        ValueError: one has a key that is not there.
    """
    places = {key: place for place, key in enumerate(CLAIMS)}
    if unknown := sorted({claim.key for claim in claims} - set(places)):
        raise ValueError(f"claims {', '.join(unknown)} are not in CLAIMS")
    return sorted(claims, key=lambda claim: places[claim.key])


def summary(claims: Sequence[Claim]) -> Table:
    """One line per claim, measured or not: in how many tests it holds, what was measured, and for whom it does not."""
    rows = []
    for key, (paper, statement) in CLAIMS.items():
        tests = [claim for claim in claims if claim.key == key]
        failed = list(dict.fromkeys(_subject(claim, claims) for claim in tests if claim.verdict == FAILS))
        names = ", ".join(failed[:SUBJECTS]) + (f" and {len(failed) - SUBJECTS} more" if failed[SUBJECTS:] else "")
        rows.append([*words(_short(key), statement), _verdict(tests), *words(_range(tests), names or "–", paper)])
    return Table(("Claim", "In full", "Here", "Measured, lowest to highest", "Does not hold for", "Paper"), rows)


def full(claims: Sequence[Claim]) -> Table:
    """Every test of a claim."""
    rows = []
    for claim in ordered(claims):
        names = words(_short(claim.key), claim.dataset, claim.subject, _quantity(claim))
        rows.append([*names, estimate(claim.estimate, claim.kind), whole(claim.n), *words(claim.verdict)])
    return Table(("Claim", "Data set", "Subject", "Measured", "Estimate", "n", "Verdict"), rows)


def to_csv(claims: Sequence[Claim]) -> str:
    """Every test, and every claim that was not tested, for machines: shares from 0 to 1, empty where not measured."""
    rows: list[dict[str, object]] = []
    for key, (paper, statement) in CLAIMS.items():
        tests = [claim for claim in claims if claim.key == key]
        for claim in tests:
            own = {name: getattr(claim, name) for name in ("dataset", "subject", "measured", "kind", "n", "verdict")}
            rows.append({"claim": key, **own, **claim.estimate._asdict(), "statement": statement, "paper": paper})
        if not tests:
            rows.append({"claim": key, "verdict": UNTESTED, "statement": statement, "paper": paper})
    columns = ["claim", "dataset", "subject", "measured", "kind", "value", "low", "high", "n", "verdict"]
    table = pd.DataFrame(rows, columns=[*columns, "statement", "paper"]).astype({"n": "Int64"})
    return table.to_csv(index=False, lineterminator="\n")


def to_markdown(claims: Sequence[Claim]) -> str:
    """Both tables for people."""
    parts = ["# Claims of the papers", "", *_markdown(summary(claims))]
    if claims:
        parts += ["", "## Every test", "", *_markdown(full(claims))]
    return "\n".join([*parts, "", "Intervals are 95 %. Shares are in percent.", ""])


def _markdown(table: Table) -> list[str]:
    lines = [[f"{cell.text} {cell.limits}".strip() for cell in row] for row in table.rows]
    # Ids are the user's: they must not break the cells.
    escaped = [[re.sub(r"([\\|<>`*]|\](?=\())", r"\\\1", text).replace("\n", " ") for text in line] for line in lines]
    return [f"| {' | '.join(table.headers)} |", "|" + " --- |" * len(table.headers)] + [
        f"| {' | '.join(line)} |" for line in escaped
    ]


def _short(key: str) -> str:
    return key.replace("_", " ")


def _subject(claim: Claim, claims: Sequence[Claim]) -> str:
    """Whom a claim is about, with the data set where there are several."""
    alone = len({other.dataset for other in claims}) == 1
    return claim.subject if alone else f"{claim.subject} ({claim.dataset})"


def _verdict(tests: Sequence[Claim]) -> Cell:
    if not tests:
        return Cell(UNTESTED)
    counts = {verdict: sum(claim.verdict == verdict for claim in tests) for verdict in (HOLDS, FAILS, OPEN)}
    of = f" of {len(tests)}"
    text = "; ".join(f"{verdict} in {count}{of}" for verdict, count in counts.items() if count)
    return Cell(text, counts[HOLDS] / len(tests))


def _quantity(claim: Claim) -> str:
    """What was measured, with the unit in which shares are shown."""
    return f"{claim.measured} [%]" if claim.kind == "share" else claim.measured


def _range(tests: Sequence[Claim]) -> str:
    """The lowest and the highest estimate of each quantity."""
    parts = []
    quantities = list(dict.fromkeys(map(_quantity, tests)))
    for quantity in quantities[:QUANTITIES]:
        same = [claim for claim in tests if _quantity(claim) == quantity and not math.isnan(claim.estimate.value)]
        ends = [number(pick(claim.estimate.value for claim in same), same[0].kind) for pick in (min, max) if same]
        parts.append(f"{quantity}: {' to '.join(dict.fromkeys(ends)) or '–'}")
    more = len(quantities) - len(parts)
    return "; ".join([*parts, *([f"and {more} more"] if more else [])]) or "–"
