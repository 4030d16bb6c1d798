"""From the tables to what the page of a data set's samples shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report.classes import Named
from pipeline.report.explorer_samples import NOTHING, ORDERS, Album, Cell, Facts, Sample, fragment
from pipeline.report.leaderboard import NUMBER, SHARE
from pipeline.report.outcomes import NORMS, Outcomes, Threat
from pipeline.report.pictures import Row, extent, magnification, norms, pictures, scaling
from pipeline.report.rendering import number

BYTES = 8_000_000  # of pictures on a page; beyond it the last samples are left out
SMALL = 64  # pixels of a side; above it, pictures are first compressed with losses
# quantities of the profile that a page shows, each also with the id of a measurement or suite behind it
FACTS: tuple[str, ...] = ("smallest_l2", "smallest_linf", "smallest_l0", "margin_low", "margin_high")
FACTS += ("curvature_mean", "curvature_largest", "corrupted")
# column of the perturbation table, value to speak of, what it says
SIGNS = (
    ("in_box", False, "leaves the valid range"),
    ("within_epsilon", False, "exceeds the budget"),
    ("zero_gradient", True, "gradient is zero"),
    ("gradient_mismatch", True, "gradient does not fit the logits"),
)
FAILURES = (  # likewise, where the attack found nothing
    ("single_step_success", True, "a single step fools"),
    ("random_search_success", True, "a random search fools"),
)
COARSE = (("converged_8bit", False, "lost when rounded to 8 bits"),)  # where it found something


def album(rows: pd.DataFrame, classifiers: Sequence[Outcomes], profile: pd.DataFrame, named: Named = str) -> Album:
    """What the gallery's rows of one data set show, and what else is known of their samples.

    Args:
        rows: of the gallery table, at least one.
        classifiers: of the data set.
        profile: rows of the data set, as `profile.joined` returns them.
        named: what a class is called.
    """
    rows = rows.drop_duplicates(["classifier", "sample", "attack"])
    shown = [outcomes for outcomes in classifiers if (rows["classifier"] == outcomes.classifier).any()]
    threats = {threat.attack: threat for outcomes in shown for threat in outcomes.norms}
    attacks = [threats.get(str(name), Threat(str(name), "l2")) for name in dict.fromkeys(rows["attack"])]
    measured = [str(name) for name in profile.dropna(axis="columns", how="all")]
    names = [name for name in measured if any(name == f or name.startswith(f"{f}_") for f in FACTS)]
    scenes = [(str(sample), part.to_dict("records")) for sample, part in rows.groupby("sample", sort=False)]
    limits = extent(rows.to_dict("records"))
    known = _Known(shown, attacks, names, profile, [sample for sample, _ in scenes], limits, named)
    samples = _fitting(scenes, known, lossy=False)
    first = rows.iloc[0]
    if lossy := len(samples) < len(scenes) and max(first["height"], first["width"]) > SMALL:
        samples = _fitting(scenes, known, lossy=True)
    return Album(
        classifiers=shown,
        attacks=attacks,
        headers=names,
        limits=known.limits,
        grey=bool(first["channels"] == 1),
        height=int(first["height"]),
        width=int(first["width"]),
        samples=samples,
        known=len(scenes),
        lossy=lossy,
    )


class _Known:
    """What is known beside the gallery's rows: numbers of samples, results of attacks, and which ones are in doubt."""

    def __init__(
        self,
        classifiers: Sequence[Outcomes],
        attacks: Sequence[Threat],
        names: Sequence[str],
        profile: pd.DataFrame,
        samples: Sequence[str],
        limits: tuple[float, float],
        named: Named,
    ) -> None:
        self.classifiers, self.attacks, self.names, self.limits = classifiers, attacks, names, limits
        self.named = named
        rows = profile[profile["sample"].isin(samples)].to_dict("records")
        self.numbers = {(row["classifier"], row["sample"]): row for row in rows}
        self.attacked = {
            (outcomes.classifier, row["sample"], row["attack"]): row
            for outcomes in classifiers
            if len(outcomes.attacks)
            for row in outcomes.attacks[outcomes.attacks["sample"].isin(samples)].to_dict("records")
        }
        self.doubtful = {
            (outcomes.classifier, threat.attack)
            for outcomes in classifiers
            for threat, reasons in outcomes.doubts.items()
            if reasons
        }


def _fitting(scenes: Sequence[tuple[str, Sequence[Row]]], known: _Known, lossy: bool) -> list[Sample]:
    """The first samples, as many as fit on a page, at least one."""
    samples: list[Sample] = []
    room = BYTES
    for name, rows in scenes:
        sample = _sample(name, rows, known, lossy)
        room -= sample.bytes
        if samples and room < 0:
            break
        samples.append(sample)
    return samples


def _sample(name: str, rows: Sequence[Row], known: _Known, lossy: bool) -> Sample:
    by_cell = {(row["classifier"], row["attack"]): row for row in rows}
    factors = [magnification(row for row in rows if row["attack"] == threat.attack) for threat in known.attacks]
    cells: list[list[Cell | None]] = []
    facts: list[Facts | None] = []
    for place, outcomes in enumerate(known.classifiers):
        line: list[Cell | None] = []
        for column, threat in enumerate(known.attacks):
            row = by_cell.get((outcomes.classifier, threat.attack))
            look = {"limits": known.limits, "factor": factors[column], "lossy": lossy}
            line.append(None if row is None else _cell((place, column), row, threat, known, look))
        cells.append(line)
        mine = next((row for row in rows if row["classifier"] == outcomes.classifier), None)
        facts.append(None if mine is None else _facts(mine, known, outcomes))
    clean = pictures(rows[0], limits=known.limits, lossy=lossy).clean
    scales = [scaling(factor) for factor in factors]
    return Sample(name, fragment(name), known.named(int(rows[0]["label"])), clean, scales, cells, facts)


def _cell(place: tuple[int, int], row: Row, threat: Threat, known: _Known, look: Mapping[str, Any]) -> Cell:
    """The cell of one row of the gallery; `look`: keywords of `pictures`."""
    before, after, label = (int(row[name]) for name in ("clean_prediction", "prediction", "label"))
    address = ("", "") if row["clean"] == row["perturbed"] else pictures(row, **look)[1:]
    measured = known.attacked.get((row["classifier"], row["sample"], threat.attack))
    flagged = (row["classifier"], threat.attack) in known.doubtful
    found = after != label if measured is None else bool(measured["converged"])
    source = norms(row) if measured is None else measured
    norms_found = {norm: float(source[column]) for norm, column in ORDERS.items()}
    sizes = {norm: value for norm, value in norms_found.items() if math.isfinite(value)} if found else None
    size = f"{threat.symbol} {_number(float(source[NORMS[threat.norm][0]]), threat.norm)}" if found else NOTHING
    was, taken = known.named(before), known.named(after)
    change = f"{was} → {taken}" if before != after else f"stays {taken}"
    if before != label:
        change = f"already {was}" if before == after else f"already wrong, {change}"
    notes = list(_notes(measured or {}, SIGNS + (COARSE if found else FAILURES)))
    return Cell(*place, *address, found, change, size, notes, flagged, sizes)


def _notes(row: Row, signs: Sequence[tuple[str, bool, str]]) -> Iterator[str]:
    for name, value, text in signs:
        known = row.get(name)
        if known is not None and not pd.isna(known) and bool(known) is value:
            yield text


def _facts(row: Row, known: _Known, outcomes: Outcomes) -> Facts:
    numbers = known.numbers.get((row["classifier"], row["sample"]), {})
    prediction = known.named(int(row["clean_prediction"]))
    confidence = float(numbers.get("confidence", math.nan))
    if not math.isnan(confidence):
        prediction += f" ({number(confidence, SHARE)} %)"
    values = [_number(float(numbers.get(name, math.nan)), name) for name in known.names]
    right = bool(row["clean_prediction"] == row["label"])
    return Facts(prediction, right, values, _errors(outcomes.corrupted, str(row["sample"])))


def _errors(corrupted: pd.DataFrame, sample: str) -> str:
    """The corrupted versions of a sample that are misclassified, such as `2 of 10: fog 1, 3–5; snow 2`."""
    if sample not in corrupted.index:
        return NOTHING
    views = corrupted.loc[sample].dropna()
    wrong: dict[str, list[int]] = {}
    for key, value in views.items():
        view, severity = key if isinstance(key, tuple) else (key, 0)
        if value == 0:
            wrong.setdefault(str(view), []).append(int(severity))
    count = sum(map(len, wrong.values()))
    listed = "; ".join(f"{view} {_ranges(severities)}" for view, severities in wrong.items())
    return f"{count} of {len(views)}" + (f": {listed}" if listed else "")


def _ranges(values: Sequence[int]) -> str:
    """Such as `1, 3–5`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _number(value: float, name: str) -> str:
    """A number in words; counts are whole."""
    if math.isinf(value):
        return "none found"
    if value == 0:
        return "0"
    if name.startswith("corrupted"):
        return number(value, SHARE)
    whole = name.removeprefix("smallest_").startswith("l0") and not math.isnan(value)
    return f"{value:.0f}" if whole else number(value, NUMBER)
