"""From the config to jobs: check it, name every file, say what each job alone reads. Imports neither torch nor timm."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import archives, registry, specs
from pipeline.codedigest import code_digest
from pipeline.contracts import UserError, canonical, lineage
from pipeline.selftest import run as selftest
from workflow import classifiers, corruptions, datasets, shards
from workflow.checks import check_baseline, check_schema, fingerprint
from workflow.views import attacks_on_all, views_of

ROOT = Path(__file__).resolve().parent.parent
PATHS = {
    "prepare": "data/{dataset}/{split}.safetensors",
    "download": "archives/{archive}/{part}",
    "train": "models/{dataset}/{classifier}.safetensors",
    "corrupt": "corruptions/{dataset}/{corruption}.safetensors",
    "attack": "attacks/{dataset}/{classifier}/{attack}.safetensors",
    "measure": "measurements/{dataset}/{classifier}/{measurement}.parquet",
    "collect": "tables/{kind}.parquet",
}
SELFTEST = "selftest/selftest.parquet"
RUN = "BOUNDARY_ATLAS_RUN"  # environment variable: fingerprint and digest of the config and code of a run
RUNTIME = ("device", "results", "checkpoint_minutes", "fork_jobs", "jobs_per_gpu")  # fields that change no result


class Plan:
    """Every job of a run: its spec, its code digest, its inputs and its files.

    Args:
        config: as read from YAML.
        name: of the config file, for messages.

    Raises:
        UserError: the config is wrong.
    """

    def __init__(self, config: Mapping[str, Any], name: str = "config.yaml") -> None:
        self.given = check_schema(config, name)
        self.config = {**self.given, "corruptions": corruptions.expanded(self.given, name)}
        self.name = name
        self.results = Path(self.config["results"])
        self._origins: dict[tuple[Any, ...], str] = {}
        self._lineages: dict[tuple[Any, ...], str] = {}
        seed = self.config["seed"]
        self.prepared = dict(datasets.prepared(self.config, name))
        self.classifiers = dict(classifiers.trained(self.config, name)) | dict(classifiers.brought(self.config, name))
        check_baseline(self.config["baseline"], [classifier for _, classifier in self.classifiers], name)
        self.methods = {
            stage: {
                entry: specs.complete(
                    stage, {noun: entry, **self._flat(noun, entry), "seed": seed}, f"{name}: {noun}s.{entry}"
                )
                for entry in self.config[f"{noun}s"]
            }
            for stage, noun in (("corrupt", "corruption"), ("attack", "attack"), ("measure", "measurement"))
        }
        corruptions.check_folders(self.methods["corrupt"], name)
        measured = self.methods["measure"]
        self.views = {entry: views_of(self.config, entry, spec["method"], name) for entry, spec in measured.items()}
        names = [classifier for _, classifier in self.classifiers]
        self.measured_on = {entry: self._chosen("measurement", entry, "classifiers", names) for entry in measured}
        self.corrupted = {
            entry: self._chosen("corruption", entry, "datasets", list(self.config["datasets"]))
            for entry in self.methods["corrupt"]
        }
        for entry, views in self.views.items():
            measured[entry]["clean"] = any(kind == "clean" for kind, _ in views)
        # id -> spec of each job on a classifier, or on a data set: an entry makes several if it has shards
        self.jobs: dict[str, Mapping[str, Mapping[str, Any]]] = {"corrupt": self.methods["corrupt"]}
        for stage, noun in (("attack", "attacks"), ("measure", "measurements")):
            methods, section = self.methods[stage], self.config[noun]
            self.jobs[stage] = shards.split(stage, methods, section, self.prepared.values(), f"{name}: {noun}")
        self.shards = shards.grouped(self.jobs["attack"])
        self.kinds = sorted({spec["method"] for spec in measured.values()})

    def _flat(self, noun: str, entry: str) -> dict[str, Any]:
        """An entry's method (its id if not given) and options, apart."""
        options = dict(self.config[f"{noun}s"][entry] or {})
        flat = {"method": options.pop("method", entry), "options": options}
        options.pop("datasets" if noun == "corruption" else "shards", None)
        if noun == "measurement":
            registry.check_name(noun, flat["method"], f"{self.name}: measurements.{entry}")
            options.pop("views", None)
            options.pop("classifiers", None)
            if registry.passed(noun, flat["method"], {"augmentations": None}):
                flat["augmentations"] = classifiers.augmentations(self.config, options.pop("augmentations", None))
        return flat

    def _chosen(self, noun: str, entry: str, key: str, names: Sequence[str]) -> set[str]:
        """What an entry is for, of `names`: all of them, or those that the patterns below its `key` match."""
        patterns = (self.config[f"{noun}s"][entry] or {}).get(key, "*")
        found = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                there = ", ".join(sorted(set(names)))
                raise UserError(f"{self.name}: {noun}s.{entry}.{key}: '{pattern}' matches none of {there}")
            found |= set(matched)
        return found

    def job(self, stage: str, wildcards: Mapping[str, str]) -> Mapping[str, Any]:
        """The complete spec of a job."""
        if stage == "prepare":
            return self.prepared[wildcards["dataset"], wildcards["split"]]
        if stage == "train":
            return self.classifiers[wildcards["dataset"], wildcards["classifier"]]
        if stage == "collect":
            return {"kind": wildcards["kind"]}
        if stage == "report":
            return {}
        if stage == "download":
            return {"archive": wildcards["archive"], "part": wildcards["part"]}
        noun = specs.KINDS[stage][0]
        return self.jobs[stage][wildcards[noun]]

    def spec(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """Canonical JSON of what a job alone reads."""
        return canonical(self.job(stage, wildcards))

    def code(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """Digest of the code that a job runs."""
        return specs.code(stage, self.job(stage, wildcards))

    def shown(self) -> str:
        """The config as the report shows it; where and how it ran is no part of it."""
        return canonical({key: value for key, value in self.given.items() if key not in RUNTIME})

    def path(self, stage: str, **wildcards: str) -> str:
        """The file that a job writes."""
        return str(self.results / PATHS[stage].format(**wildcards))

    def inputs(self, stage: str, wildcards: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
        """(stage, wildcards) of each job whose file a job reads."""
        dataset = {"dataset": wildcards.get("dataset", "")}
        data = ("prepare", {**dataset, "split": "train" if stage == "train" else "evaluation"})
        if stage == "prepare":
            return []
        if stage == "report":
            measured = sorted({table["dataset"] for kind in self.kinds for table in self.tables(kind)})
            jobs = [("collect", {"kind": kind}) for kind in self.kinds]
            return jobs + [("prepare", {"dataset": name, "split": "evaluation"}) for name in measured]
        if stage in ("train", "corrupt"):
            return [data]
        if stage == "collect":
            return [("measure", table) for table in self.tables(wildcards["kind"])]
        classifier = {**dataset, "classifier": wildcards["classifier"]}
        jobs = [("train", classifier), data]
        if stage == "measure":
            sources = [classifier]
            if attacks_on_all(self.job(stage, wildcards)["method"]):
                sources = [{**dataset, "classifier": name} for of, name in self.classifiers if of == dataset["dataset"]]
            for kind, view in self._seen(wildcards["measurement"], dataset["dataset"]):
                if kind == "corruption":
                    jobs.append(("corrupt", {**dataset, "corruption": view}))
                elif kind == "attack":
                    made = [{"attack": job} for job in self.shards[view]]
                    jobs += [("attack", {**source, **job}) for source in sources for job in made]
        return jobs

    def _seen(self, measurement: str, dataset: str) -> list[tuple[str, str]]:
        """(kind, id) of the views that a measurement's job looks at on one data set."""
        views = self.views[shards.entry_of(measurement)]
        return [(kind, view) for kind, view in views if kind != "corruption" or dataset in self.corrupted[view]]

    def lineage(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """What the config says about how a file comes to be, its inputs included; the file's metadata says the same."""
        key = (stage, *sorted(wildcards.items()))
        if key not in self._lineages:
            above = [self.lineage(*needed) for needed in self.inputs(stage, wildcards)]
            self._lineages[key] = lineage(self.job(stage, wildcards), above)
        return self._lineages[key]

    def origin(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """Digest of spec and code of a job and of all jobs above it.

        In a job's params it makes up for what Snakemake forgets: a job that fails loses output and record, and what
        was made from its old output would then pass for up to date.
        """
        key = (stage, *sorted(wildcards.items()))
        if key not in self._origins:
            above = [self.origin(*needed) for needed in self.inputs(stage, wildcards)]
            self._origins[key] = lineage(
                {"spec": self.job(stage, wildcards), "code": self.code(stage, wildcards)}, above
            )
        return self._origins[key]

    def source_files(self, wildcards: Mapping[str, str]) -> list[str]:
        """Files or folders outside the results that a prepare job reads."""
        patterns = datasets.source_paths(self.job("prepare", wildcards))
        return [file for pattern in patterns for file in sorted(glob.glob(pattern, recursive=True))]

    def archive(self, wildcards: Mapping[str, str]) -> list[str]:
        """The downloaded part of a published archive that a corrupt job reads; none if it reads none, or a folder.

        As with `source_files`, what it holds is no part of a lineage: the archive's name stands in the job's spec.
        """
        options = self.job("corrupt", wildcards)["options"]
        if "archive" not in options or options["folder"] is not None:
            return []
        part = archives.ARCHIVES[options["archive"]].members[options["corruption"]].part
        return [self.path("download", archive=options["archive"], part=part)] if part else []

    def processes(self, wildcards: Mapping[str, str]) -> int:
        """Processes, each with a GPU of its own, that a training asks for."""
        return int(self.job("train", wildcards).get("options", {}).get("processes", 1))

    def weights(self, wildcards: Mapping[str, str]) -> list[str]:
        """The weights file that a brought classifier reads."""
        job = self.job("train", wildcards)
        return [job["weights"]] if "weights" in job else []

    def tables(self, kind: str) -> list[dict[str, str]]:
        """Wildcards of each job that measures a kind, by their ids; the shards of a measurement follow one another."""
        return [
            {"dataset": dataset, "classifier": classifier, "measurement": measurement}
            for dataset, classifier in sorted(self.classifiers)
            for measurement, spec in sorted(self.jobs["measure"].items(), key=lambda job: shards.entry_of(job[0]))
            if spec["method"] == kind
            and classifier in self.measured_on[shards.entry_of(measurement)]
            and self._seen(measurement, dataset)
        ]

    def digest(self) -> str:
        """Digest of the whole config and of all code: what must not change while a run is under way."""
        modules = [*selftest.modules(), *(f"pipeline.stages.{stage}" for stage in (*PATHS, "report"))]
        for name, kind in registry.KINDS.items():
            modules += [f"pipeline.{kind.package}.{plugin}" for plugin in registry.names(name)]
        return lineage(self.config, [code_digest(ROOT, modules)])

    def selftest_table(self) -> list[str]:
        """The table of the self-test, if the config asks for it; a job apart, as it reads nothing of the config."""
        return [str(self.results / SELFTEST)] if self.config["selftest"] else []

    @staticmethod
    def selftest_code() -> str:
        """Digest of the code of the self-test."""
        return selftest.code()

    def targets(self, stage: str) -> list[str]:
        """All files of a stage."""
        every: Mapping[str, Sequence[Mapping[str, str]]] = {
            "prepare": [{"dataset": dataset, "split": split} for dataset, split in self.prepared],
            "train": [{"dataset": dataset, "classifier": classifier} for dataset, classifier in self.classifiers],
            "corrupt": [
                {"dataset": dataset, "corruption": entry}
                for entry, corrupted in self.corrupted.items()
                for dataset in sorted(corrupted)
            ],
            "attack": [
                {"dataset": dataset, "classifier": classifier, "attack": entry}
                for dataset, classifier in self.classifiers
                for entry in self.jobs["attack"]
            ],
            "collect": [{"kind": kind} for kind in self.kinds],
        }
        return [self.path(stage, **wildcards) for wildcards in every[stage]]

    def input(self, stage: str, *needed: str) -> Callable[[Mapping[str, str]], list[str]]:
        """Input function of a rule: the files of the `needed` stages that a job reads."""
        return lambda wildcards: [
            self.path(name, **values) for name, values in self.inputs(stage, wildcards) if name in needed
        ]

    def pattern_path(self, stage: str) -> str:
        """Output of a rule, with its wildcards."""
        return str(self.results / PATHS[stage])

    @staticmethod
    def pattern(names: Iterable[str]) -> str:
        """Constraint of a wildcard to known names; one that nothing matches where there are none."""
        return "|".join(map(re.escape, dict.fromkeys(names))) or "(?!)"


def guard(plan: Plan) -> None:
    """Stop a job whose config or code is no longer what its run began with.

    The head process leaves the digest in the environment; Snakemake on a cluster's node reads the config anew. Where no
    letter differs, the code need not be parsed, which would take each job of a cluster a second.

    Raises:
        UserError: it differs.
    """
    letters = fingerprint(plan.config, ROOT / "pipeline")
    same, _, known = os.environ.get(RUN, "").partition(" ")
    if letters != same:
        now = plan.digest()
        if known and known != now:
            raise UserError(f"{plan.name}: config or code changed while the workflow was running; start it again")
        os.environ.setdefault(RUN, f"{letters} {now}")
