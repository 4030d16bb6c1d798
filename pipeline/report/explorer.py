"""Pages on which single samples can be looked at: every attack on every classifier, one page per data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import paths
from pipeline.report._profile_rows import label, meanings
from pipeline.report.classes import Classes, have_names, named
from pipeline.report.explorer_album import album
from pipeline.report.explorer_samples import ORDERS, Album, Sample
from pipeline.report.outcomes import NORMS, Outcomes, datasets, shared
from pipeline.report.pictures import shades
from pipeline.report.templating import template

KIND = "gallery"
MORE = 24  # samples that the page proposes


def pages(
    *,
    tables: Mapping[str, pd.DataFrame],
    classifiers: Sequence[Outcomes],
    profile: pd.DataFrame,
    config: Mapping[str, Any] | None,
    title: str,
    classes: Classes | None = None,
) -> dict[str, str]:
    """The pages of all data sets that the gallery table has rows of.

    Args:
        tables: kind of measurement -> collected table.
        classifiers: of all data sets.
        profile: as `profile.joined` returns it.
        config: says which options the attacks have, if it is given.
        title: of the report.
        classes: names of the classes, as far as they are known.

    Returns:
        Path below the report's folder -> HTML.
    """
    found = {}
    rows = tables.get(KIND, pd.DataFrame(columns=["dataset", "classifier"]))
    for dataset in datasets(classifiers):
        members = shared(classifiers, dataset)
        own = rows[(rows["dataset"] == dataset) & rows["classifier"].isin([o.classifier for o in members])]
        if len(own):
            shown = album(own, members, profile[profile["dataset"] == dataset], named(classes, dataset))
            found[paths.samples(dataset)] = _page(dataset, own, shown, profile, config, title, classes)
    return found


def _page(
    dataset: str,
    rows: pd.DataFrame,
    shown: Album,
    profile: pd.DataFrame,
    config: Mapping[str, Any] | None,
    title: str,
    classes: Classes | None,
) -> str:
    page = paths.samples(dataset)
    explained = meanings(profile)
    measurement = str(rows["measurement"].iloc[0])
    options = _entry(config, "measurements", measurement) | {"samples": max(MORE, 2 * shown.known)}
    return template("explorer.html.j2").render(
        title=f"Samples of {dataset}",
        report=title,
        dataset=dataset,
        index=paths.link(paths.INDEX, page),
        album=shown,
        named=have_names(classes, dataset),
        cards=[paths.link(paths.card(dataset, outcomes.classifier), page) for outcomes in shown.classifiers],
        headers=[_header(name) for name in shown.headers],
        meanings=[(_header(name), explained[name]) for name in shown.headers],
        orders=[(norm, NORMS[norm][1]) for norm in ORDERS],
        attacks=[_described(threat.attack, config) for threat in shown.attacks],
        flags=list(_flags(shown)),
        more=f"{measurement}: {json.dumps(options, ensure_ascii=False)}",
        range=shades(shown.limits),
        pixelated=max(shown.height, shown.width) <= 128,
        data=_data(shown.samples),
    )


def _header(name: str) -> str:
    """Of a quantity, with its unit where it has one."""
    text = label(name)
    return f"Right under {text} [%]" if name.startswith("corrupted") else text[:1].upper() + text[1:]


def _described(attack: str, config: Mapping[str, Any] | None) -> str:
    """Method and options of an attack, as far as the config states them."""
    entry = _entry(config, "attacks", attack)
    method = entry.pop("method", attack)
    options = ", ".join(f"{name} {value}" for name, value in entry.items())
    return f"method {method}" + (f": {options}" if options else "") if config else ""


def _entry(config: Mapping[str, Any] | None, section: str, name: str) -> dict[str, Any]:
    return dict(((config or {}).get(section) or {}).get(name) or {})


def _flags(shown: Album) -> Iterator[tuple[str, str, str]]:
    """(classifier, attack, reasons) of each attack shown that is in doubt."""
    attacks = {threat.attack for threat in shown.attacks}
    for outcomes in shown.classifiers:
        for threat, reasons in outcomes.doubts.items():
            if reasons and threat.attack in attacks:
                yield outcomes.classifier, str(threat), "; ".join(reasons)


def _data(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What the script sorts and counts by: of each cell its classifier and attack, and the sizes if it succeeded."""
    return [
        {
            "fragment": sample.fragment,
            "name": sample.name,
            "label": sample.label,
            "cells": [{"classifier": c.classifier, "attack": c.attack, "sizes": c.sizes} for c in sample.attacked],
        }
        for sample in samples
    ]
