"""What an edit makes run again: a table of edits, most of them compared as plans, some by Snakemake's own dry run."""

from __future__ import annotations

import copy
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import store
from pipeline.contracts import Column, canonical
from pipeline.stages.collect import collect
from tests.test_workflow import Checkout
from tests.tiny import tiny_config
from workflow.common import Plan
from workflow.datasets import with_folders

Config = dict[str, Any]
Edit = Callable[[Config], None]
Jobs = dict[str, tuple[str, str, frozenset[str]]]  # file -> stage, params, files that it reads


def rich_config(folder: Path) -> Config:
    """The tiny config with a folder of images, a brought classifier, a suite, and a measurement on some classifiers."""
    config = tiny_config()
    config["datasets"]["photos"] = {"source": "image_folder", "root": str(folder / "photos"), "size": 8}
    config["classifiers"] = {
        "mine": {
            "dataset": "photos",
            "model": "lenet",
            "weights": str(folder / "mine.safetensors"),
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        }
    }
    config["corruptions"] = {"gaussian_noise": None, "c": {"members": ["fog", "defocus_blur"], "datasets": "digits"}}
    config["measurements"]["gallery"]["classifiers"] = "*--standard--*"
    config["selftest"] = False
    return config


def given_files(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(np.full((8, 8, 3), 20 * number, dtype=np.uint8))
            image.save(folder / "photos" / label / f"{number}.png")
    (folder / "mine.safetensors").write_bytes(b"weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given")
    given_files(path)
    return path


def jobs(config: Config) -> Jobs:
    """Every job of a config, with what Snakemake compares of it."""
    plan = Plan(config, "config.yaml")
    found: Jobs = {}
    waiting: list[tuple[str, Mapping[str, str]]] = [("report", {})]
    while waiting:
        stage, wildcards = waiting.pop()
        path = "report" if stage == "report" else plan.path(stage, **wildcards)
        if path in found:
            continue
        needed = plan.inputs(stage, wildcards)
        params = {"code": plan.code(stage, wildcards), "origin": plan.origin(stage, wildcards)}
        if stage == "report":
            params |= {"spec": plan.shown(), "title": plan.config["title"], "seed": plan.config["seed"]}
        else:
            params["spec"] = plan.spec(stage, wildcards)
        if stage == "collect":
            params["lineages"] = [plan.lineage(*each) for each in needed]
        files = {plan.path(name, **values) for name, values in needed}
        if stage == "corrupt":
            files |= set(plan.archive(wildcards))
        if stage == "train":
            files |= set(plan.weights(wildcards))
        if stage == "prepare":
            files |= set(plan.source_files(wildcards))
        if stage == "report":
            files |= set(plan.selftest_table())
        found[path] = (stage, canonical(params), frozenset(files))
        waiting += needed
    return found


def again(old: Jobs, new: Jobs) -> Counter[str]:
    """Stages of the jobs that run again: new ones, those with other params or files to read, and what follows."""
    run: set[str] = set()
    while True:
        more = {path for path, job in new.items() if old.get(path) != job or job[2] & run} - run
        if not more:
            return Counter(new[path][0] for path in run)
        run |= more


@pytest.fixture(scope="module")
def before(folder: Path) -> Jobs:
    return jobs(rich_config(folder))


def change(*keys: str, value: Any) -> Edit:
    def edit(config: Config) -> None:
        entry = config
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return edit


def remove(*keys: str) -> Edit:
    def edit(config: Config) -> None:
        entry = config
        for key in keys[:-1]:
            entry = entry[key]
        del entry[keys[-1]]

    return edit


def reorder(config: Config) -> None:
    """Every mapping backwards."""

    def backwards(node: Any) -> Any:
        return {key: backwards(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    whole = backwards(config)
    config.clear()
    config.update(whole)


def both(*edits: Edit) -> Edit:
    def edit(config: Config) -> None:
        for each in edits:
            each(config)

    return edit


ALL = 5  # classifiers: robust and standard of `digits` and of `photos`, and mine
NOTHING: dict[str, int] = {}
EDITS: dict[str, tuple[Edit, dict[str, int]]] = {
    # where and how it runs
    "device": (change("device", value="cuda"), NOTHING),
    "fork_jobs": (change("fork_jobs", value=False), NOTHING),
    "checkpoint_minutes": (change("checkpoint_minutes", value=1), NOTHING),
    # how it is written
    "order of all keys": (reorder, NOTHING),
    "a default of a method": (change("attacks", "df", "overshoot", value=0.02), {"report": 1}),
    "a default of the loop": (change("trainings", "standard", "momentum", value=0.9), {"report": 1}),
    "a default of a data set": (change("datasets", "digits", "validation", value=0.1), {"report": 1}),
    "the id as method": (change("corruptions", "gaussian_noise", value={"method": "gaussian_noise"}), {"report": 1}),
    # what the report alone reads
    "title": (change("title", value="Another"), {"report": 1}),
    "baseline": (change("baseline", value="tiny--standard--0"), {"report": 1}),
    "self-test": (change("selftest", value=True), {"report": 1}),
    # one option
    "an attack's option": (
        change("attacks", "df", "steps", value=6),
        {"attack": ALL, "measure": 2 * ALL + 2, "collect": 3, "report": 1},
    ),
    "a corruption's option": (
        change("corruptions", "gaussian_noise", value={"constants": "cifar"}),
        {"corrupt": 2, "measure": ALL, "collect": 1, "report": 1},
    ),
    "an option of a suite": (
        change("corruptions", "c", "constants", value="cifar"),
        {"corrupt": 2, "measure": 2, "collect": 1, "report": 1},
    ),
    "an option of one member": (
        change("corruptions", "c.fog", value={"constants": "cifar"}),
        {"corrupt": 1, "measure": 2, "collect": 1, "report": 1},
    ),
    "a measurement's option": (
        change("measurements", "margin", "step", value=2),
        {"measure": ALL, "collect": 1, "report": 1},
    ),
    "a measurement's views": (
        change("measurements", "perturbation", "views", value="df"),
        {"measure": ALL, "collect": 1, "report": 1},
    ),
    # the two classifiers, their attacks and measurements, and of the others how attacks transfer to and from them
    "a training's option": (
        change("trainings", "robust", "steps", value=2),
        {"train": 2, "attack": 4, "measure": 2 * 4 + ALL, "collect": 4, "report": 1},
    ),
    "images to train on": (
        change("datasets", "digits", "train_size", value=150),
        {"prepare": 1, "train": 2, "attack": 4, "measure": 2 * 5 + 1, "collect": 5, "report": 1},
    ),
    "images to evaluate": (
        change("datasets", "digits", "evaluation", value=20),
        {"prepare": 1, "corrupt": 3, "attack": 4, "measure": 2 * 5 + 1, "collect": 5, "report": 1},
    ),
    "a source's option": (
        change("datasets", "photos", "size", value=16),
        {"prepare": 2, "train": 3, "corrupt": 1, "attack": 6, "measure": 3 * 5 + 1, "collect": 5, "report": 1},
    ),
    "an architecture": (
        change("architectures", "tiny", "channels", value=[8, 8, 8, 4]),
        {"train": 4, "attack": 8, "measure": 4 * 5 + 2 + 1, "collect": 5, "report": 1},
    ),
    "a brought classifier": (
        change("classifiers", "mine", "mean", value=[0.4] * 3),
        {"train": 1, "attack": 2, "measure": 5 + 2, "collect": 4, "report": 1},
    ),
    # one more
    "another architecture": (
        change("architectures", "net", value={"model": "lenet"}),
        {"train": 4, "attack": 8, "measure": 4 * 5 + 2 + ALL, "collect": 5, "report": 1},
    ),
    "another seed": (
        change("seeds", value=[0, 1]),
        {"train": 4, "attack": 8, "measure": 4 * 5 + 2 + ALL, "collect": 5, "report": 1},
    ),
    "another training": (
        change("trainings", "long", value={"method": "standard", "epochs": 3}),
        {"train": 2, "attack": 4, "measure": 2 * 5 + ALL, "collect": 4, "report": 1},
    ),
    "another attack": (
        change("attacks", "long", value={"method": "deepfool"}),
        {"attack": ALL, "measure": ALL + 2, "collect": 2, "report": 1},
    ),
    "another corruption": (
        change("corruptions", "contrast", value=None),
        {"corrupt": 2, "measure": ALL, "collect": 1, "report": 1},
    ),
    "another member of a suite": (
        change("corruptions", "c", "members", value=["fog", "defocus_blur", "snow"]),
        {"corrupt": 1, "measure": 2, "collect": 1, "report": 1},
    ),
    "another measurement": (
        change("measurements", "again", value={"method": "accuracy"}),
        {"measure": ALL, "collect": 1, "report": 1},
    ),
    "another data set": (
        change("datasets", "flipped", value={"source": "digits", "frequency": "flip"}),
        {"prepare": 2, "corrupt": 1, "train": 2, "attack": 4, "measure": 2 * 5 + 1, "collect": 5, "report": 1},
    ),
    # one less: what remains is collected anew
    "no robust training": (remove("trainings", "robust"), {"measure": 3, "collect": 4, "report": 1}),
    "no brought classifier": (remove("classifiers", "mine"), {"measure": 2, "collect": 4, "report": 1}),
    "no df": (
        both(remove("attacks", "df"), change("measurements", "perturbation", "views", value="pgd")),
        {"measure": 2 * ALL + 2, "collect": 3, "report": 1},
    ),
    "no corruption": (remove("corruptions", "gaussian_noise"), {"measure": 2, "collect": 1, "report": 1}),
    "no member of a suite": (
        change("corruptions", "c", "members", value=["fog"]),
        {"measure": 2, "collect": 1, "report": 1},
    ),
    "no gallery": (remove("measurements", "gallery"), {"report": 1}),
    "no photos": (both(remove("datasets", "photos"), remove("classifiers")), {"collect": 5, "report": 1}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_the_config(folder: Path, before: Jobs, name: str) -> None:
    edit, expected = EDITS[name]
    config = rich_config(folder)
    edit(config)
    assert again(before, jobs(config)) == Counter(expected)


def test_another_folder_of_results_is_another_run(folder: Path, before: Jobs) -> None:
    config = {**rich_config(folder), "results": "elsewhere"}
    assert again(before, jobs(config)) == Counter(job[0] for job in before.values())
    assert {path.removeprefix("elsewhere/") for path in jobs(config)} == {
        path.removeprefix("results/") for path in before
    }


def test_a_newer_library_re_runs_nothing(folder: Path, before: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "99.0")
    assert jobs(rich_config(folder)) == before


def test_a_collected_table_says_which_versions_made_which_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [tmp_path / dataset / "net--standard--0" / "clean.parquet" for dataset in ("digits", "flipped", "photos")]
    versions = dict.fromkeys(store.PACKAGES, "1.0")
    for table, version in zip(tables, ("2.4", "2.5", "2.4"), strict=True):
        monkeypatch.setattr(metadata, "version", {**versions, "torch": version}.__getitem__)
        meta = store.provenance("measure", {"method": "accuracy"}, "code", {}, "cpu")
        store.write_table(table, {"sample": ["a", "b"]}, {"sample": Column("string", "id")}, meta)
    out = tmp_path / "accuracy.parquet"
    collect(spec={"kind": "accuracy"}, code="code", tables=tables, lineages=[], out=out)
    found = store.read_metadata(out)
    names = [f"{dataset}/net--standard--0/clean" for dataset in ("digits", "flipped", "photos")]
    assert list(found["inputs"]) == names, "also where two data sets have a classifier of one name"
    old, new = (
        {"versions": {**versions, "torch": version}, "device": "cpu", "code": "code"} for version in ("2.4", "2.5")
    )
    assert found["made"] == [old | {"tables": [names[0], names[2]]}, new | {"tables": [names[1]]}]
    assert found["measured_with"]["torch"] == ["2.4", "2.5"]


class Finished(Checkout):
    """A checkout whose files were made, as far as Snakemake can tell: they hold nothing, but are on its records."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = rich_config(folder)
        given_files(folder)
        self.write(self.config)
        for name in ("README.md", "Makefile"):
            (folder / name).write_text("text")
        summary = self.run("--summary")
        lines = [line.split("\t") for line in summary.stdout.splitlines()]
        files = [line[0] for line in lines[1:] if line[0].startswith("results/")]
        assert len(files) > 60, summary.stdout + summary.stderr
        for file in files:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if path.name in ("classifiers", "samples", "figures", "leaderboards") else path.write_text(
                "made"
            )
        result = self.run("--touch", "--forceall")
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def finished(checkout: Finished) -> Iterator[Finished]:
    """Files that a test edits are put back; new ones are removed; all have the time that they had."""
    kept = {path: (path.read_bytes(), path.stat()) for path in sources(checkout.folder)}
    folders = {path: path.stat() for path in (checkout.folder / "photos").iterdir()}
    yield checkout
    for path in sources(checkout.folder):
        if path not in kept:
            path.unlink()
    for path, (content, _) in kept.items():
        path.write_bytes(content)
    for path, status in [*((path, status) for path, (_, status) in kept.items()), *folders.items()]:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def sources(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in ("results", ".snakemake") and "__pycache__" not in parts:
            yield path


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_what_changes_no_result_re_runs_nothing(finished: Finished) -> None:
    """Comments, docstrings, layout, documents, tests, the workflow's own code, times, the order of keys, the device."""
    folder = finished.folder
    config = copy.deepcopy(finished.config)
    change("device", value="cuda")(config)
    change("fork_jobs", value=False)(config)
    reorder(config)
    finished.write(config)
    for path in sources(folder):
        os.utime(path)
    for name in ("pipeline/store.py", "pipeline/attacks/pgd.py", "pipeline/training/loop.py", "Snakefile"):
        add(folder / name, "\n\n# a comment\n")
    for name in ("workflow/common.py", "workflow/views.py", "pipeline/server.py", "pipeline/commandline.py"):
        add(folder / name, "\n\nUNUSED = 1\n")
    for name in ("README.md", "Makefile"):
        add(folder / name, "more text")
    docstring = folder / "pipeline/numerics/norms.py"
    docstring.write_text(docstring.read_text().replace('"""', '"""Another docstring. ', 1))
    shutil.copy(folder / "pipeline/attacks/pgd.py", folder / "pipeline/attacks/another.py")
    rule = folder / "workflow/rules/measure.smk"
    rule.write_text(rule.read_text().replace("mem_mb=8000", "mem_mb=9000"))
    assert finished.planned() == Counter()


@pytest.mark.parametrize("name", ["another training", "no photos"])
def test_plans_are_compared_here_as_snakemake_compares_them(finished: Finished, name: str) -> None:
    config = copy.deepcopy(finished.config)
    EDITS[name][0](config)
    finished.write(config)
    assert finished.planned() == Counter(EDITS[name][1])


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # a method, and what follows from it
        (["pipeline/measurements/gallery.py"], {"measure": 2, "collect": 1, "report": 1}),
        # what a few methods share: blur here, and no other corruption
        (["pipeline/corruptions/_filters.py"], {"corrupt": 1, "measure": 2, "collect": 1, "report": 1}),
        # a source: its own splits, trainings and so on
        (
            ["pipeline/datasets/digits.py"],
            {"prepare": 2, "corrupt": 3, "train": 2, "attack": 4, "measure": 11, "collect": 5, "report": 1},
        ),
        # the training loop: no data; a brought classifier is made by the same stage
        (["pipeline/training/loop.py"], {"train": 5, "attack": 10, "measure": 27, "collect": 5, "report": 1}),
        # how the page looks
        (["pipeline/report/templates/page.html.j2", "pipeline/report/site.py"], {"report": 1}),
        # what reads and writes every file
        (
            ["pipeline/store.py"],
            {"prepare": 4, "corrupt": 4, "train": 5, "attack": 10, "measure": 27, "collect": 5, "report": 1},
        ),
        # given files: one image more in one class; other weights
        (
            ["photos/dog/4.png"],
            {"prepare": 2, "train": 3, "corrupt": 1, "attack": 6, "measure": 3 * 5 + 1, "collect": 5, "report": 1},
        ),
        (["mine.safetensors"], {"train": 1, "attack": 2, "measure": 5 + 2, "collect": 4, "report": 1}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_edit_of_code_or_data(finished: Finished, edits: list[str], expected: dict[str, int]) -> None:
    for name in edits:
        path = finished.folder / name
        if name.endswith(".png"):
            shutil.copy(path.with_name("3.png"), path)
        else:
            add(path, "\n\nUNUSED = 1\n")
    assert finished.planned() == Counter(expected)


def test_folders_of_classes_are_watched_but_no_images(tmp_path: Path) -> None:
    for name in ("flat/cat/deep", "flat/dog", "split/train/cat/deep", "split/val/cat", "[odd]/cat"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "flat/cat/1.png").touch()
    given = [str(tmp_path / name) for name in ("flat", "split", "[odd]", "flat/cat/1.png")]
    found = [path.removeprefix(f"{tmp_path}/") for path in with_folders(given)]
    below = ["split/train", "split/val", "split/train/cat", "split/val/cat"]
    assert found == ["flat", "flat/cat", "flat/dog", "split", *below, "[odd]", "[odd]/cat", "flat/cat/1.png"]
