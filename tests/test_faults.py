"""Killed jobs, full and read-only disks, damaged files, no GPU: a clear word, nothing half-written, nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import store
from pipeline.commandline import main
from tests.gates import PATIENCE, Gated, ended, needs_processes, until
from tests.test_workflow import ROOT, environment

pytestmark = needs_processes

NET = "{method: standard, model: mlp, model_options: {width: 4}, options: {epochs: 1}}"
SPLIT = "{source: digits, train_size: 40, evaluation: 12"


def command(stage: str, out: str, **given: str) -> list[str]:
    """Command line of a job in a folder with `data`, `net`, `attack`, `measure` and `collect`."""
    data = ["--data", given.get("data", "evaluation.safetensors"), "--device", given.get("device", "cpu")]
    net = ["--classifier", given.get("net", "net.safetensors")]
    return {
        "prepare": ["prepare", "--spec", f"{SPLIT}, split: {given.get('split')}}}"],
        "train": ["train", "--spec", NET, "--data", given.get("data", "train.safetensors"), "--device", "cpu"],
        "corrupt": ["corrupt", "--spec", "{method: contrast}", *data],
        "attack": ["attack", "--spec", "{method: noise, options: {epsilon: 1}}", *net, *data],
        "measure": ["measure", "--spec", "{method: accuracy, clean: true}", *net, *data,
                    "--views", given.get("view", "attack.safetensors")],
        "collect": ["collect", "--spec", "{kind: accuracy}", "--tables", given.get("table", "measure.parquet")],
        "report": ["report", "--tables", given.get("table", "accuracy.parquet")],
    }[stage] + ["--out", out]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of each stage."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for split in ("train", "evaluation"):
            assert main(command("prepare", f"{split}.safetensors", split=split)) == 0
        assert main(command("train", "net.safetensors")) == 0
        assert main(command("attack", "attack.safetensors")) == 0
        assert main(command("corrupt", "corrupt.safetensors")) == 0
        assert main(command("measure", "measure.parquet")) == 0
        assert main(command("collect", "accuracy.parquet")) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


READERS = [
    ("train.safetensors", "train", {"data": "train.safetensors"}),
    ("evaluation.safetensors", "corrupt", {}),
    ("evaluation.safetensors", "attack", {}),
    ("net.safetensors", "attack", {}),
    ("net.safetensors", "measure", {}),
    ("attack.safetensors", "measure", {}),
    ("corrupt.safetensors", "measure", {"view": "corrupt.safetensors"}),
    ("measure.parquet", "collect", {}),
    ("accuracy.parquet", "report", {}),
]


@pytest.mark.parametrize(("file", "stage", "given"), READERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_file_is_named_and_nothing_is_written(
    folder: Path, file: str, stage: str, given: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / file
    whole = path.read_bytes()
    before = {each.name for each in folder.iterdir()}
    out = {"measure": "out.parquet", "collect": "out.parquet", "report": "."}.get(stage, "out.safetensors")
    half = len(whole) // 2
    flipped = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little") if path.suffix == ".safetensors" else 4
    place = header + (len(whole) - header) // 2 if path.suffix == ".safetensors" else header + 40
    flipped[place] ^= 0x10
    damages = {
        "empty": b"",
        "cut": whole[:half],
        "one short": whole[:-1],
        "one bit": bytes(flipped),
        "other": b"x" * 99,
    }
    for damage, content in damages.items():
        path.write_bytes(content)
        code = main(command(stage, out, **given))
        error = capsys.readouterr().err.splitlines()[-1]
        assert code == 2, damage
        assert error.startswith(f"error: {file}: ") and "run" in error, f"{damage}: {error}"
        assert {each.name for each in folder.iterdir()} == before, damage
    path.write_bytes(whole)
    assert main(command(stage, out, **given)) == 0


def limited(arguments: list[str], folder: Path, size: int) -> subprocess.CompletedProcess[str]:
    """A job that may write no file of more than `size` bytes, as on a disk that is full."""
    given = {**environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=folder, env=given, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["corrupt", "collect", "report"])
def test_no_room_for_a_file(folder: Path, stage: str) -> None:
    before = {path.name for path in folder.iterdir()}
    out = {"corrupt": "out.safetensors", "collect": "out.parquet"}.get(stage, "")
    done = limited(command(stage, out), folder, 500)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "cannot be written (File too large); make room" in line
    assert {path.name for path in folder.iterdir()} - before <= {"figures"}
    assert not list(folder.rglob(".*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_a_full_disk_and_then_room(folder: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    ballast.write_bytes(b"x" * 4096 * 6)
    out = small_disk / "results/out.safetensors"
    assert main(command("attack", str(out))) == 2
    assert f"error: {out}: cannot be written (No space left on device); make room" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []
    ballast.unlink()
    assert main(command("attack", str(out))) == 0
    assert store.read_metadata(out)["stage"] == "attack"


def test_a_read_only_folder_of_results(folder: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "out.safetensors", small_disk / "results/out.safetensors"):
        assert main(command("attack", str(out))) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: {out}: cannot be written (Read-only file system); make room or")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("stage", ["corrupt", "attack", "measure"])
def test_no_gpu(folder: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in folder.iterdir()}
    assert main(command(stage, "out.parquet", device="cuda")) == 2
    assert "error: device 'cuda': " in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == before


def test_killed_jobs_and_a_terminated_head(tmp_path: Path) -> None:
    """The jobs' outputs are missing, all else is kept; asked to end, the head lets its jobs end and starts no other."""
    checkout = Gated(tmp_path, "a", "b", "c")
    with checkout.running("images", "--keep-going", "--cores", "3") as head:
        jobs = {name: checkout.arrived(name) for name in "abc"}
        os.kill(jobs["a"], signal.SIGKILL)
        os.kill(jobs["b"], signal.SIGTERM)
        until(lambda: ended(jobs["a"]) and ended(jobs["b"]))
        checkout.open("c")
        assert head.wait(PATIENCE) != 0
    assert "ended by signal 9" in checkout.log("attack", "a")
    assert "ended by signal 15" in checkout.log("attack", "b")
    assert [checkout.attacked(name).exists() for name in "abc"] == [False, False, True]
    assert checkout.planned()["attack"] == 2
    for name in "ab":
        (checkout.folder / f"gate-{name}").unlink()
    with checkout.running("--cores", "2") as head:
        until(lambda: len(checkout.journal("a")) > 1 and len(checkout.journal("b")) > 1)
        head.send_signal(signal.SIGTERM)
        checkout.open("a")
        checkout.open("b")
        assert head.wait(PATIENCE) != 0
    assert [checkout.attacked(name).exists() for name in "abc"] == [True, True, True]
    assert checkout.planned() == Counter({"measure": 1, "collect": 1, "report": 1})
    assert checkout.run("tables").returncode == 0
    assert checkout.half_written() == []
