"""The direction of imports, and where heavy libraries may be imported; read from the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.commandline import STAGES

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "pipeline").rglob("*.py"))
METHODS = {"numerics", "contracts"}
# what a part of the package may import from the package, itself apart
MAY_IMPORT = {
    "numerics": set(),
    "models": METHODS,
    "transforms": METHODS,
    "corruptions": METHODS | {"archives", "datasets.decoding"},
    "attacks": METHODS,
    "training": METHODS | {"models", "transforms", "attacks"},
    "measurements": METHODS | {"models", "transforms", "attacks"},
    "datasets": {"contracts"},
    "report": set(),
    "contracts": set(),
    "codedigest": set(),
    "registry": {"contracts"},
    "specs": {"contracts", "registry", "codedigest"},
    "reference": {"contracts", "registry", "specs"},
    "store": {"contracts"},
    "devices": {"contracts", "leases"},
    "leases": {"contracts"},
    "outputlock": {"contracts"},
    "stages": {  # methods only by name, through the registry
        "contracts",
        "registry",
        "specs",
        "store",
        "suites",
        "archives",
        "devices",
        "models",
        "report",
        "datasets.decoding",
        "datasets.samples",
        "datasets.splits",
        "training.checkpoints",
        "training.distributed",
        "training.feeds",
        "training.loop",
        "training.progress",
        "training.step",
        "numerics.box",
        "numerics.pixels",
        "numerics.frequency",
        "numerics.passes",
        "numerics.reliability",
    },
    # stages by name, as on the command line
    "selftest": {"contracts", "codedigest", "registry", "specs", "store", "report.outcomes"},
    "provenance": {"contracts", "specs", "store", "selftest"},
    "compare": {"contracts", "report", "stages.tables", "store"},
    "commandline": {"compare", "contracts", "outputlock", "registry", "specs", "reference", "selftest", "provenance"},
    "__main__": {"client", "commandline"},
    "client": set(),
    "server": {"client", "commandline"},
    "suites": set(),
    "archives": {"contracts"},
}
# the parts or files of the package that may import a heavy library
HEAVY = {
    "torch": {
        "numerics",
        "models",
        "transforms",
        "corruptions",
        "attacks",
        "training",
        "measurements",
        "devices",
        "stages",
        "selftest.nets",
    },
    "torchvision": {"datasets", "transforms"},
    "timm": {"models", "training", "transforms.augmix"},
    "pandas": {"compare", "report", "stages", "selftest"},
    "pyarrow": {"report", "stages", "store", "datasets"},
    "matplotlib": {"report"},
    "foolbox": {"attacks"},
    "pyautoattack": {"attacks"},
    "snakemake": set(),
}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(ROOT / "pipeline").with_suffix("").parts
    here, whole = parts[0], ".".join(parts)
    for name in imports(path):
        top = name.split(".")[0]
        if top in HEAVY and not (here == "contracts" and top == "torch"):  # there for type checkers alone
            assert {here, whole} & HEAVY[top], f"{path}: {whole} must not import {top}"
        if top != "pipeline" or here == "__init__":
            continue
        below = name.removeprefix("pipeline.")
        allowed = MAY_IMPORT[here] | {here}
        assert any(below == a or below.startswith(f"{a}.") for a in allowed), f"{path}: must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_workflow_uses_the_light_modules_alone() -> None:
    for path in (ROOT / "workflow").glob("*.py"):
        from_package = {name for name in imports(path) if name.startswith("pipeline")}
        light = {"registry", "specs", "contracts", "codedigest", "selftest", "archives", "suites"}
        assert {name.split(".")[1] for name in from_package} <= light


@pytest.mark.parametrize(
    "statement",
    [
        "import workflow.common, workflow.checks; workflow.checks.timm_models()",
        "from pipeline.commandline import main; main(['methods'])",
        "from pipeline.stages.report import report",
        "from pipeline.stages.collect import collect",
        "from pipeline.stages.prepare import prepare",
        "import pipeline.server, pipeline.stages.download",
        "import pipeline.compare.comparing, pipeline.compare.showing",
    ],
)
def test_light_parts_import_neither_torch_nor_timm(statement: str) -> None:
    check = f"{statement}\nimport sys; sys.exit(bool({{'torch', 'timm'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_every_plugin_is_one_file_with_its_own_name() -> None:
    for kind in registry.KINDS:
        assert registry.names(kind)


def test_every_rule_states_log_benchmark_and_resources_and_calls_a_stage() -> None:
    rules = [
        block
        for file in (ROOT / "workflow/rules").glob("*.smk")
        for block in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]
    ]
    assert sorted(block.partition(":")[0] for block in rules) == sorted([*STAGES, "selftest"])
    for block in rules:
        for needed in ("log:", "benchmark:", "threads:", "gpu=", "mem_mb=", "runtime=", "message:", " -m pipeline "):
            assert needed in block, f"{block.partition(':')[0]} lacks {needed}"
        assert f" -m pipeline {block.partition(':')[0]} " in block
        assert not re.search(r"^    (run|script|notebook):", block, flags=re.MULTILINE)
