"""Choose a device."""

from __future__ import annotations

import torch

from pipeline.contracts import UserError


def choose(name: str) -> torch.device:
    """The device of that name; `auto` is the first visible GPU, or else the CPU.

    Raises:
        UserError: a GPU is asked for and none is visible.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device '{name}': torch sees no GPU here; use `device: auto` or `device: cpu`")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """Name for the provenance: `cpu`, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
