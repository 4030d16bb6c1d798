"""Several processes that share each batch, started by torch's own launcher (`torchrun`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from pipeline.training.feeds import ALONE, Part


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[tuple[Part, torch.device]]:
    """Join the launcher's process group, if there is one; yield this process's part of a batch, and its device.

    Args:
        device: chosen one; with several GPUs each process takes that of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Part(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()


def summed(values: Tensor, part: Part) -> Tensor:
    """Sum over all processes."""
    if part.world > 1:
        distributed.all_reduce(values)
    return values


def gathered(value: Any, part: Part) -> list[Any]:
    """Each process's value, by rank."""
    values = [value]
    if part.world > 1:
        values = [None] * part.world
        distributed.all_gather_object(values, value)
    return values


def first_says(word: int, part: Part, device: torch.device) -> int:
    """What the first process says, on all."""
    if part.world == 1:
        return word
    told = torch.tensor(word, device=device)
    distributed.broadcast(told, src=0)
    return int(told)
