"""A comparison of two runs in words: for people as text and Markdown, for programs as JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.compare.comparing import Comparison
from pipeline.compare.gaps import LIMITS
from pipeline.compare.numbers import BETTER, CHANGED, EQUAL, NOTHING_SHOWN, UNTESTED, WORSE, Number
from pipeline.compare.surroundings import Absent
from pipeline.report.board_columns import SHARE

HEADERS = ("Data set", "Classifier", "Number", "Before", "After", "Change", "p (Holm)", "Verdict")
NUMERIC = ("Before", "After", "Change", "p (Holm)")
FACTS = 30  # shown in words; JSON has all
PLACES = 4  # likewise
ORDER = (WORSE, CHANGED, BETTER)


def text(comparison: Comparison) -> str:
    """For a terminal: what changed first, the rest counted."""
    rows = _rows(comparison)
    parts = [_heading(comparison), *_verdict(comparison)]
    if rows:
        widths = [max(len(row[i]) for row in (HEADERS, *rows)) for i in range(len(HEADERS))]
        lines = [
            "  ".join(
                cell.rjust(width) if name in NUMERIC else cell.ljust(width)
                for name, cell, width in zip(HEADERS, row, widths, strict=True)
            ).rstrip()
            for row in (HEADERS, *rows)
        ]
        parts += ["", lines[0], "-" * max(map(len, lines)), *lines[1:]]
    for title, lines in _lists(comparison):
        parts += ["", f"{title}:", *(f"  {line}" for line in lines)]
    return "\n".join(["", *parts, "", _legend(comparison)]).lstrip("\n")


def markdown(comparison: Comparison) -> str:
    """As the text."""
    rows = _rows(comparison)
    parts = [f"# {_heading(comparison)}", "", *(f"{line}  " for line in _verdict(comparison))]
    if rows:
        marks = ["--:" if name in NUMERIC else "---" for name in HEADERS]
        parts += ["", *(f"| {' | '.join(map(_escaped, row))} |" for row in (HEADERS, marks, *rows))]
    for title, lines in _lists(comparison):
        parts += ["", f"## {title}", "", *(f"- {_escaped(line)}" for line in lines)]
    return "\n".join([*parts, "", _legend(comparison), ""])


def to_json(comparison: Comparison) -> str:
    """Everything, the numbers that did not change included; what is not finite as text, `inf`, or null."""
    c = comparison
    found = {
        "before": str(c.before),
        "after": str(c.after),
        "regression": c.regression,
        "level": c.level,
        "tolerance": c.tolerance,
        "allow_missing": c.allow_missing,
        "counts": dict(sorted(Counter(number.verdict for number in c.numbers).items())),
        "numbers": [_record(number) for number in c.numbers],
        "defined_in_one_alone": [each._asdict() for each in c.alone],
        "missing": [each._asdict() for each in c.missing],
        "new": [each._asdict() for each in c.new],
        "flags": [each._asdict() for each in c.flags],
        "images": {name: each._asdict() | {"same": each.same} for name, each in c.images.items()},
        "facts": [each._asdict() for each in c.facts],
    }
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _record(number: Number) -> dict[str, Any]:
    change, column = number.change, number.column
    own: dict[str, Any] = {
        "dataset": number.dataset,
        "classifier": number.classifier,
        "number": column.name,
        "header": column.header,
    }
    own |= {"unit": column.unit, "higher_is_better": {1: True, -1: False}.get(number.direction)}
    values = {"before": change.before, "after": change.after, "change": change.gap.value, "low": change.gap.low}
    values |= {"high": change.gap.high, "p": change.p, "p_adjusted": number.adjusted, "harm": number.harm}
    own |= {name: _plain(value) for name, value in values.items()}
    own |= {"test": change.test or None, "n_before": change.n[0], "n_after": change.n[1], "paired": change.paired}
    return own | {"verdict": number.verdict, "regression": number.regression}


def _plain(value: float) -> float | str | None:
    return None if math.isnan(value) else str(value) if math.isinf(value) else value


def _heading(comparison: Comparison) -> str:
    return f"{comparison.before} (before) and {comparison.after} (after)"


def _verdict(comparison: Comparison) -> list[str]:
    """Whether it is a regression and why, and how many numbers are of each verdict."""
    c = comparison
    worse = sum(number.regression for number in c.numbers)
    reasons = [f"{_counted(worse, 'number')} worse"] * bool(worse)
    if c.missing and not c.allow_missing:
        reasons.append(f"{_counted(len(c.missing), 'thing')} missing")
    reasons += [f"{_counted(len(c.flags), 'new doubt')} about attacks"] * bool(c.flags)
    counts = Counter(number.verdict for number in c.numbers)
    words = {WORSE: "worse", CHANGED: "changed, no direction being better", BETTER: "better"}
    words |= {
        UNTESTED: "that differ, without a test",
        NOTHING_SHOWN: "with no change shown",
        EQUAL: "equal bit for bit",
    }
    told = ", ".join(f"{counts[verdict]} {text}" for verdict, text in words.items() if counts[verdict])
    first = f"REGRESSION: {', '.join(reasons)}." if c.regression else "No regression."
    return [first, f"{_counted(len(c.numbers), 'number')} compared: {told or 'none'}."]


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The numbers that changed: regressions first, then by verdict, the largest harm first."""
    shown = [number for number in comparison.numbers if number.verdict in ORDER]

    def place(n: Number) -> tuple[object, ...]:
        return not n.regression, ORDER.index(n.verdict), -n.harm, n.dataset, n.classifier, n.column.name

    shown.sort(key=place)
    return [_row(number, comparison) for number in shown]


def _row(number: Number, comparison: Comparison) -> tuple[str, ...]:
    change, share = number.change, number.column.kind == SHARE
    limits = f" [{_number(change.gap.low, share, '+')}, {_number(change.gap.high, share, '+')}]"
    verdict = "worse, within the tolerance" if number.verdict == WORSE and not number.regression else number.verdict
    return (
        number.dataset,
        number.classifier,
        number.column.header,
        _number(change.before, share),
        _number(change.after, share),
        _number(change.gap.value, share, "+") + limits,
        "<0.001" if number.adjusted < 0.001 else f"{number.adjusted:.3f}",
        verdict,
    )


def _number(value: float, share: bool, sign: str = "") -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "−∞" if value < 0 else f"{sign}∞"
    return (f"{100 * value:{sign}.2f}" if share else f"{value:{sign}.3g}").replace("-", "−")


def _lists(comparison: Comparison) -> list[tuple[str, list[str]]]:
    c = comparison
    missing = "Missing after" + (" (allowed)" if c.allow_missing else "")
    facts = [f"{fact.what}: {fact.before} → {fact.after}" for fact in c.facts]
    alone: dict[str, list[str]] = {}
    for each in c.alone:
        words = f"{each.column}, not {'after' if each.before else 'before'}"
        alone.setdefault(words, []).append(f"{each.dataset}/{each.classifier}")
    rest = [f"and {len(facts) - FACTS} more (see --json)"] if len(facts) > FACTS else []
    found = (
        (missing, [_absent(each) for each in c.missing]),
        ("New doubts about attacks", [f"{f.dataset}, {f.classifier}: {f.attack}: {f.reason}" for f in c.flags]),
        ("Images", _images(c)),
        ("Defined in one run alone", [_placed(name, places) for name, places in alone.items()]),
        ("New after", [_absent(each) for each in c.new]),
        ("What else differs", [*facts[:FACTS], *rest]),
    )
    return [(title, lines) for title, lines in found if lines]


def _absent(each: Absent) -> str:
    return _placed(f"{each.what} {each.name}", each.places)


def _placed(text: str, places: Sequence[str]) -> str:
    more = f" and {len(places) - PLACES} more" if len(places) > PLACES else ""
    return text + (f" ({', '.join(places[:PLACES])}{more})" if places else "")


def _images(comparison: Comparison) -> list[str]:
    """How the images of each data set were compared."""
    lines = []
    for dataset, images in comparison.images.items():
        if not images.same:
            why = f"{images.labels} ids have another label" if images.labels else "no id in common"
            line = f"not the same images ({why}): differences are unpaired"
        elif images.shared == images.before == images.after:
            line = f"paired on {images.shared} images"
        else:
            line = f"{images.shared} in common, of {images.before} before and {images.after} after"
        if images.files is not None:
            line += ", equal files" if images.files else ", but the files of evaluation images differ"
        lines.append(f"{dataset}: {line}")
    return lines


def _legend(comparison: Comparison) -> str:
    c = comparison
    sentences = [
        f"Change: after minus before, with a {100 * c.level:g} % interval; shares in percent, their changes in "
        "percentage points.",
        "p-values are adjusted by Holm's method over all numbers that could have changed.",
    ]
    if any(number.change.test == LIMITS for number in c.numbers):
        sentences.append("Numbers that no image has a value of are compared by the limits of both, which shows less.")
    if any(each.what in ("corruption", "attack") for each in (*c.missing, *c.new)):
        sentences.append("Means over corruptions and the worst of attacks are of those that both runs have.")
    sentences.append(
        f"A regression: worse with p < {1 - c.level:.3g} and by more than the tolerance of {c.tolerance:g} (shares: "
        f"{100 * c.tolerance:g} points, others: {100 * c.tolerance:g} % of before), "
        + ("" if c.allow_missing else "something missing, ")
        + "or a new doubt about an attack."
    )
    return " ".join(sentences)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
