"""The pages of single classifiers: numbers and the rows behind them, recipes, mistakes, links, hostile names."""

from __future__ import annotations

import html
import itertools
import math
import posixpath
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from pipeline.commandline import main
from pipeline.report import (
    boards,
    card_mistakes,
    card_words,
    cards,
    comparisons,
    explorer,
    outcomes,
    paths,
    profile,
    rendering,
)
from pipeline.report.claims import Claim
from pipeline.report.site import Source
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart

HOSTILE = '"><script>alert(1)</script>'
SAMPLE = "</script><img src=x onerror=alert(1)>"
SAMPLES = 12
VOID = ("meta", "img", "br", "link", "input")
CONFIG = {
    "seed": 0,
    "datasets": {"digits": {"evaluation": 12}, "colours": {"source": "parquet", "train": f"data/{HOSTILE}"}},
    "architectures": {"net": {"model": "resnet18", "channels": [8, 16]}},
    "trainings": {
        "standard": None,
        "robust": {"method": "adversarial", "epsilon": "8/255", "augmentation": {"method": "prime", "width": 2}},
    },
    "classifiers": {HOSTILE: {"dataset": "colours", "model": "timm-net", "weights": "weights/a.pt", "mean": [0.5]}},
    "measurements": {"acc": {"method": "accuracy", "views": ["clean"]}, "pert": None},
}


def keys(dataset, training, seed=0, classifier=None):
    own = {"dataset": dataset, "classifier": classifier or f"net--{training}--{seed}", "architecture": "net"}
    return own | {"training": training, "seed": seed, "measurement": "m"}


MEMBERS = [
    *(keys("digits", *each) for each in (("standard", 0), ("standard", 1), ("robust", 0))),
    keys("colours", "standard"),
    keys("colours", "brought", None, HOSTILE),
]


def accuracy(key, generator):
    rows = []
    views = [("clean", "clean", None), *(("corruption", v, s) for v in ("s.fog", "s.snow") for s in (1, 3))]
    for kind, view, severity in views:
        for i in range(SAMPLES):
            wrong = i < (6 if view == "s.snow" else 2 if view == "s.fog" else 1)
            own = {"sample": sample(i), "kind": kind, "view": view, "severity": severity, "label": i % 3}
            own |= {"suite": "s" if severity else None, "family": "weather" if severity else None}
            own |= {"prediction": 7 if wrong else i % 3, "correct": not wrong, "confidence": generator.random()}
            rows.append({**key, **own})
    return rows


def sample(i):
    return SAMPLE if i == 0 else f"s{i}"


def perturbation(key, attack, norm, epsilon, doubtful=False):
    rows = []
    for i in range(SAMPLES):
        found = i % 4 != 3
        own = {"sample": sample(i), "attack": attack, "norm": norm, "epsilon": epsilon, "converged": found}
        own |= {"label": i % 3, "clean_prediction": 7 if i == 0 else i % 3, "prediction": 5 if found else i % 3}
        own |= {"forward_passes": 3.0, "backward_passes": 2.0, "zero_gradient": doubtful, "random_forward": False}
        own |= {"softmax_output": False, "large_epsilon_success": 1.0}
        sizes = dict.fromkeys(("l0_pixels", "l0_entries", "l1", "l2", "linf"), 0.0 if i == 0 else i / 4)
        rows.append({**key, **own, **({name: size if found else None for name, size in sizes.items()})})
    return rows


def gallery(key, attack, side=4):
    rows = []
    for i in range(5):
        clean = np.full((1, side, side), 0.5, dtype="<f4")
        own = {"sample": sample(i), "attack": attack, "label": i % 3, "clean_prediction": 7 if i == 0 else i % 3}
        own |= {"prediction": 5 if i % 4 != 3 else i % 3, "channels": 1, "height": side, "width": side}
        pixels = {"clean": clean.tobytes(), "perturbed": (clean + np.float32(0.1)).tobytes()}
        rows.append({**key, **own, **pixels})
    return rows


def make_tables():
    generator = np.random.default_rng(0)
    rows = {"accuracy": [], "perturbation": [], "gallery": []}
    for key in MEMBERS:
        rows["accuracy"] += accuracy(key, generator)
        if key["dataset"] == "digits":
            rows["perturbation"] += perturbation(key, "df", "l2", None, doubtful=key["training"] == "robust")
            rows["perturbation"] += perturbation(key, "few", "l0", None) + perturbation(key, "box", "linf", 0.5)
            rows["gallery"] += gallery(key, "df") + gallery(key, "few") + gallery(key, "box")
    tables = {kind: pd.DataFrame(own).astype({"seed": "Int64"}) for kind, own in rows.items()}
    tables["accuracy"] = tables["accuracy"].astype({"severity": "Int64"})
    return tables


def make_sources(tables):
    found = []
    for kind, table in tables.items():
        entry = {"accuracy": "acc", "perturbation": "pert"}.get(kind, kind)
        names = [f"{of}/{name}/{entry}" for (of, name), _ in table.groupby(["dataset", "classifier"])]
        facts = {"code": f"code of {kind}", "device": "Abacus", "versions": {"torch": "9.8", "numpy": kind}}
        inputs = {name: {"sha256": f"{i:02}" + kind.ljust(70, "0")} for i, name in enumerate(names)}
        provenance = {"code": "gathered", "made": [{**facts, "tables": names}], "inputs": inputs}
        found.append(Source(kind, len(table), f"sha of {kind}", provenance))
    return found


def make(tables, ranking=None, **own):
    classifiers = outcomes.gather(tables)
    ranking = ranking or boards.everything(tables, classifiers, 0, CONFIG)
    given = {"classifiers": classifiers, "boards": ranking, "tables": tables, "config": CONFIG, "charts": {}, "seed": 0}
    return cards.pages(**(given | {"sources": make_sources(tables), "title": f"A {HOSTILE}"} | own)), ranking


@pytest.fixture(scope="module")
def tables():
    return make_tables()


@pytest.fixture(scope="module")
def made(tables):
    classifiers = outcomes.gather(tables)
    chart = Chart("f", "A figure", "", "", b"", b"", pd.DataFrame({"classifier": ["net--robust--0"]}))
    whole = Interval(0.9, 0.8, 1.0)
    claims = [
        Claim("connected", "digits", "net--robust--0", "pairs", 3, whole, "share", "undecided"),
        Claim("prime_clean", "digits", "net--robust--0 against net--standard--0", "gap", 3, whole, "share", "holds"),
        Claim("flat", "colours", "net--robust--0", "elsewhere", 3, whole, "share", "holds"),
    ]
    own = {"charts": {"digits": [("digits_f", chart)]}, "claims": claims}
    return make(tables, comparisons=comparisons.compare(classifiers), **own)


class Page(HTMLParser):
    """Tags with their attributes; the parser checks that the markup nests."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.inside = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(list(self.open))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def words(text):
    """What a reader sees of a page or a part of one, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text.rpartition("<body>")[2])).split())


def page_of(pages, dataset, classifier):
    return pages[paths.card(dataset, classifier)]


def section(text, start, end="<h2"):
    return text.partition(start)[2].partition(end)[0]


def test_every_classifier_has_a_page(made):
    pages, _ = made
    assert set(pages) == {paths.card(key["dataset"], key["classifier"]) for key in MEMBERS}
    assert all(len(text) < 200_000 for text in pages.values())


def test_links_resolve(made, tables):
    pages, ranking = made
    members = outcomes.gather(tables)
    joined = profile.joined(tables, members)
    others = explorer.pages(tables=tables, classifiers=members, profile=joined, config=CONFIG, title="")
    assert [board.name for board in ranking] == ["overall", "adversarial", "sparse", "corruption"]
    parsed = {path: Page(text) for path, text in pages.items()}
    ids = {path: Page(text).ids for path, text in (pages | others).items()} | {"index.html": []}
    for path, page in parsed.items():
        links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
        for link in links:
            target, _, fragment = link.partition("#")
            file = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(target))) if target else path
            assert file in ids, link
            assert not fragment or fragment in ids[file]
        assert any(link.endswith("index.html") for link in links)
        assert any("samples/" in link for link in links) == ("digits" in path), "colours has no gallery"
        assert len(page.ids) == len(set(page.ids))
    for board in ranking:
        anchors = {paths.anchor(board.name, column.name) for column in board.columns}
        for row in board.table.to_dict("records"):
            assert anchors <= set(parsed[paths.card(row["dataset"], row["classifier"])].ids), "cells link to them"


def test_markup_is_sound_and_accessible(made):
    pages, _ = made
    for text in pages.values():
        page = Page(text)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        heads = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
        assert heads and set(heads) <= {"row", "col", "rowgroup"}
        tags = [tag for tag, _ in page.tags]
        assert tags.count("caption") == tags.count("table") > 0 and tags.count("main") == 1
        regions = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "region"]
        assert len(regions) == len(set(regions)), "a screen reader tells regions apart by their names"
        pictures = [attributes for tag, attributes in page.tags if tag == "img"]
        assert all(each["alt"] and each["src"].startswith("data:image/png;base64,") for each in pictures)
        assert not re.search(r"https?://|@import|url\(", text)


def test_complete_without_script(made):
    pages, _ = made
    for text in pages.values():
        page = Page(text)
        assert not [tag for (tag, attributes) in page.tags if "hidden" in attributes or tag in ("button", "noscript")]


def test_hostile_names_are_escaped(made):
    pages, _ = made
    for text in pages.values():
        assert HOSTILE not in text and SAMPLE not in text and "<script>alert" not in text
        assert html.escape(HOSTILE, quote=False)[3:] in text
        assert not [tag for tag, attributes in Page(text).tags if any(name.startswith("on") for name in attributes)]
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page_of(pages, "digits", "net--standard--0")
    assert HOSTILE in words(page_of(pages, "colours", HOSTILE))


def test_numbers_are_those_of_the_leaderboard(made):
    pages, ranking = made
    for board, row in ((each, row) for each in ranking for row in each.table.to_dict("records")):
        text = page_of(pages, row["dataset"], row["classifier"])
        for column in board.columns:
            if f"{column.name}_low" not in row:
                continue
            anchor = paths.anchor(board.name, column.name)
            value = Interval(*(row[column.name + tail] for tail in ("", "_low", "_high")))
            here = board.table[board.table["dataset"] == row["dataset"]][column.name]
            if here.isna().all():
                assert f'<span id="{anchor}">' in text
                continue
            line = words(section(text, f'<tr id="{anchor}">', "</tr>"))
            assert line.startswith(f"{column.header} {rendering.interval(value, column.kind)} ")
            assert f" {1 + (here > value.value).sum()} of {here.notna().sum()} " in line
            assert column.meaning in line


def test_rows_behind_a_number_can_be_had(made, tables, tmp_path, monkeypatch):
    pages, (board, *_) = made
    (tmp_path / "tables").mkdir()
    for kind, table in tables.items():
        table.to_parquet(tmp_path / "tables" / f"{kind}.parquet")
    monkeypatch.chdir(tmp_path)
    for row in board.table.to_dict("records"):
        text = page_of(pages, row["dataset"], row["classifier"])
        tried = re.findall(r"<details><summary>(\d+) rows? of <code>(\w+)</code></summary><code>(.*?)</code>", text)
        assert len(tried) >= 2 * 3
        for n, kind, expression in tried:
            found = eval(html.unescape(expression), {"pandas": pd})
            assert len(found) == int(n) > 0 and kind in expression
            assert set(found["dataset"]) == {row["dataset"]} and set(found["classifier"]) == {row["classifier"]}
        line = section(text, '<tr id="overall-clean_accuracy">', "</tr>")
        clean = eval(html.unescape(re.search("</summary><code>(.*?)</code>", line).group(1)), {"pandas": pd})
        assert clean["correct"].mean() == row["clean_accuracy"]


def test_headline(made):
    pages, (board, *_) = made
    text = words(section(page_of(pages, "digits", "net--robust--0"), '<div class="headline">', "</div>"))
    rank = board.table.set_index("classifier").loc["net--robust--0", "rank"]
    assert f"Rank {rank} of 3 on digits, by worst-case robust accuracy" in text
    assert "Clean accuracy 91.7 % [" in text and "] of 12 images." in text
    assert "Of 2 corruptions (s), s.snow harms it most: accuracy 50.0 % [" in text
    assert "Worst-case robust accuracy 25.0 % [" in text and "under box (ℓ∞ ≤ 0.5)" in text


def test_weakest_attack():
    rows = perturbation(MEMBERS[0], "weak", "linf", 0.5)
    strong = [row | {"attack": "strong", "converged": True} for row in rows]
    (one,) = outcomes.gather({"perturbation": pd.DataFrame(rows + strong)})
    text = " ".join(card_words.headline(one, "", ()))
    assert "Of 2 attacks with a budget, strong (ℓ∞ ≤ 0.5) harms it most: 0.0\u00a0% [" in text


def test_flags_stand_with_their_reasons_before_the_numbers(made):
    pages, _ = made
    text = page_of(pages, "digits", "net--robust--0")
    part = words(section(text, '<h2 id="flags">'))
    assert "df (ℓ₂). Gradient is zero on 100 % of images. There an attack by gradients has no direction to go." in part
    assert text.index('id="flags"') < text.index('id="numbers"')
    assert 'id="flags"' not in page_of(pages, "colours", HOSTILE)


def test_every_reason_for_doubt_is_explained():
    rows = pd.DataFrame(perturbation(MEMBERS[0], "df", "l2", None, doubtful=True) * 20)
    rows["sample"] = [f"s{i}" for i in range(len(rows))]
    rows = rows.assign(random_forward=True, softmax_output=True, large_epsilon_success=0.1, batch_dependent=True)
    rows = rows.assign(gradient_mismatch=True, gradient_cosine=0.0, converged=False, single_step_success=True)
    rows = rows.assign(random_search_success=True)
    (one,) = outcomes.gather({"perturbation": rows})
    ((_, reasons),) = card_words.flags(one)
    assert len(reasons) == len(card_words.WHY)
    assert all(re.fullmatch(r"[A-Z].*\. [A-Z][^.]*\.", reason) for reason in reasons), reasons


def test_recipe(made):
    pages, _ = made
    text = words(page_of(pages, "digits", "net--robust--0"))
    for option in (
        "method adversarial",
        "epsilon 8/255",
        "channels [8, 16]",
        "evaluation 12",
        "source digits",
        "width 2",
    ):
        assert option in text
    assert "Seed of the training 0" in text and "Evaluated on 12 images of 3 classes" in text
    assert "results/models/digits/net--robust--0.safetensors" in text
    brought = words(page_of(pages, "colours", HOSTILE))
    assert "weights weights/a.pt" in brought and "none: trained elsewhere" in brought
    assert "channels" not in brought.partition("Numbers")[0]


def test_relatives_differ_in_one_thing(made):
    pages, _ = made
    text = page_of(pages, "digits", "net--standard--0")
    seeds, trainings, sets = (section(text, f"with another {what}</dt>", "</dd>") for what in ("seed", "training", "_"))
    assert re.findall(r'href="(.*?)"', seeds) == ["net--standard--1.html"]
    assert re.findall(r'href="(.*?)"', trainings) == ["net--robust--0.html"]
    sets = section(text, "on another data set</dt>", "</dd>")
    assert re.findall(r'href="(.*?)"', sets) == ["../colours/net--standard--0.html"]
    assert "with another" not in page_of(pages, "colours", HOSTILE)


def test_comparisons_and_claims_are_those_of_the_classifier(made, tables):
    pages, _ = made
    text = page_of(pages, "digits", "net--robust--0")
    found = [c for c in comparisons.compare(outcomes.gather(tables)) if c.classifier == "net--robust--0"]
    part = section(text, '<h2 id="comparisons">')
    assert part.count('<th scope="row"') == len(found) > 3
    assert all(html.escape(c.measure) in part and c.verdict in part for c in found)
    claims = words(section(text, '<h2 id="claims">'))
    assert "undecided 90.0 [80.0, 100.0] 3 pairs [%] this classifier" in claims
    assert "net--robust--0 against net--standard--0" in claims and "elsewhere" not in claims
    standard = page_of(pages, "digits", "net--standard--0")
    assert 'id="comparisons"' not in standard and "against net--standard--0" in standard
    assert "figures/digits_f.png" in text and "figures/digits_f.png" not in standard


def test_confusions():
    rows = make_tables()["accuracy"]
    rows = rows[rows["classifier"] == "net--robust--0"]
    (one,) = outcomes.gather({"perturbation": pd.DataFrame(perturbation(MEMBERS[2], "df", "l2", None))})
    table = card_mistakes.confusions(one, rows)
    lines = [[cell.text for cell in row] for row in table.rows]
    assert lines[0] == ["clean images", "1", "0 → 7 (1)", "–", "–"]
    # 6 mistakes under snow at each of two severities, 2 a class; 2 under fog, of the classes 0 and 1
    assert lines[1] == [card_mistakes.CORRUPTED, "16", "0 → 7 (6)", "1 → 7 (6)", "2 → 7 (4)"]
    # found for 9 of 12 images, one of which was wrong before
    fooled = [i % 3 for i in range(1, SAMPLES) if i % 4 != 3]
    assert lines[2] == ["images perturbed by df", "8", *(f"{label} → 5 ({n})" for label, n in counted(fooled))]


def test_classes_are_called_by_their_names(made, tables):
    names = ["cat", "dog", "bird", "c3", "c4", HOSTILE, "c6", "truck"]
    pages, _ = make(tables, made[1], classes={"digits": names})
    text = page_of(pages, "digits", "net--robust--0")
    seen = words(section(text, '<h2 id="mistakes">'))
    assert "cat → truck (1)" in seen and "cat → truck (6)" in seen and f"dog → {HOSTILE} (3)" in seen
    assert f"dog → {HOSTILE} , ℓ₂ 0.250" in seen and "class bird" in seen and "bird → bird" in seen
    assert not re.search(r"\d → \d", seen) and HOSTILE not in text
    for classes in (None, {"digits": [str(i) for i in range(10)]}):
        again, _ = make(tables, made[1], classes=classes)
        part = section(page_of(again, "digits", "net--robust--0"), '<h2 id="mistakes">')
        assert part == section(page_of(made[0], "digits", "net--robust--0"), '<h2 id="mistakes">')
    other = page_of(pages, "colours", "net--standard--0")
    assert "0 → 7 (1)" in words(other), "a data set without names"


def counted(labels):
    counts = pd.Series(labels).value_counts()
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def test_corruptions_that_harm_most_come_first(made):
    pages, _ = made
    part = section(page_of(pages, "colours", HOSTILE), "Corruptions that harm it most", "</main>")
    assert re.findall(r'<th scope="row"[^>]*>(.*?)</th>', part)[:2] == ["s.snow", "s.fog"]
    assert words(part).find("s.snow s weather 50.0 [") > 0


def test_pictures(made, tables):
    pages, _ = made
    text = section(page_of(pages, "digits", "net--robust--0"), "<h3>Perturbed images</h3>", "<h3>")
    seen = words(text)
    assert "4 of 5 images" in seen and "df difference magnified 5 times" in seen
    assert text.count("<img") == 4 * (1 + 2 * 3)
    # the most telling images first; s3 resists, the hostile one is wrong anyway
    assert re.findall(r'<th scope="row"[^>]*><a [^>]*>(.*?)</a><br>', text) == ["s1", "s2", "s4", html.escape(SAMPLE)]
    assert 'href="../../samples/digits.html#sample-s1"' in text
    assert "1 → 5 , ℓ₂ 0.250" in seen and "1 → 5 , ℓ₀ 0.250 pixels" in seen and "wrong without one" in seen
    (one,) = outcomes.gather({kind: t[t["classifier"] == "net--robust--0"] for kind, t in tables.items()})
    large = card_mistakes.gallery(one, pd.DataFrame(gallery(MEMBERS[2], "df", side=card_mistakes.LARGE + 1)))
    assert large is not None and not large.differences
    resisting = card_mistakes.gallery(one, pd.DataFrame(gallery(MEMBERS[2], "df")[3:4]))
    assert [each.norm for each in resisting.samples[0].shown] == ["none found"]


def test_made_with(made):
    pages, _ = made
    text = page_of(pages, "digits", "net--robust--0")
    part = section(text, '<h2 id="origin">', "</main>")
    seen = words(part)
    assert 'acc accuracy {"method": "accuracy", "views": ["clean"]} code of accuracy Abacus 1 ' in seen
    assert "pert perturbation all defaults code of perturbation Abacus 2 " in seen
    assert "gallery gallery – code of gallery Abacus" in seen
    assert "Packages 1 numpy accuracy, torch 9.8" in seen and "sha of gallery" in seen
    hashes = {re.search(r"(\d\daccuracy00)", words(text_))[0] for text_ in pages.values()}
    assert len(hashes) == len(MEMBERS), "each classifier's own files"
    assert "gallery" not in section(page_of(pages, "colours", HOSTILE), '<h2 id="origin">', "</main>")


@pytest.mark.parametrize("wrong", [{}, {"made": 3}, {"made": [3]}, {"made": [{"tables": "ab"}]}, {"made": [{}]}])
def test_neither_config_nor_metadata(made, tables, wrong):
    pages, _ = make(tables, made[1], config=None, sources=[Source(kind, 1, "", wrong) for kind in tables])
    for text in pages.values():
        assert "The tables of this run do not say what they were made with." in words(text)
        assert "The config of this run is not known." in words(text)


@pytest.mark.parametrize("kept", [("accuracy",), ("perturbation",), ("gallery",), ("perturbation", "gallery"), ()])
def test_classifiers_without_some_measurements(tables, kept):
    pages, _ = make({kind: tables[kind] for kind in kept})
    for text in pages.values():
        Page(text)
        assert ('id="mistakes"' in text) == bool(kept)
        assert not re.search(r"\bnan\b|None", words(text).partition("Made with")[0].partition("Numbers")[2])
    assert bool(pages) == bool(kept)


def test_equal_tables_give_equal_bytes(tables):
    assert make(tables)[0] == make(make_tables())[0]


def test_weights_are_loaded_as_the_page_says(made, tmp_path, monkeypatch):
    pages, _ = made
    monkeypatch.chdir(tmp_path)
    for stage in ("data", "models"):
        (tmp_path / "results" / stage / "digits").mkdir(parents=True)
    data, model = tmp_path / "results/data/digits", tmp_path / "results/models/digits/net--robust--0.safetensors"
    for split, size in (("train", "train_size: 60"), ("evaluation", "evaluation: 20")):
        spec = f"{{source: digits, test_share: 0.25, split: {split}, {size}}}"
        assert main(["prepare", "--spec", spec, "--out", str(data / f"{split}.safetensors")]) == 0
    names = "dataset: digits, classifier: net--robust--0, architecture: net, training: robust, seed: 0"
    spec = f"{{{names}, model: mlp, model_options: {{depth: 1}}, method: standard, options: {{epochs: 1}}}}"
    train = ["train", "--spec", spec, "--data", str(data / "train.safetensors"), "--device", "cpu", "--out", str(model)]
    assert main(train) == 0
    text = section(page_of(pages, "digits", "net--robust--0"), "<pre><code>", "</code>")
    found: dict[str, object] = {}
    exec(html.unescape(text), found)
    assert found["predictions"].shape == (20,) and 0 <= found["accuracy"] <= 1
    assert not math.isnan(found["accuracy"])
