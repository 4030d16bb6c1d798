"""Any value at any place of a config either makes a plan or is refused in one line that names the place."""

from __future__ import annotations

import copy
import datetime
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contracts import UserError
from tests.tiny import tiny_config
from workflow.common import RUNTIME, Plan

BOUNDED = settings(
    derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=list(HealthCheck)
)
WORDS = (
    "clean",
    "corruptions",
    "attacks",
    "digits",
    "prime",
    "method",
    "views",
    "..",
    "a/b",
    "<b>",
    "1/0",
    "nan",
    "0x1",
)


def full() -> dict[str, Any]:
    """The tiny config with an entry of every kind."""
    config = tiny_config()
    config["trainings"]["prime"] = {"epochs": 1, "augmentation": {"method": "prime", "width": 2}}
    config["classifiers"] = {
        "mine": {"dataset": "digits", "model": "resnet18", "weights": "README.md", "mean": [0.5], "std": [1]}
    }
    config["corruptions"]["c"] = {"members": ["fog"]}
    config["measurements"]["augmentation_distance"] = {"views": "corruptions", "augmentations": {"prime": {"width": 2}}}
    return config | {"seeds": [0, 1], "title": "t", "baseline": None}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside a value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


PLACES = sorted(places(full()), key=str)
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8) | st.text("\n\r\x1b\u2028\x00'\"{}%<", min_size=1, max_size=4)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats()
    | st.just(10**400)
    | TEXTS
    | st.dates()  # as YAML has it
)
KEYS = st.sampled_from(sorted({str(place[-1]) for place in PLACES})) | TEXTS | st.integers() | st.none() | st.booleans()
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


def planned(config: Any) -> str | None:
    """None for a config that makes a plan, else the line with which it is refused."""
    try:
        plan = Plan(config, "cfg.yaml")
    except UserError as error:
        return str(error)
    for stage in ("prepare", "train", "corrupt", "attack", "collect"):
        assert all(isinstance(target, str) for target in plan.targets(stage))
    assert plan.lineage("report", {}) and plan.shown()
    return None


def check(config: Any) -> None:
    message = planned(config)
    if message is not None:
        assert message.isprintable(), message
        place = re.match(r"cfg\.yaml: (?:(\w+)[.:]|no field '|'\w+' is missing|'.+' is both a corruption)", message)
        assert place and place[1] in (None, *full(), "device", "results", *RUNTIME), message


def inside(config: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        config = config[key]
    return config


@BOUNDED
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_place_of_another(place: tuple[Any, ...], value: Any) -> None:
    config = copy.deepcopy(full())
    inside(config, place[:-1])[place[-1]] = value
    check(config)


@BOUNDED
@given(st.sampled_from([(), *PLACES]), KEYS, VALUES)
def test_any_further_key(place: tuple[Any, ...], key: Any, value: Any) -> None:
    config = copy.deepcopy(full())
    target = inside(config, place)
    if isinstance(target, dict):
        target[key] = value
    elif isinstance(target, list):
        target.append(value)
    check(config)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_any_key_taken_away(place: tuple[Any, ...]) -> None:
    config = copy.deepcopy(full())
    del inside(config, place[:-1])[place[-1]]
    check(config)


def test_the_config_that_is_changed_is_a_good_one() -> None:
    assert planned(full()) is None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("measurements", "odd"), None, "cfg.yaml: measurements.odd: no measurement 'odd'"),
        (("measurements", "odd"), {"method": "../x"}, "cfg.yaml: measurements.odd: no measurement '../x'"),
        (("architectures", "tiny", "channels"), math.nan, "cfg.yaml: architectures.tiny: given {'channels': nan}"),
        (("architectures", "tiny", "channels"), [datetime.date(2020, 1, 1)], "cfg.yaml: architectures.tiny: given"),
        (("architectures", "tiny", "channels"), {1: 2, "a": 3}, "cfg.yaml: architectures.tiny: given"),
        (("architectures", "tiny", 8), 1, "cfg.yaml: architectures.tiny: given"),
        (("architectures", "tiny", "\ud800"), 1, "cfg.yaml: architectures.tiny: given"),
        (
            ("classifiers", "mine", "depth"),
            math.inf,
            "cfg.yaml: classifiers.mine: given {'depth': inf}, expected a mapping of names",
        ),
        (
            ("classifiers", "mine", "prefix"),
            "\ud800",
            r"cfg.yaml: classifiers.mine.prefix: given '\ud800', expected a text",
        ),
        (("attacks", "df", "a\nb"), 1, r"cfg.yaml: attacks.df: deepfool has no option 'a\nb'"),
        (("attacks", "a\nb"), None, r"cfg.yaml: attacks: 'a\nb' cannot be an id"),
        (("attacks", "df", "steps"), "1\n2", r"cfg.yaml: attacks.df.steps: given '1\n2', expected a whole number"),
        (("datasets", "<b>"), None, "cfg.yaml: datasets: '<b>' cannot be an id"),
        (("datasets", "../x"), None, "cfg.yaml: datasets: '../x' cannot be an id"),
        (("datasets", "x" * 61), None, "cfg.yaml: datasets: 'xxx"),
    ],
)
def test_what_was_found_once(place: tuple[Any, ...], value: Any, message: str) -> None:
    config = full()
    inside(config, place[:-1])[place[-1]] = value
    found = planned(config)
    assert found is not None and found.isprintable()
    assert found.startswith(message)


def test_a_message_is_one_line_whatever_it_holds() -> None:
    assert str(UserError("a\nb\x1b[2J\u202e\ud800\u2028é\n")) == r"a\nb\x1b[2J\u202e\ud800\u2028é"
    assert str(UserError(str(UserError("a\nb")))) == r"a\nb"
