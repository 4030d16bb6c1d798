"""The pages of single samples: pictures hold the tables' pixels, every cell its numbers, and ids stay text."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.report import explorer, explorer_album, explorer_samples, gallery, outcomes, path_examples, paths, profile
from pipeline.report.classes import have_names, named, shortened
from pipeline.report.pictures import extent, image, magnification, norms, pictures

HOSTILE = ("</script><img src=x onerror=alert(1)>", "../..", 'a "b" c\'d', "größe/七/#%2F&amp;", "{{ 1 }}--0")
VOID = {"meta", "img", "input", "br", "link", "hr"}
FIELDS = {"kind": "clean", "suite": None, "severity": None}


def packed(pixels):
    return np.asarray(pixels, dtype="<f4").tobytes()


def row(clean, perturbed, **own):
    channels, height, width = np.shape(clean)
    shape = {"channels": channels, "height": height, "width": width}
    return {"clean": packed(clean), "perturbed": packed(perturbed), **shape, **own}


def decoded(address):
    head, _, content = address.partition(",")
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def keys(dataset, classifier, seed=0):
    training = {"training": "standard" if seed is None else "t", "architecture": "a", "seed": seed}
    return {"dataset": dataset, "classifier": classifier, "measurement": "gallery", **training}


def make_tables(datasets=("d",), classifiers=("one", "two"), attacks=("deepfool", "pgd"), samples=("s1", "s2", "s3")):
    """Tables in which sizes tell cells apart; the first classifier gets `s1` wrong, `pgd` fails on the second one."""
    generator = np.random.default_rng(0)
    tables = {kind: [] for kind in ("gallery", "perturbation", "accuracy")}
    for dataset in datasets:
        clean = {sample: generator.random((1, 4, 4)) for sample in samples}
        for i, classifier in enumerate(classifiers):
            key = keys(dataset, classifier)
            for j, sample in enumerate(samples):
                wrong = i == 0 and j == 0
                before = 7 if wrong else 3
                own = {**key, "sample": sample, "label": 3, "prediction": before, "confidence": 0.5 + 0.01 * j}
                tables["accuracy"].append({**own, "view": "clean", **FIELDS, "correct": not wrong})
                for severity in range(1, 6):
                    right = severity not in (1, 3, 4) if i == 0 else True
                    view = {"view": "fog", "kind": "corruption", "severity": severity, "suite": "c"}
                    tables["accuracy"].append({**own, **view, "correct": right})
                for k, attack in enumerate(attacks):
                    failed = not wrong and attack == "pgd" and i == 1
                    shift = 0 if wrong else 0.01 * (1 + i + 10 * j) * (1 + k)
                    perturbed = clean[sample] + shift
                    after = before if wrong or failed else 8
                    own = {**key, "sample": sample, "attack": attack, "label": 3, "clean_prediction": before}
                    own |= {"prediction": after}
                    tables["gallery"].append(row(clean[sample], perturbed, **own))
                    size = norms(tables["gallery"][-1])
                    measured = {name: None if failed else value for name, value in size.items()}
                    signs = {"zero_gradient": False, "random_forward": False, "softmax_output": False}
                    signs |= {"large_epsilon_success": 1.0, "backward_passes": 1.0, "forward_passes": 1.0}
                    signs |= {"converged_8bit": j != 2, "single_step_success": True if failed else None}
                    norm = {"norm": "l2", "epsilon": None} if attack == "deepfool" else {"norm": "linf", "epsilon": 0.1}
                    tables["perturbation"].append({**own, **norm, **signs, **measured, "converged": not failed})
    return {kind: pd.DataFrame(rows) for kind, rows in tables.items()}


def make_pages(tables, config=None):
    classifiers = outcomes.gather(tables)
    joined = profile.joined(tables, classifiers)
    return explorer.pages(tables=tables, classifiers=classifiers, profile=joined, config=config, title="A <title>")


class Page(HTMLParser):
    """Elements with attributes and text; that tags nest, that ids are unique, and that nothing is fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open
        ids = [a["id"] for _, a, _ in self.elements if "id" in a]
        assert len(ids) == len(set(ids))
        for _, attributes, _ in self.elements:
            assert not any(name.startswith("on") for name in attributes)
            assert re.match(r"data:image/(png|webp);base64,", attributes.get("src", "data:image/png;base64,"))
        assert not re.search(r"url\((?!\"?data:)", text)
        assert "http://" not in text
        assert "https://" not in text

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.handle_data(" ")
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)

    def all(self, tag=None, **wanted):
        wanted = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [
            (attributes, " ".join("".join(texts).split()))
            for name, attributes, texts in self.elements
            if tag in (None, name) and wanted.items() <= attributes.items()
        ]

    @property
    def data(self):
        ((_, text),) = self.all("script", id="data")
        return json.loads(text)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(1e-4, 1),
    st.integers(0, 2**32 - 1),
)
def test_pictures_hold_the_pixels(channels, height, width, size, seed):
    generator = np.random.default_rng(seed)
    clean = generator.random((channels, height, width))
    change = size * generator.uniform(-1, 1, clean.shape)
    perturbed = np.clip(clean + change, 0, 1)
    own = row(clean, perturbed)
    found = pictures(own)
    assert pictures(own) == found
    for address, pixels in zip(found, (clean, perturbed), strict=False):
        shown = decoded(address).reshape(height, width, -1)
        assert np.abs(shown / 255 - pixels.transpose(1, 2, 0)).max() <= 0.501 / 255
    factor = magnification([own])
    largest = np.abs(image(own, "perturbed") - image(own, "clean")).max()
    assert largest == 0 or 0.25 <= factor * largest <= 0.501
    assert re.fullmatch(r"\de[+-]\d+", f"{factor:.0e}")
    assert factor == float(f"{factor:.0e}")
    difference = decoded(found.difference)
    assert difference.shape == (height, width, 3)
    if channels == 3:
        expected = 0.5 + factor * (perturbed - clean).transpose(1, 2, 0)
        assert np.abs(difference / 255 - expected).max() <= 0.51 / 255 + 1e-3


def test_lossy_pictures_are_smaller_and_look_alike():
    waves = np.sin(np.linspace(0, 9, 96))[:, None] * np.cos(np.linspace(0, 7, 128)) / 2 + 0.5
    clean = np.stack([waves, 1 - waves, waves**2])
    own = row(clean, clean + np.random.default_rng(0).normal(0, 0.01, clean.shape))
    exact, lossy = pictures(own), pictures(own, lossy=True)
    assert len("".join(lossy)) < 0.5 * len("".join(exact))
    for one, other in zip(exact, lossy, strict=True):
        assert np.abs(decoded(one).astype(int) - decoded(other)).mean() < 20
    assert pictures(own, lossy=True) == lossy


def test_grey_differences_are_red_where_the_image_grew_and_blue_where_it_shrank():
    difference = decoded(pictures(row([[[0.5, 0.5, 0.5]]], [[[0.8, 0.2, 0.5]]])).difference)[0].astype(int)
    assert difference[0, 0] > difference[0, 2]
    assert difference[1, 0] < difference[1, 2]
    assert np.ptp(difference[2]) < 4


def test_data_beyond_pixels_are_scaled_to_what_they_span():
    flipped = row([[[-1.0, 0.0, 2.0]]], [[[-1.0, 0.5, 1.0]]])
    assert extent([flipped]) == (-1.0, 2.0)
    assert decoded(pictures(flipped).clean).tolist() == [[0, 85, 255]]
    assert extent([row([[[-1e-7]]], [[[1 + 1e-7]]])]) == (0, 1)


def test_pixels_that_are_no_numbers_do_not_stop_a_page():
    broken = row([[[0.2, 0.4, 0.6]]], [[[math.nan, math.inf, 0.5]]])
    assert extent([broken]) == (0, 1)
    assert magnification([broken]) == 5
    assert decoded(pictures(broken).perturbed).tolist() == [[0, 255, 128]]
    tables = make_tables()
    tables["gallery"].loc[3, "perturbed"] = packed(np.full((1, 4, 4), math.nan))
    ((_, text),) = make_pages({"gallery": tables["gallery"]}).items()
    assert len(Page(text).data) == 3


def test_every_sample_classifier_and_attack_is_shown_with_the_numbers_of_the_tables():
    tables = make_tables(datasets=("d", "e"), attacks=("deepfool", "pgd", "third"))
    found = make_pages(tables)
    assert set(found) == {paths.samples("d"), paths.samples("e")}
    page = Page(found[paths.samples("d")])
    rows = tables["gallery"][tables["gallery"]["dataset"] == "d"]
    shown = outcomes.shared(outcomes.gather(tables), "d")
    names, attacks = [o.classifier for o in shown], ["deepfool", "pgd", "third"]
    assert len(page.data) == rows["sample"].nunique()
    cells = {
        (sample["name"], names[cell["classifier"]], attacks[cell["attack"]]): cell["sizes"]
        for sample in page.data
        for cell in sample["cells"]
    }
    measured = tables["perturbation"][tables["perturbation"]["dataset"] == "d"].to_dict("records")
    assert len(cells) == len(measured)
    for one in measured:
        sizes = cells[one["sample"], one["classifier"], one["attack"]]
        expected = {"l2": one["l2"], "linf": one["linf"], "l0": one["l0_pixels"]}
        assert sizes == (expected if one["converged"] else None)
    assert len(page.all("td", data_attack="0")) == 3 * 2
    assert len(page.all("section")) == 3
    # no picture twice: the clean one once per sample, and none where nothing changed
    assert found[paths.samples("d")].count("background-image") == 3
    changed = (rows["clean"] != rows["perturbed"]).sum()
    assert len(page.all("img")) == 2 * changed


def test_words_of_a_cell():
    page = Page(make_pages(make_tables())[paths.samples("d")])
    texts = [text for _, text in page.all("td", data_attack="0")]
    assert "already 7, ℓ₂ 0" in texts[0]
    assert "no change" in texts[0]
    assert "3 → 8, ℓ₂ 0.0800" in texts[1]  # 0.02 in each of 16 pixels
    failed = [text for _, text in page.all("td", data_attack="1")][1]
    assert "not found, stays 3" in failed
    assert "a single step fools" in failed
    assert "flagged" in failed
    assert "lost when rounded" in texts[-1]
    assert "lost when rounded" not in texts[1]
    facts = " ".join(text for attributes, text in page.all("tr") if attributes.get("data-classifier") == "0")
    assert "7 (50.0 %), wrong" in facts
    assert "3 of 5: fog 1, 3–4" in facts
    assert "0 of 5" in " ".join(text for a, text in page.all("tr") if a.get("data-classifier") == "1")
    (_, flags), *_ = [item for item in page.all("div") if item[0].get("aria-label") == "Flagged attacks"]
    assert "two pgd (ℓ∞ ≤ 0.1)" in flags


def test_numbers_are_those_of_the_profile():
    tables = make_tables()
    joined = profile.joined(tables, outcomes.gather(tables))
    page = Page(make_pages(tables)[paths.samples("d")])
    for sample, (_, text) in zip(("s1", "s2", "s3"), page.all("section"), strict=True):
        for one in joined[joined["sample"] == sample].to_dict("records"):
            if one["smallest_l2"] > 0:
                assert f" {one['smallest_l2']:#.3g} {one['smallest_linf']:#.3g} " in text
            assert f"{100 * one['corrupted']:.1f}" in text


@pytest.mark.parametrize("kept", [("gallery",), ("gallery", "accuracy"), ("gallery", "perturbation")])
def test_without_other_measurements(kept):
    tables = make_tables()
    tables = {kind: tables[kind] for kind in kept}
    page = Page(make_pages(tables)[paths.samples("d")])
    sizes = {len(cell["sizes"]) for sample in page.data for cell in sample["cells"] if cell["sizes"]}
    assert sizes == {3}  # of the images themselves where they were not measured
    assert ("Misclassified versions" in str(page.all("th"))) == ("accuracy" in kept)


def test_no_gallery_no_page():
    tables = make_tables()
    del tables["gallery"]
    assert make_pages(tables) == {}
    tables["gallery"] = make_tables()["gallery"].iloc[:0]
    assert make_pages(tables) == {}


def test_a_cell_that_was_not_measured_and_a_brought_classifier():
    tables = make_tables()
    gone = (tables["gallery"]["classifier"] == "one") & (tables["gallery"]["attack"] == "pgd")
    tables["gallery"] = tables["gallery"][~gone]
    for table in tables.values():
        table["seed"] = table["seed"].astype("Int64").where(table["classifier"] != "one")
    page = Page(make_pages(tables)[paths.samples("d")])
    assert [text for _, text in page.all("td", data_attack="1")].count("not measured") == 3
    assert sum(len(sample["cells"]) for sample in page.data) == 9


def test_hostile_ids_stay_text():
    dataset, samples = HOSTILE[0], (*HOSTILE, "x" * 300)
    tables = make_tables((dataset,), (HOSTILE[0], HOSTILE[4]), (HOSTILE[2], HOSTILE[3]), samples)
    config = {"attacks": {HOSTILE[2]: {"method": HOSTILE[0], "epsilon": 1}}}
    ((path, text),) = make_pages(tables, config).items()
    assert re.fullmatch(r"samples/[\w.-]+\.html", path)
    page = Page(text)
    assert {tag for tag, _, _ in page.elements} & {"img"} == {"img"}
    assert all(address["src"].startswith("data:") for address, _ in page.all("img"))
    assert "onerror" not in {name for _, attributes, _ in page.elements for name in attributes}
    assert [sample["name"] for sample in page.data] == list(samples)
    fragments = [sample["fragment"] for sample in page.data]
    assert [attributes["id"] for attributes, _ in page.all("section")] == fragments
    assert fragments == [explorer_samples.fragment(sample) for sample in samples]
    assert all(re.fullmatch(r"sample-[\w.-]+", fragment, flags=re.ASCII) for fragment in fragments)
    links = {attributes["href"] for attributes, _ in page.all("a")}
    assert {f"#{fragment}" for fragment in fragments} <= links
    targets = {attributes.get("id") for _, attributes, _ in page.elements}
    assert all(link[1:] in targets for link in links if link.startswith("#"))


def test_links_lead_to_the_report_and_the_cards():
    page = Page(make_pages(make_tables())[paths.samples("d")])
    links = {attributes["href"] for attributes, _ in page.all("a") if not attributes["href"].startswith("#")}
    assert links == {"../index.html", "../classifiers/d/one.html", "../classifiers/d/two.html"}


def test_equal_tables_give_equal_pages_and_says_how_to_get_more():
    tables = make_tables()
    config = {"measurements": {"gallery": {"views": "attacks", "samples": 3}}, "attacks": {"pgd": {"steps": 7}}}
    found = make_pages(tables, config)
    assert found == make_pages(make_tables(), config)
    text = found[paths.samples("d")]
    (_, more), *_ = [item for item in Page(text).all("code") if "samples" in item[1] and ":" in item[1]]
    assert json.loads(more.partition(": ")[2]) == {"views": "attacks", "samples": 24}
    assert "method pgd: steps 7" in text


def test_a_page_that_would_be_too_large_says_what_it_leaves_out(monkeypatch):
    tables = make_tables()
    classifiers = outcomes.gather(tables)
    joined = profile.joined(tables, classifiers)
    whole = explorer_album.album(tables["gallery"], classifiers, joined)
    limit = sum(sample.bytes for sample in whole.samples[:2])
    assert not whole.lossy
    monkeypatch.setattr(explorer_album, "BYTES", limit)
    text = make_pages(tables)[paths.samples("d")]
    assert [sample["name"] for sample in Page(text).data] == ["s1", "s2"]
    assert "2 of 3 images" in text
    assert "compressed with losses" not in text  # which would blur such small images
    monkeypatch.setattr(explorer_album, "BYTES", 0)
    assert len(Page(make_pages(tables)[paths.samples("d")]).data) == 1
    monkeypatch.setattr(explorer_album, "SMALL", 3)
    text = make_pages(tables)[paths.samples("d")]
    assert "compressed with losses" in text
    assert "data:image/webp;base64," in text


def test_figures_name_the_norm_of_the_attack_and_what_they_show():
    tables = make_tables(attacks=("pgd",), samples=("s1", "s2", "s3", "s4"))
    (chart,) = gallery.draw(tables["gallery"], outcomes.gather(tables))
    assert "Images of d perturbed by pgd (ℓ∞ ≤ 0.1), n = 3 of the 4 images" in chart.caption
    assert "ℓ∞ norm" in chart.caption
    merged = chart.data.merge(tables["perturbation"], on=["dataset", "classifier", "attack", "sample"])
    merged = merged[merged["converged"]]
    assert len(merged) > 0
    assert np.allclose(merged["linf_x"], merged["linf_y"].astype(float))
    (alone,) = gallery.draw(tables["gallery"])
    assert "ℓ₂ norm" in alone.caption


CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", HOSTILE[0], "$x_1^2$" + " long" * 20, "truck"]


def make_named(classes):
    tables = make_tables()
    classifiers = outcomes.gather(tables)
    given = {"tables": tables, "classifiers": classifiers, "profile": profile.joined(tables, classifiers)}
    return explorer.pages(**given, config=None, title="", classes=classes)[paths.samples("d")]


def test_classes_are_called_by_their_names():
    text = make_named({"d": CLASSES, "e": ["other"] * 10})
    page = Page(text)
    cells = [text for _, text in page.all("td", data_attack="0")]
    assert f"already {HOSTILE[0]}, ℓ₂ 0" in cells[0] and f"cat → {CLASSES[8]}, ℓ₂ 0.0800" in cells[1]
    assert "not found, stays cat" in [text for _, text in page.all("td", data_attack="1")][1]
    assert {sample["label"] for sample in page.data} == {"cat"}
    assert "True class: cat." in page.all("section")[0][1]
    assert f"{HOSTILE[0]} (50.0 %), wrong" in page.all("section")[0][1]
    assert "Classes are numbers" not in text and "“cat → dog”" in text and HOSTILE[0] not in text
    assert "onerror" not in {name for _, attributes, _ in page.elements for name in attributes}


def test_without_names_classes_are_numbers():
    text = make_named(None)
    assert "Classes are numbers, from 0" in text and "“cat → dog”" not in text
    for classes in ({}, {"e": CLASSES}, {"d": [str(i) for i in range(10)]}, {"d": []}):
        assert make_named(classes) == text
    some = make_named({"d": CLASSES[:4]})  # tables of more classes than have names
    assert "cat → 8" in some


def test_names_of_classes():
    call = named({"d": ["cat", " ", "2"]}, "d")
    assert [call(i) for i in (0, 1, 2, 3, -1)] == ["cat", "1", "2", "3", "-1"]
    assert have_names({"d": ["0", "cat"]}, "d") and have_names({"d": ["1", "0"]}, "d")
    assert not have_names({"d": ["0", " ", "2"]}, "d") and not have_names({"d": ["cat"]}, "e")
    assert [shortened(text, 5) for text in ("horse", "horses", "a bc def")] == ["horse", "hors…", "a bc…"]


def test_figures_call_classes_by_their_names(monkeypatch):
    kept = []
    original = gallery.render
    monkeypatch.setattr(gallery, "render", lambda figure: (kept.append(figure), original(figure))[1])
    rows = make_tables(attacks=("pgd",))["gallery"]
    (chart,), (figure,) = list(gallery.draw(rows, classes={"d": CLASSES})), kept
    above = [axis.get_title() for axis in figure.axes]
    assert {"cat", "$x_1^2$ long…"} <= set(above) and "3" not in above and "8" not in above
    assert max(map(len, above)) <= gallery.LETTERS_OF_NAME
    assert not any(axis.title.get_parse_math() for axis in figure.axes)
    assert "s1, class cat" in [text.get_text() for text in figure.texts]
    assert set(chart.data["prediction"]) <= {3, 7, 8}, "numbers, as in the tables"
    (numbers,) = gallery.draw(rows)
    assert numbers.png != chart.png
    (digits,) = gallery.draw(rows, classes={"d": [str(i) for i in range(10)]})
    assert digits.png == numbers.png


def test_paths_call_classes_by_their_names():
    row = {"kind": "perturbed", "class": 3, "partner_class": 8}
    assert path_examples._heading(row, str) == "class 3, and a 8 perturbed into it"
    call = named({"d": CLASSES}, "d")
    assert path_examples._heading(row, call) == "class cat, and $x_1^2$ lo… perturbed into it"
    assert path_examples._heading({**row, "kind": "image"}, call) == "two images of class cat"
