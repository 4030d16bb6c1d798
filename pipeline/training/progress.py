"""What a training says while it runs, and how it hears that it should stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType

import torch
from torch import Tensor

from pipeline.training.distributed import summed
from pipeline.training.feeds import Part

INTERVAL = 30.0  # seconds between two lines within an epoch
_asked: list[int] = []  # signals that came


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within, the first SIGTERM or SIGINT asks for a stop after the batch; the second one ends at once.

    Without effect outside of the main thread, which alone may handle signals.
    """

    def note(number: int, frame: FrameType | None) -> None:
        _asked.append(number)
        signal.signal(number, signal.SIG_DFL)
        print("asked to stop: saving the state", file=sys.stderr, flush=True)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_asked() -> bool:
    """Whether a signal asked for a stop."""
    return bool(_asked)


class Means:
    """Means over samples of what each batch reports as its own mean, kept as sums on the device."""

    def __init__(self, state: Mapping[str, Tensor] | None = None) -> None:
        self.sums: dict[str, Tensor] = dict(state or {})

    def add(self, count: int, **metrics: Tensor) -> None:
        """Count a batch."""
        device = next(iter(metrics.values())).device
        for name, value in {**metrics, "samples": torch.ones((), device=device)}.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=device)).to(device) + count * value

    def over(self, part: Part) -> dict[str, Tensor]:
        """Sums over all processes."""
        return {name: summed(value.clone(), part) for name, value in sorted(self.sums.items())}

    def named(self, split: str, part: Part) -> dict[str, float]:
        """Means over all processes, under the split's name."""
        sums = self.over(part)
        count = float(sums.pop("samples"))
        return {f"{split}_{name}": float(total) / count for name, total in sums.items()}


class Progress:
    """Lines for the log: one an epoch, and between them one every half minute.

    Args:
        epochs: of the whole training.
        batches: of an epoch.
        images: of an epoch.
        quiet: say nothing.
    """

    def __init__(self, epochs: int, batches: int, images: int, quiet: bool) -> None:
        self._epochs, self._batches, self._images, self._quiet = epochs, batches, images, quiet
        self._began = self._last = time.monotonic()
        self._first = 0.0  # epochs that were done when this process began

    def start(self, epoch: int, batch: int, resumed: bool) -> None:
        """Where this process begins."""
        self._first = epoch + batch / self._batches
        if resumed:
            self._say(f"going on in epoch {epoch + 1}/{self._epochs}, after {batch} of {self._batches} batches")

    def tick(self, epoch: int, batch: int) -> None:
        """After each batch."""
        if time.monotonic() - self._last >= INTERVAL:
            self._say(f"epoch {epoch + 1}/{self._epochs}  batch {batch + 1}/{self._batches}", epoch, batch + 1)

    def show(self, row: Mapping[str, float]) -> None:
        """After each epoch."""
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self._say(f"epoch {row['epoch']:.0f}/{self._epochs}  {metrics}", int(row["epoch"]), 0)

    def _say(self, text: str, epoch: int | None = None, batch: int = 0) -> None:
        self._last = time.monotonic()
        if self._quiet:
            return
        if epoch is not None:
            done = epoch + batch / self._batches - self._first
            speed = done / max(self._last - self._began, 1e-9)  # epochs a second
            left = (self._epochs - epoch - batch / self._batches) / max(speed, 1e-9)
            text += f"  {speed * self._images:.0f} images/s  {left:.0f} s left"
        print(text, file=sys.stderr, flush=True)
