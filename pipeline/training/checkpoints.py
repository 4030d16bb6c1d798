"""State of an unfinished training, beside its output: atomic, checked, two generations."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

KEPT = 2  # generations: should the newest be damaged, the one before serves


class Checkpoints:
    """Checkpoints of one training, `.{stem}.{identity}.{epoch}-{batch}.checkpoint` in the folder of its output.

    They are no declared output of a workflow, which would delete them with the failed job that they are there for.

    Args:
        out: file that the training will write.
        identity: digest of all that the training depends on; another one's checkpoints are never read.
    """

    def __init__(self, out: Path, identity: str) -> None:
        self._folder = out.parent
        self._stem = f".{out.stem}."
        self._own = f"{self._stem}{identity}."

    def save(self, epoch: int, batch: int, state: dict[str, Any]) -> None:
        """Write the state before a batch, whole or not at all, and drop older generations.

        Where that fails (a full disk) the training says so and goes on: it may yet end without it.
        """
        path = self._folder / f"{self._own}{epoch:06d}-{batch:08d}.checkpoint"
        temporary = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # a rename must not reach the disk before the bytes do
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            print(f"{path}: no checkpoint written ({str(error).partition(chr(10))[0]})", file=sys.stderr, flush=True)
        finally:
            temporary.unlink(missing_ok=True)
        for old in self._found()[:-KEPT]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, on the CPU, or None; damaged files are named and passed over."""
        for path in reversed(self._found()):
            try:
                with zipfile.ZipFile(path) as archive:
                    if damaged := archive.testzip():  # torch.load does not compare the checksums
                        raise zipfile.BadZipFile(f"bad checksum of {damaged}")
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
                print(f"{path}: damaged checkpoint passed over ({str(error).partition(chr(10))[0]})", file=sys.stderr)
                continue
            return state
        return None

    def clear(self) -> None:
        """Remove all checkpoints of this output, those of earlier recipes too."""
        for suffix in ("checkpoint", "partial"):  # the latter where a process was killed while it wrote
            for path in self._folder.glob(f"{self._stem}*.{suffix}"):
                path.unlink(missing_ok=True)

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._own}*.checkpoint"))
