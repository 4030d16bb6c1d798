"""The registry: signatures, types of options, and messages that name place, value and remedy."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pipeline import registry, specs
from pipeline.contracts import Column, Count, Share, UserError

PLUGINS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_signature_read_from_the_text_is_that_of_the_function(kind: str, name: str) -> None:
    function = registry.load(kind, name)
    parameters = inspect.signature(function).parameters
    required, offered = registry.KINDS[kind].required, registry.KINDS[kind].offered
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    assert required <= set(parameters), "a plug-in takes all that its stage always passes"
    assert set(registry.passed(kind, name, dict.fromkeys(required | offered))) == (required | offered) & set(parameters)
    assert list(registry.options(kind, name)) == [key for key in parameters if key not in required | offered]
    for key, option in registry.options(kind, name).items():
        default = parameters[key].default
        assert option.default == (registry.REQUIRED if default is inspect.Parameter.empty else default)
    assert registry.summary(kind, name)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_defaults_pass_their_own_check(kind: str, name: str) -> None:
    for key, option in registry.options(kind, name).items():
        if option.default is not registry.REQUIRED and option.default is not None:
            default = list(option.default) if isinstance(option.default, tuple) else option.default
            assert registry.convert(option.default, option.type, key) == default


@pytest.mark.parametrize("name", registry.names("measurement"))
def test_measurement_declares_its_table(name: str) -> None:
    module = inspect.getmodule(registry.load("measurement", name))
    columns = vars(module)["COLUMNS"]
    assert all(isinstance(column, Column) for column in columns.values())
    assert set(registry.constant("measurement", name, "ACCEPTS")) <= {"clean", "corruption", "attack"}


@pytest.mark.parametrize("name", registry.names("attack"))
def test_attack_states_its_norm(name: str) -> None:
    assert "norm" in registry.options("attack", name) or registry.constant("attack", name, "NORM")


@pytest.mark.parametrize("name", registry.names("training"))
def test_options_of_training_and_loop_do_not_collide(name: str) -> None:
    assert not set(registry.options("training", name)) & set(specs.common_options())


def test_parts_of_the_training_loop_have_options_of_their_own() -> None:
    parts = [registry.signature(*part) for part in specs.COMMON]
    assert sum(map(len, parts)) == len(specs.common_options())


def test_unknown_option_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(UserError) as error:
        registry.bind("attack", "deepfool", {"step": 3}, "config.yaml: attacks.df")
    message = str(error.value)
    assert message.startswith("config.yaml: attacks.df: deepfool has no option 'step' (did you mean 'steps'?)")
    assert all(option in message for option in registry.options("attack", "deepfool"))


def test_unknown_plugin_names_the_nearest() -> None:
    known = ", ".join(registry.names("attack"))
    with pytest.raises(UserError) as error:
        registry.bind("attack", "deepfol", {}, "config.yaml: attacks.a")
    assert str(error.value).endswith(f"no attack 'deepfol' (did you mean 'deepfool'?); there are {known}")


def test_missing_option_is_named() -> None:
    with pytest.raises(UserError, match="attacks.a: pgd needs the option 'epsilon'"):
        registry.bind("attack", "pgd", {}, "attacks.a")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("8/255", float, 8 / 255),
        (1, float, 1.0),
        ("0.5", float, 0.5),
        (None, float | None, None),
        ("1/2", Share, 0.5),
        (3, Count, 3),
        (True, bool, True),
    ],
)
def test_values_are_converted(value: Any, kind: Any, expected: Any) -> None:
    converted = registry.convert(value, kind, "x")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("8/0", float),
        ("much", float),
        (True, float),
        (True, int),
        (1.5, int),
        (float("nan"), float),
        (float("inf"), float),
        (0, Count),
        (1.01, Share),
        (1, bool),
        (None, float),
        ("l3", registry.options("attack", "pgd")["norm"].type),
    ],
)
def test_wrong_values_are_refused_with_place_and_value(value: Any, kind: Any) -> None:
    with pytest.raises(UserError, match="^attacks.a.x: given .*, expected "):
        registry.convert(value, kind, "attacks.a.x")


@pytest.mark.parametrize("stage", ["attack", "corrupt"])
def test_complete_spec_passes_unchanged(stage: str) -> None:
    kind = specs.KINDS[stage][0]
    for name in registry.names(kind):
        known = registry.options(kind, name)
        required = {key: option for key, option in known.items() if option.default is registry.REQUIRED}
        needed = {key: "x" if option.type is str else 1 for key, option in required.items()}
        once = specs.complete(stage, {"method": name, "options": needed})
        assert specs.complete(stage, once) == once


@pytest.mark.parametrize("name", registry.names("augmentation"))
def test_augmentation_of_a_training_is_completed_with_its_defaults(name: str) -> None:
    given = {"method": "standard", "model": "resnet18", "options": {"augmentation": {"method": name}}}
    once = specs.complete("train", given)
    defaults = {key: option.default for key, option in registry.options("augmentation", name).items()}
    assert once["options"]["augmentation"] == {"method": name, **defaults}
    assert specs.complete("train", once) == once


def test_split_keeps_only_what_it_reads() -> None:
    common = {"source": "digits", "validation": 0.2, "evaluation": 7}
    assert "evaluation" not in specs.complete("prepare", {**common, "split": "train"})
    assert "validation" not in specs.complete("prepare", {**common, "split": "evaluation"})
