"""Plug-ins: the file's name is the method's name, the signature is the list of its options.

Signatures are read from the source text, so neither a dry run nor `--help` imports torch or a plug-in.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import contracts
from pipeline.contracts import Range, UserError


class Kind(NamedTuple):
    """A kind of plug-in: its package, what the stage always passes, and what it passes to those that ask for it.

    Every other keyword of a plug-in is an option.
    """

    package: str
    required: frozenset[str]
    offered: frozenset[str] = frozenset()


KINDS: Mapping[str, Kind] = {
    "source": Kind("datasets", frozenset()),
    "augmentation": Kind("transforms", frozenset({"images", "generator"})),
    "training": Kind(
        "training",
        frozenset({"classifier", "images", "labels", "generator"}),
        frozenset({"box", "state", "progress"}),
    ),
    "corruption": Kind(
        "corruptions", frozenset({"images", "seeds", "severity"}), frozenset({"ids", "labels", "downloaded"})
    ),
    "attack": Kind("attacks", frozenset({"model", "images", "labels", "seeds"}), frozenset({"box"})),
    "measurement": Kind(
        "measurements",
        frozenset({"model", "images", "labels", "seeds", "views", "batch_size"}),
        frozenset({"box", "ids", "directions", "augmentations"}),
    ),
}
ROOT = Path(__file__).parent
REQUIRED: Any = object()


@dataclass(frozen=True)
class Option:
    """One keyword of a plug-in: its type and default (`REQUIRED` if it has none)."""

    type: Any
    default: Any


@functools.cache
def _functions(path: Path) -> Mapping[str, ast.FunctionDef]:
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def _file(kind: str, name: str) -> Path:
    return ROOT / KINDS[kind].package / f"{name}.py"


@functools.cache
def names(kind: str) -> tuple[str, ...]:
    """Names of all plug-ins of a kind: the files that define a public function of their own name."""
    files = sorted((ROOT / KINDS[kind].package).glob("*.py"))
    return tuple(file.stem for file in files if file.stem in _functions(file))


def summary(kind: str, name: str) -> str:
    """First line of the plug-in's docstring."""
    return (ast.get_docstring(_functions(_file(kind, name))[name]) or "").partition("\n")[0]


def constant(kind: str, name: str, constant: str) -> Any:
    """A literal constant of the plug-in's module, read without importing it."""
    for node in ast.parse(_file(kind, name).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == constant for target in targets):
            return ast.literal_eval(typing.cast(ast.Assign, node).value)
    raise TypeError(f"{kind} '{name}' declares no {constant}")


def signature(path: Path, function: str, context: Iterable[str] = ()) -> dict[str, Option]:
    """Keyword-only options of a function in a file, in order, without those named in `context`."""
    node = _functions(path)[function]
    namespace = {**vars(typing), **vars(contracts), "Sequence": Sequence, "Mapping": Mapping}
    options: dict[str, Option] = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if argument.arg in context:
            continue
        if argument.annotation is None:
            raise TypeError(f"{path.name}: option '{argument.arg}' of {function} has no annotation")
        annotation = eval(ast.unparse(argument.annotation), dict(namespace))  # our own source text, no user input
        options[argument.arg] = Option(annotation, REQUIRED if default is None else ast.literal_eval(default))
    return options


def options(kind: str, name: str) -> dict[str, Option]:
    """Options of a plug-in, in the order of its signature."""
    return signature(_file(kind, name), name, KINDS[kind].required | KINDS[kind].offered)


def passed(kind: str, name: str, context: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the stage has at hand, what the plug-in takes: all that is required, and what it asks for."""
    node = _functions(_file(kind, name))[name]
    taken = {argument.arg for argument in node.args.kwonlyargs}
    return {key: value for key, value in context.items() if key in taken}


def load(kind: str, name: str) -> Callable[..., Any]:
    """Import the plug-in `name` and return its function."""
    check_name(kind, name, kind)
    module = importlib.import_module(f"pipeline.{KINDS[kind].package}.{name}")
    return typing.cast(Callable[..., Any], getattr(module, name))


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the nearest spelling, or nothing."""
    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""


def check_name(kind: str, name: str, where: str) -> None:
    """Raise UserError unless `name` is a plug-in of this kind."""
    if name not in names(kind):
        raise UserError(f"{where}: no {kind} '{name}'{nearest(name, names(kind))}; there are {', '.join(names(kind))}")


def bind(kind: str, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check options against the plug-in's signature and fill in the defaults.

    Args:
        kind: kind of plug-in.
        name: its name.
        given: options as the user wrote them.
        where: config path for messages, such as `config.yaml: attacks.df`.

    Raises:
        UserError: unknown plug-in or option, missing option, wrong type or value out of range.
    """
    check_name(kind, name, where)
    return bind_options(options(kind, name), given, where, name)


def bind_options(known: Mapping[str, Option], given: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """As `bind`, for options that are already at hand."""
    takes = ", ".join(known) or "none"
    for key in given:
        if key not in known:
            hint = nearest(key, known)
            raise UserError(f"{where}: {name} has no option '{key}'{hint}; it takes {takes}")
    bound = {}
    for key, option in known.items():
        if key not in given and option.default is REQUIRED:
            raise UserError(f"{where}: {name} needs the option '{key}' ({describe(option.type)})")
        value = given.get(key, option.default)
        bound[key] = value if key not in given and value is None else convert(value, option.type, f"{where}.{key}")
    return bound


def describe(kind: Any) -> str:
    """A type in words, for messages and tables."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        bounds = [str(mark) for mark in arguments[1:]]
        return bounds[0] if bounds[0] in ("files", "folder") else f"{describe(arguments[0])} {' and '.join(bounds)}"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("nothing (null)" if a is type(None) else describe(a) for a in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping"
    if origin is not None:
        return f"a list of ({describe(arguments[0])})"
    words = {
        int: "a whole number",
        float: "a number or a fraction such as 8/255",
        bool: "true or false",
        str: "a text",
    }
    return words.get(kind, str(kind))


def convert(value: Any, kind: Any, where: str) -> Any:
    """Value as the type says, or UserError. Floats may be written as whole numbers or as fractions ("8/255")."""
    try:
        return _convert(value, kind)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        given = f"'{value}'" if isinstance(value, str) else value
        raise UserError(f"{where}: given {given}, expected {describe(kind)}") from None


def _convert(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        converted = _convert(value, arguments[0])
        if any(isinstance(mark, Range) and converted not in mark for mark in arguments[1:]):
            raise ValueError
        return converted
    if origin is typing.Literal:
        if not any(value == a and type(value) is type(a) for a in arguments):
            raise ValueError
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, arguments)
    if origin is not None and issubclass(origin, Mapping):
        return {_convert(k, arguments[0]): _convert(v, arguments[1]) for k, v in dict(value).items()}
    if origin is not None and issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError
        return [_convert(item, arguments[0]) for item in value]
    return _convert_plain(value, kind)


def _convert_union(value: Any, members: Sequence[Any]) -> Any:
    for member in members:
        try:
            return _convert(value, member)
        except (ValueError, TypeError):
            continue
    raise ValueError


def _convert_plain(value: Any, kind: Any) -> Any:
    if kind is Any:  # of a user's own model or factory: whatever JSON can hold
        json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False).encode()
        if not _texts_as_keys(value):
            raise ValueError
        return value
    if kind is types.NoneType or kind is None:
        if value is not None:
            raise ValueError
        return None
    if kind is float and not isinstance(value, bool):
        number = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError
    if isinstance(value, str):
        value.encode()  # a half of a surrogate pair, which JSON can name, is in no file
    return value


def _texts_as_keys(value: Any) -> bool:
    """Whether the keys of all mappings in a value are texts; JSON would make texts of others."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _texts_as_keys(inner) for key, inner in value.items())
    return not isinstance(value, list) or all(map(_texts_as_keys, value))
