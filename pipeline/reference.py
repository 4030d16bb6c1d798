"""The reference of methods: Markdown for the README and text for `--help`, from the signatures and docstrings.

Both are read from the source text, so nothing is imported that a method needs.
"""

from __future__ import annotations

import ast
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import registry, specs
from pipeline.contracts import Files, Folder, Range, UserError
from pipeline.registry import KINDS, REQUIRED, ROOT, Option

BEGIN, END = "<!-- methods: written by `make docs` -->", "<!-- end of methods -->"
EXPLAINED = ("source", "training")  # kinds whose table says what each option means; elsewhere `--help` does
WIDTH = 110  # of the lines of `--help`
AS_IN_YAML = {"None": "null", "True": "true", "False": "false"}


class Entry(NamedTuple):
    """One option as the reference shows it.

    Attributes:
        name: of the option.
        type: as the signature gives it.
        default: as one would write it in a config; None if the option is required.
        meaning: one line.
    """

    name: str
    type: Any
    default: str | None
    meaning: str


def markdown(kind: str | None = None) -> str:
    """Tables of the methods of a kind, or of all kinds; after the trainings comes what every training takes."""
    return "\n\n".join(f"### {title}\n\n{table}" for title, _, table in _tables(kind))


def plain(kind: str) -> str:
    """The same as text for `--help`, the meaning of every option included; with trainings come the augmentations."""
    lines = [f"{kind}s and their options:"]
    for name in registry.names(kind):
        lines += [f"  {name}: {registry.summary(kind, name)}", *_lines(entries(kind, name))]
    if kind == "training":
        lines += ["", "options of every training:", *_lines(common()), "", plain("augmentation")]
    return "\n".join(lines)


def renewed(page: str, file: str) -> str:
    """A page with the tables of all kinds between its two marks, each folded below its title and its names.

    Args:
        page: its text.
        file: its name, for messages.

    Raises:
        UserError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{file}: given no lines '{BEGIN}' and '{END}', expected both; put them around the tables")
    folded = (
        f"<details>\n<summary><b>{title}</b>: {names}</summary>\n\n{table}\n\n</details>\n\n"
        for title, names, table in _tables()
    )
    return f"{before}{BEGIN}\n\n{''.join(folded)}{END}{after}"


def entries(kind: str, name: str) -> list[Entry]:
    """The options of a plug-in."""
    path = ROOT / KINDS[kind].package / f"{name}.py"
    return _entries(registry.options(kind, name), _arguments_of(path, name))


def common() -> list[Entry]:
    """The options of the training loop, which every training takes."""
    meanings = {key: text for path, function, _ in specs.COMMON for key, text in _arguments_of(path, function).items()}
    return _entries(specs.common_options(), meanings)


def arguments(docstring: str) -> dict[str, str]:
    """What the section Args of a Google-style docstring says of each argument, in one line, without the full stop."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, flags=re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section.group(1)).splitlines() if section else ():
        if start := re.match(r"(\w+):\s*(.*)", line):
            name, found[name] = start[1], start[2]
        elif line.strip():
            found[name] = f"{found[name]} {line.strip()}".lstrip()
    return {name: text.removesuffix(".") for name, text in found.items()}


def short(kind: Any) -> str:
    """A type in few words, for a table; `registry.describe` says it at more length."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Files, Folder):
        return str(members[1])
    if origin is typing.Annotated:
        return " ".join([short(members[0]), *(_interval(m) if isinstance(m, Range) else str(m) for m in members[1:])])
    if origin is typing.Literal:
        return ", ".join(map(str, members))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(short, members))
    if origin is not None:
        return "mapping" if issubclass(origin, Mapping) else f"list of {short(members[0])}"
    return {int: "integer", float: "number", bool: "true, false", str: "text", types.NoneType: "null"}[kind]


def _interval(bounds: Range) -> str:
    left = f"({bounds.above:g}" if bounds.above is not None else "" if bounds.low is None else f"[{bounds.low:g}"
    if left and bounds.high is not None:
        return f"in {left}, {bounds.high:g}]"
    return str(bounds).replace("at least", ">=").replace("above", ">").replace("at most", "<=")


def _arguments_of(path: Path, function: str) -> dict[str, str]:
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    node = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
    return arguments(ast.get_docstring(node) or "")


def _entries(options: Mapping[str, Option], meanings: Mapping[str, str]) -> list[Entry]:
    words = re.compile(rf"\b({'|'.join(AS_IN_YAML)})\b")
    return [
        Entry(
            name,
            option.type,
            None if option.default is REQUIRED else _value(option.default),
            words.sub(lambda match: AS_IN_YAML[match[1]], meanings.get(name, "")),
        )
        for name, option in options.items()
    ]


def _value(default: Any) -> str:
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    text = str(default)
    return text.removesuffix(".0") if isinstance(default, float) else AS_IN_YAML.get(text, text)


def _tables(kind: str | None = None) -> Iterator[tuple[str, str, str]]:
    """Title, names of what is in it, and table, of a kind or of all."""
    for each in KINDS if kind is None else [kind]:
        explained, names = each in EXPLAINED, registry.names(each)
        rows = [row for name in names for row in _rows(each, name, explained)]
        head = (each, "option = default", "takes", "what") if explained else (each, "what", "option = default")
        yield f"{each.capitalize()}s", ", ".join(names), _table(head, rows)
        if each == "training":
            rows = [_explained(entry) for entry in common()]
            names = tuple(entry.name for entry in common())
            head = ("option = default", "takes", "what")
            yield "Options of every training", ", ".join(names), _table(head, rows)


def _rows(kind: str, name: str, explained: bool) -> Iterator[list[str]]:
    """Rows of a method: one for itself and one for each option, or a single one."""
    options, summary = entries(kind, name), registry.summary(kind, name)
    if explained:
        yield [f"**`{name}`**", "", "", summary]
        for entry in options:
            yield ["", *_explained(entry)]
    else:
        yield [f"`{name}`", summary, ", ".join(f"{_assigned(entry)} ({short(entry.type)})" for entry in options)]


def _explained(entry: Entry) -> list[str]:
    """Cells of an option; its meaning up to the end of the first sentence."""
    return [_assigned(entry), short(entry.type), entry.meaning.partition(". ")[0]]


def _assigned(entry: Entry) -> str:
    return f"`{entry.name}` required" if entry.default is None else f"`{entry.name} = {entry.default}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(options: Iterable[Entry]) -> Iterator[str]:
    for entry in options:
        default = "required" if entry.default is None else f"default {entry.default}"
        text = f"{entry.name}: {registry.describe(entry.type)} ({default}): {entry.meaning}"
        yield textwrap.fill(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
