"""Transfer of perturbations, and the report's comparisons of attacks with each other, in closed form."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import store
from pipeline.contracts import UserError, View
from pipeline.measurements.transfer import transfer
from pipeline.numerics.box import UNIT
from pipeline.report import envelope, figures, leaderboard, outcomes, sections, sparse
from pipeline.report import transfer as transfers
from pipeline.report.statistics import wilson
from pipeline.report.style import Chart
from pipeline.stages import measure
from pipeline.stages.inputs import Evaluation
from pipeline.stages.space import Space
from tests.oracles import Affine
from tests.test_report import accuracy, keys, margins, perturbation
from tests.test_report import transfer as rows_of
from tests.tiny import tiny_config
from workflow.common import Plan


def sign_classifier() -> Affine:
    """Class 1 where the two pixels sum to more than 1."""
    return Affine(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.0, -1.0]))


def pixels(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).view(-1, 1, 1, 2)


def test_rows_of_a_measurement() -> None:
    clean = pixels([0.4, 0.4], [0.4, 0.4], [0.4, 0.4], [0.9, 0.9])
    seen = pixels([0.6, 0.6], [0.4, 0.4], [0.4, 0.3], [0.2, 0.2])
    views = [
        View("pgd", "attack", None, images, {"classifier": source, "norm": "linf", "epsilon": 0.2})
        for source, images in (("a", seen), ("b", clean))
    ]
    table = transfer(
        model=sign_classifier(), images=clean, labels=torch.zeros(4).long(), seeds=clean, views=views, batch_size=3
    )
    assert table["row"] == [0, 1, 2, 3] * 2
    assert table["source"] == ["a"] * 4 + ["b"] * 4
    assert (table["norm"], table["epsilon"]) == (["linf"] * 8, [0.2] * 8)
    assert table["clean_prediction"] == [0, 0, 0, 1] * 2
    assert table["prediction"] == [1, 0, 0, 0, 0, 0, 0, 1]
    assert table["attacked"] == [True, False, True, True] + [False] * 4
    # the last image is misclassified without an attack
    assert table["fooled"] == [True] + [False] * 7


def test_nan_logits_fool_nobody() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [math.nan, 1.0]]), torch.tensor([0.0, -1.0]))
    view = View("pgd", "attack", None, pixels([1.0, 1.0]), {"classifier": "a", "norm": "l2", "epsilon": None})
    given: dict[str, Any] = {"labels": torch.zeros(1).long(), "seeds": torch.zeros(1), "views": [view], "batch_size": 1}
    assert transfer(model=model, images=pixels([0.1, 0.1]), **given)["fooled"] == [False]


def test_plan_reads_the_attacks_on_every_classifier_of_the_data_set() -> None:
    config = tiny_config()
    config["datasets"]["other"] = {"source": "digits", "evaluation": 12}
    brought = {"dataset": "digits", "model": "resnet18", "weights": "README.md", "mean": [0.5], "std": [1]}
    config["classifiers"] = {"mine": brought}
    wildcards = {"dataset": "digits", "classifier": "mine", "measurement": "transfer"}
    plan = Plan(config)
    read = [values for stage, values in plan.inputs("measure", wildcards) if stage == "attack"]
    everyone = {"mine", "tiny--standard--0", "tiny--robust--0"}
    assert sorted((v["classifier"], v["attack"]) for v in read) == sorted(
        (c, a) for c in everyone for a in ("df", "pgd")
    )
    assert {values["dataset"] for values in read} == {"digits"}
    one = [values for _, values in plan.inputs("measure", {**wildcards, "measurement": "perturbation"})]
    assert {values.get("classifier", "mine") for values in one} == {"mine"}
    # what one classifier's training says is part of how the other's table came to be
    config["trainings"]["robust"]["steps"] = 7
    changed = Plan(config)
    for name in ("transfer", "perturbation"):
        job = {**wildcards, "measurement": name}
        assert (plan.lineage("measure", job) != changed.lineage("measure", job)) == (name == "transfer")
        assert (plan.origin("measure", job) != changed.origin("measure", job)) == (name == "transfer")


def test_only_attacked_images_transfer() -> None:
    config = tiny_config()
    config["measurements"]["transfer"] = None
    with pytest.raises(UserError, match=r"measurements.transfer.views: transfer does not measure on a clean view"):
        Plan(config)


def image_file(path: Path, value: float, ids: list[str], **meta: Any) -> Path:
    images = np.full((len(ids), 1, 2, 2), value, dtype=np.float32)
    if "severities" in meta:
        images = np.stack([255 * images, 0 * images]).astype(np.uint8)
    store.write_tensors(path, {"images": images, "ids": store.pack(ids)}, meta)
    return path


def attack_file(folder: Path, name: str, value: float, dataset: str = "d") -> Path:
    made_on = {"dataset": dataset, "classifier": name}
    path = folder / name / "pgd.safetensors"
    return image_file(
        path, value, ["x", "y"], stage="attack", spec={"attack": "pgd"}, classifier=made_on, norm="l2", epsilon=None
    )


def test_files_of_views_are_read_when_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"dataset": "d", "classifier": "a"}
    noise = {"stage": "corrupt", "spec": {"corruption": "fog"}, "severities": [2, 4]}
    paths = [
        image_file(tmp_path / "d" / "fog.safetensors", 1.0, ["x", "y"], **noise),
        *(attack_file(tmp_path, name, value) for name, value in (("a", 0.25), ("b", 0.5))),
    ]
    files = [measure._file(path, own, any_source=True) for path in paths]
    assert [file.name for file in files] == ["views/d/fog", "views/a/pgd", "views/b/pgd"]
    opened: list[Path] = []
    read = store.read_tensors
    monkeypatch.setattr(store, "read_tensors", lambda path, *made_by: (opened.append(path), read(path, *made_by))[1])
    evaluation = Evaluation(
        torch.zeros(2, 1, 2, 2), torch.zeros(2).long(), ["x", "y"], Space(lambda images: images, UNIT)
    )
    views = measure._Views(evaluation, files, clean=True)
    assert len(views) == 5 and opened == []
    seen = [(view.kind, view.name, view.severity, float(view.images.mean())) for view in views]
    assert seen[0] == ("clean", "clean", None, 0)
    assert seen[1:3] == [("corruption", "fog", 2, 1), ("corruption", "fog", 4, 0)]
    assert seen[3:] == [("attack", "pgd", None, 0.25), ("attack", "pgd", None, 0.5)]
    assert [view.details.get("classifier") for view in views][3:] == ["a", "b"]
    assert opened == [*paths, *paths], "once for all severities"
    with pytest.raises(UserError, match="other evaluation samples"):
        list(measure._Views(evaluation._replace(ids=["x", "z"]), files, clean=False))


def test_images_of_another_classifier_need_a_measurement_that_says_so(tmp_path: Path) -> None:
    own = {"dataset": "d", "classifier": "a"}
    path = attack_file(tmp_path, "b", 0.5)
    with pytest.raises(UserError, match="made on b, not on a"):
        measure._file(path, own, any_source=False)
    assert measure._file(path, own, any_source=True).path == path
    with pytest.raises(UserError, match="made on e, not on d"):
        measure._file(attack_file(tmp_path, "a", 0.5, dataset="e"), own, any_source=True)


#             s0     s1     s2     s3     s4
RIGHT_A = [True, True, True, True, False]
RIGHT_B = [True, True, False, True, True]
A_ON_A = [True, True, True, False, False]  # what fools: s0, s1, s2
A_ON_B = [True, False, True, True, True]
B_ON_B = [False, True, True, False, True]  # s1, s4
B_ON_A = [True, True, True, True, True]
A, B = "n--standard--0", "n--robust--0"


def two_classifiers() -> dict[str, pd.DataFrame]:
    first, second = keys("d", "n", "standard"), keys("d", "n", "robust")
    rows = rows_of(first, A, "pgd", RIGHT_A, A_ON_A) + rows_of(first, B, "pgd", RIGHT_A, B_ON_A)
    rows += rows_of(second, A, "pgd", RIGHT_B, A_ON_B) + rows_of(second, B, "pgd", RIGHT_B, B_ON_B)
    return {"transfer": pd.DataFrame(rows)}


def pairs(tables: dict[str, pd.DataFrame]) -> dict[tuple[Any, ...], tuple[int, float]]:
    data = transfers.rates(transfers.outcomes_of(outcomes.gather(tables)))
    for row in data.to_dict("records"):
        if row["n"]:
            assert (row["share"], row["low"], row["high"]) == wilson(round(row["share"] * row["n"]), row["n"])
    return {(row["source"], row["target"]): (row["n"], row["share"]) for row in data.to_dict("records")}


def test_rates_count_what_both_classify_correctly_and_what_fooled_the_source() -> None:
    found = pairs(two_classifiers())
    assert found[A, A] == (4, 3 / 4)
    assert found[A, B] == (2, 1 / 2)  # s0 and s1; B misclassifies s2 anyway, s3 did not fool A
    assert found[B, B] == (4, 2 / 4)
    assert found[B, A] == (1, 1)  # s1; A misclassifies s4 anyway


def test_what_is_outside_its_budget_is_no_success_of_the_source() -> None:
    norms = [0.1, math.inf, 0.1, math.inf, 0.0]  # s1 fools, but the re-measured perturbation is refused
    tables = two_classifiers()
    tables["perturbation"] = pd.DataFrame(perturbation(keys("d", "n", "standard"), "pgd", "l2", 0.5, norms))
    found = pairs(tables)
    assert found[A, A] == (4, 2 / 4)
    assert found[A, B] == (1, 1)
    assert found[B, B] == (4, 2 / 4)


def test_a_source_that_was_not_measured_counts_nothing() -> None:
    tables = two_classifiers()
    tables["transfer"] = tables["transfer"][tables["transfer"]["classifier"] == A]
    found = pairs(tables)
    assert found[B, A][0] == 0 and math.isnan(found[B, A][1])
    assert found[A, A] == (4, 3 / 4)


def test_repeated_measurements_count_once() -> None:
    tables = two_classifiers()
    twice = pd.concat([tables["transfer"], tables["transfer"].assign(measurement="again")], ignore_index=True)
    assert pairs({"transfer": twice}) == pairs(tables)


def test_images_of_others_where_the_own_attack_failed() -> None:
    rows = transfers.outcomes_of(outcomes.gather(two_classifiers()))
    # B's own attack fails on s0 and s3; of A's images that fooled A, s0 fools it
    assert transfers.missed(rows, B) == wilson(1, 2)
    # A's own attack fails on s3, which B's attack failed on, too
    assert transfers.missed(rows, A) == wilson(0, 1)


def charts_of(tables: dict[str, pd.DataFrame]) -> list[Chart]:
    members = outcomes.gather(tables)
    return list(figures.draw(members, leaderboard.build(members), members))


def test_matrix_and_table_of_transfer() -> None:
    (chart,) = charts_of(two_classifiers())
    assert (chart.name, chart.section, len(chart.data)) == ("transfer", transfers.SECTION, 4)
    assert chart.table is not None
    robust = next(row for row in chart.table.rows if row[0].text == B)
    assert [cell.text for cell in robust] == [B, "4", "50.0", "50.0", A, "50.0"]
    assert chart.section in sections.texts()


def test_one_classifier_has_nothing_to_transfer_to() -> None:
    rows = rows_of(keys("d", "n", "standard"), A, "pgd", RIGHT_A, A_ON_A)
    assert charts_of({"transfer": pd.DataFrame(rows)}) == []


def minimal(found: dict[tuple[str, str, float | None], list[float]], **columns: Any) -> dict[str, pd.DataFrame]:
    rows = []
    for (attack, norm, epsilon), norms in found.items():
        rows += perturbation(keys("d", "n", "standard"), attack, norm, epsilon, norms)
    return {"perturbation": pd.DataFrame(rows).assign(**columns)}


def test_gap_to_the_smallest_perturbation_that_any_attack_found() -> None:
    inf = math.inf
    tables = minimal(
        {  # the last two: misclassified anyway, and found by none
            ("near", "l2", None): [1.0, 2.0, 2.01, 4.0, 0.0, inf],
            ("far", "l2", None): [1.5, 4.0, inf, inf, 0.0, inf],
            ("budget", "l2", 3.0): [3.0, 3.0, 2.0, inf, 0.0, inf],
            ("other", "linf", 9.0): [4.0, 4.0, 4.0, 1.0, 0.0, inf],
        }
    )
    near, far = sorted(envelope.gaps(outcomes.gather(tables)), key=lambda gap: gap.threat, reverse=True)
    assert (near.threat.attack, far.threat.attack, near.n, far.n) == ("near", "far", 4, 4)
    # smallest: 1, 2, 2, 1
    assert near.envelope.value == far.envelope.value == 1.5
    assert near.ratio.value == pytest.approx((1 + 1.005) / 2)
    assert near.excess.value == pytest.approx((0 + 0.01) / 2)
    assert near.within == wilson(3, 4)
    assert (far.ratio.value, far.excess.value) == (inf, inf)
    assert far.within == wilson(0, 4)
    for gap in (near, far):
        for value in (gap.envelope, gap.ratio, gap.excess):
            assert value.low <= value.value <= value.high
    charts = {chart.name: chart for chart in charts_of(tables)}
    data = charts["envelope"].data.set_index("attack")
    assert data["within"].to_dict() == {"near": 0.75, "far": 0}
    assert data.loc["near", "ratio_low"] == near.ratio.low


def test_an_attack_alone_is_compared_with_nothing() -> None:
    assert envelope.gaps(outcomes.gather(minimal({("df", "l2", None): [1.0, 2.0]}))) == []
    assert envelope.gaps(outcomes.gather(minimal({("a", "l2", 1.0): [1.0], ("b", "l2", 2.0): [2.0]}))) == []


def test_sparse_attacks_on_the_same_samples() -> None:
    inf = math.inf
    found = {("a", "l0", None): [1, 3, 5, 0, 8], ("b", "l0", 4.0): [2, inf, 4, 0, inf], ("c", "l2", None): [9] * 5}
    tables = minimal({key: [float(value) for value in values] for key, values in found.items()})
    table = tables["perturbation"]
    table["l0_entries"] = 3 * table["l0_entries"]
    tables["perturbation"] = table[~((table["attack"] == "b") & (table["sample"] == "s4"))]
    first, second = sparse.results(outcomes.gather(tables))
    assert (first.threat.attack, second.threat.attack) == ("a", "b")
    # s3 is misclassified anyway, s4 was attacked by one of them alone
    assert first.n == second.n == 3
    assert (first.success, second.success) == (wilson(3, 3), wilson(2, 3))
    assert (first.pixels.value, second.pixels.value) == (3, 4)
    assert (first.entries.value, second.entries.value) == (9, 12)
    assert (first.forward_passes, first.backward_passes) == (3.5, 2.0)
    assert math.isnan(first.success_8bit.value) and math.isnan(first.pixels_8bit.value)
    rounded = tables["perturbation"].assign(converged_8bit=lambda t: t["sample"] == "s2", l0_pixels_8bit=7.0)
    rounded["l0_pixels_8bit"] = rounded["l0_pixels_8bit"].where(rounded["converged_8bit"])
    first, _ = sparse.results(outcomes.gather({"perturbation": rounded}))
    assert first.success_8bit == wilson(1, 3)
    assert first.pixels_8bit.value == inf
    for given, headers in ((tables, 8), ({"perturbation": rounded}, 10)):
        (chart,) = [chart for chart in charts_of(given) if chart.name == "sparse"]
        assert chart.table is not None
        assert len(chart.table.headers) == len(chart.table.rows[0]) == headers
        assert "benchmarks" in chart.caption


def test_figures_of_many_trainings_keep_their_panels() -> None:
    tables: dict[str, list[Any]] = {"accuracy": [], "perturbation": [], "dct_margin": []}
    for architecture in ("a", "b"):
        for training in ("standard", *(f"training{number}" for number in range(12))):
            key = keys("d", architecture, training)
            tables["accuracy"] += accuracy(key, [True, False]) + accuracy(key, [True, False], "fog", 1)
            tables["perturbation"] += perturbation(key, "df", "l2", None, [1.0, 2.0])
            tables["dct_margin"] += margins(key, [1.0, 2.0], [True, True])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # constrained layout gives up with a warning
        charts = charts_of({kind: pd.DataFrame(rows) for kind, rows in tables.items()})
    corruption = {"corruption_errors", "corruption_map", "corruption_calibration", "corruption_differences"}
    assert {chart.name for chart in charts} >= {"overview", "corruptions", "robustness", "margins"} | corruption
