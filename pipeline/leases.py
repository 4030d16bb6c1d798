"""Which GPUs a job has to itself: Snakemake counts the GPUs in use, but does not say which job has which.

A lease is a lock on a file for each GPU (flock), in a folder of this user on this machine. The kernel drops it with
the last process that holds it, however that ends, so nothing has to be tidied up. A process looks for GPUs alone, under
a lock for that, and takes all that it needs or none: none waits for one GPU while it holds another, so no two can wait
for each other. Those that wait for the same GPUs stand in a line, so one that needs several gets its turn too. Other
users' jobs are not seen, nor those in a container with a `/tmp` of its own.

Environment variables, beside `CUDA_VISIBLE_DEVICES`, which restricts the choice:

- `BOUNDARY_ATLAS_JOBS_PER_GPU`: jobs that may share a GPU, 1 if not set; the same for all runs of a user on a machine.
- `BOUNDARY_ATLAS_GPUS`: names of the machine's GPUs with commas, in place of what the driver says.
- `BOUNDARY_ATLAS_LEASES`: folder of this machine in which the folder of the locks lies, `/tmp` if not set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from pipeline.contracts import UserError

with contextlib.suppress(ImportError):  # Windows has none, and no leases
    import fcntl

MASK = "CUDA_VISIBLE_DEVICES"
JOBS = "BOUNDARY_ATLAS_JOBS_PER_GPU"
GPUS = "BOUNDARY_ATLAS_GPUS"
FOLDER = "BOUNDARY_ATLAS_LEASES"
LEASED = "BOUNDARY_ATLAS_LEASED"  # the mask that a lease has set, for this process and those that it starts
MUTEX = "mutex"
PAUSE = 0.1  # seconds between two looks
DRIVER = Path("/proc/driver/nvidia/gpus")

_held = contextlib.ExitStack()


def take() -> None:
    """Lease GPUs for the life of this process and hide all others from it; wait until they are free.

    It needs one GPU, or as many as torch's launcher (`torchrun`) has started processes here: the first of these leases
    them for all, and each holds the lease. Call it before anything asks torch about GPUs, as the mask is read once.

    Nothing happens where there are no GPUs, or where this process or one that started it has a lease. In a job of Slurm
    the GPUs are Slurm's to give: without a mask nothing happens, and otherwise only processes of the same job share out
    the mask's GPUs, as they must if several run in one allocation.

    Raises:
        UserError: more GPUs are needed than there are, or the locks cannot be made.
    """
    if sys.platform == "win32" or (MASK in os.environ and os.environ.get(LEASED) == os.environ[MASK]):
        return
    there = pool()
    if not there:
        return
    needed, slots = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), jobs_per_gpu()
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if needed > len(there):
        raise UserError(
            f"GPUs: {needed} needed, one for each process, and {len(there)} there "
            f"({MASK}: {os.environ.get(MASK, 'not set')}); lower the training's `processes`, or show it more GPUs"
        )
    try:
        folder = _folder()
        names = _book(folder, there, needed, slots) if first else _join(folder)
    except OSError as error:
        release()
        place = error.filename or "lease of a GPU"
        raise UserError(f"{place}: {error.strerror}; set {FOLDER} to a folder of your own on this machine") from None
    _held.callback(_unmask, os.environ.get(MASK))
    os.environ[MASK] = os.environ[LEASED] = ",".join(names)


def release() -> None:
    """Give back the lease of this process, if it has one of its own: a launcher's others may still have to join."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        _held.close()


def _unmask(before: str | None) -> None:
    for name in (MASK, LEASED):
        os.environ.pop(name, None)
    if before is not None:
        os.environ[MASK] = before


def jobs_per_gpu() -> int:
    """Jobs that may share a GPU.

    Raises:
        UserError: the variable is no whole number from 1.
    """
    text = os.environ.get(JOBS, "1")
    if not re.fullmatch("[1-9][0-9]*", text):
        raise UserError(f"{JOBS}: given '{text}', expected a whole number from 1; without it a GPU has one job")
    return int(text)


def pool() -> dict[str, str]:
    """GPUs that this process may use: the name that all processes of the machine know -> the name for the mask.

    A mask is read as CUDA reads it: numbers or beginnings of UUIDs, up to the first that there is not. Its numbers are
    taken for those of `nvidia-smi`. For CUDA they are others if the GPUs are of several models and `CUDA_DEVICE_ORDER`
    is not `PCI_BUS_ID`: on such a machine do not let runs with numbers in the mask meet runs without a mask.
    """
    mask = os.environ.get(MASK)
    if mask is None:
        return {} if "SLURM_JOB_ID" in os.environ else {name: name for gpu in _machine() for name in gpu}
    found: dict[str, str] = {}
    machine = _machine() if mask.strip() else []
    for word in map(str.strip, mask.split(",")):
        if re.fullmatch("[0-9]+", word):
            names = machine[int(word)][:1] if int(word) < len(machine) else []
        else:
            names = [name for gpu in machine for name in gpu if word and name.startswith(word)]
        if not names:
            break
        found.setdefault(names[0], word)
    return found


def _machine() -> list[list[str]]:
    """GPUs of this machine, each as its UUID, or those of its parts (MIG). It does not start CUDA."""
    if GPUS in os.environ:
        return [[name] for name in os.environ[GPUS].split(",") if name]
    found: list[list[str]] = []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        for file in sorted(DRIVER.glob("*/information")):
            found += [[uuid] for uuid in re.findall(r"UUID:\s*(GPU-[0-9a-f-]+)", file.read_text())]
        return found
    for line in listed.stdout.splitlines():
        if match := re.fullmatch(r"(\s*).*\(UUID: (\S+)\)\s*", line):
            if not match[1] or not found:
                found.append([])
            found[-1].append(match[2])
    return [gpu[1:] or gpu for gpu in found]


def _folder() -> Path:
    """Folder of the locks, this user's alone."""
    base = os.environ.get(FOLDER, "/tmp")  # not TMPDIR, which may differ between the jobs of a machine
    folder = Path(base, f"boundary-atlas-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    _held.callback(os.close, descriptor)
    if os.fstat(descriptor).st_uid != os.getuid():
        raise PermissionError(1, "belongs to another user", str(folder))
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # systemd-tmpfiles removes old files, but none in a folder that is locked
    return folder


def _lock(path: Path, how: int) -> int | None:
    """Descriptor of a file with a lock on it, None if others hold it and `how` says not to wait.

    A program that this process executes does not inherit it (PEP 446); a fork of this process shares the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _hold(path: Path) -> int:
    """Hold a lock that others of the same lease may hold too, for the life of this process; its descriptor."""
    descriptor = _lock(path, fcntl.LOCK_SH)
    assert descriptor is not None
    _held.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _alone(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock alone, once it is free; with a text, print it if that takes long."""
    descriptor = None
    if waiting and (descriptor := _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
        time.sleep(PAUSE)
        if (descriptor := _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
            print(waiting, file=sys.stderr, flush=True)
    descriptor = descriptor or _lock(path, fcntl.LOCK_EX)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def _digest(parts: Sequence[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _group(folder: Path) -> Path:
    """File by which the first process of a launcher tells the others what it has leased."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return folder / f"group-{_digest([os.environ.get(name) for name in names])}"


def _book(folder: Path, there: Mapping[str, str], needed: int, slots: int) -> list[str]:
    """Lease GPUs, for the launcher's other processes too; their names for the mask."""
    scope = os.environ.get("SLURM_JOB_ID", "local")
    files = {
        word: [folder / f"{scope}-{quote(name, safe='')}-{slot}" for slot in range(slots)]
        for name, word in there.items()
    }
    waiting = f"GPUs: waiting for {needed} of {len(there)}; `fuser -v {folder}/*` tells which processes have them"
    with _alone(folder / f"line-{_digest([scope, *sorted(there)])}", waiting):
        while not (chosen := _search(folder, files, needed)):
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            waiting = ""
            time.sleep(PAUSE)
    return chosen


def _search(folder: Path, files: Mapping[str, Sequence[Path]], needed: int) -> list[str]:
    """Hold the locks of as many GPUs as needed, those with the fewest jobs; none, and no name, if too few are free."""
    with _alone(folder / MUTEX):
        free = {word: [path for path in slots if _is_free(path)] for word, slots in files.items()}
        chosen = sorted((word for word in free if free[word]), key=lambda word: -len(free[word]))[:needed]
        if len(chosen) < needed:
            return []
        for path in folder.iterdir():  # left behind; nobody opens a file but under the mutex, or to stand in line
            if path.name != MUTEX and _is_free(path):
                path.unlink()
        locks = {word: free[word][0].name for word in chosen}
        for name in locks.values():
            _hold(folder / name)
        if needed > 1:
            told = _hold(_group(folder))
            os.truncate(told, 0)
            os.write(told, json.dumps(locks).encode())
        return chosen


def _is_free(path: Path) -> bool:
    descriptor = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _join(folder: Path) -> list[str]:
    """Hold the lease of the launcher's first process too, once it has one; the names for the mask."""
    group = _group(folder)
    while True:
        with _alone(folder / MUTEX):
            if group.exists() and not _is_free(group):  # a free one was left behind
                locks: dict[str, str] = json.loads(group.read_text(encoding="utf-8"))
                for name in (group.name, *locks.values()):
                    _hold(folder / name)
                return list(locks)
        time.sleep(PAUSE)
