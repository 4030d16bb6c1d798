"""A workflow whose attacks wait at a gate, so that a test can do something while they run."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.test_workflow import Checkout, environment

PATIENCE = 60.0  # seconds after which a hang is a failure
ATTACK = '''"""Leaves the images as they are, once its gate is open."""

import os
import time
from pathlib import Path

NORM = "l2"


def gated(*, model, images, labels, seeds, gate: str, mark: int = 0):
    """Waits at its gate."""
    with Path(f"{gate}.journal").open("a") as journal:
        journal.write(f"{os.getpid()} in\\n")
        journal.flush()
        for _ in range(6000):
            if Path(gate).exists():
                break
            time.sleep(0.02)
        else:
            raise TimeoutError(gate)
        journal.write(f"{os.getpid()} out\\n")
    return images
'''


START = "        server.start()\n"
READY = """\
        while server.SUPPORTED and not Path(os.environ[server.client.SOCKET]).exists():
            time.sleep(0.05)
"""


class Gated(Checkout):
    """A checkout of one small classifier and some gated attacks; data and classifier are there."""

    def __init__(self, folder: Path, *attacks: str) -> None:
        super().__init__(folder)
        (folder / "pipeline/attacks/gated.py").write_text(ATTACK)
        snakefile = folder / "Snakefile"
        assert START in snakefile.read_text()
        snakefile.write_text(snakefile.read_text().replace(START, START + READY))  # else the first jobs do without it
        self.config: dict[str, Any] = {
            "device": "cpu",
            "datasets": {"digits": {"train_size": 100, "evaluation": 10}},
            "architectures": {"net": {"model": "mlp", "width": 8}},
            "trainings": {"standard": {"epochs": 1}},
            "attacks": {name: {"method": "gated", "gate": f"gate-{name}"} for name in attacks},
            "measurements": {"seen": {"method": "accuracy", "views": "attacks"}},
        }
        self.write(self.config)
        done = self.run("models", "results/data/digits/evaluation.safetensors")
        assert done.returncode == 0, done.stdout + done.stderr

    def copy(self, folder: Path) -> Gated:
        """The same, anew."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        new = object.__new__(Gated)
        new.folder, new.config = folder, copy.deepcopy(self.config)
        return new

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Snakemake at work; whatever it leaves behind is killed."""
        with (self.folder / "head.log").open("w") as log:
            head = subprocess.Popen(
                self.command(*arguments), cwd=self.folder, env=environment(), stdout=log, stderr=log, text=True
            )
        started: set[psutil.Process] = set()
        try:
            started |= set(psutil.Process(head.pid).children(recursive=True))
            yield head
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                started |= set(psutil.Process(head.pid).children(recursive=True))
            head.kill()
            head.wait()
            for name in self.config["attacks"]:
                self.open(name)
            psutil.wait_procs(list(started), timeout=PATIENCE)

    def edit(self, attack: str, **options: Any) -> None:
        """Write other options of an attack into the config."""
        self.config["attacks"][attack] |= options
        self.write(self.config)

    def open(self, attack: str) -> None:
        (self.folder / f"gate-{attack}").touch()

    def journal(self, attack: str) -> list[tuple[int, str]]:
        """(pid, in or out) of everyone who came to a gate and who left it."""
        path = self.folder / f"gate-{attack}.journal"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines if line.endswith(("in", "out"))]

    def arrived(self, attack: str) -> int:
        """Wait until a job is at the gate; its pid."""
        until(lambda: bool(self.journal(attack)))
        return self.journal(attack)[-1][0]

    def attacked(self, name: str) -> Path:
        return self.folder / f"results/attacks/digits/net--standard--0/{name}.safetensors"

    def log(self, stage: str, name: str) -> str:
        path = self.folder / f"results/logs/{stage}/digits/net--standard--0/{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def half_written(self) -> list[str]:
        """Hidden files other than those of Snakemake."""
        return [path.name for path in (self.folder / "results").rglob(".*") if path.name != ".snakemake_timestamp"]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


needs_processes = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
