"""Choose a device, and how many images at a time its memory takes."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from pipeline import leases
from pipeline.contracts import UserError

DEFAULT = 256  # images at a time where nothing is known about memory
LARGEST = 1024  # and at most, where memory is measured: more are hardly faster
PILOTS = (8, 32)  # images of which the need of memory is measured
COPIES = 4  # what an analysis may need, relative to a forward and a backward pass: second derivatives, sums, candidates
SHARE = 0.5  # of the free memory to plan with: it is in pieces, and the libraries take some

# How torch begins its messages; on a GPU some older versions do not raise their own class.
OUT_OF_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "[enforce fail at alloc_cpu")

Result = TypeVar("Result")


def choose(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU, or else the CPU.

    `auto` and `cuda` lease one of the machine's GPUs for the life of this process, so that jobs side by side have
    different ones, and wait until one is free (`leases`). Nothing may have asked CUDA about devices before. `cpu` takes
    no lease, and nor does a number such as `cuda:1`: the user chooses that GPU whatever else runs on it.

    Raises:
        UserError: there is no such device, or no GPU.
    """
    if name in ("auto", "cuda") and torch.version.cuda:
        leases.take()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        leases.release()
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device '{name}': expected auto, cpu, cuda or, for one GPU of several, cuda:0") from None
    there = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise UserError(f"device '{name}': torch sees {there or 'no'} GPU here; use `device: auto` or `device: cpu`")
    return device


def describe(device: torch.device) -> str:
    """Name for the provenance: `cpu`, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def batch_size(given: int | None, device: torch.device, images: int, pilot: Callable[[int], object]) -> int:
    """Images at a time for an analysis, by the memory that is free; it does not change the result but by rounding.

    On a GPU the memory of a forward and a backward pass is measured, and the rest reckoned with `COPIES`; `fitting`
    halves the number where that was too bold. It is a power of two, so that nearly equal free memory gives the same.

    Args:
        given: what the user wants at most.
        device: of the analysis; on a CPU the number is the user's, or a fixed one.
        images: number of images there are.
        pilot: does the work that is measured on that many images.
    """
    if device.type != "cuda" or images < PILOTS[-1]:
        return given or DEFAULT
    try:
        low, high = (_peak(device, pilot, count) for count in PILOTS)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        return min(given or PILOTS[0], PILOTS[0])
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] / leases.jobs_per_gpu()
    each = COPIES * max(high - low, 1) / (PILOTS[1] - PILOTS[0])
    fits = 1 << max(int(SHARE * free / each).bit_length() - 1, 0)
    return min(given or LARGEST, LARGEST, fits)


def _peak(device: torch.device, work: Callable[[int], object], count: int) -> int:
    """Most bytes that some work has taken at once, beyond what was taken before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(count)
    return torch.cuda.max_memory_allocated(device) - before


def fitting(place: str, work: Callable[[int], Result], batch_size: int) -> Result:
    """What work with that batch size gives; where the memory does not suffice, with half of it, down to one image.

    Each try begins anew, so the result is that of the batch size which fits.

    Args:
        place: in the config, for the message.
        work: from a batch size to a result; nothing of a try that failed may stay.
        batch_size: images at a time, to begin with.

    Raises:
        UserError: the memory does not suffice for one image at a time.
    """
    while True:
        try:
            return work(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if batch_size == 1:
                remedy = "use a GPU with more memory, `device: cpu` or fewer images"
                raise UserError(f"{place}: out of memory with one image at a time; {remedy}") from None
        gc.collect()  # here, where the error is gone, and with it the tensors of its traceback
        torch.cuda.empty_cache()  # nothing where CUDA is not in use
        batch_size = max(batch_size // 2, 1)
        print(f"{place}: out of memory, now {batch_size} images at a time", file=sys.stderr, flush=True)


@contextlib.contextmanager
def roomy(place: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory into the user's one line, for work that has no batch size to lower of itself.

    Raises:
        UserError: the memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise UserError(f"{place}: out of memory; {remedy}") from None


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or str(error).startswith(OUT_OF_MEMORY)
