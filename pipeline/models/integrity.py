"""Analyses must not change a classifier: freeze it, and compare a hash of it before and after."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and values of all parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a model in eval mode with frozen parameters; check at the end, also after an error, that it is unchanged.

    Raises:
        RuntimeError: parameters, buffers or the mode changed under the analysis.
    """
    model.eval().requires_grad_(False)
    before = fingerprint(model)
    try:
        yield model
    finally:
        if fingerprint(model) != before or any(module.training for module in model.modules()):
            raise RuntimeError("the analysis changed the classifier's parameters, buffers or mode")
