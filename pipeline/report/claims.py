"""Claims of the papers beside what this run measured, and whether they hold here."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipeline.report.statistics import Interval

REGIONS = "Fawzi, Moosavi-Dezfooli, Frossard, Soatto, CVPR 2018"
MARGINS = "Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard, NeurIPS 2020"
SPARSE = "Modas, Moosavi-Dezfooli, Frossard, CVPR 2019"
PRIME = "Modas, Rade, Ortiz-Jimenez, Moosavi-Dezfooli, Frossard, ECCV 2022"
LOOPS = "Swaminathan, Akgun, 2026 (arXiv 2605.06380)"
# key -> (paper, claim with the limit by which we judge it); all of them stand in the table, measured or not
CLAIMS = {
    "connected": (REGIONS, "Regions are connected: a path inside the class joins at least 98 % of same-class pairs"),
    "not_convex": (REGIONS, "Regions are not convex: less than 98 % of the pairs are joined by the straight segment"),
    "nearly_straight": (REGIONS, "The paths are nearly straight: the median is at most 0.1 % longer than the segment"),
    "simply_connected": (
        LOOPS,
        "Regions are simply connected: at least 90 % of the loops inside a class can be filled",
    ),
    "flat": (REGIONS, "The boundary is flat in at least 80 % of the directions (|curvature| below 5 % of the largest)"),
    "asymmetric": (REGIONS, "Near images, more points of the boundary have mainly negative curvature than positive"),
    "shared_directions": (
        REGIONS,
        "Perturbations lie in curved directions that points share: twice as much as by chance",
    ),
    "curved_noise": (
        REGIONS,
        "Noise in the shared curved directions flips labels three times as often as in flat ones",
    ),
    "detection": (REGIONS, "Mean curvature tells perturbed images from natural ones: AUROC above 0.5"),
    "recovery": (
        REGIONS,
        "The class of extreme curvature is the true label of a perturbed image: more often than chance",
    ),
    "discriminative": (MARGINS, "The margin along the direction that tells classes apart is the data's, within 5 %"),
    "orthogonal": (
        MARGINS,
        "Margins orthogonal to the directions that tell classes apart are at least 10 times larger",
    ),
    "frequencies": (MARGINS, "Margins grow from the lowest to the highest frequencies"),
    "flip": (MARGINS, "Data with reversed frequencies reverse the curve of margins: rank correlation above 0.8"),
    "low_pass": (MARGINS, "Data without high frequencies raise the margins there at least twofold"),
    "adversarial_where_least": (
        MARGINS,
        "Adversarial training raises margins most where data have least energy: rank correlation below 0",
    ),
    "elasticity": (
        MARGINS,
        "A second feature pulls the boundary nearer: the margin along it is at most half that orthogonal to both",
    ),
    "sparse_fools": (SPARSE, "SparseFool fools at least 98 % of the images"),
    "sparse_few_pixels": (SPARSE, "SparseFool's median perturbation changes at most 5 % of the pixels"),
    "sparse_adversarial": (
        SPARSE,
        "Adversarial training asks for more pixels, but SparseFool still fools at least 95 % of the images",
    ),
    "prime_corruptions": (PRIME, "PRIME raises the mean accuracy on corrupted images over standard training"),
    "prime_clean": (PRIME, "PRIME costs at most 2 points of clean accuracy"),
}
HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "undecided", "not tested here"


class Claim(NamedTuple):
    """A claim of a paper about one classifier (or pair of them), and what was measured.

    Attributes:
        key: which claim, one of `CLAIMS`.
        dataset: id of the data set.
        subject: whom it is about: the id of a classifier, or of two, `a against b`.
        measured: what was measured, in words: quantity and unit.
        n: samples behind the number.
        estimate: the number with its 95 % interval.
        kind: `share` (shown in percent) or `number`.
        verdict: `holds`, `does not hold` or `undecided`, as `judge` gives it.
    """

    key: str
    dataset: str
    subject: str
    measured: str
    n: int
    estimate: Interval
    kind: str
    verdict: str


def judge(estimate: Interval, above: float = -math.inf, below: float = math.inf) -> str:
    """Whether a number lies beyond a threshold by more than its interval.

    Args:
        estimate: with its interval.
        above: the claim says that the number is at least that.
        below: the claim says that it is at most that.

    Returns:
        `holds` if the whole interval lies within [above, below], `does not hold` if it lies outside, `undecided` if it
        straddles a limit or was not computed.
    """
    if any(math.isnan(part) for part in estimate):
        return OPEN
    if estimate.low >= above and estimate.high <= below:
        return HOLDS
    return FAILS if estimate.high < above or estimate.low > below else OPEN
