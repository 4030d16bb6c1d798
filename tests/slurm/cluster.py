"""A throw-away Slurm: one node, two made-up GPUs, on loopback, below one folder; no service of the machine is touched.

By hand: `python -m tests.slurm.cluster FOLDER` brings it up until Ctrl-C and prints what to export.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue", "scancel")
DEVICES = ("/dev/null", "/dev/zero")  # Slurm takes nothing but character devices for GPUs, and these are everywhere
CPUS, MEMORY = 4, 64_000  # what the node says that it has; without control groups nothing enforces it
PATIENCE = 120.0  # seconds until a daemon that does not come up counts as an error

# No control groups, no accounting: what a container allows. `config_overrides` believes the node's line; a job's end
# stays known for MinJobAge seconds, which the tests read.
CONFIG = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
MinJobAge=3600
KillWait=2
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=3-00:00:00 State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be brought up here, after an attempt to install it; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a throw-away Slurm needs root on Linux"
    absent = [program for program in PROGRAMS if find(program) is None]
    if absent and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]
        with contextlib.suppress(subprocess.TimeoutExpired):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
        absent = [program for program in PROGRAMS if find(program) is None]
    return f"not installed, and apt-get gave no {', '.join(absent)}" if absent else None


def find(program: str) -> str | None:
    """Path of a program, also of one for administrators."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class Cluster:
    """A running Slurm."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")])
        self.environment: Mapping[str, str] = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Of each job, also of those that ended, its fields as `scontrol show job` gives them."""
        lines = [line for line in self.ask("scontrol", "--oneliner", "show", "job").splitlines() if "JobId=" in line]
        fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return {job["JobId"]: job for job in fields}

    def up(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        folder, host = self.folder, socket.gethostname().partition(".")[0]
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        folder.chmod(0o755)  # munged refuses a folder that others may write to
        controller, daemon = _free_ports(2)
        values = {"cpus": CPUS, "memory": MEMORY, "gpus": len(DEVICES), "controller": controller, "daemon": daemon}
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, **values))
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in DEVICES))
        # The plug-in starts srun without SLURM_CONF, as a cluster's configuration stands where Slurm looks for it.
        (folder / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {find("srun")} "$@"\n')
        (folder / "bin" / "srun").chmod(0o755)
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        paths = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder}/munge.{suffix}" for option, suffix in paths.items()]
        self._start("munged", "--foreground", "--force", *options)
        self._until((folder / "munge.socket").exists)
        self._start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        self._start("slurmd", "-D", "-f", str(folder / "slurm.conf"))
        self._until(lambda: "State=IDLE" in self.ask("scontrol", "show", "node"))

    def down(self) -> None:
        """Cancel all jobs, stop the daemons in turn, and wait until each is gone."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired, AssertionError):
            self.ask("scancel", "--user=root")
            self._until(lambda: not self.ask("squeue", "--noheader"))
        for process in reversed(self._daemons):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, program: str, *arguments: str) -> None:
        log = (self.folder / f"{program}.log").open("wb")
        command = [find(program) or program, *arguments]
        environment = {**os.environ, **self.environment}
        with log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append(process)

    def _until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(RuntimeError):
                if holds():
                    return
            time.sleep(0.1)
        logs = [f"{path}: {path.read_text(errors='replace')[-600:]}" for path in sorted(self.folder.glob("*.log"))]
        raise AssertionError("Slurm did not come as far as expected\n" + "\n".join(logs))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A Slurm that ends with the block."""
    cluster = Cluster(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def _free_ports(number: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    place = Path(sys.argv[1]).resolve()
    place.mkdir()
    with running(place) as cluster, contextlib.suppress(KeyboardInterrupt):
        print(*(f"export {name}={value}" for name, value in cluster.environment.items()), sep="\n", flush=True)
        while True:
            time.sleep(3600)
