"""A whole run in this process: every job of a config's plan, as the rules would start it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import specs
from workflow.common import Plan


def run_plan(config: Mapping[str, Any], folder: Path) -> Path:
    """Run a config to its report; returns the folder of the results, `folder`/results."""
    plan = Plan({**config, "device": "cpu", "results": str(folder / "results")}, "config")
    _Run(plan).file("report", {})
    return plan.results


class _Run:
    """The files of the jobs that are done."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[tuple[Any, ...], Path] = {}

    def file(self, stage: str, wildcards: Mapping[str, str]) -> Path:
        """The file of a job, made first, with all that it reads, if it is not there yet."""
        key = (stage, *sorted(wildcards.items()))
        if key not in self._made:
            needed = self._plan.inputs(stage, wildcards)
            files = [(name, self.file(name, values)) for name, values in needed]
            self._made[key] = self._report(files) if stage == "report" else self._job(stage, wildcards, files)
        return self._made[key]

    def _job(self, stage: str, wildcards: Mapping[str, str], files: list[tuple[str, Path]]) -> Path:
        plan, out = self._plan, Path(self._plan.path(stage, **wildcards))
        # Through JSON and the check of the command line, as between two processes.
        spec = specs.complete(stage, json.loads(plan.spec(stage, wildcards)))
        code = specs.code(stage, spec)
        assert code == plan.code(stage, wildcards)
        arguments: dict[str, Any] = {"spec": spec, "code": code, "out": out}
        if stage == "collect":
            arguments["tables"] = [path for _, path in files]
            arguments["lineages"] = [plan.lineage(*needed) for needed in plan.inputs(stage, wildcards)]
        elif stage != "prepare":
            arguments |= {"data": dict(files)["prepare"], "device": plan.config["device"]}
        if stage == "train":
            arguments |= {"history": out.with_suffix(".history.parquet"), "workers": 1}
        if stage in ("attack", "measure"):
            arguments["classifier"] = dict(files)["train"]
        if stage == "measure":
            arguments["views"] = [path for name, path in files if name in ("corrupt", "attack")]
        _call(stage, arguments)
        assert out.is_file()
        return out

    def _report(self, files: list[tuple[str, Path]]) -> Path:
        plan = self._plan
        _call(
            "report",
            {
                "tables": {path.stem: path for stage, path in files if stage == "collect"},
                "data": [path for stage, path in files if stage == "prepare"],
                "out": plan.results,
                "spec": json.loads(plan.shown()),
                "title": plan.config["title"],
                "seed": plan.config["seed"],
            },
        )
        return plan.results / "report" / "index.html"


def _call(stage: str, arguments: Mapping[str, Any]) -> None:
    getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)(**arguments)
