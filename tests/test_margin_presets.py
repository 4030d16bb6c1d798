"""The presets of margins along frequencies and features: what the report needs in order to compare their data sets."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipeline.report import blocks, subspaces
from workflow.common import ROOT, Plan

FREQUENCIES = ("digits_frequencies", "cifar10_frequencies")


def load(preset: str) -> dict[str, Any]:
    path = ROOT / f"workflow/presets/{preset}.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config


def measured(preset: str, measurement: str) -> dict[str, Any]:
    """Options of a measurement as its signature completes them."""
    found: dict[str, Any] = Plan(load(preset), preset).methods["measure"][measurement]["options"]
    return found


@pytest.mark.parametrize("preset", FREQUENCIES)
def test_flipped_and_low_passed_data_have_the_data_that_they_come_from(preset: str) -> None:
    config, natural = load(preset), preset.removesuffix("_frequencies")
    assert list(blocks.derived(config, "flip")) == [(natural, f"{natural}_flipped", 0)]
    ((reference, other, bandwidth),) = blocks.derived(config, "low_pass")
    assert (reference, other) == (natural, f"{natural}_low_pass")
    side = {"digits": 8, "cifar10": 32}[natural]
    options = measured(preset, "margin")
    starts = range(0, side - options["size"] + 1, options["step"])
    assert starts[-1] + options["size"] == side  # so that reversed blocks are blocks
    assert len([start for start in starts if start >= bandwidth]) >= 2
    trainings = {name: (entry or {}).get("method", name) for name, entry in config["trainings"].items()}
    assert trainings == {"standard": "standard", "adversarial": "adversarial"}
    assert (measured(preset, "map")["blocks"], options["blocks"]) == ("grid", "diagonal")


def test_mnist_is_compared_with_its_flip() -> None:
    assert list(blocks.derived(load("mnist"), "flip")) == [("mnist", "mnist_flipped", 0)]


def test_data_sets_of_the_elasticity_differ_in_the_second_feature_alone() -> None:
    config = load("synthetic_elasticity")
    (family,) = subspaces.families(config)
    assert [subspaces.features(config)[dataset] for dataset in family] == [(5, 0), (5, 0.05), (5, 0.2), (5, 1)]
    assert set(measured("synthetic_elasticity", "subspaces")["kinds"]) == {"discriminative", "complement"}


def test_synthetic_data_are_measured_along_and_orthogonal_to_their_feature() -> None:
    assert {feature.epsilon for feature in subspaces.features(load("synthetic")).values()} == {5, 1, 0.2}
    assert set(measured("synthetic", "subspaces")["kinds"]) == {"discriminative", "complement", "random"}
