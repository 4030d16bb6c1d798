"""Figures of what data and training do to the margins along frequencies, one per experiment."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.report import statistics
from pipeline.report.blocks import Blocks, names_of, negligible
from pipeline.report.claims import CLAIMS
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.margin_effects import Effect
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.rendering import interval
from pipeline.report.scales import in_a_row, logarithmic, points
from pipeline.report.statistics import Interval
from pipeline.report.style import CODING, DOTS, WIDTH, Chart, Look, canvas, count, panels, record, render, wrapped

FREQUENCY = "first DCT frequency of the block"
INTERVALS = "Bars: 95 % bootstrap intervals over images, a triangle at the edge: an infinite median."
GREY, DASHES = "#767676", (0, (2, 1.5))


def flip(effects: Sequence[Effect], everyone: Sequence[Outcomes], section: str, seed: int) -> Chart:
    """Curve of margins beside that of flipped data, read in reverse: a panel per classifier."""
    first, look = effects[0].pair, _look(effects, everyone)
    lines: list[dict[str, Any]] = []
    drawn = [(effect, _medians(effect, 0, seed), _medians(effect, 1, seed)[::-1]) for effect in effects]
    across = in_a_row(len(effects))
    height = 0.75 + 2.6 * math.ceil(len(effects) / across)
    with canvas(max(5.5, WIDTH * across / 3), height) as figure:
        axes = panels(figure, len(effects), across, sharey=True)
        logarithmic(axes[0], [limit for _, one, two in drawn for value in (*one, *two) for limit in value])
        for axis, (effect, normal, flipped) in zip(axes, drawn, strict=True):
            style = look(effect.pair.reference.outcomes) | {"markersize": 4.5}
            places = effect.pair.reference.frequencies
            points(axis, places, normal, style | {"linestyle": "-"})
            points(axis, places, flipped, style | {"linestyle": DASHES, "markerfacecolor": "white"})
            axis.set_title(f"{wrapped(effect.subject, 34)}\nrank correlation {interval(effect.estimate, NUMBER)}")
            axis.set_xlabel(FREQUENCY)
            axis.set_xticks(places)
            for place, one, two in zip(places, normal, flipped, strict=True):
                own: dict[str, Any] = {"frequency": place, "n": effect.n, **_limits("normal", one)}
                lines.append(record(effect.pair.reference.outcomes, **own, **_limits("flipped_reversed", two)))
        figure.supylabel("median ℓ₂ margin [pixel range = 1]", fontsize=9)
        plain: dict[str, Any] = {"color": GREY, "marker": "o"}
        handles = [Line2D([], [], **plain), Line2D([], [], linestyle=DASHES, markerfacecolor="white", **plain)]
        names = [first.reference.outcomes.dataset, f"{first.other.outcomes.dataset}, read from right to left"]
        figure.legend(handles, names, loc="outside lower center", ncols=2, handlelength=3.2)
        png, vector = render(figure)
    caption = (
        f"Claim: {_claim('flip')}. Median ℓ₂ margin per diagonal block of the DCT on {names[0]}, beside that of the "
        f"same recipe trained and measured on {first.other.outcomes.dataset}, whose order of frequencies is reversed, "
        f"read in reverse; {_sizes(effects)}. If data alone shape the curve, the two are alike. The vertical "
        f"axis is logarithmic. {INTERVALS} {DOTS}"
    )
    title = f"Flipped frequencies: {names[0]} and {first.other.outcomes.dataset}"
    table, data = _table(effects, "Rank correlation"), pd.DataFrame(lines)
    return Chart(_name("flip", first.other), title, caption, _alt(title, effects), png, vector, data, section, table)


def low_pass(effects: Sequence[Effect], everyone: Sequence[Outcomes], section: str, seed: int) -> Chart:
    """Margins on low-passed data over those on the data as they are: a panel per architecture."""
    first, bandwidth, look = effects[0].pair, effects[0].bandwidth, _look(effects, everyone)
    names = [first.reference.outcomes.dataset, first.other.outcomes.dataset]
    architectures = list(dict.fromkeys(effect.pair.other.outcomes.architecture for effect in effects))
    lines: list[dict[str, Any]] = []
    drawn = [(effect, effect.pair.ratios(seed)) for effect in effects]
    width = max(5.5, WIDTH * min(1, len(architectures) / 2))
    height = 0.9 + look.room_of(width) + 2.7 * math.ceil(len(architectures) / 3)
    with canvas(width, height) as figure:
        axes = panels(figure, len(architectures), 3, sharex=True, sharey=True)
        logarithmic(axes[0], [1, 2, *(limit for _, ratios in drawn for value in ratios for limit in value)])
        for axis, architecture in zip(axes, architectures, strict=True):
            mine = [pair for pair in drawn if pair[0].pair.other.outcomes.architecture == architecture]
            places = mine[0][0].pair.reference.frequencies
            axis.axhline(1, color=GREY, linewidth=0.8)
            axis.axvspan(bandwidth - 0.4 * _gap(places), places[-1] + 0.4 * _gap(places), color="#f0f0f0", zorder=0)
            for number, (effect, ratios) in enumerate(mine):
                shift = 0.08 * _gap(places) * (number - (len(mine) - 1) / 2)
                points(axis, [place + shift for place in places], ratios, look(effect.pair.other.outcomes))
                for place, value in zip(places, ratios, strict=True):
                    own: dict[str, Any] = {"frequency": place, "n": effect.n, **_limits("ratio", value)}
                    lines.append(record(effect.pair.other.outcomes, **own))
            axis.set_title(architecture)
            axis.set_xlabel(FREQUENCY)
            axis.set_xticks(places)
        look.ylabel(figure, "ratio of median margins")
        look.legend(figure)
        png, vector = render(figure)
    caption = (
        f"Claim: {_claim('low_pass')}. Median ℓ₂ margin per diagonal block of the DCT of classifiers trained and "
        f"measured on {names[1]}, which keeps the frequencies below {bandwidth}, divided by that on {names[0]}; "
        f"{_sizes(effects)}. Shaded: blocks of frequencies that the training data lack. The vertical axis is "
        f"logarithmic. {INTERVALS} {CODING}"
    )
    title = f"Without high frequencies: {names[1]} against {names[0]}"
    table, data = _table(effects, f"Median ratio of the blocks from {bandwidth} on"), pd.DataFrame(lines)
    return Chart(
        _name("low_pass", first.other), title, caption, _alt(title, effects), png, vector, data, section, table
    )


def hardening(effects: Sequence[Effect], everyone: Sequence[Outcomes], section: str, seed: int) -> Chart:
    """Adversarial over standard training's margins against the energy of the data: a panel per data set and network."""
    first, look = effects[0].pair, _look(effects, everyone)
    keys = list(dict.fromkeys(_panel_of(effect) for effect in effects))
    drawn = [(effect, effect.pair.ratios(seed), _energies(effect, seed)) for effect in effects]
    lines: list[dict[str, Any]] = []
    across = in_a_row(len(keys))
    width = max(5.5, WIDTH * min(1, len(keys) / 2))
    height = 0.9 + look.room_of(width) + 2.7 * math.ceil(len(keys) / across)
    with canvas(width, height) as figure:
        axes = panels(figure, len(keys), across, sharey=True)
        logarithmic(axes[0], [1, *(limit for _, ratios, _ in drawn for value in ratios for limit in value)])
        for axis, key in zip(axes, keys, strict=True):
            mine = [parts for parts in drawn if _panel_of(parts[0]) == key]
            logarithmic(axis, [place for _, _, energies in mine for place in _places(energies)], "x")
            axis.axhline(1, color=GREY, linewidth=0.8)
            for effect, ratios, energies in mine:
                points(axis, _places(energies), ratios, look(effect.pair.other.outcomes) | {"linestyle": "none"})
                lines += _energy_records(effect, ratios, energies)
            _label(axis, *mine[0])
            axis.set_title(", ".join(key))
            axis.set_xlabel("mean energy of the images\nin the block [pixel range² = 1]")
        look.ylabel(figure, "ratio of median margins")
        look.legend(figure, linestyle="none")
        png, vector = render(figure)
    caption = (
        f"Claim: {_claim('adversarial_where_least')}. Median ℓ₂ margin of adversarial training divided by that of "
        "standard training of the same architecture and seed, against the mean squared ℓ₂ norm of the images' part in "
        f"the block; a point per diagonal block of {first.other.measurement}, numbers: its first frequency; "
        f"{_sizes(effects)}. The energy of block 0 includes the mean brightness; a block without "
        f"any stands a decade left of the others. Both axes are logarithmic. {INTERVALS} {DOTS}"
    )
    title = "Adversarial training against the energy of the data"
    table = _table(effects, "Rank correlation", datasets=True)
    name = f"margins_adversarial_{slug(first.other.measurement)}"
    return Chart(name, title, caption, _alt(title, effects), png, vector, pd.DataFrame(lines), section, table)


def _look(effects: Sequence[Effect], everyone: Sequence[Outcomes]) -> Look:
    return Look([effect.pair.other.outcomes for effect in effects], everyone)


def _energy_records(effect: Effect, ratios: Sequence[Interval], energies: Sequence[Interval]) -> list[dict[str, Any]]:
    return [
        record(
            effect.pair.other.outcomes,
            frequency=place,
            n=effect.n,
            against=effect.pair.reference.outcomes.classifier,
            **_limits("ratio", ratio),
            **_limits("energy", energy),
        )
        for place, ratio, energy in zip(effect.pair.reference.frequencies, ratios, energies, strict=True)
    ]


def _label(axis: Axes, effect: Effect, ratios: Sequence[Interval], energies: Sequence[Interval]) -> None:
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": GREY}
    for frequency, ratio, place in zip(effect.pair.reference.frequencies, ratios, _places(energies), strict=True):
        if math.isfinite(ratio.value):
            axis.annotate(str(frequency), (place, ratio.value), (4, 3), **look)


def _places(energies: Sequence[Interval]) -> list[float]:
    """Energies on a logarithmic axis; that of an empty block stands a decade below the smallest of the others."""
    values = np.array([energy.value for energy in energies])
    empty = negligible(values)
    lowest = values[~empty].min() if not empty.all() else 1.0
    places: list[float] = np.where(empty, lowest / 10, values).tolist()
    return places


def _panel_of(effect: Effect) -> tuple[str, str]:
    return effect.pair.other.outcomes.dataset, effect.pair.other.outcomes.architecture


def _medians(effect: Effect, which: int, seed: int) -> list[Interval]:
    """Median margin per block of one of the two."""
    return _per_block(effect, which, statistics.median, seed, "median")


def _energies(effect: Effect, seed: int) -> list[Interval]:
    return _per_block(effect, 2, statistics.mean, seed, "energy")


def _per_block(effect: Effect, which: int, statistic: Any, seed: int, name: str) -> list[Interval]:
    blocks = effect.pair.other if which == 1 else effect.pair.reference
    stream = functools.partial(statistics.stream, seed, *names_of(blocks), name)
    return [
        statistics.bootstrap(effect.pair.measured[:, which, place], statistic, seed=stream(str(place)))
        for place in range(effect.pair.measured.shape[-1])
    ]


def _gap(places: Sequence[int]) -> float:
    return float(min(after - before for before, after in itertools.pairwise(places)))


def _limits(name: str, value: Interval) -> dict[str, float]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _claim(key: str) -> str:
    return CLAIMS[key][1]


def _sizes(effects: Sequence[Effect]) -> str:
    return f"{count([effect.n for effect in effects])} (those classified correctly by both)"


def _name(experiment: str, other: Blocks) -> str:
    return f"margins_{experiment}_{slug(other.outcomes.dataset)}_{slug(other.measurement)}"


def _alt(title: str, effects: Sequence[Effect]) -> str:
    return (
        f"{title}. " + "; ".join(f"{effect.subject}: {interval(effect.estimate, NUMBER)}" for effect in effects) + "."
    )


def _table(effects: Sequence[Effect], header: str, datasets: bool = False) -> Table:
    headers = ("Classifier", *(["Data set"] if datasets else []), "n", header)
    rows = []
    for effect in effects:
        own = words(effect.pair.other.outcomes.dataset) if datasets else []
        rows.append([*words(effect.subject), *own, whole(effect.n), estimate(effect.estimate, NUMBER)])
    return Table(headers, rows)
