"""Jobs that a waiting process forks are as those that import everything themselves, and die as they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import client, server
from pipeline.contracts import Column
from pipeline.store import provenance, write_table

pytestmark = pytest.mark.skipif(not server.SUPPORTED, reason="forks on Linux alone")
ROOT = Path(__file__).parent.parent
OWNER = "from pipeline import server; print(server.start(), flush=True); input()"
Waiting = tuple[subprocess.Popen[str], psutil.Process]
COLUMNS = {"sample": Column("string", "id")}


def environment(**given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != client.SOCKET}
    return {**kept, **dict.fromkeys(server.ONE_THREAD, "1"), "PYTHONPATH": str(ROOT), **given}


@pytest.fixture(scope="module")
def owner() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has started a server, and the server's address."""
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        until(lambda: Path(address).exists())
        yield process, address
        process.kill()


def until(holds: Callable[[], bool]) -> None:
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def server_of(owner: subprocess.Popen[str]) -> psutil.Process:
    (found,) = psutil.Process(owner.pid).children()
    return found


def job(address: str, *arguments: str, folder: Path = ROOT, **given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(
        command, env=environment(**{client.SOCKET: address}, **given), cwd=folder, capture_output=True, text=True
    )


def table(path: Path) -> Path:
    write_table(path, {"sample": ["a", "b"]}, COLUMNS, provenance("measure", {"method": "accuracy"}, "", {}))
    return path


def collect(out: Path, *tables: Path) -> list[str]:
    return ["collect", "--spec", "{kind: accuracy}", "--out", str(out), "--tables", *map(str, tables)]


def test_a_forked_job_writes_the_same_bytes(owner: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    given = table(tmp_path / "given.parquet")
    forked, own = (job(path, *collect(tmp_path / name, given)) for path, name in ((owner[1], "f"), ("", "o")))
    assert (forked.returncode, own.returncode) == (0, 0), forked.stderr + own.stderr
    assert (tmp_path / "f").read_bytes() == (tmp_path / "o").read_bytes()
    assert "memory" in forked.stderr and "memory" not in own.stderr  # so the one was forked and the other was not


def test_it_has_the_folder_the_streams_and_the_exit_code_of_its_client(
    owner: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    table(tmp_path / "given.parquet")
    done = job(owner[1], *collect(Path("out.parquet"), Path("given.parquet")), folder=tmp_path)
    assert done.returncode == 0 and (tmp_path / "out.parquet").is_file()
    wrong = job(owner[1], *collect(Path("out.parquet"), Path("missing.parquet")), folder=tmp_path)
    assert wrong.returncode == 2 and "error: missing.parquet: no such file" in wrong.stderr
    assert job(owner[1], "collect", "--nothing").returncode == 2
    shown = job(owner[1], "collect", "--help")
    assert shown.returncode == 0 and shown.stdout.startswith("usage:")


def test_what_libraries_read_when_loaded_must_be_equal(
    owner: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    given = table(tmp_path / "given.parquet")
    for different in ({"OMP_NUM_THREADS": "2"}, {"SLURM_JOB_ID": "7"}):
        done = job(owner[1], *collect(tmp_path / "out", given), **different)
        assert done.returncode == 0 and "memory" not in done.stderr


def test_other_commands_run_by_themselves(owner: tuple[subprocess.Popen[str], str]) -> None:
    done = job(owner[1], "methods", "--kind", "corruption")
    assert done.returncode == 0 and "memory" not in done.stderr and "brightness" in done.stdout


def test_without_a_server_at_the_address_a_job_runs_by_itself(tmp_path: Path) -> None:
    given = table(tmp_path / "given.parquet")
    assert job(str(tmp_path / "nobody"), *collect(tmp_path / "out", given)).returncode == 0


@contextlib.contextmanager
def waiting(address: str, running: psutil.Process, folder: Path) -> Iterator[Waiting]:
    """A job that waits for ever, for its spec from a pipe: its client and its process."""
    os.mkfifo(folder / "spec")
    before = set(running.children())
    arguments = ["collect", "--spec", f"@{folder / 'spec'}", "--tables", "x", "--out", "y"]
    command = [sys.executable, "-m", "pipeline", *arguments]
    with subprocess.Popen(
        command, env=environment(**{client.SOCKET: address}), stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: bool(set(running.children()) - before))
        (child,) = set(running.children()) - before
        yield process, child
        process.kill()


def test_a_killed_client_takes_its_job_with_it(owner: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    running = server_of(owner[0])
    with waiting(owner[1], running, tmp_path) as (process, child):
        process.send_signal(signal.SIGKILL)
        child.wait(60)
    assert job(owner[1], "collect", "--help").returncode == 0  # the server goes on


def test_a_client_asked_to_end_asks_its_job(owner: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    with waiting(owner[1], server_of(owner[0]), tmp_path) as (process, child):
        time.sleep(0.2)  # until the client knows its job's number; before, it would end by itself
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        child.wait(60)


def test_jobs_die_with_their_server_and_the_server_with_its_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        until(lambda: Path(address).exists())
        running = server_of(process)
        (tmp_path / "first").mkdir()
        with waiting(address, running, tmp_path / "first") as (asking, child):
            process.kill()
            time.sleep(0.2)
            assert running.is_running() and child.is_running()  # it lets its jobs end
            running.kill()
            child.wait(60)
            assert asking.wait(60) == 1 and asking.stderr is not None
            assert "error: the process that ran this job was killed; run again" in asking.stderr.read()
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        until(lambda: Path(address).exists())
        running = server_of(process)
        process.kill()
        running.wait(60)
        assert not Path(address).parent.exists()


def test_no_server_is_left_by_an_owner_that_is_gone_at_once(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "pass"])
    owner.wait()
    (tmp_path / "folder").mkdir()
    address = str(tmp_path / "folder" / "server")
    command = [sys.executable, "-m", "pipeline.server", "--address", address, "--owner", str(owner.pid)]
    assert subprocess.run(command, env=environment(), timeout=120).returncode == 0
    assert not (tmp_path / "folder").exists()
