"""Every source, training and augmentation through the whole pipeline, from the data to the report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import registry, store
from pipeline.report import sections
from pipeline.suites import SUITES
from tests.planrunner import run_plan
from tests.test_datasets import write_parquet
from tests.tinydata import folder_of_images, published_sets

RECIPE = {"epochs": 1, "batch_size": 16, "learning_rate": 0.05}
DIGITS = {"source": "digits", "train_size": 48, "evaluation": 12}
NET = {"tiny": {"model": "resnet18", "stem": "small", "channels": [4, 4, 4, 4]}}
ATTACKS = {
    "deepfool": {"steps": 3},
    "pgd_l2": {"method": "pgd", "norm": "l2", "epsilon": 0.5, "steps": 2},
    "pgd_linf": {"method": "pgd", "norm": "linf", "epsilon": 0.1, "steps": 2},
}
MEASUREMENTS = {
    "accuracy": {"views": ["clean", "corruptions"]},
    "perturbation": {"views": "attacks"},
    "margin": {"method": "dct_margin", "size": 4, "step": 4, "steps": 3},
    "gallery": {"views": "attacks", "samples": 2},
}
SOURCES: Mapping[str, Mapping[str, Any]] = {
    **{name: {"root": "downloads"} for name in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")},
    "image_folder": {"root": "pictures", "size": 16, "loading": "files"},
    "parquet": {"train": "train.parquet", "test": "test.parquet"},
    "digits": {"train_size": 48},
    "synthetic": {"dimension": 12, "samples": 48, "test_samples": 10},
}


def whole(results: Path, config: Mapping[str, Any]) -> pd.DataFrame:
    """The leaderboard of a run, after a look at what every run must bring about."""
    board = pd.read_parquet(results / "leaderboard.parquet")
    names = ["dataset", "architecture", "training"]
    wanted = pd.MultiIndex.from_product([config["datasets"], config["architectures"], config["trainings"]], names=names)
    assert set(board[names].itertuples(index=False, name=None)) == set(wanted)
    assert board["clean_accuracy"].between(0, 1).all()
    assert (results / "report/index.html").stat().st_size > 1000
    perturbation = pd.read_parquet(results / "tables/perturbation.parquet")
    assert set(perturbation["attack"]) == set(config["attacks"])
    assert perturbation["in_box"].all()
    assert perturbation["within_epsilon"].dropna().all()
    for dataset, architecture, training in wanted:
        history = pd.read_parquet(results / f"models/{dataset}/{architecture}--{training}--0.history.parquet")
        assert {("train", "loss"), ("validation", "loss"), ("validation", "accuracy")} <= set(
            history[["split", "metric"]].itertuples(index=False, name=None)
        )
        assert np.isfinite(history["value"]).all()
    return board


def alike(results: Path, classifiers: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classifiers whose networks have the same weights."""
    found = {}
    for name in classifiers:
        tensors, _ = store.read_tensors(results / f"models/{name}--0.safetensors")
        parameters = [tensors[key].ravel() for key in sorted(tensors) if key.endswith("weight")]
        found[name] = np.concatenate(parameters)
    return [(a, b) for a, b in itertools.combinations(found, 2) if np.allclose(found[a], found[b], rtol=0, atol=1e-7)]


def test_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(SOURCES) == set(registry.names("source"))
    monkeypatch.chdir(tmp_path)
    published_sets(Path("downloads"), monkeypatch)
    folder_of_images(Path("pictures"), classes=2)
    for split, count in (("train", 24), ("test", 10)):
        write_parquet(Path(f"{split}.parquet"), [row % 2 for row in range(count)])
    config = {
        "datasets": {name: {"validation": 0.2, "evaluation": 6, **entry} for name, entry in SOURCES.items()},
        "architectures": {"mlp": {"model": "mlp", "depth": 1, "width": 8}},
        "trainings": {"standard": RECIPE},
        "attacks": {name: ATTACKS[name] for name in ("deepfool", "pgd_l2")},
        "measurements": {"accuracy": None, "perturbation": {"views": "attacks"}},
    }
    whole(run_plan(config, tmp_path), config)
    accuracy = pd.read_parquet(tmp_path / "results/tables/accuracy.parquet")
    assert accuracy.groupby("dataset").size().to_dict() == dict.fromkeys(SOURCES, 6)


QUICK = {
    "apgd": {"epsilon": 0.2, "steps": 3},
    "autoattack": {"epsilon": 6.0, "norm": "l2"},  # so large that the first of its attacks succeeds
    "boundary_attack": {"queries": 30, "starts": 5},
    "ddn": {"steps": 5},
    "deepfool": {"steps": 5},
    "fmn": {"steps": 5},
    "noise": {"epsilon": 0.5},
    "pgd": {"epsilon": 0.1, "steps": 2},
    "sigma_zero": {"steps": 5},
    "sparse_rs": {"epsilon": 4, "queries": 10},
    "sparsefool": {"steps": 3},
    "superdeepfool": {"steps": 2, "inner_steps": 3},
}


def test_every_attack(tmp_path: Path) -> None:
    """From the config to the leaderboard; what comes out is in the box, within its budget, and re-measured."""
    assert set(QUICK) == set(registry.names("attack"))
    config = {
        "datasets": {"digits": {**DIGITS, "evaluation": 4}},
        "architectures": {"mlp": {"model": "mlp", "depth": 1, "width": 16}},
        "trainings": {"standard": RECIPE},
        "attacks": QUICK,
        "measurements": {"perturbation": {"views": "attacks"}, "accuracy": None},
    }
    whole(results := run_plan(config, tmp_path), config)
    names = set(pd.read_parquet(results / "numbers.parquet")["column"])
    counts = ("sigma_zero", "sparsefool")
    for attack, options in QUICK.items():
        kind = "robust_accuracy_" if "epsilon" in options else "pixels_" if attack in counts else "median_l2_"
        assert any(name.startswith(kind + attack) for name in names), attack


MEASURED: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {"views": ["clean", "corruptions", "attacks"]},
    "augmentation_distance": {"views": "corruptions", "augmentations": {"prime": None}, "draws": 4, "samples": 6},
    "curvature": {"views": ["deepfool"], "radii": [0.1], "draws": 1, "samples": 6},
    "dct_margin": {"size": 4, "step": 4, "steps": 3, "rounds": 2},
    "detection": {
        "views": ["deepfool"],
        "probes": 2,
        "draws": 2,
        "alphas": [1],
        "adaptive_samples": 2,
        "adaptive_steps": 1,
    },
    "gallery": {"views": "attacks", "samples": 2},
    "invariance": {"angles": [15], "shifts": [0.125], "scales": [0.25], "displacements": [0.05], "draws": 1},
    "loops": {"loops": 2, "levels": 1},
    "perturbation": {"views": "attacks"},
    "path_examples": {
        "views": ["clean", "deepfool"],
        "pairs": 1,
        "candidates": 4,
        "points": 5,
        "depth": 2,
        "steps": 10,
    },
    "regions": {"pairs": 4, "depth": 2, "steps": 10},
    "shared_directions": {"views": ["deepfool"], "dimension": 2, "draws": 4, "lines": 2},
    "slices": {"views": ["clean", "deepfool"], "samples": 1, "points": 8},
    "subspace_margin": {"dimension": 2, "steps": 3, "rounds": 2},
    "transfer": {"views": ["pgd_l2"]},
}


def test_every_measurement(tmp_path: Path) -> None:
    """From the config to the page: rows in the table of its kind, of every classifier."""
    assert set(MEASURED) == set(registry.names("measurement"))
    config = {
        "datasets": {"digits": {"source": "digits", "train_size": 200, "evaluation": 24}},
        "architectures": NET | {"mlp": {"model": "mlp", "depth": 1, "width": 16}},
        "trainings": {"standard": RECIPE | {"epochs": 3}},
        "corruptions": {"contrast": {"constants": "cifar"}},
        "attacks": ATTACKS | {"deepfool": {"steps": 20}},
        "measurements": MEASURED,
    }
    results = run_plan(config, tmp_path)
    whole(results, config)
    for kind in MEASURED:
        table = pd.read_parquet(results / f"tables/{kind}.parquet")
        assert set(table["classifier"]) == {"tiny--standard--0", "mlp--standard--0"}, kind
        assert not table.isna().all(axis=None)
    page = (results / "report/index.html").read_text(encoding="utf-8")
    for module in (*sections.MEASURED, *sections.ACROSS):
        assert module.SECTION in page


def test_every_corruption(tmp_path: Path) -> None:
    """All suites, from the config to the page: every view a row a sample, with its suite and family."""
    config = {
        "datasets": {"digits": {"source": "digits", "train_size": 200, "evaluation": 24}},
        "architectures": NET,
        "trainings": {"standard": RECIPE | {"epochs": 1}},
        "corruptions": dict.fromkeys(SUITES) | {"alone": {"method": "brightness"}},
        "measurements": {"accuracy": {"views": ["clean", "corruptions"]}},
    }
    results = run_plan(config, tmp_path)
    rows = pd.read_parquet(results / "tables/accuracy.parquet")
    counts = rows[rows["kind"] == "corruption"].groupby("suite")["view"].nunique()
    assert counts.to_dict() == {suite: len(members) for suite, members in SUITES.items()} | {"corruptions": 1}
    assert rows["family"].notna().equals(rows["kind"] == "corruption")
    assert (rows.groupby(["view", "severity"], dropna=False).size() == 24).all()
    assert len(rows) == 24 * (1 + 5 * (sum(counts)))


def given(training: str) -> dict[str, Any]:
    """A quick recipe for a training, with what it requires."""
    options = registry.options("training", training)
    quick = {"epsilon": 0.1, "steps": 2, "replays": 2, "guard_every": 2}
    needed = {name for name, option in options.items() if option.default is registry.REQUIRED}
    assert needed <= set(quick)
    return {"method": training, **RECIPE, **{name: value for name, value in quick.items() if name in options}}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every training, and adversarial training on images of every augmentation, in one run."""
    augmented = {
        f"adversarial_{name}": {**given("adversarial"), "augmentation": {"method": name}}
        for name in registry.names("augmentation")
    }
    config = {
        "datasets": {"digits": DIGITS},
        "architectures": NET,
        "trainings": {name: given(name) for name in registry.names("training")} | augmented,
        "corruptions": {"contrast": {"constants": "cifar"}},
        "attacks": ATTACKS,
        "measurements": MEASUREMENTS,
    }
    return run_plan(config, tmp_path_factory.mktemp("trainings")), config


def test_every_training_and_augmentation(trainings: tuple[Path, dict[str, Any]]) -> None:
    results, config = trainings
    board = whole(results, config)
    assert len(board) == len(registry.names("training")) + len(registry.names("augmentation"))
    accuracy = pd.read_parquet(results / "tables/accuracy.parquet")
    assert len(accuracy) == len(board) * 12 * (1 + 5)
    margins = pd.read_parquet(results / "tables/dct_margin.parquet")
    assert len(margins) == len(board) * 12 * 2


def test_trainings_differ(trainings: tuple[Path, dict[str, Any]]) -> None:
    """All start from the same weights and see the same batches: equal weights would mean a method without effect."""
    results, config = trainings
    assert not alike(results, [f"digits/tiny--{name}" for name in config["trainings"]])


def test_adversarial_training_on_derived_data(tmp_path: Path) -> None:
    maps: dict[str, Any] = {"pixels": None, "flipped": "flip", "low": {"low_pass": 4}, "high": {"high_pass": 2}}
    config = {
        "datasets": {name: {**DIGITS, "frequency": frequency} for name, frequency in maps.items()},
        "architectures": NET,
        "trainings": {norm: {**given("adversarial"), "norm": norm} for norm in ("linf", "l2")},
        "corruptions": {"contrast": {"constants": "cifar"}},
        "attacks": ATTACKS,
        "measurements": MEASUREMENTS,
    }
    results = run_plan(config, tmp_path)
    whole(results, config)
    assert not alike(results, [f"{name}/tiny--{norm}" for name in maps for norm in config["trainings"]])
    for name, norm in itertools.product(maps, config["trainings"]):
        history = pd.read_parquet(results / f"models/{name}/tiny--{norm}--0.history.parquet")
        assert history[history["metric"] == "robust_accuracy"]["value"].between(0, 1).sum() == 2
