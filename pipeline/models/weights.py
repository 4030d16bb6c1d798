"""Weights in and out: safetensors, or a torch state dict that is read without running any code in it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError


def read_weights(path: Path, key: str | None = None, prefix: str = "") -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path: `.safetensors`, or a file of `torch.save` (read with `weights_only`, so a pickle with code is refused).
        key: entry of the file that holds the state dict, with dots for nested ones, such as `state_dict`.
        prefix: leading part that is stripped from the names, such as `module.`; names without it are dropped.

    Raises:
        UserError: the file cannot be read, or key or prefix is not in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    state: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path}: not a plain torch state dict ({reason}); code in pickles is refused: save state_dict() alone"
            ) from None
    for part in key.split(".") if key else ():
        if not isinstance(state, Mapping) or part not in state:
            known = ", ".join(map(str, list(state)[:8])) if isinstance(state, Mapping) else type(state).__name__
            raise UserError(f"{path}: has no key '{part}'; it holds {known}")
        state = state[part]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        known = ", ".join(map(str, list(state)[:8])) if isinstance(state, Mapping) else type(state).__name__
        raise UserError(f"{path}: no state dict of tensors there (it holds {known}); name its entry with 'key'")
    chosen = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if not chosen:
        raise UserError(f"{path}: no name starts with '{prefix}'; the first is '{next(iter(state), '(none)')}'")
    return chosen


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict into a network, every name and shape of it.

    Raises:
        UserError: names are missing or unexpected, shapes differ, or a value is not finite.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{source}: '{name}' holds values that are not finite")
    try:
        result = net.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(f"{source}: weights of another architecture ({detail})") from None
    for names, word in ((result.missing_keys, "lacks"), (result.unexpected_keys, "has unexpected")):
        if names:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"{source}: {word} {len(names)} entries ({some}); see 'prefix', 'key' and the model's options"
            )
