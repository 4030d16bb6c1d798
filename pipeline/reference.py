"""The reference: methods, fields of a config, columns of tables; Markdown for the documentation, text for `--help`.

Methods and columns are read from the source text, so nothing is imported that a method needs. The config's fields come
from its schema, which lies beside the package, in the repository: an installed package alone has none.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline import registry, specs
from pipeline.contracts import Files, Folder, Range, UserError
from pipeline.registry import KINDS, REQUIRED, ROOT, Option

BEGIN, END = "<!-- {}: written by `make docs` -->", "<!-- end of {} -->"
COLUMNS = "columns of "  # a measurement: the part of a page with the columns of its table
NAMES = "([a-z_ ]+)"  # of parts
MARKED = re.compile(BEGIN.format(NAMES) + r"\n.*?" + END.format(r"\1"), flags=re.DOTALL)
SCHEMA = ROOT.parent / "workflow" / "schemas" / "config.schema.yaml"
PAGE = "docs/config.md"  # which holds the tables of methods
FORMS = {"datasets": "prepare", "architectures": "train", "classifiers": "brought"}  # whose specs hold the defaults
STATED = r"default[ )]"  # in a description that says itself what the default is
COMPACT = ("corruption",)  # kinds with one row a method, as all have the same few options
WIDTH = 110  # of lines of text
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
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in _tables(kind))


def plain(kind: str) -> str:
    """The same as text for `--help`, the meaning of every option included; with trainings come the augmentations."""
    lines = [f"{kind}s and their options:"]
    for name in registry.names(kind):
        lines += [f"  {name}: {registry.summary(kind, name)}", *_lines(entries(kind, name))]
    if kind == "training":
        lines += ["", "options of every training:", *_lines(common()), "", plain("augmentation")]
    return "\n".join(lines)


def renewed(page: str, file: str) -> str:
    """A page with every part between two marks made anew.

    A part `X` stands between the lines `BEGIN` and `END` of X. It is `methods` (tables of all methods), `names` (their
    names, with links to `PAGE`), `config` (fields of a config) or `columns of NAME` (columns of a measurement's table).

    Args:
        page: its text.
        file: its name, for messages.

    Raises:
        UserError: there are no marks, one of a pair is missing, or a part is not known.
    """
    begun = re.findall(BEGIN.format(NAMES), page)
    if not begun or begun != MARKED.findall(page) or begun != re.findall(END.format(NAMES), page):
        pair = f"'{BEGIN.format('PART')}' and '{END.format('PART')}'"
        raise UserError(f"{file}: given no lines {pair} in pairs, expected both of each; put them around the tables")

    def renew(match: re.Match[str]) -> str:
        return f"{BEGIN.format(match[1])}\n\n{_part(match[1], file)}\n\n{END.format(match[1])}"

    return MARKED.sub(renew, page)


def names() -> str:
    """A table of the names of all methods, by kind."""
    known = {kind: ", ".join(f"`{name}`" for name in registry.names(kind)) for kind in KINDS}
    return _table(("kind", "methods"), [(f"[{kind.capitalize()}s]({PAGE}#{kind}s)", known[kind]) for kind in known])


def fields() -> str:
    """Tables of the fields of a config, from its schema: one of the config, one of an entry of each of its mappings.

    A description begins with the type. A default stands in the schema, in the description, or in the stage's spec.

    Raises:
        UserError: there is no schema, as in a package without its repository.
    """
    try:
        schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{SCHEMA}: no such file, expected the config's schema; run this in a clone") from None
    tables = [f"### The config\n\n{_fields(schema, schema, {})}"]
    for name, field in schema["properties"].items():
        entry = _resolved(field.get("additionalProperties") or {}, schema)
        if "properties" in entry:
            form = specs.FIELDS.get(FORMS.get(name, ""), {})
            said = textwrap.fill(f"{entry['description']}.", WIDTH)
            tables.append(f"### An entry of `{name}`\n\n{said}\n\n{_fields(entry, schema, form)}")
    return "\n\n".join(tables)


def columns(measurement: str) -> list[tuple[str, str, str]]:
    """Name, type and meaning of the columns of a measurement's table, beside those that all tables have."""
    registry.check_name("measurement", measurement, "columns")
    return list(_columns(ROOT / KINDS["measurement"].package / f"{measurement}.py", "COLUMNS"))


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


def _part(name: str, file: str) -> str:
    """What stands between the marks of a part of a page."""
    parts = {"methods": markdown, "names": names, "config": fields}
    if name in parts:
        return parts[name]()
    if not name.startswith(COLUMNS):
        known = ", ".join([*parts, f"{COLUMNS}NAME"])
        raise UserError(f"{file}: given the part '{name}', expected one of {known}")
    rows = [(f"`{column}`", kind, meaning) for column, kind, meaning in columns(name.removeprefix(COLUMNS))]
    return _table(("column", "type", "meaning"), rows)


def _fields(mapping: Mapping[str, Any], schema: Mapping[str, Any], form: Mapping[str, Option]) -> str:
    """A table of the properties of a mapping of the schema; defaults that it lacks are those of a stage's spec."""
    rows = []
    for name, given in mapping["properties"].items():
        field = _resolved(given, schema)
        default, said = "", field["description"]
        if name in mapping.get("required", ()):
            default = "required"
        elif "default" in field:
            default = f"`{json.dumps(field['default'])}`"  # as one would write it in YAML, too
        elif name in form and not (form[name].default in (REQUIRED, specs.NAME.default) or re.search(STATED, said)):
            default = f"`{json.dumps(form[name].default)}`"
        rows.append((f"`{name}`", default, said.replace("*", r"\*")))
    return _table(("field", "default", "what"), rows)


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of the schema, or the one that it refers to."""
    return schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _columns(path: Path, constant: str) -> Iterator[tuple[str, str, str]]:
    """The columns that a constant of a file declares, those of other files that it takes in among them."""
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    places = {
        name.name: ROOT.parent / Path(*(node.module or "").split(".")).with_suffix(".py")
        for node in body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    for node in body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target) != constant:
            continue
        assert isinstance(node.value, ast.Dict)
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            if key is None:
                other = ast.unparse(value)
                yield from _columns(places.get(other, path), other)
            elif isinstance(value, ast.Call):
                kind, meaning = map(ast.literal_eval, value.args)
                yield ast.literal_eval(key), kind, meaning


def _tables(kind: str | None = None) -> Iterator[tuple[str, str]]:
    """Title and table, of a kind or of all."""
    for each in KINDS if kind is None else [kind]:
        compact, names = each in COMPACT, registry.names(each)
        rows = [row for name in names for row in _rows(each, name, compact)]
        head = (each, "what", "option = default") if compact else (each, "option = default", "takes", "what")
        yield f"{each.capitalize()}s", _table(head, rows)
        if each == "training":
            rows = [_explained(entry) for entry in common()]
            yield "Options of every training", _table(("option = default", "takes", "what"), rows)


def _rows(kind: str, name: str, compact: bool) -> Iterator[list[str]]:
    """Rows of a method: a single one, or one for itself and one for each option."""
    options, summary = entries(kind, name), registry.summary(kind, name)
    if compact:
        yield [f"`{name}`", summary, ", ".join(f"{_assigned(entry)} ({short(entry.type)})" for entry in options)]
        return
    yield [f"**`{name}`**", "", "", summary]
    for entry in options:
        yield ["", *_explained(entry)]


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
