"""What data and training do to the margins along frequencies: one number with its interval per pair of classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.report import blocks
from pipeline.report.blocks import Blocks, Pair
from pipeline.report.statistics import Array, Interval


class Effect(NamedTuple):
    """A comparison of two curves of margins.

    Attributes:
        pair: the curves.
        estimate: of the effect.
        bandwidth: of low-passed data, the first frequency that they lack.
    """

    pair: Pair
    estimate: Interval
    bandwidth: int = 0

    @property
    def subject(self) -> str:
        """Whom it is about: one classifier on two data sets, or two on one."""
        first, second = self.pair.reference.outcomes.classifier, self.pair.other.outcomes.classifier
        return second if first == second else f"{second} against {first}"

    @property
    def n(self) -> int:
        """Images."""
        return len(self.pair.measured)


def flips(curves: Sequence[Blocks], config: Mapping[str, Any], seed: int) -> Iterator[Effect]:
    """Rank correlation of the curve with that on frequency-flipped data, read in reverse.

    The experiment of "Hold me tight!" (Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard, NeurIPS 2020), which shows the
    two curves; the correlation is ours.
    """
    for reference, other, _ in blocks.derived(config, "flip"):
        for pair in blocks.across(curves, reference, other):
            yield Effect(pair, pair.interval(blocks.mirrored, seed, "flip"))


def low_passes(curves: Sequence[Blocks], config: Mapping[str, Any], seed: int) -> Iterator[Effect]:
    """Gain in margin on low-passed data, median of the blocks that lie wholly outside of the frequencies kept.

    The experiment is the same paper's; its authors' filter keeps all horizontal frequencies in training, ours keeps the
    lowest in both directions, as the paper says.
    """
    for reference, other, bandwidth in blocks.derived(config, "low_pass"):
        for pair in blocks.across(curves, reference, other):
            outside = [place for place, row in enumerate(pair.reference.frequencies) if row >= bandwidth]
            if outside:
                chosen = pair._replace(measured=pair.measured[..., outside])
                yield Effect(pair, chosen.interval(_middle_gain, seed, "low_pass"), bandwidth)


def hardenings(curves: Sequence[Blocks], config: Mapping[str, Any] | None, seed: int) -> Iterator[Effect]:
    """Rank correlation over blocks of adversarial training's gain in margin with the mean energy of the images.

    The paper observes that margins grow most where data have little energy; the correlation is ours. The energy of the
    lowest block includes the mean brightness.
    """
    for pair in blocks.hardened(curves, config):
        yield Effect(pair, pair.interval(blocks.against_energy, seed, "energy"))


def _middle_gain(values: Array) -> Array:
    return np.asarray(np.median(blocks.gain(values), axis=-1))
