"""The presets: each is planned by the real Snakemake, and runs at a reduced size on data in the real formats."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline import registry
from pipeline.contracts import UserError
from tests.planrunner import run_plan
from tests.tinydata import folder_of_images, published_sets
from workflow.common import ROOT, Plan

FOLDER = ROOT / "workflow/presets"
EVALUATED = 4  # images
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
FEW = {  # options of measurements
    "adaptive_samples": 2,
    "adaptive_steps": 1,
    "draws": 1,
    "iterations": 3,
    "loops": 1,
    "pairs": 2,
    "points": 6,
    "probes": 1,
    "resolution": 5,
    "rounds": 1,
    "samples": 4,
    "steps": 2,
}
BLOCKS = {  # first frequencies of the blocks that margins are measured in, of images of the reduced size
    "mnist": list(range(21)),
    "cifar10": list(range(0, 25, 2)),
    "cifar10_frequencies": list(range(0, 25, 2)),
    "cifar100": list(range(0, 25, 2)),
    "digits_frequencies": list(range(7)),
    "imagenet100": [0, 16],
    "imagenet": [0, 16],
}


def load(preset: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))
    return config


def reduced(config: dict[str, Any]) -> dict[str, Any]:
    """The config with few and small images, narrow networks and few steps; methods and their options stay."""
    for dataset in config["datasets"].values():
        small = {"size": 32, "samples": 48, "test_samples": 6}
        dataset |= {name: value for name, value in small.items() if name in dataset}
        dataset |= {"train_size": 16, "validation": 0.2, "evaluation": EVALUATED}
    for architecture in config["architectures"].values():
        if architecture["model"].startswith("resnet"):
            architecture["channels"] = [4, 4, 4, 4]
    for training in config["trainings"].values():
        training |= {"epochs": 1, "batch_size": 8, "warmup_epochs": 0}
        if "steps" in training:
            training["steps"] = 2
    for name in config["attacks"]:
        given = config["attacks"][name] or {}
        known = registry.options("attack", given.get("method", name))
        few = {key: value for key, value in {"steps": 2, "queries": 10}.items() if key in known}
        config["attacks"][name] = {**given, **few}
    for name, measurement in config["measurements"].items():
        given = measurement or {}
        known = registry.options("measurement", given.get("method", name))
        few = {key: value for key, value in FEW.items() if key in known}
        config["measurements"][name] = {**given, **few}
    return config


def place_data(preset: str, patch: pytest.MonkeyPatch) -> None:
    """Data of a preset below the working folder."""
    if preset.startswith("imagenet"):
        folder_of_images(Path("data/imagenet"), classes=20 if preset == "imagenet100" else 3)
    elif preset != "synthetic":
        published_sets(Path("downloads"), patch)


@pytest.mark.parametrize("preset", PRESETS)
def test_snakemake_plans_every_preset(preset: str, tmp_path: Path) -> None:
    (tmp_path / "data/imagenet").mkdir(parents=True)
    profile, file = ROOT / "workflow/profiles/local", FOLDER / f"{preset}.yaml"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet"]
    command += ["rules", "--workflow-profile", str(profile), "--configfile", str(file)]
    left_out = ("PYTHONPATH", "BOUNDARY_ATLAS_RUN")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    config = load(preset)
    trained = len(config["datasets"]) * len(config["architectures"]) * len(config["trainings"])
    jobs = {
        "prepare": 2 * len(config["datasets"]),
        "train": trained,
        "attack": trained * len(config["attacks"]),
        "measure": trained * len(config["measurements"]),
        "report": 1,
    }
    counts = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    assert {rule: counts.get(rule) for rule in jobs} == {rule: str(count) for rule, count in jobs.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place_data(preset, monkeypatch)
    config = reduced(load(preset))
    results = run_plan(config, tmp_path)
    names = ["dataset", "architecture", "training"]
    board = pd.read_parquet(results / "leaderboard.parquet")
    wanted = pd.MultiIndex.from_product([config["datasets"], config["architectures"], config["trainings"]])
    assert set(board[names].itertuples(index=False, name=None)) == set(wanted)
    assert board["clean_accuracy"].between(0, 1).all()
    accuracy = pd.read_parquet(results / "tables/accuracy.parquet")
    views = 1 + 5 * len(Plan(config).config["corruptions"])
    assert len(accuracy) == len(board) * EVALUATED * views
    perturbation = pd.read_parquet(results / "tables/perturbation.parquet")
    assert len(perturbation) == len(board) * EVALUATED * len(config["attacks"])
    assert perturbation["in_box"].all()
    if preset in BLOCKS:
        margins = pd.read_parquet(results / "tables/dct_margin.parquet")
        assert sorted(margins["frequency"].unique()) == BLOCKS[preset]
    assert config["title"] in (results / "report/index.html").read_text(encoding="utf-8")


def test_presets_keep_their_results_apart() -> None:
    folders = [load(preset)["results"] for preset in PRESETS]
    assert folders == [f"results/{preset}" for preset in PRESETS]


def test_presets_with_blocks_are_all_that_measure_margins() -> None:
    assert {preset for preset in PRESETS if "margin" in load(preset)["measurements"]} == set(BLOCKS)


@pytest.mark.parametrize("preset", ["imagenet", "imagenet100"])
def test_missing_folder_is_one_line(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        Plan(load(preset), f"{preset}.yaml")
    assert str(error.value) == f"{preset}.yaml: datasets.{preset}: no such file or folder: data/imagenet"
