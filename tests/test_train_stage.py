"""The train stage by its command line: killed and resumed, on several processes, from image files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import store
from pipeline.commandline import main
from pipeline.contracts import UserError
from pipeline.specs import complete
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train

ROOT = Path(__file__).parent.parent
NET = {"model": "resnet18", "model_options": {"channels": [8, 8, 8, 8], "drop_rate": 0.2}, "stem": "small"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "train.safetensors"
    prepare(spec=complete("prepare", {"source": "digits", "split": "train", "train_size": 200}), code="", out=out)
    return out


def command(data: Path, out: Path, options: dict[str, Any], *more: str, method: str = "standard") -> list[str]:
    spec = store.canonical({**NET, "method": method, "options": options})
    files = ["--data", str(data), "--out", str(out), "--history", str(out.with_suffix(".parquet"))]
    return ["-m", "pipeline", "train", "--device", "cpu", "--spec", spec, *files, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_and_ends_with_equal_files(digits: Path, tmp_path: Path, how: signal.Signals) -> None:
    options = {"epochs": 60, "batch_size": 40, "learning_rate": 0.01, "flip": True, "ema": 0.9, "keep": "best"}
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    arguments = command(digits, cut, options)
    often = [sys.executable, *arguments, "--checkpoint-minutes", "0"]
    with subprocess.Popen(often, env=environment(), stderr=subprocess.PIPE) as process:
        while len(list(tmp_path.glob(".cut.*.checkpoint"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        process.send_signal(how)
        assert process.wait() != 0
    assert not cut.exists()
    again = subprocess.run([sys.executable, *arguments], env=environment(), capture_output=True, text=True, check=True)
    assert "going on in epoch" in again.stderr
    subprocess.run(
        [sys.executable, *command(digits, whole, options)], env=environment(), capture_output=True, check=True
    )
    assert cut.read_bytes() == whole.read_bytes()
    assert cut.with_suffix(".parquet").read_bytes() == whole.with_suffix(".parquet").read_bytes()
    assert not list(tmp_path.glob(".*")), "checkpoints go when the outputs are there"


def test_checkpoints_of_another_recipe_are_not_used(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    (tmp_path / ".net.0123456789abcdef.000001-00000002.checkpoint").write_bytes(b"of an earlier recipe")
    assert main(command(digits, out, {"epochs": 1, "batch_size": 20})[2:]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.parquet", "net.safetensors"]


def test_history_is_a_table_in_long_form(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    options = {"epochs": 2, "batch_size": 50, "epsilon": 0.1, "steps": 1}
    assert main(command(digits, out, options, method="adversarial")[2:]) == 0
    table = pd.read_parquet(out.with_suffix(".parquet"))
    assert set(table["epoch"]) == {1, 2}
    assert set(table["split"].dropna()) == {"train", "validation"}
    assert {"loss", "robust_accuracy"} <= set(table.query("split == 'train'")["metric"])
    rate = table.query("metric == 'learning_rate'")
    assert rate["split"].isna().all()
    history = store.read_metadata(out)["history"]
    last = table.query("epoch == 2 and split == 'validation' and metric == 'accuracy'")["value"].item()
    assert last == history[-1]["validation_accuracy"]


def test_two_processes_write_one_classifier(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {"epochs": 2, "batch_size": 50, "processes": 2, "ema": 0.9}
    arguments = [sys.executable, *launcher, *command(digits, out, options, "--checkpoint-minutes", "0")]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.parquet", "net.safetensors"]
    assert len(store.read_metadata(out)["history"]) == 2


def test_training_that_fails_writes_nothing(digits: Path, tmp_path: Path) -> None:
    options = {"epochs": 3, "optimizer": "sgd", "learning_rate": 1e30, "batch_size": 20}
    with pytest.raises(UserError, match="the loss is"):
        train(
            spec=complete("train", {**NET, "method": "standard", "options": options}),
            code="", data=digits, out=tmp_path / "model.safetensors", history=tmp_path / "model.parquet", device="cpu",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


# Large sets


def photographs(folder: Path, n: int = 24) -> Path:
    """Two classes of PNG files of unlike sizes, reddish and bluish."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(2):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(n // 2):
                height, width = draw.integers(12, 30, 2)
                pixels = draw.integers(0, 60, (height, width, 3), dtype=np.uint8)
                pixels[..., 2 * label] += 150
                Image.fromarray(pixels).save(folder / split / f"class{label}" / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("loading", ["memory", "files"])
def test_images_may_stay_in_their_files(tmp_path: Path, loading: str) -> None:
    options = {"root": str(photographs(tmp_path / "photos", 60)), "size": 8}
    spec = {"source": "image_folder", "options": options, "validation": 0.3, "split": "train"}
    prepare(spec=complete("prepare", {**spec, "loading": loading}), code="", out=tmp_path / "train.safetensors")
    tensors, meta = store.read_tensors(tmp_path / "train.safetensors")
    assert ("train_images" in tensors) == (loading == "memory")
    assert tensors["validation_images"].shape[1:] == (3, 8, 8)
    assert meta["mean"][0] > 2 * meta["mean"][1]
    recipe = {"epochs": 8, "batch_size": 8, "learning_rate": 0.05, "flip": True}
    more = {"crop_scale": 0.5} if loading == "files" else {}
    net = {"model": "resnet18", "model_options": {"channels": [8, 8, 8, 8]}, "stem": "small"}
    trained = complete("train", {**net, "method": "standard", "options": {**recipe, **more}})
    out = tmp_path / "net.safetensors"
    train(spec=trained, code="", data=tmp_path / "train.safetensors", out=out, device="cpu", workers=2)
    history = store.read_metadata(out)["history"]
    assert history[-1]["validation_accuracy"] == 1


def test_files_and_memory_without_random_crops_train_alike(tmp_path: Path) -> None:
    options = {"root": str(photographs(tmp_path / "photos")), "size": 8}
    weights = []
    for loading in ("memory", "files"):
        spec = {"source": "image_folder", "options": options, "validation": 0.3, "split": "train", "loading": loading}
        prepare(spec=complete("prepare", spec), code="", out=tmp_path / "train.safetensors")
        recipe = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "flip": True, "crop_padding": 1}
        trained = complete("train", {**NET, "method": "standard", "options": recipe})
        out = tmp_path / "net.safetensors"
        train(spec=trained, code="", data=tmp_path / "train.safetensors", out=out, device="cpu")
        weights.append(store.read_tensors(out)[0])
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


def test_auto_switches_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"root": str(photographs(tmp_path / "photos")), "size": 8}
    spec = complete("prepare", {"source": "image_folder", "options": options, "validation": 0.25, "split": "train"})
    module = sys.modules["pipeline.stages.prepare"]
    size = 18 * 3 * 8 * 8  # eighteen training images
    for limit, held in ((size, True), (size - 1, False)):
        monkeypatch.setattr(module, "MEMORY_LIMIT", limit)
        prepare(spec=spec, code="", out=tmp_path / "train.safetensors")
        assert ("train_images" in store.read_tensors(tmp_path / "train.safetensors")[0]) == held


def test_wrong_wishes_get_one_line(tmp_path: Path) -> None:
    spec = {"source": "digits", "split": "train", "loading": "files"}
    with pytest.raises(UserError, match="loading: given files, but this source has no image files"):
        prepare(spec=complete("prepare", spec), code="", out=tmp_path / "train.safetensors")
    folder = photographs(tmp_path / "photos")
    spec = {"source": "image_folder", "options": {"root": str(folder), "size": 8}, "split": "train", "loading": "files"}
    prepare(spec=complete("prepare", {**spec, "validation": 0.3}), code="", out=tmp_path / "train.safetensors")
    next((folder / "train" / "class0").iterdir()).rename(folder / "train" / "class0" / "renamed.png")
    trained = complete("train", {**NET, "method": "standard", "options": {"epochs": 1, "batch_size": 8}})
    with pytest.raises(UserError, match="1 images are no longer in their files"):
        train(spec=trained, code="", data=tmp_path / "train.safetensors", out=tmp_path / "net.safetensors")
