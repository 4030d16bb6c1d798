"""The reference says what the code does: methods, fields of a config, columns of tables; the README names all."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from pipeline import reference, registry, specs
from pipeline.commandline import main
from pipeline.contracts import Count, Files, Folder, Natural, Positive, Range, Share, UserError
from pipeline.registry import REQUIRED, Option
from workflow.datasets import FIELDS as DATASET_FIELDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIG = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
PLUGINS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
CELL = re.compile(r"`(\w+)(?: = ([^`]*))?`( required)?")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def shown(cell: str) -> tuple[str, Any]:
    """Name and default of an option as a table shows it."""
    found = CELL.match(cell)
    assert found, cell
    return found[1], REQUIRED if found[3] else yaml.safe_load(found[2])


def read_row(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def read_tables(page: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, method) -> option -> default, read from tables; the options of every training have the method ''."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    kind = method = ""
    for row in (read_row(line) for line in page.splitlines() if line.startswith("|")):
        if set("".join(row)) == {"-"}:
            continue
        if "option = default" in row:
            kind, method = (row[0], "") if row[0] in registry.KINDS else ("training", "")
            if row[0] == "option = default":
                found[kind, ""] = {}
        elif name := re.fullmatch(r"(?:\*\*)?`(\w+)`(?:\*\*)?", row[0]):
            method = name[1]
            options = re.findall(r"`\w+(?: = [^`]*)?`(?: required)? \(", row[2]) if len(row) == 3 else []
            found[kind, method] = dict(shown(option) for option in options)
        else:
            key, default = shown(row[0] or row[1])
            found[kind, method][key] = default
    return found


def assert_defaults(shown_defaults: dict[str, Any], options: dict[str, Option]) -> None:
    assert list(shown_defaults) == list(options)
    for key, option in options.items():
        default = shown_defaults[key]
        if default is REQUIRED or default is None:
            assert default is option.default
        else:
            expected = list(option.default) if isinstance(option.default, tuple) else option.default
            assert registry.convert(default, option.type, key) == expected


def test_tables_show_every_method_and_option_with_its_default() -> None:
    tables = read_tables(CONFIG.partition("\n## Methods\n")[2])
    assert set(tables) == {*PLUGINS, ("training", "")}
    for kind, name in PLUGINS:
        assert_defaults(tables[kind, name], registry.options(kind, name))
    assert_defaults(tables["training", ""], specs.common_options())


def test_names_of_all_methods_stand_in_their_table() -> None:
    rows = [read_row(line) for line in reference.names().splitlines()[2:]]
    assert [re.findall(r"`(\w+)`", row[1]) for row in rows] == [list(registry.names(kind)) for kind in registry.KINDS]


def test_fields_are_those_of_the_schema() -> None:
    schema = yaml.safe_load(reference.SCHEMA.read_text(encoding="utf-8"))
    shown = {}
    for part in reference.fields().split("### ")[1:]:
        rows = [read_row(line) for line in part.splitlines() if line.startswith("|")][2:]
        shown[part.partition("\n")[0]] = [row[0] for row in rows]
    assert shown.pop("The config") == [f"`{name}`" for name in schema["properties"]]
    mappings = ("datasets", "architectures", "trainings", "classifiers", "corruptions", "attacks", "measurements")
    assert list(shown) == [f"An entry of `{name}`" for name in mappings]
    for name in set(mappings) - {"trainings"}:
        entry = schema["properties"][name]["additionalProperties"]
        assert shown[f"An entry of `{name}`"] == [f"`{field}`" for field in entry["properties"]]
    assert set(DATASET_FIELDS) < {field.strip("`") for field in shown["An entry of `datasets`"]}


def test_defaults_of_fields_are_those_of_the_specs() -> None:
    text = reference.fields()
    share = specs.FIELDS["prepare"]["test_share"].default
    for row in (
        f"| `test_share` | `{share}` |",
        '| `stem` | `"default"` |',
        "| `mean` | required |",
        "| `seeds` | `[0]` |",
    ):
        assert row in text
    assert "| `training` |  |" in text and "| `seed` |  |" in text, "these defaults are not those of a job by hand"


def test_fields_need_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SCHEMA", tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no such file, expected the config's schema"):
        reference.fields()


@pytest.mark.parametrize("name", registry.names("measurement"))
def test_columns_read_from_the_text_are_those_of_the_module(name: str) -> None:
    columns = vars(inspect.getmodule(registry.load("measurement", name)))["COLUMNS"]
    assert reference.columns(name) == [(key, *column) for key, column in columns.items()]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_docstring_says_what_each_argument_is_in_the_order_of_the_signature(kind: str, name: str) -> None:
    path = registry.ROOT / registry.KINDS[kind].package / f"{name}.py"
    node = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name)
    described = reference.arguments(ast.get_docstring(node) or "")
    assert list(described) == [argument.arg for argument in node.args.kwonlyargs]
    assert all(described.values())


def test_docstrings_say_what_each_option_of_every_training_is() -> None:
    assert all(entry.meaning for entry in reference.common())


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_help_has_every_option_with_its_meaning(kind: str, name: str) -> None:
    text = " ".join(reference.plain(kind).split())
    for entry in reference.entries(kind, name):
        assert f" {entry.name}: {registry.describe(entry.type)} (" in text
        assert f"): {' '.join(entry.meaning.split())}" in text


def test_sections_of_docstrings_are_read() -> None:
    docstring = """Title.

    Args:
        images: (n, c, h, w): of any type.
        steps: at least 1; else
            none at all. None: as
            many as needed.
        late:
            on the next line.

    Returns:
        other: no argument.
    """
    assert reference.arguments("\n".join(line.removeprefix("    ") for line in docstring.splitlines())) == {
        "images": "(n, c, h, w): of any type",
        "steps": "at least 1; else none at all. None: as many as needed",
        "late": "on the next line",
    }
    assert reference.arguments("Title.\n\nReturns:\n    x: y.") == {}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Count, "integer >= 1"),
        (Natural | None, "integer >= 0 or null"),
        (Positive, "number > 0"),
        (Share, "number in [0, 1]"),
        (Annotated[float, Range(above=0, high=1)], "number in (0, 1]"),
        (Annotated[int, Range(high=3)], "integer <= 3"),
        (Literal["l1", "l2"] | None, "l1, l2 or null"),
        (bool, "true, false"),
        (Files | None, "files or null"),
        (Folder, "folder"),
        (dict[str, Any], "mapping"),
        (Sequence[float], "list of number"),
    ],
)
def test_types_in_few_words(kind: Any, text: str) -> None:
    assert reference.short(kind) == text


def test_command_prints_one_kind_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    every = capsys.readouterr().out
    assert set(read_tables(every)) == {*PLUGINS, ("training", "")}
    assert main(["methods", "--kind", "attack"]) == 0
    one = capsys.readouterr().out
    assert one.strip() in every
    assert set(read_tables(one)) == {plugin for plugin in PLUGINS if plugin[0] == "attack"}


def marked(part: str, text: str) -> str:
    return f"{reference.BEGIN.format(part)}\n{text}{reference.END.format(part)}\n"


def test_command_rewrites_what_stands_between_the_marks_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    parts = {
        "methods": reference.markdown(),
        "names": reference.names(),
        "config": reference.fields(),
        "columns of dct_margin": "| `block` | int16 |",
    }
    page.write_text("above\n" + "between\n".join(marked(part, "old text\n") for part in parts) + "below\n")
    assert main(["methods", "--update", str(page)]) == 0
    once = page.read_text()
    assert once.startswith(f"above\n{reference.BEGIN.format('methods')}\n")
    assert once.endswith(f"{reference.END.format('columns of dct_margin')}\nbelow\n")
    assert all(text in once for text in parts.values())
    assert "old text" not in once and once.count("between\n") == len(parts) - 1
    assert main(["methods", "--update", str(page)]) == 0
    assert page.read_text() == once
    page.write_text("no marks")
    assert main(["methods", "--update", str(page)]) == 2
    assert f"{page}: given no lines" in capsys.readouterr().err
    assert main(["methods", "--update", str(tmp_path / "none.md")]) == 2


@pytest.mark.parametrize(
    "page",
    [
        f"{reference.END.format('methods')}\n{reference.BEGIN.format('methods')}",
        marked("methods", "") + reference.BEGIN.format("names"),
        marked("methods", "") + reference.END.format("names"),
        reference.BEGIN.format("methods") + "\n" + marked("names", "") + reference.END.format("methods"),
    ],
    ids=["order", "no end", "no begin", "one in another"],
)
def test_page_with_marks_that_are_no_pairs_is_refused(page: str) -> None:
    with pytest.raises(UserError, match="expected both"):
        reference.renewed(page, "page.md")


@pytest.mark.parametrize("part", ["method", "columns of acuracy"])
def test_page_with_an_unknown_part_is_refused(part: str) -> None:
    with pytest.raises(UserError, match="expected one of|did you mean 'accuracy'"):
        reference.renewed(marked(part, ""), "page.md")


def test_readme_names_every_field_of_a_data_set() -> None:
    assert not [field for field in DATASET_FIELDS if f"`{field}`" not in section("Your own run")]


def test_named_presets_are_those_in_the_folder() -> None:
    line = section("Your own run").partition("(workflow/presets)")[2].partition(";")[0]
    assert set(re.findall(r"`(\w+)`", line)) == {file.stem for file in (ROOT / "workflow/presets").glob("*.yaml")}
