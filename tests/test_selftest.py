"""The self-test finds every broken defence by the signs that it should, and no sound classifier."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline import store
from pipeline.commandline import main
from pipeline.selftest import nets, run
from pipeline.selftest.run import BROKEN, SOUND, Row, markdown

ZERO, WRONG = "gradient is zero", "gradient does not say"
BOX, SEARCH, STEP = "with the whole box", "a random search", "a single step"
# factory -> what must be said of it, and what must not
EXPECTED = {
    "quantised": ({ZERO, WRONG}, {STEP}),
    "straight_through": ({WRONG}, {ZERO}),
    "saturated": ({ZERO}, {WRONG}),
    "softmax": ({"outputs are probabilities"}, {ZERO, WRONG}),
    "noisy": ({"random forward pass"}, {ZERO, WRONG}),
    "killed": ({ZERO, WRONG, BOX, SEARCH}, {STEP}),
    "reversed_gradient": ({WRONG, BOX, SEARCH}, {ZERO}),
    "train_mode": ({"predictions depend on the batch"}, {ZERO, WRONG}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("selftest")


def test_exit_code_0_and_a_table_where_all_is_right(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--out", str(folder)]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0] == "| defence | hides gradients | flags | verdict |"
    assert len(lines) == 2 + len(SOUND) + len(BROKEN) and len(SOUND) >= 2
    assert [line.count("| none | right |") for line in lines[2 : 2 + len(SOUND)]] == [1] * len(SOUND)
    assert (folder / "selftest.md").read_text() == shown


def test_what_it_runs_counts_for_the_digest_of_its_code(folder: Path) -> None:
    """Everything that a file of it was made by is among the modules."""
    made = {path: store.read_metadata(path)["spec"] for path in folder.rglob("*.*") if path.suffix != ".md"}
    kinds = {"source": "datasets", "attack": "attacks", "measurement": "measurements"}
    named = {f"pipeline.datasets.{spec['source']}" for spec in made.values() if "source" in spec}
    for spec in made.values():
        for kind, package in kinds.items():
            if kind in spec and "method" in spec:
                named.add(f"pipeline.{package}.{spec['method']}")
        if "model" in spec:
            named |= {spec["model"].partition(":")[0]}
            named |= {f"pipeline.training.{spec['method']}"} if "method" in spec else set()
    assert len(named) == 6 and named <= set(run.modules())
    stages = {store.read_metadata(path)["stage"] for path in made} - {"selftest"}
    assert {f"pipeline.stages.{stage}" for stage in stages} <= set(run.modules())
    assert store.read_metadata(folder / "selftest.parquet")["code"] == run.code()


def test_other_code_than_expected_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--out", str(tmp_path), "--code", "other"]) == 2
    assert "the code changed" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_each_broken_defence_is_found_by_its_own_signs(folder: Path) -> None:
    rows = pd.read_parquet(folder / "selftest.parquet").set_index("defence")
    assert list(rows.columns) == ["broken", "flags", "verdict"] and set(rows["verdict"]) == {"right"}
    assert set(EXPECTED) == set(BROKEN)
    for name, (said, unsaid) in EXPECTED.items():
        flags = rows.loc[BROKEN[name], "flags"]
        assert all(sign in flags for sign in said) and not any(sign in flags for sign in unsaid), (name, flags)
    assert store.read_metadata(folder / "selftest.parquet")["spec"]["broken"] == list(BROKEN)


def test_the_broken_predict_as_well_as_the_sound_network_that_they_hide(folder: Path) -> None:
    for name in BROKEN:
        table = pd.read_parquet(folder / name / "table.parquet")
        assert (table["label"] == table["clean_prediction"]).mean() > 0.85, name


def test_a_missing_flag_and_one_too_many_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, missing, extra = Row("a", True, ("x", "y")), Row("b", True, ()), Row("c", False, ("x",))
    assert markdown([right, missing, extra]).splitlines()[2:] == [
        "| a | yes | x; y | right |",
        "| b | yes | none | wrong |",
        "| c | no | x | wrong |",
    ]
    for rows, code in (([right], 0), ([right, missing], 1), ([extra, right], 1)):
        monkeypatch.setattr(run, "selftest", lambda out, expected, rows=rows: rows)
        assert main(["selftest"]) == code
        assert capsys.readouterr().out.startswith("| defence |")


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rows(folder: Path) -> list[Row]:
        assert folder.is_dir()
        seen.append(folder)
        return []

    monkeypatch.setattr(run, "_rows", rows)
    monkeypatch.chdir(tmp_path)
    assert run.selftest() == [] and not seen[0].exists() and not list(tmp_path.iterdir())


def test_weights_of_the_plain_network_fit_every_broken_one() -> None:
    state = nets.plain().state_dict()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in BROKEN:
        net = getattr(nets, name)()
        net.load_state_dict(state)
        assert net.eval()(images).shape == (4, 10)
