"""Every figure that the report can draw: what captions say, what files hold, and that nothing is clipped or covered."""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from pipeline.report import curves, figures, leaderboard, outcomes, scales, sections, statistics, style
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import COLOURS, DPI, Chart, Look, ink, wrapped
from tests import test_report as tables_of
from tests.test_report_augmentation_distance import random_table as distances
from tests.test_report_corruptions import rows as accuracies
from tests.test_report_curvature import directions
from tests.test_report_curvature import points as bends
from tests.test_report_detection import gaussian
from tests.test_report_invariance import random_table as orbits
from tests.test_report_margins import CONFIG, SYNTHETIC, rows_of, spaces
from tests.test_report_margins import keys as margin_keys
from tests.test_report_regions import keyed, loop, pair, plane

SAMPLES = 24
COMMON = ("c.gaussian_noise", "c.defocus_blur", "c.fog", "c.contrast", "c.pixelate")
GRID = tuple((row, column) for row in (0, 4) for column in (0, 4))
LONG = ("wide_resnet_28_10_dropout", "vision_transformer_tiny", "convnext_small_patch4", "mlp_mixer_b16")
LONGER = ("standard", "adversarial_linf_8_255", "prime_with_augmix_and_more", "trades_beta_6")
EXAMPLES = "examples, not a sample"  # figures of a few images have no number of images


class Drawn(NamedTuple):
    """A chart and the figure it was made of."""

    chart: Chart
    figure: Figure


def members_of(architectures: Sequence[str], trainings: Sequence[str]) -> list[Outcomes]:
    return [Outcomes("d", f"{a}--{t}--0", a, t, 0) for a in architectures for t in trainings]


def attacked(key: dict[str, Any], norms: Any) -> list[dict[str, Any]]:
    """Attacks with and without a budget in three norms, two of them sparse."""
    pixels = np.where(np.isfinite(norms), np.ceil(4 * np.where(np.isfinite(norms), norms, 0)), math.inf)
    found = [("deepfool", "l2", None, norms), ("pgd", "l2", 0.5, np.where(norms <= 0.5, norms, math.inf))]
    found += [("pgd_max", "linf", 0.1, np.where(norms <= 0.4, norms, math.inf))]
    found += [("sigma_zero", "l0_pixels", None, pixels), ("sparsefool", "l0_pixels", None, pixels + (pixels > 0))]
    return [row for one in found for row in tables_of.perturbation(key, *one)]


def make_tables(members: Sequence[Outcomes]) -> dict[str, pd.DataFrame]:
    """Tables of all kinds of the data set `d`."""
    parts: dict[str, list[Any]] = {}
    for number, o in enumerate(members):
        generator = np.random.default_rng(number)
        key = tables_of.keys("d", o.architecture, o.training)
        wrong = {(name, severity): 2 * severity + number % 4 for name in COMMON for severity in (1, 3)}
        accuracy = accuracies(o.training, wrong, SAMPLES, 1, architecture=o.architecture)
        for row in accuracy:
            row["sample"] = f"s{int(row['sample'][1:])}"
        norms = np.where(np.arange(SAMPLES) < 22, generator.exponential(0.3 + 0.1 * (number % 5), SAMPLES), 0.0)
        norms[3] = math.inf
        own: dict[str, list[Any]] = {"accuracy": accuracy, "perturbation": attacked(key, norms)}
        own["transfer"] = [
            row
            for source in members
            for row in tables_of.transfer(key, source.classifier, "pgd", norms > 0, generator.random(SAMPLES) < 0.5)
        ]
        own["regions"] = [
            pair(float(r), kind) for kind in ("image", "noise") for r in 1 + generator.exponential(size=9)
        ]
        own["regions"] += [pair(1.0), pair(None), pair(1.0, "noise")]
        own["loops"] = [loop()] * 6 + [loop(quads=4, deviation=0.3), loop(filled=False)]
        own["slices"] = [plane("clean"), plane("deepfool")] * 2
        for kind in ("regions", "loops", "slices"):
            own[kind] = [keyed(own[kind], o.classifier, kind)]
        curve = rows_of(margin_keys("d", o.training, architecture=o.architecture), (0.5, 1.0, 1.5 + number, 4.0))
        chart = margin_keys("d", o.training, "map", o.architecture)
        own["dct_margin"] = [curve, rows_of(chart, (0.5, 1.0 + number, 2.0, 40.0), (9.0, 3.0, 2.0, 1.0), GRID)]
        spread = np.repeat(generator.lognormal(size=SAMPLES), 3)
        bent = bends(o.classifier, SAMPLES)
        for column in ("smallest", "largest", "mean"):
            bent[column] = bent[column] * spread
        own["curvature"] = [bent]
        own["shared_directions"] = [directions(o.classifier, SAMPLES)]
        own["detection"] = [gaussian(SAMPLES, 1.0, number, member=o)]
        own["invariance"] = [orbits(o, SAMPLES, number)]
        if o.training == "standard":
            own["augmentation_distance"] = [distances(o, [m.training for m in members[1:3]], 12, number)]
        space = spaces("d", {("random", index): 2.0 + index for index in range(2)}, o.training, 1)
        own["subspace_margin"] = [space.assign(architecture=o.architecture, classifier=o.classifier)]
        for kind, rows in own.items():
            parts.setdefault(kind, []).extend(rows)
    frames = {
        kind: pd.concat(rows, ignore_index=True) if isinstance(rows[0], pd.DataFrame) else pd.DataFrame(rows)
        for kind, rows in parts.items()
    }
    frames["augmentation_distance"]["corruption"] = frames["augmentation_distance"]["corruption"].replace(
        {"c.noise": "c.gaussian_noise", "c.blur": "c.defocus_blur"}
    )
    return frames


def charts_of(tables: dict[str, pd.DataFrame]) -> Iterator[Chart]:
    """All figures of the data set `d`."""
    everyone = outcomes.gather(tables)
    members = outcomes.shared(everyone, "d")
    yield from figures.draw(members, leaderboard.build(everyone, 0, None), everyone)
    yield from sections.draw(tables, members, everyone, "d", 0)
    yield from sections.draw_across(tables, everyone, {"trainings": dict.fromkeys(LONGER)}, 0)


def across() -> Iterator[Chart]:
    """Figures across data sets: flipped and low-passed ones, adversarial training, features of synthetic ones."""
    curves = [rows_of(margin_keys(d, t)) for d in ("plain", "flipped", "smooth") for t in ("standard", "robust")]
    both = {("discriminative", 0): 2.2, ("discriminative", 1): 7.0, ("complement", 0): 40.0}
    features = [spaces("one", {("discriminative", 0): 2.1, ("complement", 0): 9.0}, noise=1)]
    features += [spaces("half", both, noise=1)]
    for kind, rows, config in (("dct_margin", curves, CONFIG), ("subspace_margin", features, SYNTHETIC)):
        table = {kind: pd.concat(rows, ignore_index=True)}
        yield from sections.draw_across(table, outcomes.gather(table), config, 0)


def drawn(charts: Any, patch: pytest.MonkeyPatch, files: bool) -> list[Drawn]:
    """Charts with their figures; without files, the figures are laid out alone, with rough intervals: faster."""
    made: list[Figure] = []

    class Recorded(Figure):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            made.append(self)

        def savefig(self, *args: Any, **keywords: Any) -> None:
            if files:
                super().savefig(*args, **keywords)
            elif keywords["format"] == "png":
                self.draw_without_rendering()

    patch.setattr(style, "Figure", Recorded)
    if not files:
        patch.setattr(statistics, "bootstrap", functools.partial(statistics.bootstrap, resamples=99))
    found = list(charts)
    patch.undo()
    assert len(found) == len(made)
    return [Drawn(chart, figure) for chart, figure in zip(found, made, strict=True)]


@pytest.fixture(scope="module")
def finished() -> list[Drawn]:
    """Every figure of a data set with six classifiers."""
    with pytest.MonkeyPatch.context() as patch:
        return drawn(charts_of(make_tables(members_of(["net", "vit"], ["standard", "robust", "prime"]))), patch, False)


@pytest.fixture(scope="module")
def apart() -> list[Drawn]:
    """Figures across data sets, with their files."""
    with pytest.MonkeyPatch.context() as patch:
        return drawn(across(), patch, True)


@pytest.fixture(scope="module")
def filed(apart: list[Drawn]) -> list[Drawn]:
    """Figures with their files: lines, bands, bars, heat maps, images."""
    tables = make_tables(members_of(["net"], ["standard", "robust"]))
    with pytest.MonkeyPatch.context() as patch:
        return (
            drawn(charts_of({kind: tables[kind] for kind in ("accuracy", "slices", "dct_margin")}), patch, True) + apart
        )


def texts_of(figure: Figure, patch: pytest.MonkeyPatch) -> list[tuple[matplotlib.text.Text, Bbox]]:
    """The texts that are drawn, with their boxes in pixels."""
    shown: list[matplotlib.text.Text] = []
    draw = matplotlib.text.Text.draw

    def recorded(self: matplotlib.text.Text, renderer: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            shown.append(self)
        draw(self, renderer)

    patch.setattr(matplotlib.text.Text, "draw", recorded)
    figure.draw_without_rendering()
    patch.undo()
    # a plain text box, without the arrow of an annotation
    return [(text, matplotlib.text.Text.get_window_extent(text)) for text in dict.fromkeys(shown)]


def faults(figure: Figure, patch: pytest.MonkeyPatch) -> list[str]:
    """Texts that leave the canvas, are too small or lie on others; those at a slant are not compared."""
    texts = texts_of(figure, patch)
    width, height = figure.bbox.size
    found = [f"{text.get_text()!r} is small" for text, _ in texts if text.get_fontsize() < 7]
    for text, box in texts:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            found.append(f"{text.get_text()!r} leaves the canvas")
    level = [(text, box.padded(-1)) for text, box in texts if text.get_rotation() % 90 == 0]
    for (one, first), (other, second) in itertools.combinations(level, 2):
        if first.x0 < second.x1 and second.x0 < first.x1 and first.y0 < second.y1 and second.y0 < first.y1:
            found.append(f"{one.get_text()!r} lies on {other.get_text()!r}")
    return found


def test_every_kind_of_table_has_figures(finished: list[Drawn]) -> None:
    names = [chart.name for chart, _ in finished]
    assert len(set(names)) == len(names)
    for module in (*sections.MEASURED, *sections.ACROSS):
        assert any(chart.section == module.SECTION for chart, _ in finished), module
    for name in ("overview", "robustness", "margins", "corruptions", "envelope", "sparse", "transfer"):
        assert name in names
    assert {name.partition("_")[0] for name in names} >= {"subspaces", "profile", "slices", "bends", "margin"}


def test_captions_say_what_is_shown(finished: list[Drawn], apart: list[Drawn]) -> None:
    for chart, figure in finished + apart:
        assert chart.title and chart.alt and chart.alt != chart.caption, chart.name
        assert chart.caption.endswith(".") and not re.search(r"[{}]|\bnan\b", chart.caption + chart.alt), chart.caption
        if "dataset" in chart.data:
            assert all(name in chart.caption + _texts(figure) for name in set(chart.data["dataset"])), chart.name
        assert re.search(r"n = \d", chart.caption) or EXAMPLES in chart.caption, chart.name
        if any(axis.containers for axis in figure.axes):  # bars
            assert "95 %" in chart.caption, chart.name
            assert re.search("Wilson|bootstrap|permutations|order statistics", chart.caption), chart.name
        if any(axis.get_xscale() == "log" or axis.get_yscale() == "log" for axis in figure.axes):
            assert "logarithmic" in chart.caption, chart.name


def _texts(figure: Figure) -> str:
    return " ".join(axis.get_title() for axis in figure.axes)


def test_numbers_of_every_figure(finished: list[Drawn], apart: list[Drawn]) -> None:
    for chart, _ in finished + apart:
        data = chart.data
        assert len(data) and not data.columns.duplicated().any(), chart.name
        if chart.name in ("profile_correlations", "profile_robustness"):  # of all classifiers together
            assert "classifiers" in data
        else:
            assert "dataset" in data and {"classifier", "source"} & set(data), chart.name
        for low in (name for name in data if name == "low" or name.endswith("_low")):
            names = [low.removesuffix("_low")] if low != "low" else ["share", "median", "correlation", "difference"]
            names += ["stability", "relative", "value"] if low == "low" else []
            (value,) = [name for name in names if name in data][:1]
            limits = data[[low, value, low[:-3] + "high"]].dropna().to_numpy(dtype=float)
            assert (np.diff(limits, axis=1) >= -1e-12).all(), (chart.name, value)


def test_files(filed: list[Drawn]) -> None:
    for chart, figure in filed:
        image = Image.open(io.BytesIO(chart.png))
        assert image.size == pytest.approx(figure.get_size_inches() * DPI, abs=1)
        assert len(chart.png) <= 400_000, chart.name
        drawing = ElementTree.fromstring(chart.svg)
        assert drawing.tag.endswith("svg") and not list(drawing.iter("{http://www.w3.org/2000/svg}text"))
        assert chart.pdf.startswith(b"%PDF-") and chart.pdf.rstrip().endswith(b"%%EOF"), chart.name
        assert b"/FontFile2" in chart.pdf and b"/Type3" not in chart.pdf and b"CreationDate" not in chart.pdf
        shown = [axis for axis in figure.axes if axis.images or axis.collections]
        if not shown:  # letters are outlines or fonts, never pixels
            assert b"<image" not in chart.svg and b"/Subtype /Image" not in chart.pdf
        content = b"".join(_streams(chart.pdf))
        assert (b"Tf" in content and b"TJ" in content) or b"Tj" in content, chart.name


def _streams(pdf: bytes) -> Iterator[bytes]:
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            yield zlib.decompress(part)
        except zlib.error:
            yield part


def test_equal_tables_give_equal_files(apart: list[Drawn]) -> None:
    for (first, _), again in zip(apart, across(), strict=True):
        assert (again.png, again.svg, again.pdf) == (first.png, first.svg, first.pdf)
        assert again.caption == first.caption and again.data.equals(first.data)


def check(made: Sequence[Drawn], patch: pytest.MonkeyPatch) -> None:
    assert all(3 <= figure.get_figwidth() <= 16 for _, figure in made)
    assert not {chart.name: wrong for chart, figure in made if (wrong := faults(figure, patch))}


def test_nothing_is_clipped_or_covered(finished: list[Drawn], monkeypatch: pytest.MonkeyPatch) -> None:
    check(finished, monkeypatch)


@pytest.mark.parametrize("members", [members_of(["net"], ["standard", "robust"]), members_of(LONG, LONGER)])
def test_two_classifiers_and_sixteen_with_long_ids(members: list[Outcomes], monkeypatch: pytest.MonkeyPatch) -> None:
    check(drawn(charts_of(make_tables(members)), monkeypatch, False), monkeypatch)


def test_nothing_is_clipped_or_covered_across_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    check(drawn(across(), monkeypatch, False), monkeypatch)


def test_no_two_classifiers_differ_in_colour_alone() -> None:
    """Up to twelve pairs of architecture and training have a marker each; looks agree between data sets."""
    members = members_of(["a", "b", "c"], ["standard", "t", "u", "v"])
    look = Look(members, members)
    markers = [look(o)["marker"] for o in members]
    assert len(set(markers)) == len(members)
    assert look(members[5])["color"] == look(members[1])["color"] != look(members[0])["color"] == COLOURS[0]
    assert look(members[5])["linestyle"] != look(members[1])["linestyle"]
    assert [Look(members[5:6], members)(o) for o in members] == [look(o) for o in members]


def test_letters_on_colours() -> None:
    assert [ink(shade) for shade in ("black", "white", "#ffff00", "#0000ff", "#777777")] == [
        *("white", "black", "black", "white", "black")
    ]


def test_long_ids_are_broken_between_their_parts() -> None:
    assert wrapped("net--standard--0", 20) == "net--standard--0"
    assert wrapped("net--standard--0", 13) == "net--standard--\n0"
    assert wrapped("wide_net--standard--0", 12) == "wide_net--\nstandard--0"
    assert wrapped("x" * 50, 20).split("\n") == ["x" * 20, "x" * 20, "x" * 10]
    assert wrapped("__a_b__", 1).replace("\n", "") == "__a_b__" and wrapped("", 5) == ""


@pytest.mark.parametrize(("value", "text"), [(0.01, "0.01"), (1e-6, "10⁻⁶"), (2e-5, "2·10⁻⁵"), (1000.0, "1000")])
def test_powers_of_ten(value: float, text: str) -> None:
    assert scales.power(value, 0) == text


def test_interval_of_a_median_lies_between_order_statistics() -> None:
    """Exact binomial limits: of ten values the second and the ninth (97.9 %), of fewer than six none."""
    assert curves._median(np.arange(1.0, 11)) == (5.5, 2.0, 9.0)
    assert curves._median(np.array([1.0, 2.0, 3.0, 4.0, math.inf, math.inf])) == (3.5, 1.0, math.inf)
    assert all(map(math.isnan, curves._median(np.arange(5.0))[1:]))
    generator = np.random.default_rng(0)
    samples = np.sort(generator.exponential(size=(2000, 25)))
    found = [curves._median(sample) for sample in samples]
    covered = np.mean([value.low <= math.log(2) <= value.high for value in found])
    assert 0.95 <= covered <= 0.975  # exactly 0.957


def test_curves_of_counted_pixels_are_staircases() -> None:
    tables = make_tables(members_of(["net"], ["standard"]))
    members = outcomes.gather({kind: tables[kind] for kind in ("accuracy", "perturbation")})
    data = curves.security(members, Look(members, members)).data
    (own,) = (members[0].norms[threat] for threat in members[0].norms if threat.attack == "sigma_zero")
    stairs = data[(data["norm"] == "l0_pixels") & (data["attack"] == "")]
    assert stairs["epsilon"].tolist() == list(range(len(stairs)))
    assert stairs["share"].tolist() == [float((own > count).mean()) for count in range(len(stairs))]
