"""A wrong config is refused before any job starts, in one line: path, what was given, what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import registry, specs
from pipeline.contracts import UserError
from tests.tiny import tiny_config
from workflow.common import ROOT, Plan, guard
from workflow.datasets import FIELDS as DATASET_FIELDS

BROUGHT = {"dataset": "digits", "model": "resnet18", "weights": "README.md", "mean": [0.5], "std": [1]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c.update(atacks={}),
            "cfg: no field 'atacks' (did you mean 'attacks'?); there are seed, seeds, device",
        ),
        (lambda c: c.pop("datasets"), "cfg: 'datasets' is missing"),
        (lambda c: c.update(seed="x"), "cfg: seed: given 'x', expected a whole number from 0"),
        (lambda c: c.update(seeds=[0, -1]), "cfg: seeds.1: given -1, expected a whole number from 0"),
        (lambda c: c.update(device="gpu"), "cfg: device: given 'gpu', expected one of auto"),
        (
            lambda c: c["attacks"].update({"a/b": {}}),
            "cfg: attacks: 'a/b' cannot be an id; an id is letters and digits",
        ),
        (lambda c: c["attacks"].update({"a--b": {}}), "cfg: attacks: 'a--b' cannot be an id"),
        (lambda c: c["attacks"].update(x=3), "cfg: attacks.x: given 3, expected a mapping with method"),
        (
            lambda c: c["attacks"]["df"].update(step=5),
            "cfg: attacks.df: deepfool has no option 'step' (did you mean 'steps'?); it takes steps, overshoot",
        ),
        (
            lambda c: c["attacks"]["df"].update(steps="many"),
            "cfg: attacks.df.steps: given 'many', expected a whole number",
        ),
        (
            lambda c: c["attacks"]["df"].update(steps=0),
            "cfg: attacks.df.steps: given 0, expected a whole number at least 1",
        ),
        (lambda c: c["attacks"]["pgd"].pop("epsilon"), "cfg: attacks.pgd: pgd needs the option 'epsilon'"),
        (
            lambda c: c["attacks"]["pgd"].update(epsilon="8/0"),
            "cfg: attacks.pgd.epsilon: given '8/0', expected a number",
        ),
        (
            lambda c: c["attacks"]["pgd"].update(norm="l7"),
            "cfg: attacks.pgd.norm: given 'l7', expected one of l2, linf",
        ),
        (
            lambda c: c["attacks"].update(depfool=None),
            "cfg: attacks.depfool: no attack 'depfool' (did you mean 'deepfool'?)",
        ),
        (
            lambda c: c["trainings"].update(primed=None),
            "cfg: trainings.primed: no training 'primed' (did you mean 'prime'?)",
        ),
        (
            lambda c: c["trainings"]["standard"].update(epoch=3),
            "cfg: trainings.standard: standard has no option 'epoch'",
        ),
        (lambda c: c["architectures"]["tiny"].pop("model"), "cfg: architectures.tiny: 'model' is missing"),
        (
            lambda c: c["architectures"]["tiny"].update(model="resnet81"),
            "cfg: architectures.tiny: timm has no model 'resnet81' (did you mean 'resnet",
        ),
        (
            lambda c: c["architectures"]["tiny"].update(stem="tiny"),
            "cfg: architectures.tiny.stem: given 'tiny', expected one",
        ),
        (
            lambda c: c["datasets"].update(mnist3={}),
            "cfg: datasets.mnist3: no source 'mnist3' (did you mean 'mnist'?); there are cifar10, cifar100, digits",
        ),
        (
            lambda c: c["datasets"]["digits"].update(frequency="swap"),
            "cfg: datasets.digits.frequency: given 'swap', expected one of flip, {low_pass: b} or {high_pass: b}",
        ),
        (
            lambda c: c["trainings"]["standard"].update(augmentation="prime"),
            "cfg: trainings.standard.augmentation: given 'prime', expected a mapping",
        ),
        (
            lambda c: c["trainings"]["standard"].update(augmentation={"width": 2}),
            "cfg: trainings.standard.augmentation: given {'width': 2}, expected method: one of augmix",
        ),
        (
            lambda c: c["trainings"]["standard"].update(augmentation={"method": "prim"}),
            "cfg: trainings.standard.augmentation: no augmentation 'prim' (did you mean 'prime'?)",
        ),
        (
            lambda c: c["trainings"]["standard"].update(augmentation={"method": "prime", "depth": 0}),
            "cfg: trainings.standard.augmentation.depth: given 0, expected a whole number at least 1",
        ),
        (lambda c: c["datasets"]["digits"].update(evaluation=0), "cfg: datasets.digits.evaluation: given 0, expected"),
        (
            lambda c: c["datasets"].update(mine={"source": "image_folder", "root": "no/where"}),
            "cfg: datasets.mine: no such file or folder: no/where",
        ),
        (
            lambda c: c["datasets"].update(mine={"source": "parquet", "train": ["a*.parquet"]}),
            "cfg: datasets.mine: no such file or folder: a*.parquet",
        ),
        (
            lambda c: c["measurements"].update(accuracy={"views": "cleen"}),
            "cfg: measurements.accuracy.views: nothing is called",
        ),
        (
            lambda c: c["measurements"]["perturbation"].update(views="clean"),
            "cfg: measurements.perturbation.views: perturbation does not measure on a clean view; it takes attack",
        ),
        (
            lambda c: c["attacks"].update(contrast={"method": "deepfool"}),
            "cfg: 'contrast' is both a corruption and an attack",
        ),
        (
            lambda c: c.update(classifiers={"mine": {"model": "resnet18"}}),
            "cfg: classifiers.mine: 'dataset' is missing",
        ),
        (
            lambda c: c.update(classifiers={"mine": {**BROUGHT, "dataset": "digit"}}),
            "cfg: classifiers.mine.dataset: no data set 'digit' (did you mean 'digits'?)",
        ),
        (
            lambda c: c.update(classifiers={"mine": {**BROUGHT, "weights": "none.pt"}}),
            "cfg: classifiers.mine.weights: no such file: none.pt",
        ),
        (
            lambda c: c.update(classifiers={"mine": {**BROUGHT, "mean": ["a"]}}),
            "cfg: classifiers.mine.mean: given ['a']",
        ),
    ],
)
def test_message(edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    config = tiny_config()
    edit(config)
    with pytest.raises(UserError) as error:
        Plan(config, "cfg")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_good_configs_pass() -> None:
    Plan(tiny_config())
    Plan(yaml.safe_load((ROOT / "config.yaml").read_text()))
    Plan({**tiny_config(), "classifiers": {"mine": BROUGHT}})


def test_classifiers_are_the_product_and_the_brought() -> None:
    config = {**tiny_config(), "seeds": [0, 7], "classifiers": {"mine": BROUGHT}}
    found = {classifier for _, classifier in Plan(config).classifiers}
    assert found == {"mine", *(f"tiny--{training}--{seed}" for training in ("standard", "robust") for seed in (0, 7))}


def test_spec_holds_what_the_job_reads_and_nothing_else() -> None:
    plan, other = Plan(tiny_config()), tiny_config()
    other["attacks"]["df"]["steps"] = 6
    other["measurements"].pop("gallery")
    other["datasets"]["digits"]["evaluation"] = 10
    changed = Plan(other)
    data = {"dataset": "digits"}
    classifier = {**data, "classifier": "tiny--standard--0"}
    assert plan.spec("train", classifier) == changed.spec("train", classifier)
    assert plan.lineage("train", classifier) == changed.lineage("train", classifier)
    assert plan.spec("prepare", {**data, "split": "train"}) == changed.spec("prepare", {**data, "split": "train"})
    assert plan.spec("prepare", {**data, "split": "evaluation"}) != changed.spec(
        "prepare", {**data, "split": "evaluation"}
    )
    assert plan.spec("attack", {**classifier, "attack": "pgd"}) == changed.spec(
        "attack", {**classifier, "attack": "pgd"}
    )
    assert plan.spec("attack", {**classifier, "attack": "df"}) != changed.spec("attack", {**classifier, "attack": "df"})
    assert json.loads(plan.spec("attack", {**classifier, "attack": "pgd"}))["options"]["epsilon"] == 8 / 255


def test_order_and_spelling_of_numbers_do_not_matter() -> None:
    config, same = tiny_config(), tiny_config()
    same["attacks"]["pgd"] = {"steps": 2, "epsilon": 8 / 255, "restarts": 1}
    same["trainings"]["robust"] = dict(reversed(same["trainings"]["robust"].items())) | {"epsilon": 0.25}
    wildcards = {"dataset": "digits", "classifier": "tiny--robust--0", "attack": "pgd"}
    for stage in ("train", "attack"):
        assert Plan(config).spec(stage, wildcards) == Plan(same).spec(stage, wildcards)


def test_code_is_that_of_stage_and_method() -> None:
    plan = Plan(tiny_config())
    wildcards = {"dataset": "digits", "classifier": "tiny--robust--0"}
    codes = {attack: plan.code("attack", {**wildcards, "attack": attack}) for attack in ("df", "pgd")}
    assert codes["df"] != codes["pgd"]


def test_changed_config_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOUNDARY_ATLAS_RUN", raising=False)
    guard(Plan(tiny_config()))
    guard(Plan(tiny_config()))
    with pytest.raises(UserError, match="config or code changed while the workflow was running; start it again"):
        guard(Plan({**tiny_config(), "seed": 5}))
    monkeypatch.delenv("BOUNDARY_ATLAS_RUN")


def test_fields_and_options_of_sources_do_not_collide() -> None:
    for name in registry.names("source"):
        assert not set(registry.options("source", name)) & {*DATASET_FIELDS, "source"}


def test_schema_describes_every_field_and_the_specs_know_them() -> None:
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    assert schema["$schema"]

    def walk(node: Any) -> None:
        for field in (node.get("properties") or {}).values() if isinstance(node, dict) else ():
            assert "$ref" in field or field["description"]
            walk(field)
            walk(field.get("additionalProperties"))

    walk(schema)
    fields = schema["properties"]["datasets"]["additionalProperties"]["properties"]
    assert set(fields) == {*DATASET_FIELDS, "source"}
    fields = schema["properties"]["classifiers"]["additionalProperties"]["properties"]
    assert set(fields) == set(specs.FIELDS["brought"]) - {"classifier", "seed", "model_options"}


def test_presence_of_a_source_is_checked_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    config = tiny_config()
    config["datasets"] = {"mine": {"source": "image_folder", "root": "pictures"}}
    plan = Plan(config)
    assert plan.source_files({"dataset": "mine", "split": "train"}) == ["pictures"]


def test_example_in_the_readme_is_a_good_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    for name in ("data/flowers/a", "data/pets", "weights"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/pets/train-0.parquet", "data/pets/test-0.parquet", "weights/wrn.pt"):
        (tmp_path / name).touch()
    plan = Plan(yaml.safe_load(example), "README")
    datasets, architectures, trainings, seeds = 4, 2, 3, 2
    assert len(plan.classifiers) == datasets * architectures * trainings * seeds + 1
    assert plan.classifiers["cifar10", "mine"]["model_options"] == {"depth": 28}
    assert plan.prepared["flipped", "train"]["frequency"] == "flip"
    augmentation = plan.classifiers["cifar10", "vit--robust_prime--1"]["options"]["augmentation"]
    assert (augmentation["method"], augmentation["width"]) == ("prime", 2)
