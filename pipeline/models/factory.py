"""Import the user's own model factory by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.contracts import UserError


def load_factory(name: str) -> Callable[..., Any]:
    """The function that `module:function` names, importable from the working folder or the environment.

    Raises:
        UserError: the module cannot be imported or has no such function.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UserError(f"factory {name}: cannot import '{module}' from {here}: {error}") from None
    except AttributeError:
        raise UserError(f"factory {name}: module '{module}' has no '{function}'") from None
    if not callable(factory):
        raise UserError(f"factory {name}: '{function}' is no function")
    found: Callable[..., Any] = factory
    return found
