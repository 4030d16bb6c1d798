"""What a run of thousands of jobs costs before and beside its jobs: seconds, memory and files of the workflow alone.

The config has 25 analyses of each classifier, of the digits; no job runs. `plan`: config checked, every job named, with
spec, digests and inputs, in one process. `dry run`: Snakemake's, from its start to its list of jobs. `no-op`: Snakemake
finds that everything is there; for it all outputs are made, empty, and recorded with `--touch`, which takes minutes for
5,000 jobs and hours for 50,000; `--noop times` does without records, as Snakemake does with `--rerun-triggers mtime`.
Seconds are of the processor, so other work on the machine matters less.
Run: `python -m benchmarks.scale [--classifiers 200] [--shards 1] [--transfer] [--noop records]`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from workflow.common import Plan

ROOT = Path(__file__).resolve().parent.parent
ATTACKS, TRAININGS = 8, 5
DONE = "Nothing to be done"


def config(classifiers: int, shards: int, transfer: bool) -> dict[str, Any]:
    """As many classifiers, five trainings and so many seeds, with 25 analyses of each."""
    own = {"shards": shards}
    measurements: dict[str, dict[str, Any]] = {
        "clean": {"method": "accuracy", **own},
        "corrupted": {"method": "accuracy", "views": "corruptions", **own},
        "attacked": {"method": "accuracy", "views": "attacks", **own},
        "perturbation": {"views": "attacks"},
    }
    measurements |= {f"block{size}": {"method": "dct_margin", "size": size, "step": 2, **own} for size in range(2, 7)}
    measurements |= {f"random{k}": {"method": "subspace_margin", "dimension": k, **own} for k in range(1, 5)}
    measurements |= {f"orbits{k}": {"method": "invariance", "draws": k} for k in range(1, 4)}
    measurements |= (
        {"transfer": {"views": "attacks"}} if transfer else {"orbits4": {"method": "invariance", "draws": 4}}
    )
    return {
        "selftest": False,
        "device": "cpu",
        "datasets": {"digits": {"evaluation": 100}},
        "architectures": {"net": {"model": "resnet18", "stem": "small", "channels": [8, 8, 8, 8]}},
        "trainings": {f"rate{k}": {"method": "standard", "learning_rate": 0.01 * k} for k in range(1, TRAININGS + 1)},
        "seeds": list(range(-(-classifiers // TRAININGS))),
        "corruptions": {"c": None},
        "attacks": {f"pgd{k}": {"method": "pgd", "epsilon": 0.01 * k, **own} for k in range(1, ATTACKS + 1)},
        "measurements": measurements,
    }


def planned(given: dict[str, Any]) -> tuple[list[str], float]:
    """The files of all jobs, and the seconds that it takes to name them, with what Snakemake asks of each job."""
    start = time.process_time()
    plan = Plan(given)
    plan.digest()
    files = []
    waiting, seen = [("report", {})], set()
    while waiting:
        stage, wildcards = waiting.pop()
        key = (stage, *wildcards.items())
        if key in seen:
            continue
        seen.add(key)
        plan.spec(stage, wildcards), plan.code(stage, wildcards), plan.origin(stage, wildcards)
        if stage == "collect":
            for needed in plan.inputs(stage, wildcards):
                plan.lineage(*needed)
        if stage != "report":
            files.append(plan.path(stage, **wildcards))
        if stage == "train":
            files.append(files[-1].replace(".safetensors", ".history.parquet"))
        waiting += plan.inputs(stage, wildcards)
    seconds = time.process_time() - start
    results = given.get("results", "results")
    files += [f"{results}/{name}" for name in ("report/index.html", "claims.csv", "claims.md", "profile.parquet")]
    files += [f"{results}/provenance.txt"]
    files += [f"{results}/numbers.{suffix}" for suffix in ("parquet", "csv")]
    return files + [f"{results}/leaderboard.{suffix}" for suffix in ("parquet", "csv", "md", "tex", "html")], seconds


def snakemake(folder: Path, *arguments: str) -> tuple[str, float, float]:
    """What it says, the processor's seconds, and the memory in MiB at most (of all started so far)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--configfile", str(folder / "config.yaml"), "--cores", "2", "--scheduler", "greedy"]
    environment = {name: value for name, value in os.environ.items() if name != "BOUNDARY_ATLAS_RUN"}
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return run.stdout + run.stderr, seconds, after.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classifiers", type=int, default=200)
    parser.add_argument("--shards", type=int, default=1, help="of the attacks and measurements that can be split")
    parser.add_argument("--transfer", action="store_true", help="every attack looked at by every classifier")
    parser.add_argument(
        "--noop", choices=("records", "times"), help="by Snakemake's records, or by times of files alone"
    )
    given = parser.parse_args()
    own = config(given.classifiers, given.shards, given.transfer)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.yaml").write_text(yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
        files, seconds = planned(own)
        print("| step | CPU s | memory, MiB | files |\n|---|---:|---:|---:|")
        print(f"| plan, {len(files)} files | {seconds:.1f} | | |")
        _, seconds, memory = snakemake(folder, "--dry-run", "--quiet", "rules")
        print(f"| dry run | {seconds:.1f} | {memory:.0f} | |", flush=True)
        if not given.noop:
            return
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
            os.utime(folder / file, (1, 1))  # all of one age
        for name in ("figures", "leaderboards", "report/classifiers", "report/samples"):
            (folder / "results" / name).mkdir(parents=True)
        triggers = ["--rerun-triggers", "mtime"]
        if given.noop == "records":
            triggers = []
            _, seconds, memory = snakemake(folder, "--touch", "--forceall", "--quiet", "all")
            print(f"| touch | {seconds:.1f} | {memory:.0f} | {sum(1 for _ in folder.rglob('*'))} |", flush=True)
        text, seconds, memory = snakemake(folder, "--dry-run", *triggers)
        assert DONE in text, text[-2000:]
        print(f"| no-op | {seconds:.1f} | {memory:.0f} | |")


if __name__ == "__main__":
    main()
