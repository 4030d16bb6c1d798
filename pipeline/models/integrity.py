"""Analyses must not change a classifier: freeze it, and compare a hash of it before and after."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator

from torch import nn

CHANGED = "the analysis changed the classifier's parameters, buffers or mode"


def fingerprint(model: nn.Module, without: Collection[str] = ()) -> str:
    """SHA-256 over the names and values of all parameters and buffers but those named in `without`."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name not in without:
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a model in eval mode with frozen parameters; check at the end, also after an error, that it is unchanged.

    A module of a brought classifier may stay in train mode whatever it is told, and change its buffers at every
    forward pass: that is no fault of the analysis. Such modules must stay as they are, and their buffers are not
    compared; `numerics.reliability.batch_dependent` tells what comes of them.

    Raises:
        RuntimeError: parameters, buffers or the mode changed under the analysis. If it ended with an error of its own,
            that one is named, and is the cause; an interrupt or exit goes on as it is, with a note.
    """
    model.eval().requires_grad_(False)
    modes = _modes(model)
    stubborn = [name for name, training in modes.items() if training]
    moving = {
        f"{name}.{buffer}".removeprefix(".")
        for name in stubborn
        for buffer, _ in model.get_submodule(name).named_buffers(recurse=False)
    }
    before = fingerprint(model, moving)

    def changed() -> bool:
        return _modes(model) != modes or fingerprint(model, moving) != before

    try:
        yield model
    except Exception as error:
        if changed():
            raise RuntimeError(f"{CHANGED}, and ended with {type(error).__name__}: {error}") from error
        raise
    except BaseException as error:
        if changed():
            error.add_note(CHANGED)
        raise
    if changed():
        raise RuntimeError(CHANGED)


def _modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}
