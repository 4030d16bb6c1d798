"""Detection in the report: numbers from made-up tables, and figures that stand on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.measurements.detection import COLUMNS
from pipeline.report import _detection, detection
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Look

LABEL, OTHER = 3, 7
SCORES = ("rho", *_detection.OTHERS)


def outcomes(architecture: str = "net", training: str = "standard") -> Outcomes:
    return Outcomes("d", f"{architecture}--{training}--0", architecture, training, 0)


def table(
    natural: Any, perturbed: dict[float, Any], member: Outcomes | None = None, half: int | None = None, **own: Any
) -> pd.DataFrame:
    """Rows of a classifier: a value per sample, of every statistic alike; the first `half` samples are calibration."""
    member = member or outcomes()
    half = len(natural) // 2 if half is None else half
    rows = []
    for alpha, values in {0.0: natural, **perturbed}.items():
        for sample, value in enumerate(values):
            keys: dict[str, Any] = {name: getattr(member, name) for name in ("dataset", "classifier", "architecture")}
            keys |= {"training": member.training, "seed": 0, "measurement": "m", "sample": f"s{sample}"}
            row: dict[str, Any] = dict.fromkeys(COLUMNS, None) | dict.fromkeys(SCORES, float(value))
            row |= {"view": "deepfool", "radius": 0.3, "alpha": alpha, "adaptive": False, "converged": True}
            row |= {"split": "calibration" if sample < half else "test", "label": LABEL, "candidates": 9}
            row |= {"prediction": OTHER if alpha else LABEL, "changed": alpha > 0}
            row |= {"lowest_class": LABEL, "highest_class": OTHER, "runner_up": LABEL}
            rows.append({**keys, **row, **own})
    return pd.DataFrame(rows)


def gaussian(samples: int, shift: float, seed: int = 0, **own: Any) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    perturbed = {alpha: generator.normal(size=samples) + alpha * shift for alpha in (1.0, 2.0)}
    return table(generator.normal(size=samples), perturbed, **own)


def curvature(rows: pd.DataFrame, alpha: float = 1.0, adaptive: bool = False) -> _detection.Detector:
    (found,) = [d for d in _detection.detectors(rows, others=False) if d.alpha == alpha and d.adaptive == adaptive]
    return found


def test_area_under_the_curve_of_two_gaussians() -> None:
    generator = np.random.default_rng(5)
    for shift in (0.0, 0.7, -1.5):
        natural, perturbed = generator.normal(size=300), generator.normal(size=300) + shift
        found = _detection.auroc(natural, perturbed)
        assert found.low <= scipy.stats.norm.cdf(shift / math.sqrt(2)) <= found.high
        assert found.high - found.low < 0.12


def test_area_is_the_share_of_pairs_in_order_ties_counting_half() -> None:
    generator = np.random.default_rng(0)
    natural, perturbed = generator.integers(0, 6, size=40), generator.integers(1, 7, size=40)
    gaps = perturbed[:, None] - natural
    assert _detection.auroc(natural, perturbed).value == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    assert _detection.auroc([0, 1], [2, 3]).value == 1
    assert _detection.auroc([2, 3], [0, 1]).value == 0
    assert _detection.auroc([1.0, 1.0], [1.0, 1.0]).value == 0.5


def test_the_bootstrap_keeps_a_sample_together() -> None:
    """Where each image is perturbed by the same amount, resampling pairs leaves less spread than resampling halves."""
    natural = np.random.default_rng(1).normal(size=200)
    together = _detection.auroc(natural, natural + 0.3)
    apart = _detection.auroc(natural, np.random.default_rng(2).permutation(natural) + 0.3)
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_a_planted_detector() -> None:
    rows = table(np.linspace(1, 2, 100), {1.0: np.linspace(-2, -1, 100), 5.0: np.linspace(1.1, 2.1, 100)})
    found = curvature(rows)
    assert (found.n, found.sign, found.auroc.value, found.hits.value) == (50, -1, 1, 1)
    assert found.statistic == "mean curvature, radius 0.3"
    assert {d.statistic for d in _detection.detectors(rows)} == {found.statistic, *_detection.OTHERS.values()}
    assert found.alarms.value == 0, "natural test images are farther from the threshold than those of calibration"
    other = curvature(rows, alpha=5.0)
    assert (other.sign, other.hits.value) == (-1, 0), "one detector for all strengths"


def test_sign_and_threshold_come_from_calibration() -> None:
    """Perturbed images have larger values in the calibration half, smaller ones in the other."""
    natural = np.concatenate([np.arange(100.0), np.arange(100.0)])
    perturbed = np.concatenate([np.arange(100.0) + 1000, np.arange(100.0) - 1000])
    found = curvature(table(natural, {1.0: perturbed}))
    assert (found.sign, found.auroc.value, found.hits.value) == (1, 0, 0)
    assert found.alarms.value == 0.05
    natural[100:] += 1000  # the test half alone must not move the threshold
    assert curvature(table(natural, {1.0: perturbed})).alarms.value == 1


def test_without_calibration_images_there_is_no_threshold() -> None:
    found = curvature(table([1.0, 2.0, 3.0], {1.0: [2.0, 3.0, 4.0]}, half=0))
    assert found.n == 3 and not math.isnan(found.auroc.value)
    assert math.isnan(found.hits.value) and math.isnan(found.alarms.value)
    assert not _detection.detectors(table([1.0, 2.0], {1.0: [2.0, 3.0]}, half=2))


def test_only_what_fools_and_is_known_counts() -> None:
    rows = gaussian(40, 1.0)
    perturbed = rows["alpha"] == 1
    rows.loc[perturbed & (rows["sample"] == "s30"), ["changed", "prediction"]] = [False, LABEL]
    rows.loc[perturbed & (rows["sample"] == "s31"), ["rho", "converged"]] = [None, False]
    rows.loc[(rows["alpha"] == 0) & (rows["sample"] == "s32"), ["rho", "converged"]] = [None, False]
    assert curvature(rows).n == 17
    counts = {d.statistic: d.n for d in _detection.detectors(rows) if d.alpha == 1}
    assert counts["softmax confidence"] == 19
    assert {guess.n for guess in _detection.guesses(rows) if guess.alpha == 1} == {18}


def test_several_radii() -> None:
    rows = pd.concat([gaussian(40, -3.0, radius=0.1), gaussian(40, 3.0, radius=0.3), gaussian(40, 0, radius=math.nan)])
    found = [d for d in _detection.detectors(rows) if d.alpha == 1]
    names = [d.statistic for d in found]
    assert names[:3] == [f"mean curvature, {at}" for at in ("radius 0.1", "radius 0.3", "exact")]
    assert [d.sign for d in found[:2]] == [-1, 1]
    assert names[3:] == list(_detection.OTHERS.values()), "others once"
    claim = next(detection.claims(rows, []))
    assert claim.estimate == curvature(rows[rows["radius"] == 0.1]).auroc


def test_recovery() -> None:
    rows = gaussian(200, 0.0)
    changed = rows["alpha"] > 0
    number = rows["sample"].str[1:].astype(int)
    rows.loc[changed & (number % 10 != 0), "lowest_class"] = 5  # right on one in ten
    rows.loc[changed & (number % 4 == 0), "highest_class"] = LABEL  # on one in four
    found = {guess.guess: guess for guess in _detection.guesses(rows) if guess.alpha == 1}
    assert [found[name].right.value for name in _detection.GUESSES] == [0.1, 0.25, 1.0]
    assert [found[name].chosen for name in _detection.GUESSES] == [False, True, False]
    assert found["lowest_class"].chance == pytest.approx(1 / 9)
    # in calibration alone the other convention is better: it is chosen, and does badly on the test half
    rows.loc[changed & (rows["split"] == "calibration"), "lowest_class"] = LABEL
    found = {guess.guess: guess for guess in _detection.guesses(rows) if guess.alpha == 1}
    assert found["lowest_class"].chosen and found["lowest_class"].right.value == 0.1


@pytest.mark.parametrize(("shift", "verdict"), [(-1.5, "holds"), (0.0, "undecided")])
def test_claim_of_detection(shift: float, verdict: str) -> None:
    claims = list(detection.claims(gaussian(300, shift, seed=1), []))
    assert [claim.key for claim in claims] == ["detection", "recovery"]
    assert (claims[0].dataset, claims[0].subject, claims[0].n) == ("d", "net--standard--0", 150)
    assert claims[0].verdict == verdict
    assert claims[0].measured.startswith("AUROC of mean curvature, radius 0.3, α = 1")


def test_claims_that_fail() -> None:
    natural = np.arange(200.0)
    perturbed = natural + np.where(np.arange(200) < 100, 60, -60)
    rows = table(natural, {1.0: perturbed}, lowest_class=5)
    told, named = detection.claims(rows, [])
    assert told.verdict == "does not hold" and told.estimate.high < 0.5
    assert named.verdict == "does not hold" and named.estimate.value == 0
    assert named.kind == "share" and "chance 11.1 %" in named.measured


def test_claims_of_a_table_without_test_images_are_undecided() -> None:
    told, named = detection.claims(table([1.0, 2.0], {1.0: [2.0, 3.0]}, half=2), [])
    assert (told.verdict, named.verdict) == ("undecided", "undecided")
    assert (told.n, named.n) == (0, 0)


def test_claims_per_view_name_it() -> None:
    rows = pd.concat([gaussian(40, 1.0), gaussian(40, 1.0, view="pgd"), gaussian(40, 1.0, member=outcomes("vit"))])
    measured = [claim.measured for claim in detection.claims(rows, []) if claim.key == "detection"]
    assert [text.rpartition("(")[2] for text in measured] == ["m, deepfool)", "m, pgd)", "m, deepfool)"]


def adaptive(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with those of an attacker who knows the detector, of the natural images' values."""
    natural = rows[rows["alpha"] == 0].set_index("sample")["rho"]
    made = rows[rows["alpha"] > 0].assign(adaptive=True, rho=lambda r: r["sample"].map(natural))
    return pd.concat([rows, made])


def test_adaptive_images_meet_the_detector_of_the_others() -> None:
    rows = adaptive(gaussian(60, -4.0))
    assert curvature(rows).auroc.value > 0.9
    found = curvature(rows, adaptive=True)
    assert (found.sign, found.auroc.value) == (-1, 0.5)
    assert found.hits == found.alarms


def test_figures() -> None:
    members = [outcomes(net, training) for net in ("net", "vit") for training in ("standard", "prime", "adversarial")]
    rows = pd.concat([adaptive(gaussian(40, 1.0, seed=n, member=member)) for n, member in enumerate(members)])
    told, named = detection.draw(rows, members, Look(members, members), 0)
    assert [told.name, named.name] == ["detection", "recovery"]
    for chart in (told, named):
        assert chart.png.startswith(b"\x89PNG") and chart.svg and chart.section == detection.SECTION
        assert chart.table is not None and len(chart.table.rows) == 6 * 2 * 2
        assert len({len(chart.table.headers), *(len(row) for row in chart.table.rows)}) == 1
        assert "n = 20 images" in chart.caption and "Open markers" in chart.caption and "on d" not in chart.alt
        assert set(chart.data["classifier"]) == {member.classifier for member in members}
    assert len(told.data) == 6 * 2 * 2 * 5
    assert {"auroc", "auroc_low", "auroc_high", "hits", "alarms_high", "sign"} <= set(told.data)
    assert "nan" not in str(told.table) + told.caption + told.alt


def test_figures_of_classifiers_that_lack_something() -> None:
    known, other, without = outcomes("net"), outcomes("vit"), outcomes("mlp")
    rows = pd.concat([gaussian(20, 1.0, member=known), gaussian(20, 1.0, member=other, view="pgd")])
    rows.loc[rows["view"] == "pgd", "squeeze"] = None  # data without bounds
    charts = list(detection.draw(rows, [known, without], Look([known, without], [known, without]), 0))
    names = ["detection_m_deepfool", "recovery_m_deepfool", "detection_m_pgd", "recovery_m_pgd"]
    assert [chart.name for chart in charts] == names
    assert set(charts[2].data["classifier"]) == {other.classifier}
    assert "feature squeezing" in set(charts[0].data["statistic"])
    assert "feature squeezing" not in set(charts[2].data["statistic"])
    assert not any("Open markers" in chart.caption for chart in charts)
    assert not list(detection.draw(rows[:0], [known], Look([known], [known]), 0))
