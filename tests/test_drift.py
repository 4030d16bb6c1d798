"""A run that is not alone: config or code that change under it, a head process that dies, a second one beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import outputlock, store
from pipeline.contracts import UserError
from tests.gates import PATIENCE, Gated, ended, needs_processes, until
from tests.test_workflow import ROOT, environment

pytestmark = needs_processes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Gated:
    return Gated(tmp_path_factory.mktemp("prepared"), "a")


@pytest.fixture
def checkout(prepared: Gated, tmp_path: Path) -> Gated:
    return prepared.copy(tmp_path)


def test_edits_under_a_run(checkout: Gated) -> None:
    """What was begun is recorded as it was computed; what would run other code stops; the next run does the rest."""
    measurement = checkout.folder / "pipeline/measurements/accuracy.py"
    sound = measurement.read_text()
    with checkout.running() as head:
        checkout.arrived("a")
        checkout.edit("a", mark=1)
        measurement.write_text(sound + "\n\nUNUSED = 1\n")
        second = checkout.run()
        assert second.returncode != 0 and "Directory cannot be locked" in second.stderr
        other = checkout.folder / "other"
        other.mkdir()
        shutil.copy(checkout.folder / "config.yaml", other)
        third = checkout.run("--directory", str(other), "--config", f"results={checkout.folder / 'results'}")
        assert third.returncode != 0
        assert "a workflow of another working folder writes into" in third.stderr
        checkout.open("a")
        assert head.wait(PATIENCE) != 0
    assert "error: measure: the code changed while the workflow was running; start it again" in checkout.log(
        "measure", "seen"
    )
    assert "What is finished is kept" in (checkout.folder / "head.log").read_text()
    assert store.read_metadata(checkout.attacked("a"))["spec"]["options"]["mark"] == 0, "as it was when the run began"
    assert not list((checkout.folder / "results").rglob("seen.parquet"))
    assert checkout.planned() == Counter({"attack": 1, "measure": 1, "collect": 1, "report": 1})
    checkout.edit("a", mark=0)
    assert checkout.planned() == Counter({"measure": 1, "collect": 1, "report": 1}), "the attack's record is right"
    assert checkout.half_written() == []


def test_a_node_that_reads_another_config_stops(checkout: Gated) -> None:
    """On a cluster's node Snakemake reads config and code anew; the head's digest stands in the environment."""
    command = checkout.command("--dry-run")
    changed = {**environment(), "BOUNDARY_ATLAS_RUN": "another run"}
    result = subprocess.run(command, cwd=checkout.folder, env=changed, capture_output=True, text=True)
    assert result.returncode != 0
    assert "config.yaml: config or code changed while the workflow was running; start it again" in result.stdout


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_two_copies_of_a_job_after_the_head_was_killed(checkout: Gated, forked: bool) -> None:
    """The orphan, of an older config, ends first; what stands at the end is what the workflow has on record."""
    checkout.config["fork_jobs"] = forked
    checkout.write(checkout.config)
    with checkout.running("images") as head:
        orphan = checkout.arrived("a")
        head.send_signal(signal.SIGKILL)
        head.wait()
        assert not ended(orphan), "it goes on"
        locked = checkout.run("images")
        assert locked.returncode != 0 and "--unlock" in locked.stderr
        assert checkout.run("--unlock").returncode == 0
        checkout.edit("a", mark=1)
        with checkout.running("images") as again:
            until(lambda: f"waiting for process {orphan} on " in checkout.log("attack", "a"))
            assert checkout.journal("a") == [(orphan, "in")], "the second copy is not let in"
            checkout.open("a")
            assert again.wait(PATIENCE) == 0, (checkout.folder / "head.log").read_text()
    (first, _), (_, left), (second, _), _ = checkout.journal("a")
    assert (first, left) == (orphan, "out") and second != orphan, "one after the other"
    assert store.read_metadata(checkout.attacked("a"))["spec"]["options"]["mark"] == 1
    assert checkout.run("images", "--dry-run").stdout.count("rule attack") == 0
    assert checkout.half_written() == []


HOLD = """
import sys, time
from pathlib import Path
from pipeline.outputlock import alone
out, mine = Path(sys.argv[1]), Path(sys.argv[2])
with alone(out):
    print("in", flush=True)
    temporary = out.with_name(f".{out.stem}.{__import__('os').getpid()}{out.suffix}")
    temporary.write_text("half")
    while not mine.exists():
        time.sleep(0.01)
    temporary.replace(out)
print("out", flush=True)
"""


def holder(out: Path, gate: Path, **given: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out), str(gate)],
        cwd=ROOT, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str], stream: str = "stdout") -> str:
    line: str = getattr(process, stream).readline()
    return line.strip()


def test_a_killed_holder_frees_the_output_and_what_it_left_is_removed(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    out, gate = tmp_path / "folder" / "table.parquet", tmp_path / "gate"
    foreign = out.with_name(".table.7.other.parquet")
    processes.append(holder(out, gate))
    assert first_line(processes[0]) == "in"
    foreign.write_text("of another output")
    processes += [holder(out, gate) for _ in range(3)]
    for waiting in processes[1:]:
        host = f"waiting for process {processes[0].pid} on "
        assert first_line(waiting, "stderr").startswith(host)
    processes[0].kill()
    gate.touch()
    for waiting in processes[1:]:
        assert [first_line(waiting), first_line(waiting)] == ["in", "out"]
        assert waiting.wait(PATIENCE) == 0
    assert {path.name for path in out.parent.iterdir()} == {out.name, foreign.name}


def test_only_the_first_process_of_a_training_takes_the_lock(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    out, gate = tmp_path / "net.safetensors", tmp_path / "gate"
    processes += [holder(out, gate, RANK=rank) for rank in ("0", "1")]
    assert [first_line(process) for process in processes] == ["in", "in"]


def test_a_failed_job_frees_the_output(tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), outputlock.alone(out):
            1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_file_systems_without_locks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: int) -> None:
        raise OSError(outputlock.NO_LOCKS[0], "none")

    monkeypatch.setattr(outputlock.fcntl, "flock", flock)
    with outputlock.alone(tmp_path / "table.parquet"):
        assert list(tmp_path.iterdir()) == []
    assert "no locks on this file system" in capsys.readouterr().err
    os.close(outputlock.reserve(tmp_path / "results"))


def test_results_below_the_working_folder_are_shared_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    held = [outputlock.reserve(Path("results")) for _ in range(2)]
    monkeypatch.chdir(tmp_path / "second")
    with pytest.raises(UserError, match="^results: a workflow of another working folder writes into"):
        outputlock.reserve(tmp_path / "first/results")
    for each in held:
        os.close(each)
    own = outputlock.reserve(tmp_path / "first/results")
    with pytest.raises(UserError, match="another working folder"):
        outputlock.reserve(tmp_path / "first/results")
    os.close(own)
