"""The tutorial, followed by a reader in a hurry: its files, its Python, its config on fewer images, its own method."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
import yaml

from pipeline.report import boards, outcomes
from tests.docs_kit import ROOT, TUTORIAL, Block, blocks_of, inside
from tests.planrunner import run_plan
from workflow.common import Plan


class Tutorial(NamedTuple):
    """What the reader of the tutorial has after its steps, on a small scale."""

    folder: Path
    config: dict[str, Any]
    said: dict[str, Block]
    names: dict[str, Any]  # that its Python leaves


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """Follow it: write its files, run its Python, run its config with fewer epochs and images."""
    folder = tmp_path_factory.mktemp("tutorial")
    said: dict[str, Block] = {}
    names: dict[str, Any] = {"__name__": "docs"}
    state = torch.random.get_rng_state()
    with inside(folder):
        for block in blocks_of(TUTORIAL):
            first = block.text.partition("\n")[0]
            if block.language == "python" and "read_parquet" in block.text:
                config = yaml.safe_load(said["mine.yaml"].text)
                run_plan(small(config), folder)
                (folder / config["results"]).symlink_to(folder / "results", target_is_directory=True)
            if block.language == "python" and not first.startswith("# "):
                exec(compile(block.text, str(block), "exec"), names)
            elif first.startswith("# "):
                name = first.removeprefix("# ")
                said[name] = block
                if "/" not in name and name.endswith((".py", ".yaml")):
                    (folder / name).write_text(block.text)
    torch.random.set_rng_state(state)
    return Tutorial(folder, yaml.safe_load(said["mine.yaml"].text), said, names)


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The same run on fewer images, with fewer epochs."""
    datasets = {name: entry | {"evaluation": 24, "train_size": 200} for name, entry in config["datasets"].items()}
    trainings = {name: entry | {"epochs": 1} for name, entry in config["trainings"].items()}
    return {**config, "datasets": datasets, "trainings": trainings, "selftest": False}


def test_tutorial_ends_in_the_report(tutorial: Tutorial) -> None:
    results = tutorial.folder / "results"
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    board = pd.read_parquet(results / "leaderboard.parquet").set_index("classifier")
    assert set(board.index) == {"mine", "resnet--standard--0", "resnet--adversarial--0"}
    assert all(name in page for name in board.index)
    assert board.loc["mine", "clean_accuracy"] > 0.8, "weights, normalisation and order of classes are right"
    assert tutorial.config["title"] in page


def test_columns_of_leaderboards_are_documented(tutorial: Tutorial) -> None:
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    section = text.partition("\n## Leaderboards\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = re.findall(r"`(\w+)`", " ".join([*cells, section.partition("All boards:")[2].partition("|")[0]]))
    known = [re.sub(r"[A-Z]+", r"\\w+", name) for name in names]
    tables = {path.stem: pd.read_parquet(path) for path in (tutorial.folder / "results" / "tables").iterdir()}
    found = boards.everything(tables, outcomes.gather(tables), 0, tutorial.config)
    of_attacks = next(board.table for board in found if board.name == "adversarial").set_index("classifier")
    assert of_attacks["median_l2_deepfool"].to_dict() == tutorial.names["medians"].to_dict(), "as from the rows"
    columns = {column.name for board in found for column in board.columns}
    assert len(columns) > 20
    assert not [column for column in columns if not any(re.fullmatch(pattern, column) for pattern in known)]


def test_second_seed_of_the_tutorial_leaves_the_rest_alone(tutorial: Tutorial) -> None:
    more = next(block for name, block in tutorial.said.items() if name == "add to mine.yaml")
    with inside(tutorial.folder):
        first = Plan(tutorial.config, "mine.yaml")
        second = Plan(tutorial.config | yaml.safe_load(more.text), "mine.yaml")
    trained = set(second.classifiers) - set(first.classifiers)
    assert {name for _, name in trained} == {"resnet--standard--1", "resnet--adversarial--1"}
    for dataset, classifier in first.classifiers:
        names = {"dataset": dataset, "classifier": classifier}
        assert first.lineage("train", names) == second.lineage("train", names)


def test_method_of_the_tutorial_is_found_and_runs(tutorial: Tutorial, tmp_path: Path) -> None:
    place, block = next((name, block) for name, block in tutorial.said.items() if name.startswith("pipeline/"))
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / place).write_text(block.text)
    entry = yaml.safe_load(tutorial.said["add to mine.yaml, below attacks"].text)
    ((name, options),) = entry.items()
    results, out = tutorial.folder / "results", tmp_path / "out.safetensors"
    stage = [sys.executable, "-m", "pipeline"]
    spec = yaml.safe_dump({"method": name, "options": options}, default_flow_style=True)
    files = ["--classifier", str(results / "models" / "my_digits" / "mine.safetensors")]
    files += ["--data", str(results / "data" / "my_digits" / "evaluation.safetensors"), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for words in (["methods", "--kind", "attack"], ["attack", "--spec", spec, *files, "--device", "cpu"]):
        done = subprocess.run(
            [*stage, *words], cwd=tutorial.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if words[0] == "methods":
            assert f"**`{name}`**" in done.stdout and "Fast gradient sign method" in done.stdout
    assert out.stat().st_size > 1000
