"""The page in a browser: what is typed is translated, and clicks choose; skipped where there is no Chromium."""

import shutil

import pytest
from serving.test_server import serving

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright: not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in Chromium: not installed")


@pytest.fixture(scope="module")
def address(tiny_run):
    with serving(tiny_run) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page, faults = browser.new_page(viewport={"width": 390, "height": 844}), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    # A refused request is told on the page; the browser notes its status in the console as well.
    refused = "Failed to load resource"
    page.on(
        "console", lambda note: faults.append(note.text) if note.type == "error" and refused not in note.text else None
    )
    page.on("request", lambda request: faults.append(request.url) if address not in request.url else None)
    page.goto(address)
    yield page
    page.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_translates_and_chooses(page):
    page.fill("#source", "ab cd\ngh ij")
    page.press("#source", "Control+Enter")
    page.wait_for_selector("#map td[aria-label]")
    assert len(texts(page, "#lines button")) == 2
    offered = texts(page, "#alternatives button span:nth-child(2)")
    assert len(offered) == 3
    assert page.locator("#map thead th").count() == len("ab cd") + 1
    page.click("#alternatives button:nth-child(2)")
    assert page.locator("#alternatives [aria-checked=true] span:nth-child(2)").inner_text() == offered[1]
    assert texts(page, "#lines button")[0] == offered[1].removesuffix(" (cut off)")
    page.click("#lines li:nth-child(2) button")
    assert page.locator("#choices-title").inner_text() == "Alternatives of line 2"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_what_is_typed_is_never_markup(page):
    page.fill("#source", "<img src=x onerror=alert(1)>")
    page.click("#go")
    page.wait_for_selector("#map td[aria-label]")
    assert page.locator("img").count() == 0


def test_errors_are_told_in_words(page):
    page.click("#go")
    assert page.locator("#status").inner_text() == "Write something to translate."
    page.fill("#source", "a" * 3000)
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert "3,000 characters is too long" in page.locator("#error").inner_text()
    page.fill("#source", "a" * 2_500_000)
    page.click("#go")
    page.wait_for_selector("#error:has-text('too much at once')")
    assert page.locator("#go").is_enabled()
