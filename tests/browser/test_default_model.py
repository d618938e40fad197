"""The default model in the browser, as `make serve` shows it. Its pictures are the docs'."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask, compare, kept, tokens_of
from tests.live import LiveServer, serve

pytestmark = pytest.mark.real_model

Screenshot = Callable[[Page, str], None]
QUESTION = "Write a Python function that adds two numbers, then one that adds three."


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve() as running:
        yield running


def test_the_replay_has_equal_text(
    open_page: OpenPage, server: LiveServer, screenshot: Screenshot
) -> None:
    """Drawn, not greedy: the same seed has to give the same tokens."""
    page = open_page(server.url)
    page.locator("#tint").check()
    ask(page, QUESTION, max_tokens=120, temperature=0.7)
    answered(page)
    verdict = compare(page)
    expect(verdict).to_have_attribute("data-same", "true")
    expect(verdict).to_contain_text("equal text")
    expect(verdict).to_be_in_viewport()
    assert kept(page)["report"]["accepted_tokens"] > 0
    screenshot(page, "playground-compare")


def test_tokens_of_each_origin_and_a_steps_tree(
    open_page: OpenPage, server: LiveServer, screenshot: Screenshot
) -> None:
    page = open_page(server.url)
    page.locator("#tint").check()
    ask(page, QUESTION, max_tokens=80, temperature=0, policy="cape")
    message = answered(page)
    answer = kept(page)
    sources = {token["source"] for token in tokens_of(answer)}
    assert sources == {"trunk", "leaf", "target"}
    for source in sources:
        expect(message.locator(f".answer .o-{source}").first).to_be_visible()
    steps = answer["steps"]
    deepest = max(range(len(steps)), key=lambda i: len(steps[i]["accepted"]))
    message.locator(".step").nth(deepest).click()
    panel = message.get_by_role("region", name=f"Step {deepest + 1}")
    expect(panel.locator(".node.accepted")).to_have_count(len(steps[deepest]["accepted"]))
    panel.scroll_into_view_if_needed()
    screenshot(page, "playground-step")


def test_the_status_page_under_load(
    open_page: OpenPage, server: LiveServer, screenshot: Screenshot
) -> None:
    page = open_page(server.url)
    page.get_by_role("link", name="Status").click()
    for _ in range(8):
        for policy in ("auto", "cape", "chain"):
            body = {
                "messages": [{"role": "user", "content": QUESTION}],
                "max_tokens": 64,
                "speculation": {"policy": policy},
            }
            url = f"{server.url}/v1/chat/completions"
            httpx.post(url, json=body, timeout=60).raise_for_status()
        page.wait_for_timeout(100)  # the page's own timers run only while the driver waits
    for name in ("requests", "speed", "kv", "positions", "calibration", "parts"):
        expect(page.locator(f"#chart-{name} canvas")).to_be_visible()
    expect(page.locator("#tiles-total")).to_contain_text("Speedup")
    screenshot(page, "status")
