"""Claims: the verdict, the tables that show them, and those that accuracy and perturbations decide."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import claimtable, outcomes, seed_claims
from pipeline.report.claims import CLAIMS, FAILS, HOLDS, OPEN, UNTESTED, Claim, judge
from pipeline.report.statistics import NOTHING, Interval, wilson
from tests.test_report import HOSTILE, accuracy, keys, perturbation

NAMES = ("standard", "robust", "primed", "mixed")
CONFIG: dict[str, Any] = {
    "trainings": {
        "standard": None,
        "robust": {"method": "adversarial", "epsilon": 0.1},
        "primed": {"method": "prime"},
        "mixed": {"method": "standard", "augmentation": {"method": "prime"}},
    },
    "attacks": {"few": {"method": "sparsefool"}, "sparsefool": {"method": "sigma_zero"}, "bare": None},
}


def claim(key: str = "flat", verdict: str = HOLDS, value: float = 0.9, **own: Any) -> Claim:
    given = {"dataset": "d", "subject": "a", "measured": "share of it", "n": 7, "kind": "share"} | own
    return Claim(key=key, estimate=Interval(value, value - 0.1, value + 0.1), verdict=verdict, **given)


@pytest.mark.parametrize(
    ("low", "high", "limits", "verdict"),
    [
        (1.0, 2.0, {"above": 1.0}, HOLDS),
        (0.9, 2.0, {"above": 1.0}, OPEN),
        (0.5, 0.9, {"above": 1.0}, FAILS),
        (0.5, 1.0, {"above": 1.0}, OPEN),
        (0.5, 0.9, {"below": 1.0}, HOLDS),
        (1.1, math.inf, {"below": 1.0}, FAILS),
        (0.9, 1.1, {"above": 0.8, "below": 1.2}, HOLDS),
        (0.7, 1.1, {"above": 0.8, "below": 1.2}, OPEN),
        (0.1, 0.2, {"above": 0.8, "below": 1.2}, FAILS),
    ],
)
def test_verdict(low: float, high: float, limits: dict[str, float], verdict: str) -> None:
    assert judge(Interval((low + high) / 2, low, high), **limits) == verdict


def test_what_was_not_computed_is_undecided() -> None:
    assert judge(NOTHING, above=0) == OPEN
    assert judge(Interval(2.0, math.nan, math.nan), above=0) == OPEN


def test_order_is_that_of_the_papers() -> None:
    given = [claim("prime_clean"), claim("flat", subject="b"), claim("connected"), claim("flat", subject="a")]
    found = claimtable.ordered(given)
    assert [c.key for c in found] == ["connected", "flat", "flat", "prime_clean"]
    assert [c.subject for c in found[1:3]] == ["b", "a"]
    with pytest.raises(ValueError, match="sharp"):
        claimtable.ordered([claim("sharp")])


def test_summary_has_a_line_for_every_claim() -> None:
    tests = [claim(verdict=verdict, value=value, subject=name) for verdict, value, name in zip(
        (HOLDS, HOLDS, FAILS, OPEN), (0.95, 0.9, 0.2, 0.5), "abcd", strict=True)]  # fmt: skip
    table = claimtable.summary(tests)
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert list(lines) == [key.replace("_", " ") for key in CLAIMS]
    assert all(len(line) == len(table.headers) for line in lines.values())
    statement, here, measured, fails, paper = lines["flat"][1:]
    assert (statement, paper) == (CLAIMS["flat"][1], CLAIMS["flat"][0])
    assert here == "holds in 2 of 4; does not hold in 1 of 4; undecided in 1 of 4"
    assert measured == "share of it [%]: 20.0 to 95.0"
    assert fails == "c"
    assert lines["detection"][2:5] == [UNTESTED, "–", "–"]


def test_summary_stays_short() -> None:
    many = [claim(verdict=FAILS, subject=f"s{i}", dataset=f"d{i % 2}", measured=f"m{i % 4}") for i in range(8)]
    (line,) = [row for row in claimtable.summary(many).rows if row[0].text == "flat"]
    assert line[3].text == "m0 [%]: 90.0; m1 [%]: 90.0; and 2 more"
    assert line[4].text == "s0 (d0), s1 (d1), s2 (d0) and 5 more"
    unknown = claimtable.summary([claim(value=math.nan, kind="number")])
    assert [row[3].text for row in unknown.rows if row[0].text == "flat"] == ["share of it: –"]


def test_every_test_has_a_row_with_its_interval() -> None:
    first, second = claimtable.full([claim("prime_clean", value=0.5), claim("flat", kind="number", value=2)]).rows
    assert [cell.text for cell in first] == ["flat", "d", "a", "share of it", "2.00", "7", HOLDS]
    assert first[4].limits == "[1.90, 2.10]"
    assert [cell.text for cell in second][3:5] == ["share of it [%]", "50.0"]


def test_files() -> None:
    tests = [claim(), claim("detection", OPEN, math.nan, subject=HOSTILE)]
    table = pd.read_csv(io.StringIO(claimtable.to_csv(tests))).set_index("claim")
    assert list(table.index) == list(CLAIMS)
    flat = table.loc["flat"]
    assert (flat["value"], flat["n"], flat["verdict"], flat["kind"]) == (0.9, 7, HOLDS, "share")
    assert (flat["low"], flat["high"]) == pytest.approx((0.8, 1.0))
    assert (table.loc[~table.index.isin(["flat", "detection"]), "verdict"] == UNTESTED).all()
    text = claimtable.to_markdown(tests)
    assert HOSTILE not in text and "90.0 [80.0, 100.0]" in text
    assert text.count("\n| ") == 2 + 2 + len(CLAIMS) + len(tests)  # heads, rules, lines
    assert "Every test" not in claimtable.to_markdown([])


def tables(pixels: dict[str, list[float]], attack: str = "few") -> dict[str, pd.DataFrame]:
    """Perturbations in l0 by training; 0 is an image that is misclassified anyway."""
    rows = [r for name, found in pixels.items() for r in perturbation(keys("d", "a", name), attack, "l0", None, found)]
    return {"perturbation": pd.DataFrame(rows)}


def found(given: dict[str, pd.DataFrame], config: dict[str, Any] | None = CONFIG) -> list[Claim]:
    return list(seed_claims.claims(given, outcomes.gather(given), 0, config))


def test_sparsefool() -> None:
    gallery = pd.DataFrame([{**keys("d", "a", "standard"), "height": 10, "width": 20}])
    given = tables({"standard": [4.0] * 495 + [math.inf] * 5 + [0.0] * 50}) | {"gallery": gallery}
    fools, few = found(given)
    assert (fools.key, fools.n, fools.estimate) == ("sparse_fools", 500, wilson(495, 500))
    assert fools.verdict == OPEN, "99 %, but the interval reaches below 98 %"
    assert (few.key, few.kind, few.n, few.verdict) == ("sparse_few_pixels", "share", 500, HOLDS)
    assert few.estimate.value == 4 / 200
    del given["gallery"]
    assert [c.key for c in found(given)] == ["sparse_fools"], "the size of the images is not known"


def test_ids_stand_for_methods() -> None:
    for attack, config, expected in (
        ("few", CONFIG, 1),
        ("sparsefool", CONFIG, 0),
        ("bare", CONFIG, 0),
        ("few", None, 0),
        ("sparsefool", None, 1),
        ("sparsefool", {"attacks": {"sparsefool": None}}, 1),
    ):
        assert len(found(tables({"standard": [1.0, 2.0]}, attack), config)) == expected, (attack, config)


def test_adversarial_training_asks_for_more_pixels() -> None:
    n = 200
    adversarial = [12.0] * n + [0.0, 5.0]
    given = tables({"standard": [4.0] * n + [1.0, 0.0], "robust": adversarial})
    gap, fooled = [c for c in found(given) if c.key == "sparse_adversarial"]
    assert (gap.subject, gap.n) == ("a--robust--0 against a--standard--0", n), "images that both classify correctly"
    assert (gap.estimate, gap.verdict) == (Interval(8, 8, 8), HOLDS)
    assert (fooled.subject, fooled.n, fooled.verdict) == ("a--robust--0", n + 1, HOLDS)
    same = found(tables({"standard": [4.0] * n, "robust": [4.0] * n}))
    assert [c.verdict for c in same if c.key == "sparse_adversarial"] == [FAILS, HOLDS], "as many are not more"
    hidden = found(tables({"standard": [4.0] * n, "robust": [math.inf] * n}))
    gap, fooled = [c for c in hidden if c.key == "sparse_adversarial"]
    assert (gap.estimate.value, gap.verdict, fooled.verdict) == (math.inf, HOLDS, FAILS)
    assert not [c for c in found(tables({"robust": [4.0] * n})) if c.key == "sparse_adversarial"]


@pytest.mark.parametrize("training", ["primed", "mixed"])
def test_prime_against_standard_training(training: str) -> None:
    n = 400
    rows = []
    for name, clean, fog in (("standard", 380, 200), (training, 378, 320), ("robust", 1, 1)):
        for view, right in (("clean", clean), ("fog", fog)):
            correct = np.arange(n) < right
            rows += accuracy(keys("d", "a", name), correct, view, None if view == "clean" else 1)
    given = {"accuracy": pd.DataFrame(rows)}
    corrupted, clean = found(given)
    assert (corrupted.key, clean.key) == ("prime_corruptions", "prime_clean")
    assert corrupted.subject == clean.subject == f"a--{training}--0 against a--standard--0"
    assert corrupted.estimate.value == pytest.approx(120 / n)
    assert clean.estimate.value == pytest.approx(-2 / n)
    assert (corrupted.verdict, clean.verdict) == (HOLDS, HOLDS)
    assert (corrupted.n, clean.n) == (n, n)
    swapped = found(given, {"trainings": {"standard": {"method": "prime"}, training: {"method": "standard"}}})
    assert [c.verdict for c in swapped] == [FAILS, HOLDS]
    assert swapped[0].estimate.value == pytest.approx(-120 / n)
