"""The place of an output: one process at a time makes it, and what hinders the writing is said in one line.

A workflow whose head process was killed leaves jobs behind that go on. Started anew, it starts the same jobs again: the
second copy waits here until the first has ended, so the file is that of the copy which the workflow has on record.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.contracts import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)  # of file systems without; EBADF: NFS, of a folder
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDY = "make room or the folder writable, or set 'results' to another folder, and run again"


@contextlib.contextmanager
def alone(out: Path, *others: Path) -> Iterator[None]:
    """Hold the lock of an output; wait for it, with a word on stderr, while another process has it.

    The lock is one of the kernel (`flock` on a hidden file beside `out`), so it ends with its process, however that
    ends. What a killed process left half-written is removed. Of the processes of one training the first alone takes
    the lock. Where the file system knows no locks, this is said, and the job goes on without.

    Args:
        out: the file or folder that will be written; its folder is made.
        others: what the same job writes beside it, so what the same lock guards.

    Raises:
        UserError: the folder cannot be made or written, or, within, a file does not fit on the disk.
    """
    held = None
    if os.environ.get("RANK", "0") == "0":
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            held = _acquire(_lock(out))
            for path in (out, *others) if held is not None else ():
                _sweep(path)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror or error}); {REMEDY}") from None
    try:
        with _room(out):
            yield
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                _lock(out).unlink()  # while it is held: whoever waits for it sees that, and makes a new one
            os.close(held)


def reserve(results: Path) -> int:
    """Reserve a folder of results for the workflows of this working folder, until this process ends.

    Snakemake's own locks keep workflows of one working folder apart; those of another one do not see them. So a folder
    of results below the working folder is shared with its other workflows, and any other is taken alone.

    Args:
        results: the folder; it is made.

    Returns:
        Descriptor of the folder, with the lock.

    Raises:
        UserError: it cannot be written, or a workflow of another working folder uses it.
    """
    kind = fcntl.LOCK_SH if results.resolve().is_relative_to(Path.cwd().resolve()) else fcntl.LOCK_EX
    try:
        results.mkdir(parents=True, exist_ok=True)
        held = os.open(results, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"results: {results} cannot be written ({error.strerror}); {REMEDY}") from None
    if not os.access(results, os.W_OK):
        raise UserError(f"results: {results} cannot be written; {REMEDY}")
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        remedy = "wait for its end, or set 'results' to another folder"
        raise UserError(f"results: a workflow of another working folder writes into {results}; {remedy}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return held


def _lock(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def _acquire(lock: Path) -> int | None:
    """Descriptor of the lock file that lies there, locked; None where there are no locks."""
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(held)
            if lock.exists() and os.path.samestat(os.fstat(held), lock.stat()):
                os.ftruncate(held, 0)
                os.write(held, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return held
            os.close(held)  # whoever had it has removed it
        except OSError as error:
            os.close(held)
            if error.errno not in NO_LOCKS:
                raise
            lock.unlink(missing_ok=True)
            print("no locks on this file system: see that no two jobs make one output", file=sys.stderr, flush=True)
            return None


def _wait(held: int) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(held, 200, 0).decode(errors="replace") or "another process"
        print(f"waiting for {holder}, which makes the same output; end it if it hangs", file=sys.stderr, flush=True)
        fcntl.flock(held, fcntl.LOCK_EX)


def _sweep(out: Path) -> None:
    """Remove the temporary files of `store.atomic` whose processes were killed."""
    temporary = re.compile(rf"\.{re.escape(out.stem)}\.\d+(\.\w+)?")
    for path in list(out.parent.glob(".*")) if out.parent.is_dir() else []:
        if temporary.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _room(out: Path) -> Iterator[None]:
    """Within, a full disk ends in one line; some libraries have exceptions of their own for it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        found = [os.strerror(each) for each in FULL if each == code or os.strerror(each) in str(error)]
        if not found:
            raise
        raise UserError(f"{out}: cannot be written ({found[0]}); {REMEDY}") from None
