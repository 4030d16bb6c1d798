"""Figures of the page, packed without loss."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from pipeline.report import sections
from pipeline.report.style import DPI, Chart

Charts = Mapping[str, Sequence[tuple[str, Chart]]]  # data set -> (name of the files, figure); across data sets under ""
EFFORT = {"method": 1, "quality": 20}  # of the search for a short code; more gains 1 % and takes longer


def of_section(charts: Charts, section: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """(data set, figures) of a section, for the data sets that have any."""
    found = {dataset: [pair for pair in pairs if pair[1].section == section] for dataset, pairs in charts.items()}
    return [(dataset, [_figure(*pair) for pair in pairs]) for dataset, pairs in found.items() if pairs]


def in_sections(charts: Charts) -> list[tuple[str, str, Any]]:
    """(name, text, figures by data set) of each section that has any."""
    texts = sections.texts()
    names = dict.fromkeys([*texts, *(chart.section for pairs in charts.values() for _, chart in pairs)])
    return [(name, texts.get(name, ""), found) for name in names if name and (found := of_section(charts, name))]


def packed(png: bytes) -> str:
    """A figure as a data URI in lossless WebP, which takes less than half of a PNG file's room."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(sink, "WEBP", lossless=True, **EFFORT)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def _figure(name: str, chart: Chart) -> dict[str, Any]:
    words = {"title": chart.title, "caption": chart.caption, "alt": chart.alt, "file": name}
    inches = int.from_bytes(chart.png[16:20]) / DPI  # a PNG file's width
    return words | {"source": packed(chart.png), "inches": inches, "table": chart.table}
