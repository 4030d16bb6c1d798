"""Weights in and out: safetensors, or a torch state dict that is read without running any code in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError

NAMED = 3  # entries that a message names


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
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except Exception as error:  # a type that torch lacks is a KeyError, a damaged file one of the library's own
            raise UserError(f"{path}: not a readable safetensors file ({_reason(error)}); get it anew") from None
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of whatever kind the unpickler or the archive trips over
            raise UserError(
                f"{path}: not a plain torch state dict ({_reason(error)}); code in pickles is refused: save "
                "state_dict() alone"
            ) from None
    for part in key.split(".") if key else ():
        if not isinstance(state, Mapping) or part not in state:
            raise UserError(f"{path}: has no key '{part}'; it holds {_held(state)}")
        state = state[part]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError(f"{path}: no state dict of tensors there (it holds {_held(state)}); name its entry with 'key'")
    chosen = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if not chosen:
        raise UserError(f"{path}: no name starts with '{prefix}'; the first is {_some(list(state)) or '(none)'}")
    return chosen


def _reason(error: Exception) -> str:
    """What a library says is wrong, in one line; torch says so behind advice to switch the protection off."""
    said = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    first = re.split(r"\n|\. ", said)[0].rstrip(".")
    return f"{type(error).__name__}: {first if first.isprintable() else ascii(first)}"


def _held(state: Any) -> str:
    return _some(list(state), 8) if isinstance(state, Mapping) else type(state).__name__


def _some(names: Sequence[Any], number: int = NAMED) -> str:
    """The first few names, in one line."""
    shown = (name if isinstance(name, str) and name.isprintable() else ascii(name) for name in names[:number])
    return ", ".join([*shown, *["..."] * (len(names) > number)])


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict into a network, every name and shape of it.

    Floats of another precision are rounded to the network's.

    Args:
        net: receives the values.
        state: the state dict.
        source: place and file, for messages.

    Raises:
        UserError: names are missing or unexpected, shapes differ, a tensor is no plain one or of another kind of
            numbers (whole numbers where the network has floats, complex ones), or a value is not finite in the
            network's precision. The network may then hold part of the values.
    """
    own = net.state_dict()
    missing, odd = ([name for name in one if name not in other] for one, other in ((own, state), (state, own)))
    if missing or odd:
        parts = ((missing, "lacks"), (odd, "has unexpected"))
        differ = " and ".join(f"{word} {len(names)} entries ({_some(names)})" for names, word in parts if names)
        raise UserError(f"{source}: {differ}; see 'prefix', 'key' and the model's options")
    # Shapes first: a small file may hold a tensor that is huge.
    # A counter is a single number, or, as NumPy's contiguous arrays are, a list of one; torch takes both.
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    if wrong := [
        name for name, value in state.items() if tuple(value.shape) not in (shapes[name], shapes[name] or (1,))
    ]:
        sizes = (f"{name} is {_shape(state[name])}, expected {_shape(own[name])}" for name in wrong[:NAMED])
        raise UserError(
            f"{source}: weights of another architecture: {len(wrong)} of {len(own)} entries differ in shape "
            f"({'; '.join(sizes)}); see the model's options"
        )
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise UserError(f"{source}: '{name}' is a sparse, quantised or empty tensor, expected a plain one")
        if not _fits(value, own[name]):
            raise UserError(f"{source}: '{name}' is {_type(value)}, expected {_type(own[name])}; save it as that")
        if not bool(torch.isfinite(value.to(own[name].dtype)).all()):
            raise UserError(f"{source}: '{name}' holds values that are not finite in {_type(own[name])}")
    net.load_state_dict(dict(state))


def _fits(value: Tensor, expected: Tensor) -> bool:
    """Whether numbers are of the kind expected: floats for floats; for whole numbers also floats without fractions."""
    if value.is_floating_point() and not expected.is_floating_point():  # a counter that was cast with all the rest
        return bool((value.to(expected.dtype) == value).all())
    return not value.is_complex() and value.is_floating_point() == expected.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
