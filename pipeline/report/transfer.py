"""Transfer: how many of the images that fool one classifier fool another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import heatmap, statistics
from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import Outcomes, Threat
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.style import Chart, count, render

SECTION = "Transfer"
FEW = 30  # images below which the number stands in the cell
IMAGE = ["attack", "source", "sample"]


def draw(classifiers: Sequence[Outcomes]) -> Iterator[Chart]:
    """A matrix of transfer per attack, of the classifiers of one data set; none where there is but one."""
    rows = outcomes_of(classifiers)
    if rows.empty or rows["classifier"].nunique() < 2:
        return
    attacks = sorted(set(rows["attack"]))
    for attack in attacks:
        name = "transfer" if len(attacks) == 1 else f"transfer_{slug(attack)}"
        yield _matrix(rows[rows["attack"] == attack], classifiers, name)


def outcomes_of(classifiers: Sequence[Outcomes]) -> pd.DataFrame:
    """Rows of the transfer tables of one data set, and what the source made of each image.

    Returns:
        The rows, with `right` (this classifier classifies the clean image correctly) and `success` (so does the source,
        and its attack succeeded: the source misclassifies the image, and, where the perturbation was measured, too, the
        image is in the box and within epsilon). Where the source was not measured on its own images, nothing is known
        to have succeeded.
    """
    tables = [o.transfers for o in classifiers if len(o.transfers)]
    if not tables:
        return pd.DataFrame()
    rows = pd.concat(tables, ignore_index=True)
    rows["right"] = rows["clean_prediction"] == rows["label"]
    own = rows.loc[rows["source"] == rows["classifier"], [*IMAGE, "fooled"]]
    measured = [o.attacks[["attack", "classifier", "sample", "converged"]] for o in classifiers if len(o.attacks)]
    if measured:
        valid = pd.concat(measured).rename(columns={"classifier": "source"}).drop_duplicates(IMAGE)
        own = own.merge(valid, how="left", on=IMAGE)
        own["fooled"] &= own["converged"].ne(False)
    return rows.merge(own[[*IMAGE, "fooled"]].rename(columns={"fooled": "success"}), how="left", on=IMAGE).assign(
        success=lambda r: r["success"].eq(True)
    )


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Transfer rate of each pair of classifiers.

    Args:
        rows: as from `outcomes_of`.

    Returns:
        One row per attack, source and target: `n`, `share`, `low`, `high` (Wilson). Counted are the images that both
        classify correctly when clean and on which the attack on the source succeeded; the share is that of those that
        the target misclassifies. Where source and target are one, it is the share of the images classified correctly on
        which the attack succeeded.
    """
    itself = rows["source"] == rows["classifier"]
    counted = rows["right"] & (rows["success"] | itself)
    hit = counted & np.where(itself, rows["success"], rows["fooled"])
    keys = ["dataset", "attack", "norm", "epsilon", "source", "classifier"]
    sums = rows.assign(n=counted, hits=hit).groupby(keys, sort=False)[["n", "hits"]].sum().reset_index()
    limits = [statistics.wilson(int(hits), int(n)) for hits, n in zip(sums["hits"], sums["n"], strict=True)]
    found = pd.DataFrame(limits, columns=["share", "low", "high"], index=sums.index)
    sums = sums.rename(columns={"classifier": "target"}).replace({"epsilon": {math.inf: math.nan}})
    return pd.concat([sums.drop(columns="hits"), found], axis=1)


def missed(rows: pd.DataFrame, target: str) -> statistics.Interval:
    """Of images that a classifier classifies correctly and on which its own attack failed: share that fool it anyway.

    By an image on which the same attack succeeded on another classifier. The rows are those of one attack.
    """
    mine = rows[(rows["classifier"] == target) & rows["right"]]
    own = mine[mine["source"] == target]
    failed = own.loc[~own["success"], "sample"]
    others = mine[(mine["source"] != target) & mine["success"] & mine["fooled"]]
    return statistics.share(failed.isin(set(others["sample"])))


def _matrix(rows: pd.DataFrame, classifiers: Sequence[Outcomes], name: str) -> Chart:
    data = rates(rows)
    first: dict[Any, Any] = rows.iloc[0].to_dict()
    threat = Threat(str(first["attack"]), str(first["norm"]), float(first["epsilon"]))
    targets = [o.classifier for o in classifiers if o.classifier in set(data["target"])]
    sources = [*targets, *sorted(set(data["source"]) - set(targets))]
    wide = data.pivot_table(index="source", columns="target", values="share", dropna=False)
    shares = wide.reindex(index=sources, columns=targets).to_numpy(dtype=float)
    sizes = data.pivot_table(index="source", columns="target", values="n", dropna=False)
    sizes = sizes.reindex(index=sources, columns=targets).fillna(0).astype(int)
    texts = [
        ["–" if math.isnan(share) else f"{100 * share:.0f}" + (f"\nn = {n}" if n < FEW else "") for share, n in pair]
        for pair in (zip(*line, strict=True) for line in zip(shares, sizes.to_numpy().tolist(), strict=True))
    ]
    own = [(place, place) for place in range(len(targets))]
    title = f"{threat}: images that fool [%]"
    grid = heatmap.Grid(title, sources, targets, shares, texts, own)
    with heatmap.drawn([grid], "made on (source)", "measured on (target)") as figure:
        png, vector = render(figure)
    pairs = data[(data["source"] != data["target"]) & (data["n"] > 0)]
    counted = count(pairs["n"].tolist()) if len(pairs) else "none"
    caption = (
        f"Transfer of {threat} on {first['dataset']}: share of the images made on one classifier (row) that another "
        "(column) misclassifies, in percent. Counted are images that both classify correctly when clean and on which "
        f"the attack succeeded on its own classifier ({counted} a pair; written where below {FEW}). Framed: the "
        "attack's success on its own classifier, of the images that this classifies correctly. Darker is more; –: no "
        "image to count. 95 % Wilson intervals of all pairs stand in the file of numbers."
    )
    alt = f"Heat map of {len(sources)} sources by {len(targets)} targets. " + _extremes(pairs)
    return Chart(name, f"Transfer of {threat}", caption, alt, png, vector, data, SECTION, _table(rows, data, targets))


def _extremes(pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return "No image transfers between two of them."
    ends = pairs.sort_values("share", kind="stable").iloc[[0, -1]].to_dict("records")
    low, high = (f"{100 * end['share']:.1f} % ({end['source']} to {end['target']})" for end in ends)
    return f"Transfer between two of them: from {low} to {high}."


def _table(rows: pd.DataFrame, data: pd.DataFrame, targets: Sequence[str]) -> Table:
    headers = (
        "Target",
        "n",
        "Fooled by its own attack [%]",
        "Highest transfer to it [%]",
        "Made on",
        "Fooled by others' images where its own attack failed [%]",
    )
    lines = []
    for target in targets:
        mine = data[data["target"] == target]
        own = mine[mine["source"] == target]
        others = mine[(mine["source"] != target) & (mine["n"] > 0)].sort_values("share", ascending=False, kind="stable")
        highest = [_estimate(others), *words(str(others["source"].iloc[0]) if len(others) else "–")]
        n = whole(int(own["n"].sum()))
        lines.append([*words(target), n, _estimate(own), *highest, estimate(missed(rows, target))])
    return Table(headers, lines)


def _estimate(data: pd.DataFrame) -> Cell:
    """Share of the first row, if there is one."""
    first = data[["share", "low", "high"]].to_numpy(dtype=float)[:1].tolist()
    return estimate(statistics.Interval(*first[0]) if first else statistics.NOTHING)
