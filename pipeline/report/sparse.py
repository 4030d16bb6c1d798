"""Attacks on few pixels side by side: success, pixels, entries and passes on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import heatmap, statistics
from pipeline.report.envelope import SECTION
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import NORMS, Outcomes, Threat
from pipeline.report.pagetables import Cell, Table, estimate, sort_key, whole, words
from pipeline.report.statistics import NOTHING, Interval
from pipeline.report.style import Chart, count, record, render

Job = tuple[str, str, str]  # data set, classifier, attack
BYTES = {"success": "converged_8bit", "pixels": "l0_pixels_8bit"}  # columns that tables may lack


class Sparse(NamedTuple):
    """What an attack in an l0 norm did to the images that a classifier classifies correctly.

    Attributes:
        outcomes: of the classifier.
        threat: the attack.
        n: images, the same for all such attacks on the classifier.
        success: share of them that it perturbed with success.
        pixels: median number of pixels changed; a failure counts as infinite.
        entries: median number of entries changed, channels counted apart; likewise.
        success_8bit: as `success`, of images rounded to 8 bits a channel; NaN if that was not measured.
        pixels_8bit: as `pixels`, likewise.
        forward_passes: of the attack per image, mean.
        backward_passes: likewise.
    """

    outcomes: Outcomes
    threat: Threat
    n: int
    success: Interval
    pixels: Interval
    entries: Interval
    success_8bit: Interval
    pixels_8bit: Interval
    forward_passes: float
    backward_passes: float


def results(classifiers: Sequence[Outcomes], seed: int = 0) -> list[Sparse]:
    """Every attack in an l0 norm on every classifier, on the images that all of them attacked."""
    return [result for outcomes in classifiers for result in _results(outcomes, seed)]


def _results(outcomes: Outcomes, seed: int) -> Iterator[Sparse]:
    threats = [threat for threat in outcomes.norms if NORMS[threat.norm][0].startswith("l0")]
    if not threats:
        return
    rows = outcomes.attacks[outcomes.attacks["clean_prediction"] == outcomes.attacks["label"]]
    parts = [rows[(rows["attack"] == t.attack) & (rows["epsilon"] == t.epsilon)].set_index("sample") for t in threats]
    samples = sorted(set.intersection(*(set(part.index) for part in parts)))
    for threat, part in zip(threats, parts, strict=True):
        if not samples:
            continue
        own = part.loc[samples]

        def median(column: str, converged: str, own: pd.DataFrame = own, attack: str = threat.attack) -> Interval:
            stream = statistics.stream(seed, outcomes.dataset, outcomes.classifier, "sparse", attack, column)
            values = own[column].astype(float).where(own[converged].eq(True), math.inf)
            return statistics.bootstrap(values, statistics.median, seed=stream)

        rounded = all(column in own and own[column].notna().any() for column in BYTES.values())
        yield Sparse(
            outcomes,
            threat,
            len(samples),
            statistics.share(own["converged"].astype(bool)),
            median("l0_pixels", "converged"),
            median("l0_entries", "converged"),
            statistics.share(own[BYTES["success"]].eq(True)) if rounded else NOTHING,
            median(BYTES["pixels"], BYTES["success"]) if rounded else NOTHING,
            float(own["forward_passes"].iloc[0]),
            float(own["backward_passes"].iloc[0]),
        )


def draw(classifiers: Sequence[Outcomes], seed: int = 0, seconds: Mapping[Job, float] | None = None) -> Iterator[Chart]:
    """Success and pixels of each attack on each classifier of one data set.

    Args:
        classifiers: of the data set.
        seed: of the bootstrap.
        seconds: that the jobs took, where they are known; they stand in the page's table alone, as they are no result.
    """
    found = results(classifiers, seed)
    if not found:
        return
    rows = list(dict.fromkeys(str(result.threat) for result in found))
    columns = [o.classifier for o in classifiers if o in {result.outcomes for result in found}]
    shares = np.full((len(rows), len(columns)), math.nan)
    texts = [["–"] * len(columns) for _ in rows]
    for result in found:
        row, column = rows.index(str(result.threat)), columns.index(result.outcomes.classifier)
        shares[row, column] = result.success.value
        pixels = f"{result.pixels.value:g}" if math.isfinite(result.pixels.value) else "∞"
        texts[row][column] = f"{100 * result.success.value:.0f} %\n{pixels} px"
    with heatmap.drawn([heatmap.Grid("success, median of the pixels changed", rows, columns, shares, texts)]) as figure:
        png, vector = render(figure)
    data = pd.DataFrame(map(_record, found))
    caption = (
        f"Attacks on few pixels of {classifiers[0].dataset}, on the same images for all of them "
        f"({count(data['n'].tolist())} that are classified correctly). Colour and first number: share perturbed with "
        "success; second: median number of pixels changed, where a failure counts as infinite. Table: 95 % "
        "intervals, Wilson for shares, bootstrap for medians. "
    )
    known = {(r.outcomes.dataset, r.outcomes.classifier, r.threat.attack) for r in found} & set(seconds or {})
    caption += (
        "Seconds are those of the whole job, its start and its probes of the classifier included, as Snakemake wrote "
        "them under benchmarks/attack. They are no result: they differ from run to run and from machine to machine."
        if known
        else "Seconds are no result, as they differ from run to run: Snakemake keeps them under benchmarks/attack."
    )
    alt = f"Heat map of {len(rows)} attacks by {len(columns)} classifiers. " + "; ".join(
        f"{r.threat} on {r.outcomes.classifier}: {100 * r.success.value:.0f} %, {r.pixels.value:g} pixels"
        for r in found
    )
    yield Chart(
        "sparse", "Attacks on few pixels", caption, alt, png, vector, data, SECTION, _table(found, seconds or {})
    )


def _record(result: Sparse) -> dict[str, Any]:
    own: dict[str, Any] = {"attack": result.threat.attack, "norm": result.threat.norm}
    own |= {"epsilon": None if result.threat.minimal else result.threat.epsilon, "n": result.n}
    for name in ("success", "pixels", "entries", "success_8bit", "pixels_8bit"):
        value: Interval = getattr(result, name)
        own |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    own |= {"forward_passes": result.forward_passes, "backward_passes": result.backward_passes}
    return record(result.outcomes, **own)


def _table(found: Sequence[Sparse], seconds: Mapping[Job, float]) -> Table:
    headers = ["Classifier", "Attack", "n", "Success [%]", "Median pixels", "Median entries"]
    rounded = any(not math.isnan(result.success_8bit.value) for result in found)
    headers += ["Success in 8 bits [%]", "Median pixels in 8 bits"] if rounded else []
    headers += ["Forward passes an image", "Backward passes an image"]
    jobs = [(r.outcomes.dataset, r.outcomes.classifier, r.threat.attack) for r in found]
    timed = any(job in seconds for job in jobs)
    headers += ["Seconds of the whole job"] if timed else []
    rows = []
    for r, job in zip(found, jobs, strict=True):
        line = [*words(r.outcomes.classifier, str(r.threat)), whole(r.n), estimate(r.success)]
        line += [estimate(r.pixels, NUMBER), estimate(r.entries, NUMBER)]
        line += [estimate(r.success_8bit), estimate(r.pixels_8bit, NUMBER)] if rounded else []
        line += [Cell(f"{number:.1f}", number, numeric=True) for number in (r.forward_passes, r.backward_passes)]
        time = seconds.get(job, math.nan)
        line += [Cell("–" if math.isnan(time) else f"{time:.1f}", sort_key(time), numeric=True)] if timed else []
        rows.append(line)
    return Table(headers, rows)
