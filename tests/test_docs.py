"""The documentation is true: its blocks run, its configs plan, its commands parse, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.cli import get_argument_parser

from pipeline import commandline, reference, registry, specs
from pipeline.contracts import Files, Folder
from pipeline.report import _profile_rows, outcomes
from tests.docs_kit import FENCE, ROOT, TUTORIAL, Block, blocks_of, inside
from tests.tiny import tiny_config
from workflow.common import Plan

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "results" / "README.md", *sorted((ROOT / "results" / "reference").glob("*/README.md"))]
INDENTED = re.compile(r"(?:^(?: {4,}.*)?\n)+", flags=re.MULTILINE)
# blocks that cannot run here, each with its reason beside it in the page; a new one has to be counted
NOT_RUN: dict[str, int] = {}
# names with a value in the text that are no options of ours: ids, and keys of Snakemake's profiles
OTHERS = {"id", "patient", "cifar10_c", "nodes", "jobs", "groups", "gpu"}
PLACEHOLDERS = {"mine.yaml"}  # files that the reader writes
COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?(?:python3?|pip|snakemake|make|pytest)\b")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS if not block.not_run]


def commands_of(page: Path) -> list[str]:
    """Command lines of a page: of its fenced and indented blocks, and of inline code; continued lines joined."""
    text = page.read_text(encoding="utf-8")
    plain = FENCE.sub("", text)
    parts = [block.text for block in blocks_of(page) if block.language in ("bash", "console") and not block.not_run]
    parts += [match[0] for match in INDENTED.finditer(plain)]
    lines = [line.strip() for part in parts for line in part.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:\.venv/bin/)?(?:python -m pipeline|snakemake) [^`]+)`", INDENTED.sub("\n", plain))
    return [line.removeprefix("$ ") for line in lines if COMMAND.match(line)]


COMMANDS = [(page.name, line) for page in PAGES for line in commands_of(page)]


def test_blocks_have_a_language_that_is_tested() -> None:
    odd = [str(block) for block in BLOCKS if block.language not in ("python", "yaml", "bash", "console", "mermaid")]
    assert not odd


def test_blocks_that_cannot_run_are_few_and_say_why() -> None:
    left = {page.name: sum(bool(block.not_run) for block in BLOCKS if block.page == page) for page in PAGES}
    assert left == {page.name: NOT_RUN.get(page.name, 0) for page in PAGES}


def test_python_runs(tmp_path: Path) -> None:
    """That of the tutorial runs with its workflow, below."""
    with inside(tmp_path):
        for block in RUN:
            if block.language == "python" and block.page != TUTORIAL:
                exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})


def stand_in(config: Mapping[str, Any], folder: Path) -> None:
    """Make the files that a config names, empty, so that it can be planned."""

    def make(path: str, *, is_folder: bool) -> None:
        file = folder / path.replace("*", "0")
        if is_folder:
            file.mkdir(parents=True, exist_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    for name, entry in config["datasets"].items():
        given = dict(entry or {})
        for key, option in registry.options("source", given.get("source", name)).items():
            if given.get(key) is not None and option.type in (Files, Files | None, Folder):
                for path in [given[key]] if isinstance(given[key], str) else given[key]:
                    make(path, is_folder=option.type is Folder)
    for entry in (config.get("classifiers") or {}).values():
        make(entry["weights"], is_folder=False)


def whole(text: str) -> dict[str, Any]:
    """The config that a YAML block stands for: itself, or a part of one with a small rest."""
    given = yaml.safe_load(text)
    if "datasets" in given and "measurements" in given:
        return dict(given)
    rest = tiny_config()
    config = {key: rest[key] for key in ("datasets", "architectures", "trainings", "measurements")} | given
    if "measurements" not in given:
        config["measurements"] = {"accuracy": None}
    return {"attacks": rest["attacks"], **config}


def is_profile(text: str) -> bool:
    """Whether a YAML block is of a profile of Snakemake's, not of a config."""
    return not set(yaml.safe_load(text)) & set(yaml.safe_load(reference.SCHEMA.read_text())["properties"])


YAML = [block for block in RUN if block.language == "yaml" and "gradient_sign" not in block.text]  # that runs below
PROFILES = [block for block in YAML if is_profile(block.text)]
CONFIGS = [block for block in YAML if block not in PROFILES]


@pytest.mark.parametrize("block", CONFIGS, ids=str)
def test_config_is_planned(block: Block, tmp_path: Path) -> None:
    config = whole(block.text)
    stand_in(config, tmp_path)
    for corruption in (config.get("corruptions") or {}).values():
        if corruption and str(corruption.get("folder", "")).startswith("/data"):
            corruption["folder"] = str(tmp_path)
    with inside(tmp_path):
        (tmp_path / "my_package").mkdir()
        (tmp_path / "my_package" / "nets.py").touch()
        (tmp_path / "my_nets.py").touch()
        plan = Plan(config, block.page.name)
        assert plan.classifiers and plan.jobs["measure"]


@pytest.mark.parametrize("block", PROFILES, ids=str)
def test_profile_has_options_of_snakemake(block: Block) -> None:
    known = {name for action in get_argument_parser()._actions for name in action.option_strings}
    assert not [key for key in yaml.safe_load(block.text) if f"--{key}" not in known]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_line_is_one(page: str, line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program in ("python", "python3") and rest[:2] == ["-m", "pipeline"]:
        pipeline_command(rest[2:])
    elif program in ("python", "python3"):
        assert rest[0] == "-m" and rest[1] in ("venv", "pytest"), line
    elif program == "snakemake":
        snakemake_command(rest)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert not [word for word in rest if "=" not in word and word not in targets]
    elif program == "pip":
        extras = set(",".join(re.findall(r"\.\[(.+?)\]", line)).split(",")) - {""}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert rest[0] == "install" and extras <= set(project["optional-dependencies"])
    else:
        assert program == "pytest", f"{page}: what is {program}?"


def pipeline_command(words: list[str]) -> None:
    """A command of the package: its options are known, and its spec is complete."""
    if words == ["STAGE"]:
        return
    try:
        given = vars(commandline.parser().parse_args(words))
    except SystemExit as stopped:
        assert stopped.code == 0, words  # --help
        return
    if given.get("spec"):
        specs.complete(given["stage"], given["spec"])


def snakemake_command(words: list[str]) -> None:
    """A command of Snakemake: its options are known, its profile and its config are there."""
    parser = get_argument_parser()
    given, unknown = parser.parse_known_args(words)
    assert not unknown, words
    if given.workflow_profile:
        assert (ROOT / str(given.workflow_profile) / "config.yaml").is_file()
    for file in given.configfile or ():
        assert str(file) in PLACEHOLDERS or (ROOT / file).is_file()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name} links to {file}, which is not there"
        if anchor:
            assert anchor in headings(target), f"{page.name} links to {link}"


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("pipeline/attacks/gradient_sign.py", "")
    paths = re.findall(r"(?<![\w./*{}-])(?:pipeline|workflow|tests|benchmarks|docs|\.ci)/[\w./*-]*\w", text)
    missing = [path for path in paths if "NAME" not in path and not [*ROOT.glob(path), *ROOT.glob(f"{path}.py")]]
    assert not missing, f"{page.name} names files that are not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_not_long(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 130 and not line.startswith(("|", "    ")) and "](" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_survive_markdown(page: Path) -> None:
    """Markdown takes a backslash before punctuation away, and a formula in a sentence ends with its line."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for formula in re.findall(r"\$\$?[^$]+\$\$?", text):
        assert not re.search(r"\\[^A-Za-z]", formula) and "\n" not in formula, formula


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    sizes = [len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in lines]
    assert not [lines[i] for i in range(1, len(lines)) if sizes[i] and sizes[i - 1] and sizes[i] != sizes[i - 1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_with_a_value_exist(page: Path) -> None:
    """Such as `evaluation: 1000` or `{ method: pgd, steps: 100 }` in a sentence."""
    known = set(specs.common_options()) | {"method", "device"}
    for kind in registry.KINDS:
        known |= {option for name in registry.names(kind) for option in registry.options(kind, name)}
        known |= set(registry.names(kind))
    schema = yaml.safe_load(reference.SCHEMA.read_text(encoding="utf-8"))
    known |= set(schema["properties"])
    for field in schema["properties"].values():
        known |= set((field.get("additionalProperties") or {}).get("properties", ()))
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    named = [name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"(?:^|[{,] ?)(\w+): ", code)]
    assert not [name for name in named if name not in known and name not in OTHERS]


def test_every_page_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if page.name != "README.md" and f"({page.name})" not in index]


MADE = ["README.md", "docs/config.md", "docs/measurements.md"]


@pytest.mark.parametrize("page", MADE)
def test_parts_made_from_the_code_are_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert reference.renewed(text, page) == text, f"{page} is behind the code: run `make docs`"


def test_make_docs_renews_every_page_with_marks() -> None:
    marked = [page for page in PAGES if re.search(reference.BEGIN.format(reference.NAMES), page.read_text("utf-8"))]
    assert [str(page.relative_to(ROOT)) for page in marked] == MADE
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs:")[2].partition("\n\n")[0]
    assert all(page in recipe for page in MADE)


def test_every_measurement_has_its_section_and_its_columns() -> None:
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    names = registry.names("measurement")
    assert set(names) <= headings(ROOT / "docs" / "measurements.md")
    assert not [name for name in names if reference.BEGIN.format(f"columns of {name}") not in text]
    assert not [name for name in outcomes.KINDS if name not in names]


def test_flags_are_those_of_the_report() -> None:
    """Each reason that the report can give begins like a row of the table of flags."""
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    table = text.partition("\n## Flags\n")[2].partition("\n## ")[0]
    source = (ROOT / "pipeline" / "report" / "outcomes.py").read_text(encoding="utf-8")
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "_doubts")
    words = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    reasons = [word for word in words if " " in word and word != ast.get_docstring(node) and word.strip("% ") == word]
    shown = [word.removesuffix(",").removesuffix(" on") for word in reasons if not word.startswith("of images")]
    assert len(shown) > 5
    assert not [word for word in shown if word not in table]


def test_quantities_of_the_profile_are_documented() -> None:
    text = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    section = text.partition("\n## Profile\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(_profile_rows.QUANTITIES)
