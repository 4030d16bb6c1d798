"""Import timm without torch's compiler, which it asks for and the analyses never use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


def import_timm() -> None:
    """Import timm in half the time, for processes that only run networks forwards and backwards.

    Torchvision's pooling of regions, which timm brings in, imports the whole compiler for one question about devices:
    1.2 to 1.8 of the 1.5 to 2.4 s that the import takes, in each of a run's hundred jobs. Empty modules stand in for it
    meanwhile; afterwards the compiler can be imported as ever. Functions that timm exempts from compilation would lose
    that mark, so a process that may compile imports timm the plain way. Nothing is done where timm or the compiler is
    there already; and if other versions of these packages do not get along with the stand-ins, timm is imported later,
    by whoever needs it.
    """
    if "timm" in sys.modules or any(name in sys.modules for name in COMPILER):
        return
    import torch  # noqa: F401  # before the stand-ins are there

    for name in COMPILER:
        sys.modules[name] = _stand_in(name)
    try:
        import timm  # noqa: F401
    except Exception:  # whatever the stand-ins made of it, the plain import that follows must say what is wrong
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]
    finally:
        for name in COMPILER:
            sys.modules.pop(name, None)


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(__path__=[], disable=_disable, is_compile_supported=lambda _: False)
    return module


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """The function itself, or a decorator that gives it back."""
    return (lambda given: given) if function is None else function
