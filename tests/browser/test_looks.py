"""Phone width, dark, accessibility (axe) and the status page."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.api.harness import live_app, make_app
from tests.browser.conftest import OpenPage
from tests.browser.pages import Json, answered, ask, compare
from tests.browser.servers import in_thread, scripted
from tests.doubles import ScriptedEngine

PHONE = 360
AXE = Path(__file__).parent / "axe" / "axe.min.js"
Screenshot = Callable[[Page, str], None]


def serious_findings(page: Page) -> list[str]:
    """What axe finds serious or critical, with the elements."""
    # Evaluated and not added as a script, which the page's own policy would rightly refuse.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations: list[Json] = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{found['id']}: {found['help']} {[node['target'] for node in found['nodes']]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.scrollingElement.scrollWidth - innerWidth")


def outside(page: Page, selector: str) -> list[str]:
    """Visible elements that reach beyond the window's sides."""
    return page.locator(selector).evaluate_all(
        """all => all.filter(e => e.checkVisibility()).map(e => [e, e.getBoundingClientRect()])
            .filter(([e, r]) => r.left < -1 || r.right > innerWidth + 1)
            .map(([e, r]) => `${e.id || e.className} ${r.left} ${r.right}`)"""
    )


def replay(page: Page) -> None:
    """An answer with tints, beside its replay."""
    page.locator("#tint").check()
    ask(page, max_tokens=40, temperature=0)
    answered(page)
    compare(page)


def test_a_phone_shows_everything(open_page: OpenPage, url: str, screenshot: Screenshot) -> None:
    page = open_page(url, width=PHONE)
    screenshot(page, "phone-empty")
    assert overflow(page) == 0
    replay(page)
    assert overflow(page) == 0
    assert outside(page, "header *, .message, .message .actions *, #composer *") == []
    screenshot(page, "phone-answer")
    page.locator("#settings-toggle").click()
    expect(page.locator("#settings")).to_be_visible()
    assert overflow(page) == 0
    assert outside(page, "#settings *") == []
    screenshot(page, "phone-settings")
    page.locator("#settings-close").click()
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#chart-kv canvas")).to_be_visible()
    assert overflow(page) == 0
    assert outside(page, "#view-status figure") == []
    screenshot(page, "phone-status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    open_page: OpenPage, url: str, screenshot: Screenshot, scheme: Literal["light", "dark"]
) -> None:
    page = open_page(url, color_scheme=scheme)
    # Colours in transition are no colours to judge.
    page.evaluate(
        """() => {
            const still = new CSSStyleSheet();
            still.replaceSync("* { transition: none !important; animation: none !important }");
            document.adoptedStyleSheets = [still];
        }"""
    )
    assert serious_findings(page) == []
    replay(page)
    page.locator("#settings-toggle").click()
    expect(page.locator("#settings")).to_be_visible()
    assert serious_findings(page) == []
    screenshot(page, f"{scheme}-settings")
    page.locator("#settings-close").click()
    page.locator(".message.assistant .step").first.click()
    assert serious_findings(page) == []
    screenshot(page, f"{scheme}-replay")
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#chart-kv canvas")).to_be_visible()
    assert serious_findings(page) == []
    screenshot(page, f"{scheme}-status")


def brightness(page: Page) -> float:
    """Brightness of the page's background, 0 to 255."""
    colour: str = page.evaluate(
        """() => {
            const context = document.createElement("canvas").getContext("2d");
            context.fillStyle = getComputedStyle(document.body).backgroundColor;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].join(" ");
        }"""
    )
    red, green, blue, _ = map(int, colour.split())
    return (red + green + blue) / 3


def test_dark_follows_the_system_until_the_switch_says_otherwise(
    open_page: OpenPage, url: str
) -> None:
    page = open_page(url, color_scheme="dark")
    assert brightness(page) < 60
    page.locator("#theme").click()
    assert brightness(page) > 200
    page.reload()
    assert brightness(page) > 200
    assert brightness(open_page(url)) > 200


def test_the_status_page_shows_what_metrics_say(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    ask(page, max_tokens=60, temperature=0)
    answered(page)
    page.get_by_role("link", name="Status").click()
    for name in ("requests", "speed", "kv", "positions", "calibration", "parts"):
        expect(page.locator(f"#chart-{name} canvas")).to_be_visible()
    text = httpx.get(f"{url}/metrics").text
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    total = sum(
        float(value)
        for name, value in values.items()
        if name.startswith("glidecape:generation_tokens_total")
    )
    assert total > 0
    tile = page.locator("[data-tile='Tokens generated'] dd")
    expect(tile).to_have_text(f"{int(total):,}")
    for name in ("To the first token (median)", "Between tokens (median)"):
        expect(page.locator(f"[data-tile='{name}'] dd")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(page.locator("#state")).to_have_text("Serving")
    expect(page.locator("#status-error")).to_be_hidden()


def test_the_status_page_says_what_serves(open_page: OpenPage) -> None:
    facts = {
        "version": "1.2.3",
        "draft": "tiny-glide",
        "policy": "auto",
        "kernels": "native CPU kernels",
        "precision": "bfloat16",
    }
    app = make_app(ScriptedEngine([]))
    app.state.parts.metrics.describe_server(facts)
    with in_thread(lambda: live_app(app)) as url:
        page = open_page(f"{url}/#status", url=url)
        shown = page.locator("#facts")
        expect(shown).to_contain_text("1.2.3")
        expect(shown).to_contain_text("tiny-glide, policy auto")
        expect(shown).to_contain_text("native CPU kernels")
        expect(shown).to_contain_text(re.compile(r"Up for\d+ s"))


def test_the_status_page_of_a_server_that_is_gone(
    open_page: OpenPage, screenshot: Screenshot
) -> None:
    with in_thread(lambda: scripted(ScriptedEngine([]))) as url:
        page = open_page(f"{url}/#status", url=url, allow="ERR_CONNECTION")
        expect(page.locator("#state")).to_have_text("Serving")
    expect(page.locator("#state")).to_have_text("Not reachable")
    expect(page.locator("#status-error")).to_contain_text("No answer since")
    expect(page.locator("#view-status")).to_have_class(re.compile("is-stale"))
    screenshot(page, "status-gone")


def test_the_status_page_of_a_dead_engine(open_page: OpenPage) -> None:
    engine = ScriptedEngine([])
    engine.is_dead = True
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(f"{url}/#status", url=url, allow="503")
        expect(page.locator("#state")).to_have_text("The engine has stopped")
        expect(page.locator("#status-error")).to_be_visible()


def test_the_apis_page_shows_every_operation(
    open_page: OpenPage, url: str, screenshot: Screenshot
) -> None:
    document: Json = httpx.get(f"{url}/openapi.json").json()
    operations = [(method, path) for path, found in document["paths"].items() for method in found]
    page = open_page(f"{url}/docs", url=url)
    expect(page.locator(".operation")).to_have_count(len(operations))
    shown = page.locator("#operations a").all_inner_texts()
    assert [tuple(text.split()) for text in shown] == [(m.upper(), p) for m, p in operations]
    chat = page.locator("#post-v1-chat-completions")
    chat.get_by_text("Fields of the request").click()
    names = document["components"]["schemas"]["ChatRequest"]["properties"]
    expect(chat.locator(".fields-of > dl > .field-row")).to_have_count(len(names))
    temperature = chat.locator(".field-row", has_text="temperature").first
    expect(temperature).to_contain_text("number, 0 to 2")
    chat.locator(".field-row", has_text="messages").first.locator("summary").first.click()
    expect(chat.locator(".field-row .field-row dt", has_text="tool_call_id").first).to_be_visible()
    assert serious_findings(page) == []
    screenshot(page, "api")
    phone = open_page(f"{url}/docs", url=url, width=PHONE)
    expect(phone.locator(".operation")).to_have_count(len(operations))
    assert overflow(phone) == 0
    assert outside(phone, ".operation > *, #operations a") == []


@pytest.mark.parametrize("end", ["/", "//"])
def test_the_apis_page_is_found_with_slashes_at_its_end(
    open_page: OpenPage, url: str, end: str
) -> None:
    page = open_page(f"{url}/docs{end}#get-health", url=url)
    expect(page).to_have_url(f"{url}/docs#get-health")
    expect(page.locator("#get-health")).to_be_visible()


def test_the_apis_page_says_when_the_server_is_gone(open_page: OpenPage, url: str) -> None:
    page = open_page(url, allow="500")
    page.route("**/openapi.json", lambda route: route.fulfill(status=500))
    page.goto(f"{url}/docs")
    expect(page.locator("#docs-error")).to_contain_text("could not be read")
