"""The pages as text: links arrive, ids cannot break out, nothing outside is loaded, and answers are the boards'."""

from __future__ import annotations

import base64
import html
import io
import itertools
import posixpath
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.report import (
    boards,
    comparisons,
    outcomes,
    paths,
    site,
    site_answers,
    site_boards,
    site_figures,
    vendored,
)
from pipeline.report.leaderboard import NUMBER, TEXT, Board, Column
from pipeline.report.pagetables import Table, words
from tests import browser as kit
from workflow.common import ROOT, Plan

VOID = ("meta", "img", "br", "input", "link")
MARKUP = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}</script><script>alert(2)</script>"


class Read(HTMLParser):
    """Tags with their attributes, ids, and the text outside of scripts and styles; checks that the markup nests."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[Any]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of each element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return kit.written(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def report(files: dict[str, Path]) -> dict[str, Read]:
    return {name: Read(path.read_text(encoding="utf-8")) for name, path in files.items()}


OWN = ("report/index.html", "leaderboard.html")


def test_every_link_arrives(report: dict[str, Read]) -> None:
    count = 0
    for name in OWN:
        for link in report[name].all("a"):
            path, _, fragment = link["href"].partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            assert target in report, link
            assert not fragment or fragment in report[target].ids, link
            count += bool(path)
    assert count > 50


def test_numbers_link_to_their_rows_and_gaps_to_none(report: dict[str, Read]) -> None:
    links = [link["href"] for link in report["report/index.html"].all("a")]
    for name in kit.MEDIANS:
        card = paths.card(kit.DATASET, name)
        assert card in links, "the name"
        assert f"{card}#{paths.anchor('overall', 'clean_accuracy')}" in links
        robust = f"{card}#{paths.anchor('overall', 'worst_case_robust_accuracy')}"
        assert (robust in links) == (kit.MEDIANS[name] is not None)
    from_above = [link["href"] for link in report["leaderboard.html"].all("a")]
    assert f"report/{paths.card(kit.OTHER, kit.BEST)}" in from_above


def test_pages_are_well_made(report: dict[str, Read]) -> None:
    for name in OWN:
        page = report[name]
        assert [value for value, times in Counter(page.ids).items() if times > 1] == []
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        regions = Counter(a["aria-label"] for _, a in page.tags if a.get("role") == "region")
        assert max(regions.values()) == 1, regions.most_common(2)
        assert len(page.all("main")) == 1 and page.all("html")[0]["lang"] == "en"
        assert all(head["scope"] in ("row", "col") for head in page.all("th"))
        assert all(len(image["alt"]) > 40 for image in page.all("img") if "src" in image)
        assert len(page.all("caption")) == len(page.all("table")) > 0


def test_nothing_outside_is_loaded(report: dict[str, Read]) -> None:
    for name in OWN:
        for tag, attributes in report[name].tags:
            assert tag not in ("link", "iframe", "object", "embed", "base")
            assert tag != "form" or attributes == {"method": "dialog"}
            assert re.match("data:image/", attributes.get("src", "data:image/"))
            assert ":" not in attributes.get("href", "") and "srcset" not in attributes
            assert not [key for key in attributes if key.startswith("on")]
        (policy,) = [a["content"] for a in report[name].all("meta") if "http-equiv" in a]
        assert policy.startswith("default-src 'none'; img-src data:;")
    for file in Path(site.__file__).parent.glob("templates/*.j2"):
        assert not re.search(r"https?:|@import|url\(http|\beval\b", file.read_text()), file


def test_ids_cannot_break_out_of_the_text(files: dict[str, Path], report: dict[str, Read], tmp_path: Path) -> None:
    best = kit.BEST + MARKUP  # in the same order as the plain ids
    renamed = {kit.BEST: best, "b--prime--0": "../..", kit.DATASET: kit.DATASET + MARKUP, kit.OTHER: "a/b c"}
    hostile = kit.written(tmp_path, renamed, title=f"title{MARKUP}")
    for name in OWN:
        text = hostile[name].read_text(encoding="utf-8")
        page, plain = Read(text), report[name]
        assert Counter(tag for tag, _ in page.tags) == Counter(tag for tag, _ in plain.tags)
        assert {(t, k) for t, a in page.tags for k in a} == {(t, k) for t, a in plain.tags for k in a}
        assert best in page.text and html.escape(MARKUP[:20]) in text
        folder, own = posixpath.split(name)
        for link in page.all("a"):
            path, _, fragment = link["href"].partition("#")
            assert posixpath.normpath(posixpath.join(folder, path or own)) in hostile, link
            assert path or fragment in page.ids


def test_equal_tables_give_equal_pages(files: dict[str, Path], tmp_path: Path) -> None:
    again = kit.written(tmp_path)
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in again.items()
    }


def members_and_boards() -> tuple[list[outcomes.Outcomes], list[Board]]:
    tables = kit.frames()
    members = outcomes.gather(tables)
    return list(members), boards.everything(tables, members, 0, None)


def test_answers_are_those_of_the_boards() -> None:
    members, measured = members_and_boards()
    other, digits = sorted(
        site_answers.answers(members, measured, comparisons.compare(members, 0)), key=lambda a: a.dataset
    )
    assert (digits.dataset, digits.size) == (kit.DATASET, "4 classifiers, n = 12 images")
    first = digits.answers[0]
    assert first.card == paths.card(kit.DATASET, first.classifier)
    row = measured[0].table.query("dataset == @kit.DATASET").iloc[0]
    assert first.classifier == row["classifier"]
    assert first.text.startswith(f"worst-case robust accuracy: {100 * row['worst_case_robust_accuracy']:.1f} [")
    assert ", under pgd (ℓ₂ ≤ 10). " in first.text
    assert other.answers[0].text.startswith("clean accuracy: "), "no attack was made there"


def ranked(ranks: list[tuple[int, int]], flags: str | None = None) -> Board:
    """A board of classifiers c0, c1 ... with given ranks."""
    rows = [
        {"dataset": "d", "classifier": f"c{i}", "rank_best": best, "rank_worst": worst, "rank": f"{best}–{worst}"}
        | {"n": 5, "flags": None, "x": 0.9 - i / 10, "x_low": 0.0, "x_high": 1.0}
        for i, (best, worst) in enumerate(ranks)
    ]
    rows[0]["flags"] = flags
    names = {"dataset": "Data set", "rank": "Rank", "classifier": "Classifier", "flags": "Flags"}
    columns = [Column(name, header, TEXT, name) for name, header in names.items()]
    return Board(pd.DataFrame(rows), [*columns, Column("x", "Thing [pixels]", NUMBER, "x")], {"d": "x"})


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([(1, 1)], "It is the only one measured."),
        ([(1, 1), (2, 2)], "A paired test tells it apart from the other."),
        ([(1, 1), (2, 3), (2, 3)], "Paired tests tell it apart from all 2 others."),
        ([(1, 2), (1, 3), (2, 3)], "Not told apart by paired tests from c1."),
        ([(1, 6)] * 6, "Not told apart by paired tests from c1, c2, c3, c4 and 1 more."),
    ],
)
def test_an_answer_says_whether_the_difference_is_real(ranks: list[tuple[int, int]], said: str) -> None:
    members = [outcomes.Outcomes("d", f"c{i}", "a", "t", 0) for i in range(len(ranks))]
    board = ranked(ranks)
    (found,) = site_answers.answers(members, [board, board._replace(name="again", title="Again")], [])
    (answer,) = found.answers  # that of the second board says no more
    assert (answer.classifier, answer.text) == ("c0", f"thing: 0.900 [0.00, 1.00] pixels. {said}")
    assert (answer.doubt, found.notes) == ("", [])


def test_doubts_stand_beside_the_answer() -> None:
    members = [outcomes.Outcomes("d", name, "a", "t", 0) for name in ("c0", "c1")]
    (found,) = site_answers.answers(members, [ranked([(1, 1), (2, 2)], "gradient is zero")], [])
    assert found.answers[0].doubt == "gradient is zero"
    assert found.notes == [
        "What attacks found on 1 of 2 classifiers is in doubt: the column Flags says why. Their robust accuracy may be "
        "too high."
    ]


def test_boards_of_a_data_set_have_its_columns_alone() -> None:
    _, measured = members_and_boards()
    parts = dict(site_boards.by_dataset(measured))
    names = [section.anchor for section in parts[kit.DATASET]]
    assert names[:2] == [f"board-{kit.DATASET}-overall", f"board-{kit.DATASET}-adversarial"]
    assert not any("adversarial" in section.anchor for section in parts[kit.OTHER])
    overall = parts[kit.OTHER][0].table
    assert "Clean accuracy [%]" in overall.headers and "Worst-case robust accuracy [%]" not in overall.headers
    assert "Data set" not in overall.headers and "Data set" in site_boards.table(measured[0]).headers
    assert overall.headers[:2] == ["Classifier", "Rank"]


def test_cells_are_sorted_by_numbers() -> None:
    _, measured = members_and_boards()
    table = site_boards.table(measured[0])
    place = next(i for i, header in enumerate(table.headers) if header.startswith("Median smallest ℓ₂"))
    found = {row[0].text: row[place] for row in table.rows if "digits" in row[0].link}
    assert {name: cell.key for name, cell in found.items()} == {
        "a--standard--0": 9.5,
        "a--prime--0": 10.2,
        "b--standard--0": "Infinity",
        "b--prime--0": "",
    }
    assert (found["b--prime--0"].text, found["b--prime--0"].link) == ("–", "")


def test_doubts_stand_before_the_numbers() -> None:
    headers = [list(site_boards.table(ranked([(1, 1)], flags)).headers) for flags in (None, "doubt")]
    assert headers[0] == ["Classifier", "Rank", "Thing [pixels]", "Flags"]
    assert headers[1] == ["Classifier", "Rank", "Flags", "Thing [pixels]"]


def test_values_to_choose_from_are_some_but_not_all() -> None:
    rows = [[*words("x", "one", "p", "u")], [*words("y", "one", "q", "v")], [*words("z", "one", "q", "w")]]
    assert Table(("Name", "Training", "Attack", "Claim"), rows).choices == {"Attack"}
    assert Table(("Name", "Training"), []).choices == set()


def test_figures_lose_nothing() -> None:
    png = kit.chart("stripes").png
    head, _, code = site_figures.packed(png).partition(",")
    assert head == "data:image/webp;base64"
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (png, base64.b64decode(code)))
    assert np.array_equal(before, after)
    assert len(code) < 4 / 3 * len(png)


def test_a_library_that_cannot_be_inlined_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("none", f"{vendored.MARK} and {vendored.MARK}"):
        with pytest.raises(ValueError, match="expected one"):
            vendored.inlined(page)
    bundle = tmp_path / "bundle.js"

    class Installed:
        version = "0"

        def locate_file(self, _: str) -> Path:
            return bundle

    monkeypatch.setattr(vendored.metadata, "distribution", lambda _: Installed())
    bundle.write_text('const a="</script><!-- ",b$=1;export{a as other,b$ as default};')
    page = vendored.inlined(f"<p>{vendored.MARK}</p>")
    assert Counter(tag for tag, _ in Read(page).tags) == {"p": 1, "script": 1}
    assert r'"\x3C/script>\x3C!-- "' in page and page.endswith("window.DataTable = b$;\n</script></p>")
    bundle.write_text("export{a as other};")
    with pytest.raises(ValueError, match="no default export"):
        vendored.inlined(vendored.MARK)


def test_the_config_that_the_page_proposes_is_valid(report: dict[str, Read], tmp_path: Path) -> None:
    snippet = re.search(r"classifiers: # trained elsewhere\n.*?\n(?=Then)", report["report/index.html"].text, re.DOTALL)
    assert snippet is not None
    own = yaml.safe_load(snippet[0])
    assert own["classifiers"]["mine"]["dataset"] in (kit.DATASET, kit.OTHER)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    own["classifiers"]["mine"] |= {"dataset": "digits", "weights": "README.md"}
    config["trainings"] |= own["trainings"]
    plan = Plan(config | {"classifiers": own["classifiers"]})
    names = {name for _, name in plan.classifiers}
    assert {"mine", "resnet--my_recipe--0", "vit--my_recipe--0"} <= names


def test_a_page_without_any_table() -> None:
    measured = boards.everything({}, [], 0, None)
    nothing: dict[str, Any] = {"classifiers": [], "comparisons": [], "charts": {}, "tables": []}
    page = Read(site.page(title="t", boards=measured, seed=0, spec=None, **nothing))
    assert "No classifier was measured." in page.text
    assert Read(site.leaderboard_page(measured[0], "t")).all("h1")
