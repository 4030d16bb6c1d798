"""One line of a config stands for a suite of corruptions, or for a published archive of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import archives, registry, suites
from pipeline.contracts import UserError
from tests.tiny import tiny_config
from workflow.common import Plan


def plan(corruptions: dict[str, Any], views: Any = "corruptions", **given: Any) -> Plan:
    measurements = {"accuracy": {"views": views}}
    return Plan({**tiny_config(), "corruptions": corruptions, "measurements": measurements, **given}, "cfg")


def test_every_member_is_a_corruption() -> None:
    assert {name: len(members) for name, members in suites.SUITES.items()} == {
        "c": 15,
        "c_extra": 4,
        "c_bar": 10,
        "c_bar_cifar": 10,
    }
    for members in suites.SUITES.values():
        assert len(set(members)) == len(members) and set(members) <= set(registry.names("corruption"))


@pytest.mark.parametrize("suite", suites.SUITES)
def test_one_line_gives_a_whole_suite(suite: str) -> None:
    made = plan({suite: None}, suite)
    ids = [f"{suite}.{member}" for member in suites.SUITES[suite]]
    assert list(made.config["corruptions"]) == ids
    assert made.views["accuracy"] == [("corruption", each) for each in ids]
    assert [made.methods["corrupt"][each]["method"] for each in ids] == list(suites.SUITES[suite])
    assert made.given["corruptions"] == {suite: None}  # the report shows what the user wrote


def test_options_go_to_every_member_and_an_entry_for_one_has_the_last_word() -> None:
    given = {"c.fog": {"constants": "cifar"}, "hard": {"suite": "c", "constants": "imagenet"}, "c": None}
    made = plan(given).methods["corrupt"]
    assert len(made) == 30
    assert {spec["options"]["constants"] for name, spec in made.items() if name.startswith("hard.")} == {"imagenet"}
    assert made["c.fog"]["options"]["constants"] == "cifar" and made["c.snow"]["options"]["constants"] == "auto"


def test_a_member_can_have_another_method() -> None:
    made = plan({"c": {"members": ["fog", "snow"]}, "c.fog": {"method": "contrast"}}).methods["corrupt"]
    assert {name: spec["method"] for name, spec in made.items()} == {"c.fog": "contrast", "c.snow": "snow"}


def test_the_suite_of_an_id() -> None:
    assert suites.suite_of("c_bar.lines") == "c_bar" and suites.suite_of("lines") == "corruptions"


@pytest.mark.parametrize(
    ("corruptions", "message"),
    [
        ({"c": {"members": ["fgo"]}}, "cfg: corruptions.c.members: no member 'fgo' (did you mean 'fog'?); there are"),
        ({"c": {"suite": "cc"}}, "cfg: corruptions.c: no suite 'cc' (did you mean 'c'?); there are c, c_extra"),
        ({"c": {"archive": "cifar_c"}}, "cfg: corruptions.c: no archive 'cifar_c' (did you mean 'cifar10_c'?)"),
        ({"c_baar": None}, "cfg: corruptions.c_baar: no suite, archive or corruption 'c_baar' (did you mean 'c_bar'?)"),
        ({"fogg": None}, "cfg: corruptions.fogg: no suite, archive or corruption 'fogg' (did you mean 'fog'?); suites"),
        ({"c.fog": None}, "cfg: corruptions.c.fog: corruptions has no suite or archive 'c' with a 'fog'"),
        (
            {"c": None, "c.fgo": None},
            "cfg: corruptions.c.fgo: corruptions has no suite or archive 'c' with a 'fgo' (did",
        ),
        ({"c": {"constant": 3}}, "cfg: corruptions.c.gaussian_noise: gaussian_noise has no option 'constant' (did you"),
        ({"c..fog": None}, "cfg: corruptions: 'c..fog' cannot be an id"),
        ({"imagenet_c_bar": None}, "cfg: corruptions.imagenet_c_bar: imagenet_c_bar is published without a checksum"),
        ({"cifar10_c": {"folder": "nowhere"}}, "cfg: corruptions.cifar10_c.gaussian_noise.folder: no such folder: now"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(corruptions: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(corruptions)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_an_archive_is_downloaded_unless_its_folder_is_given(tmp_path: Path) -> None:
    made = plan({"cifar10_c": None, "mine": {"archive": "cifar10_c", "folder": str(tmp_path), "members": ["fog"]}})
    common = {"cifar10_c." + member for member in suites.SUITES["c"]}
    assert set(made.config["corruptions"]) == common | {"mine.fog"}  # the four for validation are in no published mean
    assert made.archive({"corruption": "cifar10_c.fog"}) == ["results/archives/cifar10_c/all"]
    assert made.archive({"corruption": "mine.fog"}) == []
    spec = made.methods["corrupt"]["mine.fog"]
    assert spec["options"] == {"archive": "cifar10_c", "corruption": "fog", "folder": str(tmp_path)}


def test_an_archive_with_parts_is_fetched_by_the_part() -> None:
    made = plan({"imagenet_c": None})
    parts = {made.archive({"corruption": f"imagenet_c.{name}"})[0] for name in ("fog", "snow", "glass_blur")}
    assert parts == {"results/archives/imagenet_c/weather", "results/archives/imagenet_c/blur"}


def test_every_archive_of_the_catalogue_has_a_reader_and_families(tmp_path: Path) -> None:
    for name, archive in archives.ARCHIVES.items():
        made = plan({name: {"folder": str(tmp_path)}})
        assert {spec["method"] for spec in made.methods["corrupt"].values()} == {archive.method}
        assert all(member.family for member in archive.members.values())


def test_a_measurement_can_be_limited_to_some_classifiers() -> None:
    limited = {"accuracy": {"views": "c", "classifiers": ["*--robust--*"]}, "clean": {"method": "accuracy"}}
    made = plan({"c": None}, measurements=limited)
    measured = {(each["classifier"], each["measurement"]) for each in made.tables("accuracy")}
    assert measured == {
        ("tiny--robust--0", "accuracy"),
        ("tiny--robust--0", "clean"),
        ("tiny--standard--0", "clean"),
    }
    with pytest.raises(
        UserError, match="cfg: measurements.accuracy.classifiers: 'x\\*' matches none of tiny--robust--0"
    ):
        plan({"c": None}, measurements={"accuracy": {"classifiers": "x*"}})


def test_a_corruption_can_be_limited_to_some_data_sets() -> None:
    datasets = {"one": {"source": "digits"}, "two": {"source": "digits"}}
    given = {"c": {"members": ["fog"], "datasets": "one"}, "brightness": None}
    measurements = {"accuracy": {"views": ["c"]}, "both": {"method": "accuracy", "views": "corruptions"}}
    made = plan(given, datasets=datasets, measurements=measurements)
    assert made.targets("corrupt") == [
        "results/corruptions/one/c.fog.safetensors",
        "results/corruptions/one/brightness.safetensors",
        "results/corruptions/two/brightness.safetensors",
    ]
    measured = {(each["dataset"], each["measurement"]) for each in made.tables("accuracy")}
    assert measured == {("one", "accuracy"), ("one", "both"), ("two", "both")}  # nothing to look at, nothing to do
    job = {"dataset": "two", "classifier": "tiny--robust--0", "measurement": "both"}
    corrupted = [wildcards for stage, wildcards in made.inputs("measure", job) if stage == "corrupt"]
    assert corrupted == [{"dataset": "two", "corruption": "brightness"}]
    with pytest.raises(UserError, match="cfg: corruptions.c.fog.datasets: 'three' matches none of one, two"):
        plan({"c": {"members": ["fog"], "datasets": ["three"]}}, datasets=datasets)


def test_the_baseline_must_be_known() -> None:
    assert plan({"c": None}, baseline="tiny--standard--0").config["baseline"] == "tiny--standard--0"
    assert plan({"c": None}, baseline="alexnet").config["baseline"] == "alexnet"
    with pytest.raises(
        UserError, match="cfg: baseline: no classifier or baseline 'alexnett' \\(did you mean 'alexnet'"
    ):
        plan({"c": None}, baseline="alexnett")


def test_what_a_measurement_of_augmentations_compares() -> None:
    trainings = {
        "plain": {"method": "standard"},
        "prime": {"sigma_max": 1, "epochs": 1},
        "mixed": {"method": "standard", "augmentation": {"method": "augmix", "width": 2}},
    }
    near = {"near": {"method": "augmentation_distance", "views": "c"}}
    spec = plan({"c": None}, trainings=trainings, measurements=near).methods["measure"]["near"]
    assert list(spec["augmentations"]) == ["prime", "mixed"]
    assert spec["augmentations"]["prime"]["sigma_max"] == 1 and "epochs" not in spec["augmentations"]["prime"]
    assert spec["augmentations"]["mixed"]["method"] == "augmix" and spec["augmentations"]["mixed"]["width"] == 2
    near["near"]["augmentations"] = {"augmix": None}
    spec = plan({"c": None}, trainings=trainings, measurements=near).methods["measure"]["near"]
    assert list(spec["augmentations"]) == ["augmix"]
    near["near"]["augmentations"] = {"prime": {"sigma": 1}}
    with pytest.raises(UserError, match="cfg: measurements.near.augmentations.prime: prime has no option 'sigma'"):
        plan({"c": None}, trainings=trainings, measurements=near)


PAGE = (Path(__file__).parent.parent / "docs" / "corruptions.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block.partition("```")[0]) for block in PAGE.split("```yaml\n")[1:]]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(block.get("corruptions", block)))
def test_examples_of_the_page_are_good_configs(block: dict[str, Any], tmp_path: Path) -> None:
    corruptions = {entry: dict(options or {}) for entry, options in block["corruptions"].items()}
    for options in corruptions.values():
        if "folder" in options:
            options["folder"] = str(tmp_path)
    made = Plan(
        {**tiny_config(), **block, "corruptions": corruptions, "measurements": {"accuracy": {"views": "corruptions"}}}
    )
    assert made.views["accuracy"]
