"""Stages by hand: the command line, the files between them, and results that do not depend on the batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import specs, store
from pipeline.commandline import main
from pipeline.models.classifier import build

NET = {"model": "resnet18", "stem": "small", "model_options": {"channels": [8, 8, 8, 8]}}
NAMES = {"dataset": "d", "architecture": "a", "training": "t"}


class Folder:
    """Runs stages by the command line inside one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, stage: str, spec: dict[str, Any], out: str, *more: str) -> int:
        flags = {
            "train": ["--data", "train.safetensors"],
            "corrupt": ["--data", "evaluation.safetensors"],
            "attack": ["--data", "evaluation.safetensors"],
            "measure": ["--data", "evaluation.safetensors"],
        }.get(stage, [])
        device = ["--device", "cpu"] if flags else []
        located = [
            str(self.path / word) if word.endswith((".safetensors", ".parquet")) else word for word in [*flags, *more]
        ]
        return main([stage, "--spec", store.canonical(spec), "--out", str(self.path / out), *device, *located])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("stages"))
    common = {"source": "digits", "test_share": 0.25}
    assert made.run("prepare", {**common, "split": "train", "train_size": 300}, "train.safetensors") == 0
    assert made.run("prepare", {**common, "split": "evaluation", "evaluation": 20}, "evaluation.safetensors") == 0
    options = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05}
    spec = {**NET, **NAMES, "classifier": "c", "method": "standard", "options": options}
    assert made.run("train", spec, "model.safetensors") == 0
    assert made.run("corrupt", {"method": "shot_noise", "corruption": "shot"}, "shot.safetensors") == 0
    for name, size in (("one", "7"), ("two", "64")):
        spec = {"method": "pgd", "attack": "pgd", "options": {"epsilon": 0.1, "steps": 3}}
        arguments = ("--classifier", "model.safetensors", "--batch-size", size)
        assert made.run("attack", spec, f"{name}.safetensors", *arguments) == 0
    return made


def test_batch_size_changes_no_image(folder: Folder) -> None:
    (one, first), (two, second) = (store.read_tensors(folder.path / f"{name}.safetensors") for name in ("one", "two"))
    assert torch.allclose(torch.tensor(one["images"]), torch.tensor(two["images"]), atol=1e-5)
    assert first["forward_passes"] == second["forward_passes"] > 0
    assert first["code"] == specs.code("attack", first["spec"])
    assert (first["norm"], first["epsilon"]) == ("linf", 0.1)


@pytest.mark.parametrize(
    ("spec", "views", "rows"),
    [
        ({"method": "accuracy", "clean": True}, ("shot.safetensors", "one.safetensors"), 20 * 7),
        ({"method": "perturbation"}, ("one.safetensors",), 20),
        ({"method": "dct_margin", "clean": True, "options": {"size": 4, "step": 4, "steps": 10}}, (), 40),
        ({"method": "gallery", "options": {"samples": 3}}, ("one.safetensors",), 3),
    ],
)
def test_batch_size_changes_no_table(folder: Folder, spec: dict[str, Any], views: tuple[str, ...], rows: int) -> None:
    tables = []
    for size in ("7", "64"):
        arguments = ("--classifier", "model.safetensors", "--batch-size", size, "--views", *views)
        assert folder.run("measure", {"measurement": "m", **spec}, f"t{size}.parquet", *arguments) == 0
        tables.append(pq.read_table(folder.path / f"t{size}.parquet").to_pandas())
    assert len(tables[0]) == rows
    assert set(tables[0]["classifier"]) == {"c"}
    assert tables[0]["sample"].nunique() == min(rows, 20)
    for name in tables[0]:
        first, second = (table[name] for table in tables)
        if first.dtype.kind == "f":
            assert (first.isna() == second.isna()).all()
            assert ((first - second).abs().fillna(0) < 1e-4).all(), name
        else:
            assert first.equals(second), name


def test_brought_classifier_is_measured_like_a_trained_one(folder: Folder) -> None:
    tensors, meta = store.read_tensors(folder.path / "model.safetensors")
    net = build(meta["recipe"]).net
    net.load_state_dict({name.removeprefix("net."): torch.tensor(v) for name, v in tensors.items() if "net." in name})
    torch.save({"state": net.state_dict()}, folder.path / "weights.pt")
    spec = {**NET, **NAMES, "classifier": "mine", "training": "brought", "seed": None, "key": "state"}
    spec |= {"weights": str(folder.path / "weights.pt"), "mean": meta["recipe"]["mean"], "std": meta["recipe"]["std"]}
    assert folder.run("train", spec, "brought.safetensors") == 0
    tables = []
    for model in ("model", "brought"):
        arguments = ("--classifier", f"{model}.safetensors", "--views", "shot.safetensors")
        assert folder.run("measure", {"method": "accuracy"}, f"{model}.parquet", *arguments) == 0
        tables.append(pq.read_table(folder.path / f"{model}.parquet"))
    assert tables[0]["confidence"].equals(tables[1]["confidence"])
    assert set(tables[1]["classifier"].to_pylist()) == {"mine"}
    assert set(tables[1]["seed"].to_pylist()) == {None}
    collected = ("--tables", "model.parquet", "brought.parquet")
    assert folder.run("collect", {"kind": "accuracy"}, "accuracy.parquet", *collected) == 0
    assert pq.read_table(folder.path / "accuracy.parquet").num_rows == 2 * 20 * 5
    assert main(["report", "--tables", str(folder.path / "accuracy.parquet"), "--out", str(folder.path)]) == 0
    assert "mine" in (folder.path / "leaderboard.md").read_text()


def changed(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    tensors, meta = store.read_tensors(path)
    edit(meta)
    store.write_tensors(path, tensors, meta)


@pytest.mark.parametrize(
    ("stage", "spec", "more", "message"),
    [
        ("attack", {"method": "pgd", "options": {"epsilon": 1, "step": 2}}, (), "--spec: pgd has no option 'step'"),
        ("attack", {"methd": "pgd"}, (), "--spec: attack has no option 'methd' (did you mean 'method'?)"),
        (
            "measure",
            {"method": "gallery"},
            ("--views", "train.safetensors"),
            "train.safetensors: a file of prepare train, expected one of corrupt or attack",
        ),
        ("measure", {"method": "gallery"}, ("--views", "none.safetensors"), "none.safetensors: no such file"),
        (
            "measure",
            {"method": "accuracy"},
            ("--classifier", "shot.safetensors"),
            "shot.safetensors: a file of corrupt, expected",
        ),
        ("measure", {"method": "gallery"}, ("--views", "other.safetensors"), "other.safetensors: made on x, not on c"),
        (
            "measure",
            {"method": "gallery"},
            ("--views", "fewer.safetensors"),
            "fewer.safetensors: made from other evaluation",
        ),
        (
            "measure",
            {"method": "dct_margin", "options": {"size": 9}},
            (),
            "size: a block of 9 x 9 frequencies does not fit",
        ),
        ("attack", {"method": "deepfool"}, ("--code", "0"), "attack: the code changed while the workflow was running"),
        (
            "collect",
            {"kind": "gallery"},
            ("--tables", "a.parquet"),
            "a.parquet: a table of 'accuracy', expected 'gallery'",
        ),
        (
            "collect",
            {"kind": "accuracy"},
            ("--tables", "a.parquet", "--lineages", "0"),
            "a.parquet: made with another config than the present one",
        ),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(
    folder: Folder,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    spec: dict[str, Any],
    more: tuple[str, ...],
    message: str,
) -> None:
    for name, edit in (
        ("other", lambda meta: meta["classifier"].update(classifier="x")),
        ("fewer", lambda meta: None),
    ):
        path = folder.path / f"{name}.safetensors"
        path.write_bytes((folder.path / "one.safetensors").read_bytes())
        changed(path, edit)
    tensors, meta = store.read_tensors(folder.path / "one.safetensors")
    store.write_tensors(folder.path / "fewer.safetensors", {name: array[:5] for name, array in tensors.items()}, meta)
    model = ("--classifier", "model.safetensors") if stage != "collect" else ()
    folder.run("measure", {"method": "accuracy", "clean": True}, "a.parquet", "--classifier", "model.safetensors")
    capsys.readouterr()
    assert folder.run(stage, spec, "out.parquet", *model, *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not (folder.path / "out.parquet").exists()


def test_help_lists_methods_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    text = capsys.readouterr().out
    assert "deepfool: " in text
    assert "epsilon: a number or a fraction such as 8/255 at least 0 (required)" in text
