"""Debian's Chromium, driven by Playwright. Pages fail their test on any error in the console."""

import shutil
from collections.abc import Callable, Generator, Sequence
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.servers import in_thread, real_engine
from tests.pictures import picture

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    # The shell is the same browser without its windows, and opens pages in half the time.
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is not installed: `make browser` installs it")
    with sync_playwright() as playwright:
        # Without its sandbox, which containers and root don't have; it sees loopback pages alone.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """The address of a server with a real engine."""
    with in_thread(real_engine) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser) -> Generator[OpenPage]:
    """(address, the server's url where it is another, options of the context) → a page of a browser
    that knows nothing yet."""
    problems: list[str] = []
    expected: list[str] = []
    contexts: list[BrowserContext] = []

    def open_(
        address: str,
        *,
        url: str | None = None,
        allow: str | None = None,
        width: int = 1280,
        permissions: Sequence[str] = (),
        color_scheme: Literal["light", "dark"] = "light",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 860},
            permissions=permissions,
            color_scheme=color_scheme,
        )
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        if allow is not None:
            expected.append(allow)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda m: problems.append(f"{m.text} {m.location}") if m.type == "error" else None,
        )
        own = url or address
        page.on("request", lambda r: None if r.url.startswith(own) else problems.append(r.url))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    # A page outlives the server of a test by a moment, and may ask it once more.
    expected.append("net::ERR_CONNECTION_REFUSED")
    left = [problem for problem in problems if not any(text in problem for text in expected)]
    assert left == []


@pytest.fixture
def screenshot() -> Callable[[Page, str], None]:
    """Keeps a picture for people to look at."""

    def take(page: Page, name: str) -> None:
        page.screenshot(path=picture(name))

    return take
