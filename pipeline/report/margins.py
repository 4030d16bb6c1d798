"""Margins along frequencies: maps over blocks, and how data and training move them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import blocks, margin_effects, margin_figures, margin_maps, statistics
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.margin_effects import Effect
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Array
from pipeline.report.style import Chart, Look

KIND = "dct_margin"
SECTION = "Margins along frequencies"
TEXT = (
    "How far the decision boundary is if an image may change in one block of frequencies alone. Networks hold the "
    "boundary close where the data tell classes apart: if the data change, so do the margins. Margins ignore that "
    "pixels have bounds unless the measurement says otherwise, so the shapes of the curves count, not their heights."
)


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Maps over blocks of one data set, of the measurements that have blocks off the diagonal.

    Args:
        rows: of one data set.
        classifiers: of the data set.
        look: not used, as every classifier has a panel.
        seed: of the bootstrap.
    """
    names = blocks.grids(rows)
    everything = blocks.gather(rows, classifiers)
    for name in names:
        maps = [b for b in everything if b.measurement == name and len(b.margins)]
        if maps:
            yield margin_maps.draw(maps, f"margin_map_{slug(name)}", SECTION, seed)


def draw_across(
    rows: pd.DataFrame, classifiers: Sequence[Outcomes], config: Mapping[str, Any], seed: int
) -> Iterator[Chart]:
    """One figure per experiment: flipped data, low-passed data, adversarial training.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        config: as the user wrote it: `datasets` and `trainings` are read.
        seed: of the bootstrap.
    """
    curves = blocks.profiles(blocks.gather(rows, classifiers))
    everyone = [*classifiers, *(b.outcomes for b in curves)]
    for flips in _grouped(margin_effects.flips(curves, config, seed)):
        yield margin_figures.flip(flips, everyone, SECTION, seed)
    for passes in _grouped(margin_effects.low_passes(curves, config, seed)):
        yield margin_figures.low_pass(passes, everyone, SECTION, seed)
    for gains in _grouped(margin_effects.hardenings(curves, config, seed)):
        yield margin_figures.hardening(gains, everyone, SECTION, seed)


def claims(
    rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int, config: Mapping[str, Any] | None = None
) -> Iterator[Claim]:
    """Claims on margins along frequencies, and what was measured.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        seed: of the bootstrap.
        config: as the user wrote it; without it data sets are not compared with each other, every data set counts as
            natural, and trainings are called as their methods.
    """
    curves = blocks.profiles(blocks.gather(rows, classifiers))
    datasets = (config or {}).get("datasets", {})
    for b in curves:
        if not (datasets.get(b.outcomes.dataset) or {}).get("frequency"):
            values = b.margins.to_numpy(dtype=float)
            stream = statistics.stream(seed, *blocks.names_of(b), "growth")
            growth = statistics.bootstrap(values, _growth, seed=stream)
            what = f"median margin, block {b.frequencies[-1]} over block {b.frequencies[0]} of {b.measurement}"
            o, verdict = b.outcomes, judge(growth, above=1)
            yield Claim("frequencies", o.dataset, o.classifier, what, len(values), growth, NUMBER, verdict)
    for effect in margin_effects.flips(curves, config or {}, seed):
        what = f"rank correlation with {_reference(effect)}, read in reverse, over {_blocks(effect)}"
        yield _claim("flip", effect, what, judge(effect.estimate, above=0.8))
    for effect in margin_effects.low_passes(curves, config or {}, seed):
        what = f"median margin over that on {_reference(effect)}, median of the blocks from {effect.bandwidth} on"
        yield _claim("low_pass", effect, f"{what}, of {_blocks(effect)}", judge(effect.estimate, above=2))
    for effect in margin_effects.hardenings(curves, config, seed):
        what = f"rank correlation of the gain in margin with the energy of the data, over {_blocks(effect)}"
        yield _claim("adversarial_where_least", effect, what, judge(effect.estimate, below=0))


def _growth(values: Array) -> Array:
    middle = np.median(values, axis=-2)
    return blocks.quotient(middle[..., -1], middle[..., 0])


def _claim(key: str, effect: Effect, measured: str, verdict: str) -> Claim:
    dataset = effect.pair.other.outcomes.dataset
    return Claim(key, dataset, effect.subject, measured, effect.n, effect.estimate, NUMBER, verdict)


def _reference(effect: Effect) -> str:
    return effect.pair.reference.outcomes.dataset


def _blocks(effect: Effect) -> str:
    return f"{len(effect.pair.reference.starts)} blocks of {effect.pair.reference.measurement}"


def _grouped(effects: Iterator[Effect]) -> list[list[Effect]]:
    """Effects of the same measurement, and of the same two data sets if these differ."""
    groups: dict[tuple[str, ...], list[Effect]] = {}
    for effect in effects:
        first, second = effect.pair.reference.outcomes.dataset, effect.pair.other.outcomes.dataset
        key = (effect.pair.other.measurement, *((first, second) if first != second else ()))
        groups.setdefault(key, []).append(effect)
    return list(groups.values())
