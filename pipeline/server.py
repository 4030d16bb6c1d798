"""A process that has imported everything and forks a child for each job of one workflow on one machine.

`start` runs it beside Snakemake's head process, with which it ends. The child of a job is killed with the client that
asked for it, and with the server: what Snakemake takes for dead writes nothing more. No code of the stages is imported
here, so a child reads it anew, as any other job does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pipeline import client

LIBRARIES = ("numpy", "pandas", "pyarrow.parquet", "safetensors.numpy", "torch", "jsonschema", "yaml")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # as Snakemake gives a job of one thread
PATIENCE = 10.0  # seconds that a client has to say what it wants
DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
SUPPORTED = sys.platform == "linux"  # forking after these imports is not safe elsewhere


def start() -> str | None:
    """Start a server that ends with this process; put its address into the environment. It needs seconds to be ready.

    Returns:
        Its address; None where the platform has no support for it.
    """
    if not SUPPORTED:
        return None
    folder = tempfile.mkdtemp(prefix="boundary-atlas-")  # for this user alone, and short enough for a socket's path
    address = str(Path(folder) / "server")
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
    command = [sys.executable, "-m", "pipeline.server", "--address", address, "--owner", str(os.getpid())]
    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    os.environ[client.SOCKET] = address
    return address


def serve(address: str, owner: int) -> None:
    """Serve until the owner is gone and no job is left.

    Args:
        address: path of the socket; its folder is removed at the end.
        owner: pid of the process for which it works.
    """
    for number in client.PASSED_ON:
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for the clients; this process ends with its owner
    try:
        owned = os.pidfd_open(owner)
    except ProcessLookupError:
        shutil.rmtree(Path(address).parent, ignore_errors=True)
        return
    for library in LIBRARIES:
        importlib.import_module(library)
    importlib.import_module("pipeline.models.imports").import_timm()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(1024)
        try:
            _Server(listening, owned).loop()
        finally:
            shutil.rmtree(Path(address).parent, ignore_errors=True)


class _Server:
    """Jobs and their clients."""

    def __init__(self, listening: socket.socket, owner: int) -> None:
        self._listening, self._owner = listening, owner
        self._jobs: dict[int, tuple[int, socket.socket]] = {}  # pidfd of a child -> its pid, its client
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(owner, selectors.EVENT_READ)

    def loop(self) -> None:
        """Take in jobs, report what ended, until the owner has."""
        owned = True
        while owned or self._jobs:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    self._accept()
                elif key.fileobj == self._owner:
                    owned = False
                    self._selector.unregister(self._owner)
                    self._selector.unregister(self._listening)
                elif key.fd in self._jobs:
                    self._ended(key.fd)
                elif key.data is not None:
                    self._abandoned(key.data)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        try:
            connection.settimeout(PATIENCE)
            if not _same_user(connection):
                raise ValueError("another user")
            client.send(connection, client.identity())
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            if len(streams) != 3:
                raise ValueError("it left")
            try:
                job = client.receive(connection)
                with warnings.catch_warnings():
                    # Python 3.12 warns of other threads; the one there is, of Arrow's allocator, is made for it.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if pid == 0:
                    self._become(job, streams)
            finally:
                for stream in streams:
                    os.close(stream)
            child = os.pidfd_open(pid)
            self._jobs[child] = (pid, connection)
            self._selector.register(child, selectors.EVENT_READ)
            self._selector.register(connection, selectors.EVENT_READ, data=pid)
            client.send(connection, {"pid": pid})
        except (OSError, ValueError):  # a client that left, or had not to be there; the others go on
            if connection not in [each for _, each in self._jobs.values()]:
                connection.close()

    def _ended(self, child: int) -> None:
        pid, connection = self._jobs.pop(child)
        _, status, usage = os.wait4(pid, 0)
        self._selector.unregister(child)
        os.close(child)
        with contextlib.suppress(KeyError):  # an abandoned one's is not watched any more
            self._selector.unregister(connection)
        with contextlib.suppress(OSError), connection:
            used = {"cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * 1024}
            client.send(connection, {"status": os.waitstatus_to_exitcode(status), **used})

    def _abandoned(self, pid: int) -> None:
        """A client is gone, or says what it should not: its child must not outlive it."""
        for each, connection in self._jobs.values():
            if each == pid:  # it may have ended by itself a moment ago
                os.kill(pid, signal.SIGKILL)
                self._selector.unregister(connection)

    def _become(self, job: Mapping[str, Any], streams: list[int]) -> NoReturn:
        """In the child: be the process that the client would have been."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(DEATH_OF_PARENT, signal.SIGKILL)
            if os.getppid() == 1:
                os._exit(1)
            for number in client.PASSED_ON:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
            for _, connection in self._jobs.values():
                connection.close()
            self._selector.close()
            self._listening.close()
            os.environ.clear()
            os.environ.update(job["environment"])
            os.chdir(job["folder"])
            os.umask(job["umask"])
            tempfile.tempdir = None  # it may have been asked for under another environment
            sys.path[:] = job["path"]
            sys.argv[1:] = job["arguments"]
            code = _run()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _run() -> int:
    from pipeline.commandline import main

    try:
        return main()
    except SystemExit as request:  # of argparse
        return request.code if isinstance(request.code, int) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _same_user(connection: socket.socket) -> bool:
    credentials = struct.Struct("3i")
    _, user, _ = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return bool(user == os.getuid())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Waits for jobs of a workflow; started by the workflow itself.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--owner", type=int, required=True)
    given = parser.parse_args()
    serve(given.address, given.owner)
