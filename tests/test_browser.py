"""The pages in a real browser: tables sort and filter, links arrive, figures enlarge, and nothing is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import paths
from tests import browser as kit

INDEX, BOARD = "report/index.html", "leaderboard.html"
CARD = f"report/{paths.card(kit.DATASET, kit.BEST)}"
SAMPLES = f"report/{paths.samples(kit.DATASET)}"
PAGES = (INDEX, BOARD, CARD, SAMPLES)
PHONE, PAPER = 390, 960  # pixels; paper is Letter, landscape, within its margins
SMALLEST = "Median smallest ℓ₂"  # of the overall leaderboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with kit.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return kit.written(tmp_path_factory.mktemp("results"))


@pytest.fixture
def file(files: dict[str, Path]) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        return files[name]

    return find


def first_column(region: Any) -> list[str]:
    """The names of the rows that are shown, from top to bottom."""
    return [text for text in region.locator("tbody th").all_inner_texts() if text]


def keys(region: Any, place: int) -> list[str]:
    """What the rows are sorted by in a column, from top to bottom."""
    return [row.locator("> *").nth(place).get_attribute("data-sort") for row in region.locator("tbody tr").all()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_hinders_those_who_see_or_hear_less(
    browser: Any, file: Callable[[str], Path], name: str, scheme: str
) -> None:
    with kit.visit(browser, file(name), color_scheme=scheme) as seen:
        assert seen.axe() == []
        back = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_does_not_scroll_sideways(browser: Any, file: Callable[[str], Path], name: str) -> None:
    with kit.visit(browser, file(name), width=PHONE) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == PHONE
        assert seen.axe() == []


@pytest.mark.parametrize("name", PAGES)
def test_paper_shows_everything(browser: Any, file: Callable[[str], Path], name: str) -> None:
    with kit.visit(browser, file(name), width=PAPER, color_scheme="dark") as seen:
        page = seen.page
        closed = "document.querySelectorAll('details:not([open])').length"
        page.evaluate(f"addEventListener('beforeprint', () => {{ window.closedOnPaper = {closed}; }})")
        before = page.evaluate(closed)
        page.pdf()
        assert page.evaluate("window.closedOnPaper") == 0
        assert page.evaluate(closed) == before
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
        boxes = "[...document.querySelectorAll('.scroll:not(dialog *)')].map(box => getComputedStyle(box).overflowX)"
        assert set(page.evaluate(boxes)) <= {"visible"}, "paper does not scroll"
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(0, 0, 0)"
        for tool in page.locator(".contents, .zoom, .dt-search, .choose, .columns, .skip").all():
            assert not tool.is_visible()


@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_everything_stands_there(browser: Any, file: Callable[[str], Path], name: str) -> None:
    with kit.visit(browser, file(name), width=PHONE, java_script_enabled=False) as seen:
        assert seen.page.locator("h1").is_visible()
        if name in (INDEX, BOARD):
            assert seen.page.locator("table").first.locator("tbody th").count() == len(kit.MEDIANS) * (
                1 + (name == BOARD)
            )
            assert seen.page.locator("button:visible, input:visible, select:visible").count() == 0


def test_tables_sort_by_number_and_what_is_missing_comes_last(browser: Any, file: Callable[[str], Path]) -> None:
    with kit.visit(browser, file(BOARD)) as seen:
        table = seen.page.locator("table")
        head = table.locator("thead th").filter(has_text=SMALLEST)
        place = head.evaluate("head => head.cellIndex")
        found = ["9.5", "10.2", "Infinity"]  # as texts 10.2 would come before 9.5
        missing = [""] * (2 * len(kit.MEDIANS) - len(found))
        head.locator("[role=button]").press("Enter")
        table.locator("th[aria-sort=ascending]", has_text=SMALLEST).wait_for()
        assert keys(table, place) == found + missing
        head.click()
        table.locator("th[aria-sort=descending]", has_text=SMALLEST).wait_for()
        assert keys(table, place) == found[::-1] + missing
        table.locator("thead th").first.click()
        table.locator("thead th:first-child[aria-sort=ascending]").wait_for()
        assert first_column(table) == sorted(first_column(table))
        assert head.get_attribute("aria-sort") is None


def test_rows_and_columns_can_be_chosen(browser: Any, file: Callable[[str], Path]) -> None:
    with kit.visit(browser, file(BOARD)) as seen:
        page, table = seen.page, seen.page.locator("table")
        assert len(first_column(table)) == 8
        page.get_by_label("Search").fill("b--prime")
        assert first_column(table) == ["b--prime--0"] * 2
        page.get_by_label("Search").fill("nowhere")
        assert "No row matches." in table.locator("tbody").inner_text()
        page.get_by_label("Search").fill("")
        page.get_by_role("combobox", name="Data set").select_option(kit.DATASET)
        page.get_by_role("combobox", name="Training").select_option("prime")
        assert sorted(first_column(table)) == ["a--prime--0", "b--prime--0"]
        page.get_by_role("combobox", name="Training").select_option("all")
        assert len(first_column(table)) == 4

        head = table.locator("thead th").filter(has_text="Clean accuracy")
        page.locator("summary", has_text="Columns").press("Enter")
        box = page.get_by_role("checkbox", name="Clean accuracy [%]")
        box.press(" ")
        assert head.count() == 0 and table.locator("tbody tr").first.locator("> *").count() > 3
        assert seen.axe() == []
        box.press(" ")
        assert head.is_visible()


def test_every_number_leads_to_its_rows(browser: Any, file: Callable[[str], Path]) -> None:
    with kit.visit(browser, file(INDEX)) as seen:
        page = seen.page
        table = page.get_by_role("region", name=f"Overall, {kit.DATASET}, with 95 % intervals")
        row = table.locator("tbody tr").filter(has_text=kit.BEST)
        number = row.locator("td.number a").first
        shown = number.inner_text()
        file(CARD)
        number.click()
        page.wait_for_url("**/a--prime--0.html#overall-*")
        target = page.locator(":target")
        assert shown in target.inner_text()
        top = target.bounding_box()["y"]
        assert 0 <= top < 900, "the browser went there"
        page.go_back()
        page.get_by_role("link", name=kit.BEST, exact=True).first.click()
        assert kit.BEST in page.locator("h1").inner_text()


def test_figures_enlarge_by_keyboard(browser: Any, file: Callable[[str], Path]) -> None:
    with kit.visit(browser, file(INDEX), width=800) as seen:
        page, dialog = seen.page, seen.page.locator("dialog")
        button = page.get_by_role("button", name="Enlarge figure: Stripes")
        for key in ("Enter", " "):
            button.press(key)
            assert dialog.is_visible()
            image = dialog.locator("img")
            assert image.get_attribute("alt").startswith("Stripes, which show nothing")
            image.evaluate("image => image.decode()")
            assert image.bounding_box()["width"] == 1800
            assert dialog.locator(".scroll").evaluate("box => box.scrollWidth > box.clientWidth")
            assert seen.axe() == []
            page.keyboard.press("Escape")
            assert not dialog.is_visible()
            assert button.evaluate("button => button === document.activeElement")
        page.locator("figure img").first.click()
        dialog.get_by_role("button", name="Close").click()
        assert not dialog.is_visible()
        assert button.evaluate("button => button === document.activeElement"), "where the keyboard goes on"


def test_contents_stay_at_hand(browser: Any, file: Callable[[str], Path]) -> None:
    with kit.visit(browser, file(INDEX)) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        assert skip.bounding_box()["x"] >= 0, "it can be seen when it has the focus"
        skip.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        nav = page.get_by_role("navigation", name="Contents")
        for link in nav.get_by_role("link").all():
            link.click()
            assert page.locator(":target").is_visible()
            assert 0 <= nav.bounding_box()["y"] < 10, "beside the text, wherever that is"
    with kit.visit(browser, file(INDEX), width=PHONE) as seen:
        nav = seen.page.get_by_role("navigation", name="Contents")
        assert nav.get_by_role("link").count() == 0
        nav.locator("summary").press("Enter")
        nav.get_by_role("link", name="How it was made").click()
        assert seen.page.locator(":target").is_visible()
