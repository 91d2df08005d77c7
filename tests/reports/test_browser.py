"""The page as a new user meets it: the system's Chromium, wide and narrow, light and dark. No message on the console,
no overflow, every picture there, the table sorts, and an accessibility checker (axe-core) finds nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from reports import verdicts
from reports.document import document
from reports.html import html
from tests.reports.records import APPROACHES, whole
from tests.reports.test_verdicts import reproduction

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
WAYS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs Chromium and its driver: install the Debian packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(chromedriver))
    browser.set_script_timeout(120)
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(html(document([whole(folder / "runs")])), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tried") / "reproduction.html"
    path.write_text(verdicts.html(verdicts.page(reproduction())), encoding="utf-8")
    return path.as_uri()


def show(driver: Any, page: str, width: int, scheme: str) -> None:
    """Open the page as on a screen of this width, in this colour scheme."""
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # a click waits for no scrolling
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), WAYS)
def test_it_is_shown_whole_and_in_silence(driver: Any, page: str, width: int, scheme: str):
    driver.get_log("performance")
    show(driver, page, width, scheme)
    driver.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert driver.get_log("browser") == []
    asked = [
        entry["message"] for entry in driver.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert asked and not [message for message in asked if '"url":"http' in message]
    of = "const e = document.documentElement; return [innerWidth, e.clientWidth, e.scrollWidth]"
    widths = driver.execute_script(of)
    assert widths[0] == width and widths[1] == widths[2]
    beyond = driver.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.box') && !e.closest('svg') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ' ' + e.className)"
    )
    assert beyond == []
    pictures = driver.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(pictures) > 40 and all(pictures)
    figures = driver.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert len(figures) == 9 and all(height > 100 for height in figures)
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 23, 27)"}[scheme]


@pytest.mark.slow
def test_the_table_sorts_by_mouse_and_by_keyboard(driver: Any, page: str):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(driver, page, 1280, "light")

    def column(title: str) -> tuple[Any, list[str], list[float | None]]:
        heads = driver.find_elements(By.CSS_SELECTOR, "#results thead th")
        place = next(i for i, head in enumerate(heads) if head.text.startswith(title))
        rows = driver.find_elements(By.CSS_SELECTOR, "#results tbody tr")
        names = [row.find_element(By.TAG_NAME, "th").get_attribute("data-value") for row in rows]
        values = [row.find_elements(By.CSS_SELECTOR, "th, td")[place].get_attribute("data-value") for row in rows]
        return heads[place], names, [float(value) if value else None for value in values]

    _, names, _ = column("caption")
    assert names == list(APPROACHES)
    for title, first in (("caption gap", "descending"), ("training FLOPs", "ascending")):
        head, _, _ = column(title)
        head.find_element(By.TAG_NAME, "button").click()
        head, names, values = column(title)
        assert head.get_attribute("aria-sort") == first
        assert values == sorted(values, reverse=first == "descending")  # type: ignore[type-var]
        head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        head, names, values = column(title)
        other = {"ascending": "descending", "descending": "ascending"}[first]
        assert head.get_attribute("aria-sort") == other
        assert values == sorted(values, reverse=other == "descending")  # type: ignore[type-var]
        assert sorted(names) == sorted(APPROACHES)
    sorted_heads = driver.find_elements(By.CSS_SELECTOR, "#results th[aria-sort]")
    assert len(sorted_heads) == 1
    said = driver.find_element(By.CSS_SELECTOR, "#results [role=status]").text
    assert said == "Sorted by training FLOPs, descending."


@pytest.mark.slow
def test_a_missing_number_stays_last(driver: Any, page: str):
    from selenium.webdriver.common.by import By

    show(driver, page, 1280, "light")
    table = driver.find_element(By.CSS_SELECTOR, "#all table")
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    for number, head in enumerate(heads[:4]):
        for _ in range(2):
            head.find_element(By.TAG_NAME, "button").click()
            cells = table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({number + 1})")
            known = [cell.get_attribute("data-value") is not None for cell in cells]
            assert known == sorted(known, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), WAYS[::3])
def test_an_accessibility_checker_finds_nothing(driver: Any, page: str, width: int, scheme: str):
    check(driver, page, width, scheme, passes=30)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), WAYS[::3])
def test_nor_does_it_on_a_reproductions_page_which_fits(driver: Any, tried: str, width: int, scheme: str):
    driver.get_log("browser")  # what is in it is of an earlier page
    check(driver, tried, width, scheme, passes=20)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.get_log("browser") == []


def check(driver: Any, page: str, width: int, scheme: str, passes: int) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    show(driver, page, width, scheme)
    driver.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    driver.execute_script(axe)
    found = driver.execute_async_script("const done = arguments[0]; axe.run(document, {}).then(done)")
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found["violations"]] == []
    assert len(found["passes"]) > passes
