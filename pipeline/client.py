"""Hand a stage's command to the process that has its libraries imported already, if one waits on this machine.

Half of a small job is the import of torch. A workflow on one machine therefore starts `pipeline.server` once, which
imports everything, touches no GPU, and forks a child for each job. Wherever that is not possible the command runs as if
there were no server. Standard library only: this module is all that such a job imports itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SOCKET = "BOUNDARY_ATLAS_SERVER"  # environment variable: path of the server's socket
# A training runs long, may be compiled, and may be one process of several; the report and the sources need other
# libraries; the rest starts no job.
FORWARDED = ("corrupt", "attack", "measure", "collect")
# read by libraries when they are loaded, so the same for the server and whatever it forks
LOADED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_PRELOAD", "LD_LIBRARY_PATH", "SLURM_JOB_ID")
LENGTH = struct.Struct("!Q")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def identity() -> dict[str, Any]:
    """What must be equal in the server and in a client: interpreter, package, and what libraries read when loaded."""
    return {
        "python": sys.executable,
        "package": str(Path(__file__).resolve().parent),
        "environment": {name: os.environ.get(name) for name in LOADED},
    }


def forward(arguments: Sequence[str]) -> int | None:
    """Let the server run a command, with this process's folder, environment and streams.

    Args:
        arguments: of the command line, the stage first.

    Returns:
        Its exit code; None if the command is not one that a server runs, or none is there for this process.
    """
    path = os.environ.get(SOCKET)
    if path is None or not arguments or arguments[0] not in FORWARDED:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            if receive(connection) != identity():
                return None
        except (OSError, ValueError):  # not ready yet, gone, or on another machine
            return None
        return _run(connection, list(arguments))


def _run(connection: socket.socket, arguments: list[str]) -> int:
    umask = os.umask(0)
    os.umask(umask)
    environment = {name: value for name, value in os.environ.items() if name != SOCKET}
    state = {"folder": str(Path.cwd()), "path": sys.path, "umask": umask, "environment": environment}
    with _passing_signals_on() as child:
        try:
            socket.send_fds(connection, [b"\0"], [0, 1, 2])
            send(connection, {"arguments": arguments, **state})
            child.append(receive(connection)["pid"])
            result = receive(connection)
        except (OSError, ValueError):  # its child is killed with it
            print("error: the process that ran this job was killed; run again", file=sys.stderr)
            return 1
    # what Snakemake's benchmark file, which sees this process alone, cannot say
    print(f"CPU {result['cpu']:.1f} s, memory {result['memory'] / 2**20:.0f} MiB at most", file=sys.stderr)
    if result["status"] < 0:
        print(f"error: ended by signal {-result['status']}", file=sys.stderr)
        return 128 - int(result["status"])
    return int(result["status"])


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Within, the signals that ask this process to end go to the child, whose pid the caller puts into the list."""
    child: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child[0], number)
        else:
            sys.exit(128 + number)  # the server sees the connection end

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def send(connection: socket.socket, message: Any) -> None:
    """Send a message as JSON behind its length."""
    data = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next message.

    Raises:
        ValueError: the other side closed the connection.
    """
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        if not (part := connection.recv(min(length - len(data), 1 << 20))):
            raise ValueError("closed")
        data += part
    return data
