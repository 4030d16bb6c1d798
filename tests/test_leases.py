"""No two jobs have one GPU, whatever kills them; without GPUs nothing happens. The GPUs are made-up names."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import devices, leases
from pipeline.contracts import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no leases there")
ROOT = Path(__file__).parent.parent
TOLD = (leases.MASK, leases.JOBS, leases.GPUS, leases.FOLDER, leases.LEASED, "SLURM_JOB_ID", "LOCAL_WORLD_SIZE")
Holder = subprocess.Popen[str]


def environment(folder: Path, **given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in TOLD}
    return {**kept, "PYTHONPATH": str(ROOT), leases.FOLDER: str(folder), **given}


def run(folder: Path, *arguments: str, gpus: str = "a,b,c,d", **given: str) -> str:
    command = [sys.executable, "-S", "-m", "tests.lease_holders", arguments[0], str(folder), *arguments[1:]]
    done = subprocess.run(
        command, env=environment(folder, **{leases.GPUS: gpus}, **given), cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@contextlib.contextmanager
def holder(folder: Path, gpus: str = "a,b", **given: str) -> Iterator[Holder]:
    """A process that leases and holds on; killed at the end, as by a user in a hurry."""
    with subprocess.Popen(
        [sys.executable, "-S", "-m", "tests.lease_holders", "hold", str(folder)],
        env=environment(folder, **{leases.GPUS: gpus}, **given), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def says(process: Holder) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def complains(process: Holder) -> str:
    assert process.stderr is not None
    return process.stderr.readline().strip()


def taken(folder: Path) -> list[str]:
    """Locks of GPUs that are held now."""
    found = []
    for path in sorted(folder.glob("boundary-atlas-gpus-*/*-[0-9]")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path.name)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder for the locks of this process; no lease before the test, none after it."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(leases.FOLDER, str(tmp_path))
    yield tmp_path
    leases.release()


def test_no_gpu_is_booked_twice_whoever_is_killed(tmp_path: Path) -> None:
    killed = json.loads(run(tmp_path, "leased", "500"))["killed"]
    assert killed > 10
    assert Counter(lines(tmp_path / "done")).keys() == set(map(str, range(500)))
    assert lines(tmp_path / "clashes") == []
    assert {line.split()[0] for line in lines(tmp_path / "places")} == {"a", "b", "c", "d"}


def test_the_check_sees_a_fault(tmp_path: Path) -> None:
    run(tmp_path, "numbered", "100")
    assert lines(tmp_path / "clashes")


def test_jobs_that_may_share_a_gpu_do(tmp_path: Path) -> None:
    run(tmp_path, "leased", "100", **{leases.JOBS: "2"})
    assert lines(tmp_path / "clashes") == []
    assert set(lines(tmp_path / "places")) == {f"{gpu} {place}" for gpu in "abcd" for place in (0, 1)}


def test_a_second_job_on_a_gpu_comes_when_all_have_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        held = [says(stack.enter_context(holder(tmp_path, **{leases.JOBS: "2"}))) for _ in range(4)]
    assert sorted(held[:2]) == sorted(held[2:]) == ["a", "b"]


def test_a_mask_is_kept_to(tmp_path: Path) -> None:
    run(tmp_path, "leased", "60", **{leases.MASK: "1,d"})
    assert lines(tmp_path / "clashes") == []
    assert {line.split()[0] for line in lines(tmp_path / "places")} == {"1", "d"}


def test_trainings_of_several_processes_do_not_wait_for_each_other(tmp_path: Path) -> None:
    run(tmp_path, "groups", "7")
    done = [line.split() for line in lines(tmp_path / "done")]
    assert sorted((int(group), int(own)) for group, own, _ in done) == [(g, r) for g in range(7) for r in range(3)]
    assert len({(group, mask) for group, _, mask in done}) == 7  # one mask for all of a training
    assert lines(tmp_path / "clashes") == []


def test_one_that_waits_says_so_and_gets_what_a_killed_one_had(tmp_path: Path) -> None:
    with holder(tmp_path, "a") as first, holder(tmp_path, "b,a") as second:
        assert {says(first), says(second)} == {"a", "b"}
        with holder(tmp_path, "b,a") as third:
            assert complains(third).startswith("GPUs: waiting for 1 of 2")
            first.kill()
            assert says(third) == "a"


def test_all_of_a_training_hold_its_lease(tmp_path: Path) -> None:
    launched = {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    with holder(tmp_path, LOCAL_RANK="1", **launched) as other, holder(tmp_path, LOCAL_RANK="0", **launched) as first:
        assert says(first) == says(other) == "a,b"
        first.kill()
        first.wait()
        assert taken(tmp_path) == ["local-a-0", "local-b-0"]
        other.kill()
        other.wait()
        assert taken(tmp_path) == []


def test_a_program_that_a_holder_starts_works_on_its_gpu_and_does_not_keep_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.GPUS, "a,b")
    leases.take()
    own = os.environ[leases.MASK]
    leases.take()
    with subprocess.Popen(
        [sys.executable, "-S", "-m", "tests.lease_holders", "hold", str(here)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True, stdout=subprocess.PIPE, close_fds=False,
    ) as child:  # fmt: skip
        try:
            assert says(child) == own == "a"
            assert taken(here) == ["local-a-0"]
            leases.release()
            assert taken(here) == []
        finally:
            child.kill()


def test_in_a_job_of_slurm_its_processes_share_out_what_it_gave(tmp_path: Path) -> None:
    held = []
    with contextlib.ExitStack() as stack:

        def leased(job: str, **given: str) -> str:
            held.append(stack.enter_context(holder(tmp_path, SLURM_JOB_ID=job, **given)))
            return says(held[-1])

        assert leased("1") == "None"  # it gave none
        assert not list(tmp_path.iterdir())
        assert [leased("1", **{leases.MASK: "0,1"}) for _ in range(2)] == ["0", "1"]  # several in one allocation
        assert leased("2", **{leases.MASK: "0"}) == "0"  # another job's may have the same name
        assert [process.poll() for process in held] == [None] * 4  # none waited for another's end


@pytest.mark.parametrize(
    "given", [{leases.GPUS: ""}, {leases.GPUS: "a", leases.MASK: ""}, {leases.GPUS: "a", leases.MASK: "-1"}]
)
def test_nothing_happens_without_gpus(here: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    leases.take()
    assert leases.LEASED not in os.environ
    assert os.environ.get(leases.MASK) == given.get(leases.MASK)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, {"GPU-11": "GPU-11", "MIG-1": "MIG-1", "MIG-2": "MIG-2", "GPU-33": "GPU-33"}),
        ("2, 0", {"GPU-33": "2", "GPU-11": "0"}),
        ("1", {"MIG-1": "1"}),
        ("MIG-2,GPU-3", {"MIG-2": "MIG-2", "GPU-33": "GPU-3"}),
        ("0,9,2", {"GPU-11": "0"}),
        ("2,-1,0", {"GPU-33": "2"}),
        ("NoDevFiles", {}),
        ("", {}),
    ],
)
def test_what_the_driver_says_and_a_mask_leaves(
    here: Path, mask: str | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = here / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ncat <<'END'\nGPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11)\nGPU 1: NVIDIA A100 (UUID: GPU-22)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-1)\n  MIG 3g.20gb     Device  1: (UUID: MIG-2)\n"
        "GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-33)\nEND\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    if mask is not None:
        monkeypatch.setenv(leases.MASK, mask)
    assert leases.pool() == expected


def test_the_kernel_tells_of_gpus_where_the_tool_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, uuid in (("0000:81:00.0", "GPU-bb-2"), ("0000:01:00.0", "GPU-aa-1"), ("0000:90:00.0", "GPU-????")):
        (here / place).mkdir()
        (here / place / "information").write_text(f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\nDevice Minor: 0\n")
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.setattr(leases, "DRIVER", here)
    assert list(leases.pool()) == ["GPU-aa-1", "GPU-bb-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "1"}, "GPUs: 3 needed, one for each process, and 2 there"),
        ({leases.JOBS: "0"}, "BOUNDARY_ATLAS_JOBS_PER_GPU: given '0', expected a whole number from 1"),
        ({leases.FOLDER: "/proc/none"}, "set BOUNDARY_ATLAS_LEASES to a folder of your own on this machine"),
    ],
)
def test_mistakes_are_named(here: Path, given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {leases.GPUS: "a,b", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        leases.take()
    assert leases.LEASED not in os.environ


def test_a_folder_of_another_user_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.GPUS, "a")
    (here / f"boundary-atlas-gpus-{os.getuid()}").symlink_to("/usr")
    with pytest.raises(UserError, match="boundary-atlas-gpus"):
        leases.take()


@pytest.mark.parametrize(
    ("name", "visible", "device", "mask"),
    [
        ("auto", True, "cuda", "a"),
        ("cuda", True, "cuda", "a"),
        ("cuda:1", True, "cuda:1", None),
        ("cpu", True, "cpu", None),
        ("auto", False, "cpu", None),
    ],
)
def test_who_chooses_a_gpu_has_leased_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, visible: bool, device: str, mask: str | None
) -> None:
    asked: list[str | None] = []

    def available() -> bool:
        asked.append(os.environ.get(leases.MASK))
        return visible

    monkeypatch.setenv(leases.GPUS, "a,b")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose(name) == torch.device(device)
    assert os.environ.get(leases.MASK) == mask
    assert bool(taken(here)) == (mask is not None)
    assert name not in ("auto", "cuda") or asked[0] == "a"


def test_without_cuda_in_torch_nothing_is_leased(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.GPUS, "a")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("auto") == torch.device("cpu")
    assert not list(here.iterdir())
    with pytest.raises(UserError, match="device 'cuda': torch sees no GPU here"):
        devices.choose("cuda")
    with pytest.raises(UserError, match="device 'gpu': expected auto, cpu"):
        devices.choose("gpu")


IMPORTS = """
import importlib, torch
asked = []
torch._C._cuda_getDeviceCount = lambda: asked.append(1) or 0
torch._C._cuda_init = lambda: asked.append(1)
from pipeline import registry, server
for stage in ("train", "corrupt", "attack", "measure"):
    importlib.import_module(f"pipeline.stages.{stage}")
for kind in registry.KINDS:
    for name in registry.names(kind):
        registry.load(kind, name)
importlib.import_module("pipeline.models.imports").import_timm()
assert not asked
torch.cuda.is_available()
assert asked
"""


def test_nothing_asks_for_gpus_before_the_lease(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
