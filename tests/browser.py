"""A small report made of fabricated tables, and a real browser to look at it with."""

from __future__ import annotations

import importlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.report import boards, comparisons, outcomes, paths, profile, site
from pipeline.report.pagetables import Table, estimate, words
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, Vector

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DATASET, OTHER = "digits", "colours"
SAMPLES = 12
# id -> the norm of every perturbation that is found, by which its median is known; None: not attacked
MEDIANS = {"a--standard--0": 9.5, "a--prime--0": 10.2, "b--standard--0": math.inf, "b--prime--0": None}
BEST = "a--prime--0"


def frames(rename: dict[str, str] | None = None) -> dict[str, pd.DataFrame]:
    """Tables of two data sets; on the second nothing but accuracy was measured.

    Args:
        rename: other ids of classifiers and data sets, by those of this file.
    """
    renamed = rename or {}
    tables: dict[str, list[dict[str, Any]]] = {"accuracy": [], "perturbation": [], "gallery": []}
    for dataset in (DATASET, OTHER):
        for place, (name, median) in enumerate(MEDIANS.items()):
            architecture, training, seed = name.split("--")
            keys = {"dataset": renamed.get(dataset, dataset), "classifier": renamed.get(name, name), "measurement": "m"}
            keys |= {"architecture": architecture, "training": training, "seed": int(seed)}
            tables["accuracy"] += _accuracy(keys, wrong=place)
            if dataset == DATASET and median is not None:
                tables["perturbation"] += _perturbation(keys, "deepfool", "l2", None, median)
                tables["perturbation"] += _perturbation(keys, "pgd", "l2", 10.0, median)
                tables["gallery"] += _gallery(keys)
    return {kind: pd.DataFrame(rows) for kind, rows in tables.items()}


def _accuracy(keys: dict[str, Any], wrong: int) -> Iterator[dict[str, Any]]:
    for view, kind, severity in (("clean", "clean", None), ("fog", "corruption", 1), ("fog", "corruption", 3)):
        for i in range(SAMPLES):
            right = i >= wrong + 2 * (severity or 0)
            own = {"view": view, "kind": kind, "severity": severity, "label": 1, "prediction": int(right)}
            yield {**keys, "sample": f"s{i}", **own, "correct": right, "confidence": 0.9}


def _perturbation(
    keys: dict[str, Any], attack: str, norm: str, epsilon: float | None, size: float
) -> Iterator[dict[str, Any]]:
    found = math.isfinite(size) and (epsilon is None or size <= epsilon)
    for i in range(SAMPLES):
        own: dict[str, Any] = {"attack": attack, "norm": norm, "epsilon": epsilon, "converged": found}
        own |= {"label": 1, "clean_prediction": 1, "forward_passes": 3.5, "backward_passes": 2.0}
        own |= {"zero_gradient": False, "random_forward": False, "softmax_output": False}
        own |= {"large_epsilon_success": None if epsilon is None else 1.0}
        own |= dict.fromkeys(("l0_pixels", "l0_entries", "l1", "l2", "linf"), size if found else None)
        yield {**keys, "sample": f"s{i}", **own}


def _gallery(keys: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for i in range(3):
        clean = np.full((1, 4, 4), 0.2 * (i + 1), dtype="<f4")
        own = {"attack": "pgd", "label": 1, "clean_prediction": 1, "prediction": 0}
        own |= {"channels": 1, "height": 4, "width": 4}
        images = {"clean": clean.tobytes(), "perturbed": (clean + np.float32(0.1)).tobytes()}
        yield {**keys, "sample": f"s{i}", **own, **images}


def chart(name: str, section: str = "", width: int = 1800) -> Chart:
    """A figure of stripes, with a table."""
    sink = BytesIO()
    stripes = np.broadcast_to(np.arange(width, dtype=np.uint16)[None, :, None] * (1, 2, 3) % 256, (900, width, 3))
    Image.fromarray(stripes.astype(np.uint8)).save(sink, "PNG")
    rows = [[*words(f"row {i}"), estimate(Interval(i / 20, 0.0, 1.0))] for i in range(15)]
    table = Table(("Row", "Share [%]"), rows)
    alt = f"Stripes, which show nothing at all; they stand for the figure {name}."
    words_of = {"title": name.capitalize(), "caption": f"Caption of {name}.", "alt": alt, "section": section}
    return Chart(name=name, **words_of, png=sink.getvalue(), vector=Vector(b"", b""), data=pd.DataFrame(), table=table)


def written(folder: Path, rename: dict[str, str] | None = None, seed: int = 0, **own: Any) -> dict[str, Path]:
    """The pages of a report on `frames`: name such as `index` -> file.

    Args:
        folder: of the results.
        rename: of `frames`.
        seed: of the bootstrap.
        own: further arguments of the page.
    """
    tables = frames(rename)
    members = outcomes.gather(tables)
    measured = boards.everything(tables, members, seed, None)
    compared = comparisons.compare(members, seed)
    charts = {DATASET: [(f"{DATASET}_stripes", chart("stripes")), (f"{DATASET}_more", chart("more", "A section"))]}
    sources = [site.Source(kind, len(rows), "0" * 64, {}) for kind, rows in tables.items()]
    pages = {}
    if cards := _module("cards"):
        pages |= cards.pages(
            classifiers=members, boards=measured, tables=tables, sources=sources, config=None, charts=charts, seed=seed,
            title="A report", comparisons=compared,
        )  # fmt: skip
    samples = {}
    if explorer := _module("explorer"):
        joined = profile.joined(tables, members)
        samples = explorer.pages(tables=tables, classifiers=members, profile=joined, config=None, title="A report")
    shown = {name: paths.samples(name) for name in outcomes.datasets(members) if paths.samples(name) in samples}
    given: dict[str, Any] = {"title": "A report", "classifiers": members, "boards": measured, "comparisons": compared}
    given |= {"charts": charts, "tables": sources, "seed": seed, "spec": None, "samples": shown}
    pages |= {paths.INDEX: site.page(**given | own)} | samples
    files = {f"report/{path}": text for path, text in pages.items()}
    files["leaderboard.html"] = site.leaderboard_page(measured[0], "A report")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return {path: folder / path for path in files}


def _module(name: str) -> Any:
    """A module of the report that makes further pages; None where there is none."""
    try:
        return importlib.import_module(f"pipeline.report.{name}")
    except ModuleNotFoundError:
        return None


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's browser; the test is skipped where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra `test`")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} on the path; the variable CHROMIUM may name one")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


class Visit:
    """A page in the browser, and what went wrong on it.

    Attributes:
        page: of playwright.
        errors: of scripts and of the content security policy, and warnings.
        requests: addresses of everything that was asked for beside files; none of it is answered.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.route("**/*", lambda route: route.continue_() if self._local(route.request.url) else route.abort())

    @staticmethod
    def _local(address: str) -> bool:
        return address.startswith(("file://", "data:"))

    def _note(self, address: str) -> None:
        if not self._local(address):
            self.requests.append(address)

    def axe(self) -> Sequence[str]:
        """What axe finds wrong: rule, and the first element that breaks it."""
        kit = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: extra `test`")
        found = kit.Axe().run(self.page).response["violations"]
        return [f"{rule['id']}: {rule['nodes'][0]['html']} {rule['nodes'][0]['failureSummary']}" for rule in found]


@contextmanager
def visit(browser: Any, file: Path, width: int = 1400, **context: Any) -> Iterator[Visit]:
    """A page, opened; at the end nothing may have failed and nothing may have been asked for.

    Args:
        browser: of `chromium`.
        file: HTML.
        width: of the window, pixels.
        context: of playwright, such as color_scheme.
    """
    opened = browser.new_context(viewport={"width": width, "height": 900}, **context)
    try:
        found = Visit(opened.new_page())
        found.page.goto(file.as_uri())
        yield found
        assert found.errors == [] and found.requests == []
    finally:
        opened.close()
