"""What grows with the number of jobs and what does not: digests, checks, command lines; jobs in groups."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.utils import format as snakemake_format

from pipeline import specs
from pipeline.contracts import UserError
from tests.tiny import tiny_config
from workflow import checks, common
from workflow.common import Plan, guard

ROOT = Path(__file__).parent.parent


def config(classifiers: int, **changes: Any) -> dict[str, Any]:
    given = tiny_config()
    given["trainings"] = {"standard": given["trainings"]["standard"]}
    return {**given, "selftest": False, "seeds": list(range(classifiers)), **changes}


def jobs_of(plan: Plan) -> set[tuple[Any, ...]]:
    """Every job, and for each what Snakemake asks of it, once and again."""
    waiting: list[tuple[str, Mapping[str, str]]] = [("report", {})]
    seen = set()
    while waiting:
        stage, wildcards = waiting.pop()
        key = (stage, *sorted(wildcards.items()))
        if key not in seen:
            seen.add(key)
            for _ in range(2):
                plan.spec(stage, wildcards), plan.code(stage, wildcards), plan.origin(stage, wildcards)
                plan.lineage(stage, wildcards)
            waiting += plan.inputs(stage, wildcards)
    return seen


def counted(function: Callable[..., Any], calls: Counter[str], name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **options)

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often digests of code and of lineages are computed, and specs of methods checked."""
    found: Counter[str] = Counter()
    monkeypatch.setattr(specs, "code_digest", counted(specs.code_digest, found, "code"))
    monkeypatch.setattr(common, "lineage", counted(common.lineage, found, "lineage"))
    complete = specs.complete
    monkeypatch.setattr(
        specs,
        "complete",
        lambda stage, *rest: counted(complete, found, "train" if stage == "train" else "method")(stage, *rest),
    )
    specs._digest.cache_clear()
    return found


def test_work_of_a_plan(calls: Counter[str]) -> None:
    """Digests of code and checks of methods are as many for 20 classifiers as for two; the rest is once a job."""
    seen = {}
    for classifiers in (2, 20):
        calls.clear()
        specs._digest.cache_clear()
        jobs = jobs_of(Plan(config(classifiers)))
        seen[classifiers] = dict(calls)
        analyses = len([job for job in jobs if job[0] in ("attack", "measure")])
        assert analyses == classifiers * (2 + 6)
        assert calls["train"] == classifiers
        assert calls["lineage"] == 2 * len(jobs), "its own, and that with the code"
    assert seen[2]["code"] == seen[20]["code"] and seen[2]["method"] == seen[20]["method"]


def test_shards_add_no_digest_of_code(calls: Counter[str]) -> None:
    found = []
    for shards in (1, 6):
        calls.clear()
        specs._digest.cache_clear()
        given = config(2, attacks={"df": {"method": "deepfool", "shards": shards}})
        given["measurements"] = {"accuracy": {"views": "df", "shards": shards}}
        jobs = jobs_of(Plan(given))
        assert len([job for job in jobs if job[0] in ("attack", "measure")]) == 2 * 2 * shards
        found.append(calls["code"])
    assert found[0] == found[1]


def rule_shell(rule: str, file: str) -> str:
    """The shell command of a rule, as it stands in the file."""
    text = (ROOT / "workflow" / "rules" / file).read_text(encoding="utf-8")
    match = re.search(rf'^rule {rule}:.*?^    shell:\n((?:        "[^\n]*"\n)+)', text, re.MULTILINE | re.DOTALL)
    assert match is not None
    return str(ast.literal_eval(f"({match[1].strip()})"))


def test_any_number_of_tables_can_be_collected(tmp_path: Path) -> None:
    """More of them than a command line holds: a stand-in for the package counts what reaches it."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__main__.py").write_text(
        "import sys\n"
        "lines = [line.split() for line in sys.stdin]\n"
        "print(len(lines), lines[0], lines[-1], sys.argv[1:])\n"
    )
    tables = [
        f"results/measurements/digits/a-classifier-with-a-name--{number}/accuracy.parquet" for number in range(40000)
    ]
    assert sum(map(len, tables)) > os.sysconf("SC_ARG_MAX")
    lineages = [f"{number:016x}" for number in range(len(tables))]
    command = snakemake_format(
        rule_shell("collect", "report.smk"),
        PYTHON=sys.executable,
        input=tables,
        output=["out.parquet"],
        log=["log"],
        params=SimpleNamespace(spec='{"kind":"accuracy"}', code="c0de", lineages=" ".join(lineages)),
    )
    script = tmp_path / "script.sh"  # where Snakemake puts a long one, too
    script.write_text(f"set -euo pipefail\n{command}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment, check=True)
    seen = (tmp_path / "log").read_text()
    ends = [[lineages[place], tables[place]] for place in (0, -1)]
    given = ["collect", "--spec", '{"kind":"accuracy"}', "--code", "c0de", "--tables", "-", "--out", "out.parquet"]
    assert seen.strip() == f"{len(tables)} {ends[0]} {ends[1]} {given}"


def dry_run(folder: Path, given: Mapping[str, Any], *arguments: str) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(given), sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--cores", "1", "--scheduler", "greedy", "--dry-run"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BOUNDARY_ATLAS_RUN")
    }
    result = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_analyses_in_groups(tmp_path: Path) -> None:
    """Snakemake puts so many measurements into one job of the cluster, as docs/cluster.md says."""
    text = dry_run(
        tmp_path,
        config(2),
        "--groups",
        "measure=analyses",
        "--group-components",
        "analyses=4",
        "--set-resource-scopes",
        "gpu=local",
    )
    groups = [
        re.findall(r"^    Job \d+: (\w+) ", part, re.MULTILINE)
        for part in re.split(r"Group job analyses", text.partition("Building DAG")[2])[1:]
    ]
    assert [len(group) for group in groups] == [4, 4, 4]
    assert {rule for group in groups for rule in group} == {"measure"}


def test_dry_run_of_shards(tmp_path: Path) -> None:
    given = config(2)
    given["attacks"] = {"df": {"method": "deepfool", "shards": 3}}
    given["measurements"] = {"transfer": {"views": "attacks", "shards": 2}, "perturbation": {"views": "df"}}
    text = dry_run(tmp_path, given)
    assert re.search(r"^attack +6$", text, re.MULTILINE) and re.search(r"^measure +6$", text, re.MULTILINE)
    assert "attack tiny--standard--1 on digits: df.3-of-3" in text
    assert "measure tiny--standard--0 on digits: transfer.2-of-2" in text


def test_a_guard_reads_the_code_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head process; the jobs of a cluster only if a letter differs, a comment's for example."""
    found: Counter[str] = Counter()
    monkeypatch.delenv(common.RUN, raising=False)
    monkeypatch.setattr(Plan, "digest", counted(Plan.digest, found, "digest"))
    for _ in range(3):
        guard(Plan(config(1)))
    assert found["digest"] == 1
    monkeypatch.setattr(common, "fingerprint", lambda *given: "a comment is another one")
    guard(Plan(config(1)))
    assert found["digest"] == 2
    with pytest.raises(UserError, match="changed while the workflow was running"):
        guard(Plan(config(2)))
    monkeypatch.delenv(common.RUN)


def test_fingerprint_is_of_every_letter(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "b.py"
    file.write_text("x = 1\n")
    found = [checks.fingerprint({"seed": 0}, tmp_path), checks.fingerprint({"seed": 1}, tmp_path)]
    file.write_text("x = 1  # one\n")
    found.append(checks.fingerprint({"seed": 0}, tmp_path))
    file.rename(tmp_path / "a" / "c.py")
    found.append(checks.fingerprint({"seed": 0}, tmp_path))
    assert len(set(found)) == 4
    (tmp_path / "a" / "c.py").rename(file)
    file.write_text("x = 1\n")
    assert checks.fingerprint({"seed": 0}, tmp_path) == found[0]
