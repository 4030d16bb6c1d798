"""The whole way in a temporary folder: what runs, what runs again after an edit, what a killed job leaves behind."""

from __future__ import annotations

import copy
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from pipeline import store
from tests.tiny import tiny_config

ROOT = Path(__file__).parent.parent
FINISHED = re.compile(r"^\s*(\w+)\s+(\d+)$", re.MULTILINE)


class Checkout:
    """A copy of the repository with a tiny config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "workflow"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Snakefile", folder)
        self.write(tiny_config())

    def write(self, config: dict[str, Any]) -> None:
        config = {"selftest": False, **config}
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", "--scheduler", "greedy", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )

    def planned(self) -> Counter[str]:
        """Jobs that a run would do, by rule."""
        result = self.run("--dry-run", "--quiet", "rules")
        assert result.returncode == 0, result.stdout + result.stderr
        jobs = Counter({rule: int(count) for rule, count in FINISHED.findall(result.stdout + result.stderr)})
        del jobs["total"], jobs["all"]
        return jobs


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BOUNDARY_ATLAS_RUN")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("run"))
    result = checkout.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Report: results/report/index.html" in result.stdout + result.stderr
    return checkout


def test_provenance_of_everything_stands_beside_the_report_and_in_snakemakes(finished: Checkout) -> None:
    text = (finished.folder / "results/provenance.txt").read_text(encoding="utf-8")
    assert text.startswith("file: leaderboard.parquet")
    made = {
        f"file: {path.relative_to(finished.folder / 'results')}" for path in finished.folder.glob("results/*/*/*.*")
    }
    own = ("history", "leaderboards/")  # a table of a model's file, and what the report makes itself
    expected = {
        line for line in made if line.endswith((".safetensors", ".parquet")) and not any(name in line for name in own)
    }
    assert expected <= set(text.splitlines()) and "now: unchanged" in text and "now: other" not in text
    result = finished.run("--report", "report.html")
    assert result.returncode == 0, result.stdout + result.stderr
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    for category in ("Report", "Classifiers", "Single images", "Figures", "Leaderboards", "Tables", "Provenance"):
        assert f'"{category}"' in page
    listed = pd.read_csv(finished.folder / "results/figures/index.csv")
    assert len(listed) > 5
    for title, caption in zip(listed["title"], listed["caption"], strict=True):
        assert f'"figure": {json.dumps(title)}' in page
        first = json.dumps(html.escape(caption[:40], quote=False))[1:-1]
        assert first in page, "each figure has its own caption"


@pytest.fixture
def edited(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The finished run; files that a test edits are put back, with their times."""
    kept = {
        path: (path.read_bytes(), path.stat())
        for path in (*finished.folder.glob("*.yaml"), *(finished.folder / "pipeline").rglob("*.py"))
    }
    yield finished
    for path, (content, status) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_everything_appears(finished: Checkout) -> None:
    results = finished.folder / "results"
    board = pd.read_parquet(results / "leaderboard.parquet")
    assert sorted(board["training"]) == ["robust", "standard"]
    boards = [f"leaderboard.{suffix}" for suffix in ("csv", "md", "html", "tex")]
    boards += [f"leaderboards/digits/{name}.tex" for name in ("overall", "adversarial", "corruption", "geometry")]
    for name in (*boards, "claims.csv", "claims.md", "profile.parquet", "numbers.csv", "report/index.html"):
        assert (results / name).stat().st_size > 100
    tables = {path.stem for path in (results / "tables").iterdir()}
    assert tables == {"accuracy", "perturbation", "dct_margin", "gallery", "transfer"}
    epochs = pd.read_parquet(results / "models/digits/tiny--robust--0.history.parquet")
    assert {"loss", "robust_accuracy", "learning_rate"} <= set(epochs["metric"])
    accuracy = pd.read_parquet(results / "tables/accuracy.parquet")
    assert len(accuracy) == 2 * 24 * (1 + 2 * 5)
    hidden = {path.name for path in results.rglob(".*")}
    assert hidden <= {".snakemake_timestamp"}, "no temporary file is left"
    assert all(path.stat().st_size for path in (results / "benchmarks").rglob("*.tsv"))


def test_every_file_says_how_it_was_made(finished: Checkout) -> None:
    results = finished.folder / "results"
    for path in results.rglob("*"):
        if path.suffix in (".safetensors", ".parquet"):
            own = path.parent == results or path.is_relative_to(results / "leaderboards")  # made by the report
            made = {"stage", "spec", "code", "lineage", "inputs", "versions", "device"}
            assert ({"seed", "spec", "tables"} if own else made) <= set(store.read_metadata(path)), path


def test_transfer_looks_at_the_attacks_on_every_classifier(finished: Checkout) -> None:
    results = finished.folder / "results"
    table = pd.read_parquet(results / "tables/transfer.parquet")
    names = ["tiny--robust--0", "tiny--standard--0"]
    pairs = table.groupby(["source", "classifier", "attack"]).size()
    assert pairs.to_dict() == {(a, b, attack): 24 for a in names for b in names for attack in ("df", "pgd")}
    own = table[table["source"] == table["classifier"]].merge(
        pd.read_parquet(results / "tables/perturbation.parquet"),
        on=["classifier", "attack", "sample"],
        suffixes=("", "_measured"),
    )
    for name in ("norm", "label", "clean_prediction", "prediction"):
        assert own[name].equals(own[f"{name}_measured"])
    assert own[["norm", "epsilon"]].equals(
        own[["norm_measured", "epsilon_measured"]].set_axis(["norm", "epsilon"], axis=1)
    )
    right = table["clean_prediction"] == table["label"]
    assert (table["fooled"] == (right & (table["prediction"] != table["label"]))).all()
    sources = right.groupby([table["classifier"], table["sample"]]).first()
    assert all(
        sources[source, sample] for source, sample in table.loc[table["attacked"], ["source", "sample"]].to_numpy()
    )
    meta = store.read_metadata(results / f"measurements/digits/{names[0]}/transfer.parquet")
    views = {f"views/{name}/{attack}" for name in names for attack in ("df", "pgd")}
    assert set(meta["inputs"]) == {"classifier", "data", *views}


def test_second_run_does_nothing(finished: Checkout) -> None:
    assert finished.planned() == Counter()
    assert "Nothing to be done" in finished.run().stderr


def touch(path: Path) -> None:
    os.utime(path)


def replace(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("config.yaml", touch),
        ("config.yaml", replace("seed", "# a comment\nseed")),
        ("pipeline/attacks/deepfool.py", touch),
        ("pipeline/attacks/deepfool.py", replace("def deepfool(", "# a comment\n\n\ndef deepfool(")),
        ("pipeline/store.py", replace('"""', '"""Another docstring. ')),
    ],
)
def test_cosmetic_edits_re_run_nothing(edited: Checkout, file: str, edit: Callable[[Path], None]) -> None:
    edit(edited.folder / file)
    assert edited.planned() == Counter()


def change(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        entry = config
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        # the attack on two classifiers, the three measurements that look at it, and what follows
        (change("attacks", "df", "steps", value=6), {"attack": 2, "measure": 6, "collect": 3, "report": 1}),
        (change("measurements", "margin", "step", value=2), {"measure": 2, "collect": 1, "report": 1}),
        (
            change("corruptions", "contrast", value={"constants": "cifar"}),
            {"corrupt": 1, "measure": 2, "collect": 1, "report": 1},
        ),
        # one training: its attacks and measurements, and of the other classifier how they transfer to it
        (
            change("trainings", "robust", "steps", value=2),
            {"train": 1, "attack": 2, "measure": 7, "collect": 5, "report": 1},
        ),
        # the evaluation set: nothing is trained again
        (
            change("datasets", "digits", "evaluation", value=20),
            {"prepare": 1, "corrupt": 2, "attack": 4, "measure": 12, "collect": 5, "report": 1},
        ),
        (change("title", value="Another"), {"report": 1}),
        # the same number, written otherwise: the page alone, which shows the config as it is written
        (change("attacks", "pgd", "epsilon", value="16/510"), {"report": 1}),
    ],
)
def test_an_edit_of_the_config_re_runs_its_descendants(
    edited: Checkout, edit: Callable[[dict[str, Any]], None], expected: dict[str, int]
) -> None:
    config = copy.deepcopy(tiny_config())
    edit(config)
    edited.write(config)
    assert edited.planned() == Counter(expected)


def test_an_edit_of_one_attack_re_runs_that_attack(edited: Checkout) -> None:
    path = edited.folder / "pipeline/attacks/pgd.py"
    path.write_text(path.read_text() + "\n\nUNUSED = 1\n")
    assert edited.planned() == Counter({"attack": 2, "measure": 6, "collect": 3, "report": 1})


@pytest.mark.parametrize("what", ["option", "code"])
def test_a_job_killed_in_a_re_run_is_not_forgotten(edited: Checkout, what: str) -> None:
    """Snakemake removes its output, and would take what was made from the old one for up to date."""
    target = "results/attacks/digits/tiny--robust--0/pgd.safetensors"
    records = edited.folder / ".snakemake/metadata"
    shutil.copytree(records, edited.folder / "records")
    kept = (edited.folder / target).rename(edited.folder / "kept.safetensors")
    try:
        assert edited.run("--cleanup-metadata", target).returncode == 0  # as after a failed job
        if what == "option":
            config = tiny_config()
            config["attacks"]["pgd"]["steps"] = 3
            edited.write(config)
        else:
            path = edited.folder / "pipeline/attacks/pgd.py"
            path.write_text(path.read_text() + "\n\nUNUSED = 1\n")
        assert edited.planned() == Counter({"attack": 2, "measure": 6, "collect": 3, "report": 1})
    finally:
        kept.rename(edited.folder / target)
        shutil.rmtree(records)
        (edited.folder / "records").rename(records)


def test_a_wrong_flag_reaches_the_report_and_other_code_is_tested_anew(edited: Checkout) -> None:
    table, code = "results/selftest/selftest.parquet", edited.folder / "pipeline/selftest/run.py"
    sound = code.read_text()
    replace("rows = _rows(out)", 'rows = [Row("silent", True, ())]')(code)
    edited.write({**tiny_config(), "selftest": True})
    try:
        assert edited.planned() == Counter({"selftest": 1, "report": 1})
        result = edited.run(table)
        assert result.returncode == 0, result.stdout + result.stderr
        assert pd.read_parquet(edited.folder / table)["verdict"].tolist() == ["wrong"]
        assert edited.planned() == Counter({"report": 1})
        commands = edited.run("--dry-run", "--printshellcmds").stdout
        assert re.search(
            rf" -m pipeline report --tables .*{table} .*--out results .* --benchmarks results/benchmarks ", commands
        )
        code.write_text(sound.replace("IMAGES = 150", "IMAGES = 151"))
        assert edited.planned() == Counter({"selftest": 1, "report": 1})
    finally:
        shutil.rmtree(edited.folder / "results/selftest", ignore_errors=True)


def test_processes_of_a_training_are_started_by_the_launcher(edited: Checkout) -> None:
    config = tiny_config()
    config["trainings"]["standard"]["processes"] = 2
    config["device"] = "cuda"
    edited.write(config)
    result = edited.run("--dry-run", "--printshellcmds")
    commands = [line for line in result.stdout.splitlines() if " -m pipeline train " in line]
    assert [" -m torch.distributed.run --standalone --nproc-per-node 2 -m pipeline" in line for line in commands] == [
        True
    ]


def test_a_wrong_config_stops_before_any_job(edited: Checkout) -> None:
    config = tiny_config()
    config["attacks"]["df"]["step"] = 3
    edited.write(config)
    result = edited.run()
    assert result.returncode != 0
    assert "config.yaml: attacks.df: deepfool has no option 'step' (did you mean 'steps'?)" in result.stderr


def test_collect_refuses_what_another_config_made(edited: Checkout) -> None:
    """Also where Snakemake's own records are lost."""
    config = tiny_config()
    config["attacks"]["df"]["steps"] = 6
    edited.write(config)
    (edited.folder / ".snakemake").rename(edited.folder / "kept")
    (edited.folder / "results/tables/perturbation.parquet").rename(edited.folder / "table")
    try:
        result = edited.run("results/tables/perturbation.parquet")
        log = (edited.folder / "results/logs/collect/perturbation.log").read_text()
    finally:
        shutil.rmtree(edited.folder / ".snakemake")
        (edited.folder / "kept").rename(edited.folder / ".snakemake")
        (edited.folder / "table").rename(edited.folder / "results/tables/perturbation.parquet")
    assert result.returncode != 0
    assert "made with another config than the present one" in log


def test_training_killed_half_way_leaves_no_output_and_the_next_run_goes_on_with_it(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    config = tiny_config()
    config["trainings"] = {"standard": {"epochs": 40, "batch_size": 16, "learning_rate": 0.05}}
    config["checkpoint_minutes"] = 0
    checkout.write(config)
    model = checkout.folder / "results/models/digits/tiny--standard--0.safetensors"
    log = checkout.folder / "results/logs/train/digits/tiny--standard--0.log"
    target = str(model.relative_to(checkout.folder))
    head = subprocess.Popen(
        checkout.command(target),
        cwd=checkout.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not (log.is_file() and "epoch 3/40" in log.read_text()):
        assert head.poll() is None, "ended before its third epoch"
        try:
            head.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    trainings = [
        process
        for process in psutil.Process(head.pid).children(recursive=True)
        if "train" in process.cmdline() and process.cmdline()[0] == sys.executable
    ]
    assert trainings
    for process in trainings:
        process.send_signal(signal.SIGKILL)
    output, _ = head.communicate()
    assert head.returncode != 0, output
    assert not model.exists()
    assert not list((checkout.folder / "results").rglob(".*safetensors")), "no half-written file"
    assert (checkout.folder / "results/data/digits/train.safetensors").is_file(), "finished work is kept"
    result = checkout.run(target)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"going on in epoch ([3-9]|\d\d)/40", log.read_text()), "not from the beginning"
    assert len(store.read_metadata(model)["history"]) == 40
    assert not list((checkout.folder / "results").rglob("*.checkpoint"))
