"""The page of a report in a real browser: every control, light and dark, wide and narrow, paper, and without script."""

from __future__ import annotations

import shutil

import pytest

from compress.report.html import write_page
from tests.unit.compress.report.html_documents import full_document, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, and the page is tested"
)
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_page(write_report(folder, full_document()), folder / "report.html") is None
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page_file):
    """Return a function that opens the page; afterwards there was no complaint and no request to a network."""
    complaints, contexts = [], []

    def open_one(width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url),
        )
        page.goto(page_file.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


def draw_all(page):
    """Scroll through the page, details open, until each chart is drawn."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for place in page.query_selector_all("[data-chart]"):
        place.scroll_into_view_if_needed()
        page.wait_for_function("(one) => one.dataset.drawn === 'true'", arg=place)
    page.evaluate("window.scrollTo(0, 0)")


def test_every_chart_is_drawn_and_nothing_is_wider_than_the_window(open_page):
    for width in WIDTHS:
        page = open_page(width)
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(
            "[...document.querySelectorAll('.chart svg')].every((svg) => svg.getBoundingClientRect().width > 150)"
        )


def test_a_window_that_becomes_narrow_makes_charts_narrow(open_page):
    page = open_page()
    draw_all(page)
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= 400")
    page.wait_for_function("document.querySelector('#chart-layers svg').getBoundingClientRect().width < 400")


def test_axe_finds_nothing_serious(open_page):
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        draw_all(page)
        found = Axe().run(page).response["violations"]
        told = [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]
                if one["impact"] in ("serious", "critical", "moderate")]  # fmt: skip
        assert told == [], scheme


def test_the_line_of_a_picture_moves_by_keys_and_by_the_mouse(open_page):
    page = open_page()
    slider = page.locator("#slider-first")
    at = lambda: page.evaluate("document.querySelector('.hero .compare').style.getPropertyValue('--at')")  # noqa: E731
    assert at() == "50%"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert at() == "51%"
    page.keyboard.press("Home")
    assert at() == "0%"
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    assert 70 <= float(at().removesuffix("%")) <= 80


def test_the_theme_is_the_systems_until_the_button_is_pressed(open_page):
    page = open_page(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Switch between light and dark colours").click()
    light = page.evaluate(colour)
    assert light != dark
    axis = page.locator("#chart-pareto-bytes svg text").first
    assert axis.evaluate("(one) => getComputedStyle(one).fill") == page.evaluate(
        "getComputedStyle(document.querySelector('.quiet')).color"
    )
    page.reload()
    assert page.evaluate(colour) == light
    page.get_by_role("button", name="Switch between light and dark colours").click()
    assert page.evaluate(colour) == dark


def test_tables_are_sorted_by_their_heads(open_page):
    page = open_page()
    rows = page.locator("#table-layer-table tbody tr")
    keys = "(all, column) => all.map((row) => row.cells[column].dataset.key ?? '')"
    cells = lambda column: rows.evaluate_all(keys, column)  # noqa: E731
    head = page.locator("#table-layer-table thead th").nth(2)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    numbers = [float(one) for one in cells(2) if one]
    assert numbers == sorted(numbers, reverse=True)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(one) for one in cells(2) if one] == sorted(numbers)
    macs = page.locator("#table-layer-table thead th").nth(1)
    macs.get_by_role("button").click()
    macs.get_by_role("button").click()
    assert cells(1)[-1] == ""  # not known: last, whichever way
    assert head.get_attribute("aria-sort") is None


def test_pictures_and_images_are_filtered_and_sorted(open_page):
    page = open_page()
    pictures = page.locator("[data-gallery] .picture:visible")
    names = lambda: pictures.evaluate_all("(all) => all.map((one) => one.dataset.name)")  # noqa: E731
    rows = lambda: page.locator("#table-images tbody tr:visible").count()  # noqa: E731
    assert (names(), rows()) == (["image_2", "image_1"], 5)
    page.get_by_label("Worst first by").select_option("name")
    assert names() == ["image_1", "image_2"]
    page.get_by_label("Name contains").fill("IMAGE_2")
    assert (names(), rows()) == (["image_2"], 1)
    page.get_by_label("Name contains").fill("")
    page.get_by_label("only where something was lost").check()
    assert rows() == 4
    assert "4 of 5 images in the table" in page.locator("[data-filters] output").inner_text()
    assert page.locator(".spots").first.is_visible()
    page.get_by_label("what was missed and").uncheck()
    assert not page.locator(".spots").first.is_visible()


def test_the_chart_of_layers_shows_what_is_chosen(open_page):
    page = open_page()
    draw_all(page)
    axis = lambda: page.locator("#chart-layers svg").inner_html()  # noqa: E731
    before = axis()
    page.get_by_label("A bar shows").select_option("error")
    page.wait_for_function("(before) => document.querySelector('#chart-layers svg').innerHTML !== before", arg=before)


def test_a_chart_tells_its_numbers_under_the_mouse(open_page):
    page = open_page()
    draw_all(page)
    page.locator("#chart-errors").scroll_into_view_if_needed()
    page.locator("#chart-errors .mark-rect path").nth(5).hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()


def test_the_command_is_copied_and_the_recipe_saved(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"], accept_downloads=True)
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").or_(page.get_by_role("button", name="Selected")).wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Save a_run.yaml").click()
    assert waiting.value.suggested_filename == "a_run.yaml"
    assert waiting.value.path().read_text(encoding="utf-8").startswith("name: a_run")


def test_the_keyboard_reaches_the_skip_link_the_sections_and_every_control(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for link in page.locator("nav a").all():
        link.press("Enter")
        target = link.get_attribute("href").removeprefix("#")
        assert page.evaluate("(id) => document.getElementById(id) !== null", target)
    reachable = "(all) => all.every((one) => one.tabIndex >= 0 && (one.focus(), document.activeElement === one))"
    assert page.locator("button:visible, select:visible, input:visible, .scroll, pre:visible").evaluate_all(reachable)


def test_without_script_charts_pictures_and_tables_stand_there_and_no_dead_control(open_page):
    page = open_page(java_script_enabled=False)
    for place in page.locator("[data-chart] svg").all()[:4]:
        assert place.bounding_box()["height"] > 80
    first = page.locator(".hero .half")
    assert [first.nth(at).is_visible() for at in (0, 1)] == [True, True]
    boxes = [first.nth(at).bounding_box() for at in (0, 1)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    assert page.locator("button:visible, select:visible, input:visible").count() == 0


def test_on_paper_pictures_stand_side_by_side_and_nothing_is_cut(open_page):
    page = open_page()
    draw_all(page)
    page.emulate_media(media="print")
    boxes = [page.locator(".hero .half").nth(at).bounding_box() for at in (0, 1)]
    assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
    assert page.locator("nav").is_visible() is False
    assert page.locator(".scroll.tall").first.evaluate("(one) => getComputedStyle(one).overflowY") == "visible"
    assert len(page.pdf()) > 20_000
