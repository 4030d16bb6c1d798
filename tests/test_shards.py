"""Attacks and measurements divided among jobs by their samples: the same images, the same rows."""

from __future__ import annotations

import functools
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import commandline, registry, specs, store
from pipeline.contracts import UserError
from pipeline.models.nets import mlp
from pipeline.stages import shards
from pipeline.stages.collect import collect
from pipeline.stages.measure import measure
from tests.planrunner import run_plan
from tests.test_every_method import MEASURED, QUICK
from workflow.common import Plan

INDEPENDENT = [name for name in registry.names("measurement") if specs.independent(name) is not None]
NUMBERS = (1, 2, 5)
# all shards together take the first ones
SAMPLES = {"augmentation_distance": 7, "curvature": 20, "dct_margin": 31, "gallery": 6}


@pytest.mark.parametrize("name", registry.names("attack"))
def test_shards_do_not_matter_to_an_attack(name: str) -> None:
    torch.manual_seed(0)
    model = mlp(num_classes=4, in_chans=1, size=(6, 6), depth=1, width=16).double().eval().requires_grad_(False)
    images = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    model[-1].bias -= model(images).mean(0)  # so that every class is predicted
    labels = model(images).argmax(1)
    seeds = torch.arange(40) + 7
    options = {key: option.default for key, option in registry.options("attack", name).items()} | QUICK[name]

    def attacked(count: int) -> torch.Tensor:
        attack = registry.load("attack", name)
        parts = zip(*(part.tensor_split(count) for part in (images, labels, seeds)), strict=True)
        return torch.cat([attack(model=model, images=x, labels=y, seeds=s, **options) for x, y, s in parts])

    whole = attacked(1)
    assert not torch.equal(whole, images), "the attack does something"
    for count in (2, 5):
        torch.testing.assert_close(attacked(count), whole, rtol=0, atol=1e-3)


def test_shards_are_all_samples_in_order() -> None:
    for count in (5, 6, 17, 100):
        for of in (1, 2, 5):
            parts = [range(count)[shards.rows({"index": index, "of": of}, count)] for index in range(1, of + 1)]
            assert [row for part in parts for row in part] == list(range(count))
            assert {len(part) for part in parts} <= {count // of, -(-count // of)}
    assert shards.rows(None, 7) == slice(0, 7)
    with pytest.raises(UserError, match="given 5 for 4 samples, expected at most 4"):
        shards.rows({"index": 1, "of": 5}, 4)


def config(count: int | None) -> dict[str, Any]:
    """Every measurement that may be split, and one that may not but looks at attacks that are."""
    own = {"shards": count} if count else {}
    few = {name: {"samples": samples} for name, samples in SAMPLES.items()}
    split = {name: {**MEASURED[name], **few.get(name, {}), **own} for name in INDEPENDENT}
    for name in ("curvature", "transfer"):
        split[name]["views"] = ["minimal", "bounded"]
    return {
        "selftest": False,
        "datasets": {"digits": {"source": "digits", "train_size": 300, "evaluation": 90}},
        "architectures": {"mlp": {"model": "mlp", "depth": 1, "width": 16}},
        "trainings": {"standard": {"epochs": 4, "batch_size": 32, "learning_rate": 0.1}},
        "seeds": [0, 1],
        "corruptions": {"contrast": {"constants": "cifar"}},
        "attacks": {
            "minimal": {"method": "deepfool", "steps": 4, **own},
            "bounded": {"method": "pgd", "epsilon": 0.1, "steps": 2, "step_size": 0.02, **own},
        },
        "measurements": {**split, "perturbation": {"views": "attacks"}},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[int, Path]]:
    """Results by number of shards; one sample at a time, so that not even the rounding may differ."""
    with pytest.MonkeyPatch.context() as patch:
        for stage in ("attack", "measure"):
            module = importlib.import_module(f"pipeline.stages.{stage}")
            patch.setattr(module, stage, functools.partial(getattr(module, stage), batch_size=1))
        yield {count: run_plan(config(count), tmp_path_factory.mktemp(f"shards{count}")) for count in NUMBERS}


def rows_of(table: Path) -> pa.Table:
    return pq.read_table(table).replace_schema_metadata(None)


@pytest.mark.parametrize("kind", [*INDEPENDENT, "perturbation"])
def test_tables_are_the_same_for_any_number_of_shards(finished: Mapping[int, Path], kind: str) -> None:
    whole = rows_of(finished[1] / f"tables/{kind}.parquet")
    assert len(set(whole["sample"].to_pylist())) == SAMPLES.get(kind, 90)
    for count in NUMBERS[1:]:
        files = sorted((finished[count] / "measurements/digits/mlp--standard--0").glob(f"{kind}*"))
        assert len(files) == (1 if kind == "perturbation" else count)
        assert rows_of(finished[count] / f"tables/{kind}.parquet").equals(whole)


def test_what_an_attack_says_of_all_its_samples(finished: Mapping[int, Path]) -> None:
    """The first 64 that are classified correctly are probed, whoever has them."""
    for attack, probed in (("minimal", 0), ("bounded", 64)):
        for classifier in ("mlp--standard--0", "mlp--standard--1"):
            found = []
            for count in NUMBERS:
                files = sorted((finished[count] / f"attacks/digits/{classifier}").glob(f"{attack}*"))
                metas = [store.read_metadata(path) for path in files]
                assert len(metas) == count
                assert sum(meta["counts"]["probed"] for meta in metas) == probed
                joined = shards.joined(metas)
                found.append([joined[name] for name in ("counts", "forward_passes", "large_epsilon_success")])
            assert found[0] == found[1] == found[2]
            assert found[0][0]["attacked"] > 64, "some are left that are not probed"


def test_a_missing_shard_is_refused(finished: Mapping[int, Path], tmp_path: Path) -> None:
    results = finished[2]
    folder = results / "measurements/digits/mlp--standard--0"
    one, two = (folder / f"accuracy.{index}-of-2.parquet" for index in (1, 2))
    for tables in ([one], [two], [two, one], [one, one]):
        with pytest.raises(UserError, match="given the shards .*expected all 2, in order"):
            collect(spec={"kind": "accuracy"}, code="", tables=tables, lineages=[], out=tmp_path / "t.parquet")
    other = results / "measurements/digits/mlp--standard--1/accuracy.2-of-2.parquet"
    with pytest.raises(UserError, match="a shard of classifier"):
        collect(spec={"kind": "accuracy"}, code="", tables=[one, other], lineages=[], out=tmp_path / "t.parquet")
    spec = specs.complete("measure", {"method": "accuracy"})
    given: dict[str, Any] = {"spec": spec, "code": "", "out": tmp_path / "t.parquet"}
    given["classifier"] = results / "models/digits/mlp--standard--0.safetensors"
    given["data"] = results / "data/digits/evaluation.safetensors"
    with pytest.raises(UserError, match="given the shards 2 of 2, expected all 2, in order"):
        measure(views=[results / "attacks/digits/mlp--standard--0/minimal.2-of-2.safetensors"], **given)
    assert not list(tmp_path.iterdir())


def test_tables_may_be_named_on_standard_input(
    finished: Mapping[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = sorted((finished[2] / "measurements/digits/mlp--standard--0").glob("accuracy*"))
    lines = [f"{store.read_metadata(path)['lineage']} {path}\n" for path in tables]
    out = tmp_path / "t.parquet"
    command = ["collect", "--spec", json.dumps({"kind": "accuracy"}), "--tables", "-", "--out", str(out)]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(lines)))
    assert commandline.main(command) == 0
    assert pq.read_metadata(out).num_rows == sum(pq.read_metadata(path).num_rows for path in tables)
    for text, message in ((f"0123 {tables[0]}\n", "another config"), (f"{tables[0]}\n", "not a lineage, a blank")):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert commandline.main(command) == 2
        assert message in capsys.readouterr().err


def test_one_shard_is_none() -> None:
    """An entry that says so has the files and params that it had without."""
    plain, one = (Plan({**config(None), "results": "results"}), Plan({**config(1), "results": "results"}))
    assert one.jobs == plain.jobs
    assert [one.targets(stage) for stage in ("attack", "collect")] == [
        plain.targets(stage) for stage in ("attack", "collect")
    ]
    assert all("shard" not in spec for jobs in one.jobs.values() for spec in jobs.values())
    classifier = {"dataset": "digits", "classifier": "mlp--standard--0"}
    for stage, noun in (("attack", "minimal"), ("measure", "accuracy")):
        wildcards = {**classifier, specs.KINDS[stage][0]: noun}
        assert one.origin(stage, wildcards) == plain.origin(stage, wildcards)


def test_shards_are_known_to_those_that_read_them() -> None:
    plan = Plan(config(5))
    where = {"dataset": "digits", "classifier": "mlp--standard--0"}
    part = {**where, "measurement": "transfer.2-of-5"}
    assert plan.job("measure", part)["shard"] == {"index": 2, "of": 5}
    assert plan.job("measure", part)["measurement"] == "transfer", "the rows' id, from which the seeds come"
    attacks = [values for stage, values in plan.inputs("measure", part) if stage == "attack"]
    assert len(attacks) == 2 * 2 * 5, "attacks, classifiers, shards"
    tables = [table["measurement"] for table in plan.tables("accuracy")]
    assert tables == [f"accuracy.{index}-of-5" for index in range(1, 6)] * 2


@pytest.mark.parametrize("name", sorted(set(registry.names("measurement")) - set(INDEPENDENT)))
def test_what_looks_across_samples_is_not_split(name: str) -> None:
    given = config(None)
    given["measurements"] = {"split": {**MEASURED[name], "method": name, "shards": 2}}
    given["measurements"]["split"] |= {"views": "minimal"} if "deepfool" in MEASURED[name].get("views", ()) else {}
    with pytest.raises(UserError) as caught:
        Plan(given)
    message = f"config.yaml: measurements.split.shards: given 2 shards, but {name} looks across samples"
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "entry", "message"),
    [
        (
            "attacks",
            {"method": "deepfool", "shards": 0},
            "given 0, expected a whole number from 1 to 1000",
        ),
        ("attacks", {"method": "deepfool", "shards": "2"}, "attacks.a.shards: given '2', expected a whole number"),
        (
            "attacks",
            {"method": "deepfool", "shards": 91},
            "attacks.a.shards: given 91 for 90 samples, expected at most",
        ),
        (
            "measurements",
            {"method": "dct_margin", "size": 4, "samples": 3, "shards": 4},
            "measurements.a.shards: given 4 for 3 samples, expected at most 3",
        ),
        (
            "measurements",
            {"method": "augmentation_distance", "views": "corruptions", "mode": "mean", "shards": 2},
            "measurements.a.shards: given 2 shards, but mode mean looks across samples; only per_image may be split",
        ),
        ("corruptions", {"method": "contrast", "shards": 2}, "corruptions.a: contrast has no option 'shards'"),
    ],
)
def test_wrong_numbers_of_shards(section: str, entry: dict[str, Any], message: str) -> None:
    given = config(None)
    given[section]["a"] = entry
    with pytest.raises(UserError, match=message):
        Plan(given)


@pytest.mark.parametrize("shard", [{"index": 3, "of": 2}, {"index": 1}, {"index": 0, "of": 2}, {"part": 1, "of": 2}, 2])
def test_wrong_shards_by_hand(shard: Any) -> None:
    with pytest.raises(UserError, match="--spec.shard: given"):
        specs.complete("attack", {"method": "deepfool", "shard": shard})
