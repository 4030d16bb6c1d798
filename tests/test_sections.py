"""Every module of the page's sections is asked, and what it gives reaches page and files."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from pipeline import registry
from pipeline.report import boards, leaderboard, outcomes, profile, sections
from pipeline.report.claims import CLAIMS, HOLDS, UNTESTED, Claim
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, canvas, render
from tests.test_report import accuracy, keys, margins, run, write

MODULES = (*sections.MEASURED, *sections.ACROSS)
FOLDER = Path(sections.__file__).parent


def name(module: Any) -> str:
    return str(module.__name__).rpartition(".")[2]


def planted(title: str) -> Chart:
    with canvas(1, 1) as figure:
        png, svg = render(figure)
    return Chart(title, f"Planted {title}", "A caption.", "What is shown " * 5, png, svg, pd.DataFrame({"x": [1]}))


@pytest.mark.parametrize("module", [*MODULES, profile], ids=name)
def test_contract(module: Any) -> None:
    assert module.SECTION and module.TEXT.endswith(".")
    first = "tables" if module is profile else "rows"
    assert list(inspect.signature(module.draw).parameters) == [first, "classifiers", "look", "seed"]
    if module is profile:
        return
    assert module.KIND in outcomes.KINDS and module.KIND in registry.names("measurement")
    across = ["config"] if module in sections.ACROSS else []
    assert list(inspect.signature(module.claims).parameters) == ["rows", "classifiers", "seed", *across]
    if across:
        assert list(inspect.signature(module.draw_across).parameters) == ["rows", "classifiers", "config", "seed"]


def test_every_module_with_a_section_is_listed() -> None:
    files = {file.stem for file in FOLDER.glob("*.py") if re.search(r"^TEXT = ", file.read_text(), re.MULTILINE)}
    assert files - {"leaderboard"} == {*map(name, (*MODULES, *sections.COMPARED)), "profile"}


def test_every_kind_of_measurement_is_shown_or_said_to_be_missing() -> None:
    assert set(outcomes.KINDS) == set(registry.names("measurement"))


def test_every_claim_is_decided_somewhere() -> None:
    text = "".join(file.read_text() for file in FOLDER.glob("*.py") if file.stem != "claims")
    assert not [key for key in CLAIMS if f'"{key}"' not in text]


@pytest.fixture(autouse=True)
def keys_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of keys alone have nothing that a profile could join."""
    if "profile" not in request.node.name:
        monkeypatch.setattr(profile, "joined", lambda tables, classifiers: pd.DataFrame(columns=["seed"]))
        monkeypatch.setattr(profile, "draw", lambda *given: iter([]))
        monkeypatch.setattr(boards, "everything", lambda tables, members, *given: [leaderboard.build(members, *given)])


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Every module gives a chart of each data set, one across all where it can, and a claim; what they were given."""
    asked: dict[str, list[Any]] = {}

    def stub(module: Any, key: str) -> None:
        own = name(module)

        def draw(rows: Any, classifiers: Any, look: Any, seed: int) -> Iterator[Chart]:
            asked.setdefault(f"{own}.draw", []).append((rows, [o.classifier for o in classifiers], seed))
            yield planted(f"one_{own}")

        def draw_across(rows: Any, classifiers: Any, config: Any, seed: int) -> Iterator[Chart]:
            asked.setdefault(f"{own}.draw_across", []).append((rows, config))
            yield planted(f"across_{own}")

        def claims(rows: Any, classifiers: Any, seed: int, config: Any = None) -> Iterator[Claim]:
            asked.setdefault(f"{own}.claims", []).append((rows, config))
            yield Claim(key, "d0", own, "number", 3, Interval(2.0, 1.0, 3.0), "number", HOLDS)

        for function in (draw, draw_across, claims):
            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, function)

    for place, module in enumerate((*MODULES, profile)):
        stub(module, list(CLAIMS)[place])
    return asked


def rows_of_all() -> dict[str, pd.DataFrame]:
    """Tables with the keys of two data sets alone; nothing but these kinds was measured."""
    rows = [{**keys(f"d{i}", "a", training), "sample": "s"} for i in range(2) for training in ("standard", "x")]
    return {module.KIND: pd.DataFrame(rows) for module in MODULES if module.KIND != "dct_margin"}


def test_charts_and_claims_of_every_module_reach_page_and_files(tmp_path: Path, stubbed: dict[str, list[Any]]) -> None:
    frames = rows_of_all()
    frames["dct_margin"] = pd.DataFrame(margins(keys("d0", "a", "standard"), [1.0], [True]))
    spec = {"datasets": {"d0": None, "d1": None}}
    files = run(tmp_path / "out", write(tmp_path / "tables", frames), spec=spec, seed=3)
    page = files["report/index.html"].decode()
    for module in MODULES:
        own = name(module)
        datasets = ["d0"] if module.KIND == "dct_margin" else ["d0", "d1"]
        for dataset in datasets:
            assert f"figures/{dataset}_one_{own}.png" in files
        assert page.count(f"<h3>Planted one_{own}</h3>") == len(datasets)
        section = page.partition(f'">{module.SECTION}</h2>')[2].partition("<h2")[0]
        assert f"Planted one_{own}" in section and section.count(str(escape(module.TEXT))) == 1
        for (rows, names, seed), dataset in zip(stubbed[f"{own}.draw"], datasets, strict=True):
            assert set(rows["dataset"]) == {dataset} and seed == 3
            assert names == ["a--standard--0", "a--x--0"]
        ((rows, config),) = stubbed[f"{own}.claims"]
        assert set(rows["dataset"]) == set(datasets) and f'<td data-sort="{own}">' in page
        if module in sections.ACROSS:
            assert config == spec and stubbed[f"{own}.draw_across"][0][1] == spec
            assert f"figures/all_across_{own}.svg" in files and f"Planted across_{own}" in section
    tables = [given[0] for given in stubbed["profile.draw"]]
    assert [{kind for kind, rows in table.items() if len(rows)} for table in tables] == [
        {m.KIND for m in MODULES},
        {m.KIND for m in MODULES} - {"dct_margin"},
    ]
    found = pd.read_csv(io.BytesIO(files["claims.csv"]))
    assert (found["verdict"] == HOLDS).sum() == len(MODULES)
    assert f"{len(CLAIMS) - len(MODULES)} of {len(CLAIMS)} claims were not tested" in " ".join(page.split())
    assert page.count(f">{UNTESTED}</td>") == len(CLAIMS) - len(MODULES)
    board = pq.read_table(pa.BufferReader(files["leaderboard.parquet"])).to_pandas()
    assert len(board) == 4, "classifiers of which nothing else was measured"


def test_without_a_config_nothing_is_compared_across_data_sets(tmp_path: Path, stubbed: dict[str, list[Any]]) -> None:
    files = run(tmp_path / "out", write(tmp_path / "tables", rows_of_all()))
    assert not [key for key in stubbed if key.endswith("draw_across")]
    assert not [file for file in files if "figures/all" in file]


def test_a_data_set_called_all_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sections.ACROSS[-1]
    monkeypatch.setattr(module, "draw", lambda *given: iter([planted("same")]))
    monkeypatch.setattr(module, "draw_across", lambda *given: iter([planted("same")._replace(caption="Across.")]))
    monkeypatch.setattr(module, "claims", lambda *given, config: iter([]))
    frames = {module.KIND: pd.DataFrame([{**keys("all", "a", "standard"), "sample": "s"}])}
    files = run(tmp_path / "out", write(tmp_path / "tables", frames), spec={"datasets": {"all": None}})
    assert {file for file in files if file.endswith(".png")} == {"figures/all_same.png", "figures/all_same_.png"}


def test_a_section_that_is_not_listed_is_shown_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sections.ACROSS[-1]
    monkeypatch.setattr(module, "draw", lambda *given: iter([planted("odd")._replace(section="Odd ends")]))
    monkeypatch.setattr(module, "claims", lambda *given, config: iter([]))
    frames = {module.KIND: pd.DataFrame([{**keys("d", "a", "standard"), "sample": "s"}])}
    page = run(tmp_path / "out", write(tmp_path / "tables", frames))["report/index.html"].decode()
    assert "Planted odd" in page.partition(">Odd ends</h2>")[2].partition("<h2")[0]


def test_modules_of_one_section_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (type("M", (), {"SECTION": "S", "TEXT": text}) for text in ("First.", "Second."))
    monkeypatch.setattr(sections, "MEASURED", (one, other, other))
    monkeypatch.setattr(sections, "ACROSS", ())
    monkeypatch.setattr(sections, "COMPARED", ())
    texts = sections.texts()
    assert texts["S"] == "First. Second."
    assert list(texts) == [*sections.SEEDED, "S", profile.SECTION]


def test_maps_over_blocks_are_no_curves() -> None:
    key = keys("d", "a", "standard")
    rows = pd.DataFrame(margins(key, [1.0, 2.0], [True, True]))
    diagonal = rows.assign(column=rows["frequency"], measurement="diagonal")
    grid = pd.concat([diagonal, diagonal.assign(column=diagonal["frequency"] + 2)]).assign(measurement="grid")
    (old,) = outcomes.gather({"dct_margin": rows})
    (new,) = outcomes.gather({"dct_margin": pd.concat([diagonal, grid, rows])})
    assert list(old.margins) == ["m"] and list(new.margins) == ["diagonal", "m"]
    assert new.margins["diagonal"].equals(old.margins["m"]) and list(new.frequency) == ["diagonal", "m"]


def test_profile_is_a_file_that_says_what_its_fields_mean(tmp_path: Path) -> None:
    rows = [row for t in ("standard", "x") for row in accuracy(keys("d", "a", t), [True, False, True])]
    files = run(tmp_path / "out", write(tmp_path / "tables", {"accuracy": pd.DataFrame(rows)}))
    table = pq.read_table(pa.BufferReader(files["profile.parquet"]))
    assert table.num_rows == 6 and table["correct"].to_pylist() == [1.0, 0.0, 1.0] * 2
    assert all(table.schema.field(column).metadata[b"meaning"] for column in table.column_names)
    assert b"pipeline" in table.schema.metadata
    nothing = run(tmp_path / "empty", {})["profile.parquet"]
    assert pq.read_table(pa.BufferReader(nothing)).num_rows == 0
