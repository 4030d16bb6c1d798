"""Every file says what made it, and whether code, packages and inputs are still those."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import nn

from pipeline import provenance, specs, store
from pipeline.commandline import main
from pipeline.contracts import Column, UserError
from pipeline.stages.report import report

DATA = {"dataset": "digits", "source": "digits", "test_share": 0.25}
MODEL = {"dataset": "digits", "classifier": "mine", "architecture": "a", "training": "brought", "seed": None}
HOSTILE = "<b>\x1b[2J\nstage: forged"


def linear() -> nn.Module:
    """A factory such as a user would bring."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def make(stage: str, spec: dict[str, Any], out: Path, **given: Any) -> None:
    whole = specs.complete(stage, spec)
    run = getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)
    run(spec=whole, code=specs.code(stage, whole), out=out, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a small run where the workflow puts them."""
    base = tmp_path_factory.mktemp("run")
    root = base / "results"
    data = {split: root / f"data/digits/{split}.safetensors" for split in ("train", "evaluation")}
    make("prepare", {**DATA, "split": "train", "train_size": 60}, data["train"])
    make("prepare", {**DATA, "split": "evaluation", "evaluation": 20}, data["evaluation"])
    weights = base / "weights.safetensors"
    store.write_tensors(weights, {name: value.numpy() for name, value in linear().state_dict().items()}, {})
    brought = {**MODEL, "model": "tests.test_provenance:linear", "weights": str(weights), "mean": [0.5], "std": [1]}
    model = root / "models/digits/mine.safetensors"
    make("train", brought, model, data=data["train"], history=model.with_suffix(".history.parquet"), device="cpu")
    noise, attack = root / "corruptions/digits/shot.safetensors", root / "attacks/digits/mine/pgd.safetensors"
    make("corrupt", {"corruption": "shot", "method": "shot_noise"}, noise, data=data["evaluation"], device="cpu")
    measured: dict[str, Any] = {"classifier": model, "data": data["evaluation"], "device": "cpu"}
    options = {"epsilon": "8/255", "steps": 2}
    make("attack", {"attack": "pgd", "method": "pgd", "options": options, "seed": 3}, attack, **measured)
    table = root / "measurements/digits/mine/acc.parquet"
    spec = {"measurement": "acc", "method": "accuracy", "clean": True}
    make("measure", spec, table, views=[noise, attack], **measured)
    collected = root / "tables/accuracy.parquet"
    make("collect", {"kind": "accuracy"}, collected, tables=[table], lineages=[])
    report(
        tables={"accuracy": collected},
        out=root,
        spec={"seed": 0},
        seed=7,
    )
    return root


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def shown(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(provenance.show(path, as_json=True))
    return found


ATTACK = "attacks/digits/mine/pgd.safetensors"
TABLE = "measurements/digits/mine/acc.parquet"
EVALUATION = "data/digits/evaluation.safetensors"


def test_what_made_a_file_is_said_in_yaml(made: Path) -> None:
    found = yaml.safe_load(provenance.show(made / ATTACK))
    assert (found["file"], found["results"], found["stage"]) == (ATTACK, str(made), "attack")
    assert found["spec"]["options"]["epsilon"] == 8 / 255
    assert (found["seed"], found["device"]) == (3, "cpu")
    meta = store.read_metadata(made / ATTACK)
    assert found["code"] == f"{meta['code']}, the same now"
    assert found["lineage"] == meta["lineage"]
    assert found["versions"] == {package: f"{version}, the same now" for package, version in meta["versions"].items()}
    for name, file in (("classifier", "models/digits/mine.safetensors"), ("data", EVALUATION)):
        lineage = store.read_metadata(made / file)["lineage"]
        expected = {"lineage": lineage, "sha256": store.sha256(made / file), "file": file, "now": "unchanged"}
        assert found["inputs"][name] == expected


def test_every_kind_of_file_finds_its_inputs(made: Path) -> None:
    files = [path for path in sorted(made.rglob("*")) if path.suffix in (".safetensors", ".parquet")]
    assert len(files) > 10 and made / "leaderboards/digits/overall.parquet" in files
    for path in files:
        found = shown(path)
        assert found["results"] == str(made), path
        assert all(each["now"] == "same" for each in found["inputs"].values()), path
        assert bool(found["inputs"]) == (found["stage"] != "prepare"), path
        assert found["metadata"] == store.read_metadata(path)


def test_all_goes_up_to_the_data_and_names_each_file_once(made: Path) -> None:
    texts = list(yaml.safe_load_all(provenance.show(made / "leaderboard.parquet", every=True)))
    assert [text["file"] for text in texts][:3] == ["leaderboard.parquet", "tables/accuracy.parquet", TABLE]
    assert {text["file"] for text in texts[3:]} == {
        *("models/digits/mine.safetensors", EVALUATION, ATTACK, "data/digits/train.safetensors"),
        "corruptions/digits/shot.safetensors",
    }
    assert len(texts) == 8
    above = json.loads(provenance.show(made / "leaderboard.parquet", every=True, as_json=True))["above"]
    assert [each["file"] for each in above] == [text["file"] for text in texts[1:]]


def test_the_report_has_no_stage_but_tables_and_a_config(made: Path) -> None:
    found = yaml.safe_load(provenance.show(made / "profile.parquet"))
    assert (found["stage"], found["seed"], found["spec"]) == ("report", 7, {"seed": 0})
    assert (found["code"], found["versions"]) == ("not recorded", "not recorded")
    assert found["inputs"]["accuracy"]["now"] == "unchanged"


@pytest.mark.parametrize(
    "name",
    ["leaderboard.csv", "leaderboard.md", "claims.md", "report/index.html", "report/classifiers/digits/mine.html"],
)
def test_a_file_of_the_report_without_metadata_is_spoken_for(made: Path, name: str) -> None:
    found = yaml.safe_load(provenance.show(made / name))
    assert (found["file"], found["metadata_of"], found["stage"]) == (name, "leaderboard.parquet", "report")


def test_changes_since_are_said(results: Path) -> None:
    meta = store.read_metadata(results / ATTACK)
    arrays, _ = store.read_tensors(results / ATTACK)
    older = meta | {"code": "0" * 12, "versions": meta["versions"] | {"numpy": "1.0", "no-such-package": "2.0"}}
    store.write_tensors(results / ATTACK, arrays, older)
    found = yaml.safe_load(provenance.show(results / ATTACK))
    assert found["code"] == f"{'0' * 12}, now {meta['code']}"
    assert found["versions"]["numpy"] == f"1.0, now {np.__version__}"
    assert found["versions"]["no-such-package"] == "2.0, now not there"
    assert (
        yaml.safe_load(provenance.show(results / TABLE))["inputs"]["views/mine/pgd"]["now"] == provenance.NOW["remade"]
    )


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "damaged"),
        (lambda path: shutil.copy(path.with_name("train.safetensors"), path), "other"),
    ],
)
def test_what_became_of_an_input(results: Path, change: Any, now: str) -> None:
    change(results / EVALUATION)
    found = shown(results / ATTACK)["inputs"]
    assert found["data"]["now"] == now
    assert found["data"]["file"] == (None if now == "missing" else EVALUATION)
    assert found["classifier"]["now"] == "same"
    above = [text["file"] for text in yaml.safe_load_all(provenance.show(results / ATTACK, every=True))]
    assert (EVALUATION in above) == (now == "other")


def test_files_made_by_hand_find_inputs_beside_them(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hand"
    folder.mkdir()
    for number, name in enumerate((ATTACK, "models/digits/mine.safetensors", "data/digits/train.safetensors")):
        shutil.copy(results / name, folder / f"{number}.safetensors")
    found = shown(folder / "0.safetensors")
    assert found["results"] is None
    assert found["inputs"]["classifier"]["file"] == str(folder / "1.safetensors")
    assert found["inputs"]["data"]["now"] == "missing"


def test_what_metadata_hold_cannot_forge_a_line_or_reach_the_terminal(tmp_path: Path) -> None:
    meta = {"stage": "attack", "spec": {"method": HOSTILE, HOSTILE: "../../x"}, "code": HOSTILE, "lineage": HOSTILE}
    inputs = {name: {"lineage": HOSTILE, "sha256": "x"} for name in ("../../etc/passwd", "x", "views/*", HOSTILE)}
    path = tmp_path / "attacks/d/c/x.safetensors"
    store.write_tensors(path, {"x": np.zeros(1)}, meta | {"inputs": inputs, "versions": {HOSTILE: "1"}})
    text = provenance.show(path)
    assert "\x1b" not in text
    assert not any(line.startswith("stage: forged") for line in text.splitlines())
    found = yaml.safe_load(text)
    assert found["spec"]["method"] == HOSTILE
    assert {each["now"] for each in found["inputs"].values()} == {"not found"}


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"stage": 3},
        {"stage": "attack", "inputs": [1]},
        {"stage": "a", "spec": "x"},
        {"tables": [1]},
        {"stage": None},
    ],
)
def test_metadata_of_another_form_are_one_line(tmp_path: Path, meta: dict[str, Any]) -> None:
    store.write_tensors(tmp_path / "x.safetensors", {"x": np.zeros(1)}, meta)
    with pytest.raises(UserError, match=r"x.safetensors: its metadata do not say which stage made it") as error:
        provenance.show(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_foreign_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, tmp_path / "foreign.safetensors")
    store.write_table(tmp_path / "cut.parquet", {"a": [1]}, {"a": Column("int64", "")}, {})
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-9])
    (tmp_path / "notes.txt").write_text("no metadata")
    (tmp_path / "alone.csv").write_text("a,b")
    for name, message in (
        ("foreign.safetensors", "has no 'pipeline' metadata, so this pipeline did not write it"),
        ("cut.parquet", "truncated or damaged"),
        ("notes.txt", "no file with metadata, expected one of .parquet, .safetensors"),
        ("none.parquet", "no such file"),
        ("none.csv", "no such file"),
        ("alone.csv", ".csv files carry no metadata; leaderboard.parquet of the same report does, but lies neither"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {message}") as error:
            provenance.show(tmp_path / name)
        assert "\n" not in str(error.value)


def test_the_command_prints_it_and_ends_mistakes_with_one_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provenance", str(made / ATTACK)]) == 0
    assert capsys.readouterr().out == provenance.show(made / ATTACK) + "\n"
    assert main(["provenance", str(made / ATTACK), "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["above"]) == 3
    assert main(["provenance", str(made / "none.parquet")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {made / 'none.parquet'}: no such file")
