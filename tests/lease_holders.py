"""Processes that lease GPUs for tests/test_leases.py; `python -S`, so that hundreds of them take seconds.

Whether two have one GPU is seen by locks of another kind (POSIX), which the kernel drops before those of the leases.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pipeline import leases

MASKS = (None, "a,b", "b,c,d")  # of the jobs, by turns
GROUP = 3  # processes of a launcher
HANG = 120  # seconds after which a process that waits for ever ends, and so fails


def forked(work: Callable[[], None]) -> int:
    """Pid of a process that does some work."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(HANG)  # a fork begins without one
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def note(path: Path, text: str) -> None:
    with path.open("a") as file:  # one write, so lines of several processes do not mix
        file.write(f"{text}\n")


def mark(folder: Path, gpu: str, jobs: int) -> None:
    """Occupy a GPU as one of so many jobs, until this process ends; note a clash if that is one too many."""
    for place in range(jobs):
        descriptor = os.open(folder / f"{gpu}.{place}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note(folder / "places", f"{gpu} {place}")
            return
        except BlockingIOError:
            pass
    note(folder / "clashes", gpu)


def job(folder: Path, number: int, leased: bool) -> None:
    gpus = ["a", "b", "c", "d"][number % 4]
    if leased:
        if mask := os.environ.get(leases.MASK, MASKS[number % 3]):
            os.environ[leases.MASK] = mask
        if number % 10 == 0:
            os.environ |= {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": str(number)}
        leases.take()
        gpus = os.environ[leases.MASK]
    for gpu in gpus.split(","):
        mark(folder, gpu, leases.jobs_per_gpu())
    time.sleep(0.001 * (number % 5) if leased else 0.05)
    note(folder / "done", str(number))


def jobs(folder: Path, count: int, leased: bool) -> None:
    """Run jobs, sixteen at once; kill some of them at any time, and run those again."""
    draw = random.Random(0)
    waiting, running = list(range(count)), dict[int, int]()
    killed = 0
    while waiting or running:
        while waiting and len(running) < 16:
            number = waiting.pop()
            running[forked(lambda number=number: job(folder, number, leased))] = number  # type: ignore[misc]
        if leased and killed < 40 and draw.random() < 0.1:
            os.kill(draw.choice(list(running)), signal.SIGKILL)
        pid, status = os.wait()
        number = running.pop(pid)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            killed += 1
            waiting.append(number)
        elif status:
            sys.exit(f"job {number} failed")
    print(json.dumps({"killed": killed}))


def rank(folder: Path, group: int, own: int) -> None:
    """A process of a training: it ends when the others have their lease too."""
    os.environ |= {"LOCAL_WORLD_SIZE": str(GROUP), "LOCAL_RANK": str(own), "TORCHELASTIC_RUN_ID": str(group)}
    leases.take()
    gpus = os.environ[leases.MASK].split(",")
    mark(folder, gpus[own], 1)
    note(folder / "done", f"{group} {own} {os.environ[leases.MASK]}")
    (folder / f"{group}-{own}").touch()
    while not all((folder / f"{group}-{other}").exists() for other in range(GROUP)):
        time.sleep(0.002)


def groups(folder: Path, count: int) -> None:
    everyone = [(group, own) for group in range(count) for own in range(GROUP)]
    random.Random(0).shuffle(everyone)
    for group, own in everyone:
        forked(lambda group=group, own=own: rank(folder, group, own))  # type: ignore[misc]
    for _ in everyone:
        if os.wait()[1]:
            sys.exit("a process failed")


def hold() -> NoReturn:
    """Lease, say what, and hold it until this process is killed."""
    leases.take()
    print(os.environ.get(leases.MASK), flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    leases.PAUSE = 0.002
    signal.alarm(HANG)
    what, place, *more = sys.argv[1:]
    if what == "hold":
        hold()
    elif what == "groups":
        groups(Path(place), int(more[0]))
    else:
        jobs(Path(place), int(more[0]), leased=what == "leased")
