"""Streams that break in odd places, fail, are stopped, or carry what must not run."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask, conversation, kept
from tests.browser.servers import KEY, LOCKED, Pieces, in_thread, real_engine, scripted
from tests.doubles import ScriptedEngine, ids, one_by_one

TEXT = "Grüße, 世界! 👩‍👩‍👧 ok 🇨🇭 日本語、한국어 — fin."


def chunk(content: str, source: str = "target", offset: int = 0, **fields: Any) -> bytes:
    """One event of a stream with one token."""
    step: dict[str, Any] = {
        "tokens": [{"token": content, "bytes": [], "source": source, "text_offset": offset}],
        "root": "", "nodes": [], "accepted": [], "source": None,
        "draft_seconds": 0, "verify_seconds": 0.01, "other_seconds": 0,
    }  # fmt: skip
    document = {
        "model": "scripted",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}],
        "speculation_step": step,
        **fields,
    }
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def stream_of(text: str) -> bytes:
    return b"".join(chunk(c, offset=i) for i, c in enumerate(text)) + END


def pieces_of(data: bytes, size: int) -> Sequence[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


READ_ALL = """async ([bytes, size]) => {
    const { events } = await import("/static/app/sse.js");
    const all = Uint8Array.from(bytes);
    const body = new ReadableStream({
        start(controller) {
            for (let at = 0; at < all.length; at += size)
                controller.enqueue(all.slice(at, at + size));
            controller.close();
        },
    });
    const found = [];
    for await (const data of events(body)) found.push(data);
    return found;
}"""


def test_the_reader_loses_nothing_wherever_chunks_end(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    data = (
        f"data: {TEXT}\n\n: ping\n\ndata: a\r\ndata: b\r\n\r\nevent: x\rdata:c\r\rdata: \n\n"
        "id: 7\ndata\n\ndata: not complete"
    ).encode()
    expected = [TEXT, "a\nb", "c", "", ""]
    for size in range(1, len(data) + 1):
        assert page.evaluate(READ_ALL, [list(data), size]) == expected, size


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_emoji_and_cjk_over_split_chunks(open_page: OpenPage, size: int) -> None:
    data = stream_of(TEXT)
    pieces = [*pieces_of(data[:1500], size), data[1500:]]
    with in_thread(Pieces(pieces, 0.0005)) as url:
        page = open_page(url)
        ask(page, "hi")
        message = answered(page)
        expect(message.locator(".answer")).to_have_text(TEXT)
        assert kept(page)["content"] == TEXT
        spans = message.locator(".answer .token").all_text_contents()
    assert spans == list(TEXT)


def test_tints_find_their_tokens_behind_markup(open_page: OpenPage) -> None:
    """Markdown's marks vanish, and every token keeps its own characters."""
    tokens = ["# A", "\n\n", "- *b", "*", " c", "\n- ", "[link](https://x.example/a)", " &lt;", "d"]
    offset, data = 0, b""
    for number, token in enumerate(tokens):
        data += chunk(token, ("trunk", "leaf", "target")[number % 3], offset)
        offset += len(token)
    with in_thread(Pieces([data + END])) as url:
        page = open_page(url)
        ask(page, "hi")
        spans = (
            answered(page)
            .locator(".answer .token")
            .evaluate_all("all => all.map(e => [e.textContent, +e.dataset.step])")
        )
        expect(page.locator(".answer h1")).to_have_text("A")
        expect(page.locator(".answer li")).to_have_count(2)
    shown = [[text, step] for text, step in spans if text.strip()]
    assert shown == [["A", 0], ["b", 2], [" c", 4], ["link", 6], [" <", 7], ["d", 8]]


def test_an_answer_can_not_run_or_load_anything(open_page: OpenPage) -> None:
    text = (
        "<img src=x onerror='window.hit=1'><script>window.hit=2</script>"
        "<a href='javascript:window.hit=3'>l</a> ![p](https://evil.example/p.png)"
        "<form action='https://evil.example'><input name=q></form><b id=composer>bold</b>"
        "<style>body{display:none}</style>\n\n```js\n</code><script>window.hit=4</script>\n```\n"
    )
    with in_thread(Pieces([stream_of(text)])) as url:
        page = open_page(url, allow="Content Security Policy")  # says what it kept from running
        ask(page, "hi")
        answer = answered(page).locator(".answer")
        for tag in ("img", "script", "form", "input", "style", "[id]", "a[href^=javascript]"):
            expect(answer.locator(tag)).to_have_count(0)
        expect(answer.locator("b")).to_have_text("bold")
        expect(answer.locator("pre")).to_contain_text("</code><script>")
        assert page.evaluate("window.hit") is None


def test_code_is_coloured_and_can_be_copied(open_page: OpenPage) -> None:
    text = "```python\ndef f():\n    return 1\n```"
    with in_thread(Pieces([stream_of(text)])) as url:
        page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
        ask(page, "hi")
        message = answered(page)
        expect(message.locator(".hljs-keyword").first).to_have_text("def")
        message.get_by_role("button", name="Copy code").click()
        expect(message.locator(".code .done")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == "def f():\n    return 1\n"
        message.get_by_role("button", name="Copy the answer").click()
        expect(message.locator(".actions .done")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == text


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_ends_the_request_and_keeps_the_text(open_page: OpenPage, how: str) -> None:
    engine = ScriptedEngine(one_by_one("abcdef"), hang_after=3)
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator(".answer")).to_have_text("abc")
        expect(page.locator("#send")).to_have_attribute("aria-label", "Stop")
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        message = answered(page)
        expect(message.locator(".notice")).to_have_text("Stopped.")
        page.wait_for_timeout(300)
        assert engine.num_open == 0
        assert kept(page)["content"] == "abc"
        page.reload()
        expect(page.locator(".answer")).to_have_text("abc")


def test_a_refusal_shows_the_servers_message(open_page: OpenPage, url: str) -> None:
    page = open_page(url, allow="400 (Bad Request)")
    ask(page, "hi", top_p=5)
    alert = page.locator("#error")
    expect(alert).to_have_text("top_p: Input should be less than or equal to 1, got 5")
    expect(page.locator("#set-top_p")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#composer-text")).to_have_value("hi")
    expect(page.locator(".message")).to_have_count(0)
    assert conversation(page) == []
    ask(page, "hi", top_p=1, max_tokens=3)
    expect(alert).to_be_hidden()
    answered(page)


def test_a_failure_in_mid_stream_keeps_what_came(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one("abcdef"), die_after=3)
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator("#error")).to_contain_text("engine")
        message = answered(page)
        expect(message.locator(".answer")).to_have_text("abc")
        expect(message.locator(".notice.broken")).to_contain_text("not complete")
        page.reload()
        expect(page.locator(".notice.broken")).to_contain_text("not complete")


def test_an_answer_is_marked_whose_page_was_left(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one("abcdef"), hang_after=3)
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator(".answer")).to_have_text("abc")
        page.reload()
        expect(page.locator(".notice.broken")).to_contain_text("the page was left")
        expect(page.locator(".user .bubble")).to_have_text("hi")


def test_tables_tasks_and_code_without_a_language(open_page: OpenPage) -> None:
    words = "Pneumonoultramicroscopicsilicovolcanoconiosis"
    text = (
        f"| {words} | {words} |\n|---|---|\n| one two | {words} |\n\n"
        "- [x] done\n- [ ] open\n- plain\n\n```\nx = 1\n```\n"
    )
    with in_thread(Pieces([stream_of(text)])) as url:
        page = open_page(url, width=360)
        ask(page, "hi")
        answer = answered(page).locator(".answer")
        # One line a word: none is broken inside.
        heights = answer.locator("td, th").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().height)"
        )
        assert max(heights) < 40 * 1.5
        assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") == 0
        expect(answer.locator("li.task")).to_have_text(["☑ done", "☐ open"])
        expect(answer.locator("li:not(.task)")).to_have_text("plain")
        expect(answer.locator(".code-head span")).to_have_text("code")


@pytest.mark.parametrize("data", [chunk("ab"), chunk("ab") + b"data: {\n\n"])
def test_a_stream_that_just_ends_is_an_error(open_page: OpenPage, data: bytes) -> None:
    with in_thread(Pieces([data])) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator("#error")).to_contain_text("before the answer was complete")
        expect(answered(page).locator(".answer")).to_have_text("ab")


def give_key(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def test_a_key_is_forgotten_unless_it_is_to_be_kept(open_page: OpenPage) -> None:
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    with in_thread(lambda: real_engine(LOCKED)) as url:
        page = open_page(url, allow="401 (Unauthorized)")
        title = page.locator("#key-title")
        expect(title).to_have_text("This server asks for a key")
        give_key(page, "wrong")
        expect(title).to_have_text("That key was not accepted")
        give_key(page, KEY)
        expect(page.locator("#model")).to_have_text("tiny/model")
        ask(page, "hi", max_tokens=4)
        answered(page)
        assert KEY not in page.evaluate(stored)
        page.reload()
        expect(title).to_have_text("This server asks for a key")
        page.get_by_label("Keep it in this browser").check()
        give_key(page, KEY)
        expect(page.locator("#model")).to_have_text("tiny/model")
        page.reload()
        expect(page.locator("#model")).to_have_text("tiny/model")
        page.locator("#settings-toggle").click()
        expect(page.locator("#key-state")).to_contain_text("kept in this browser")
        page.get_by_role("button", name="Forget it").click()
        expect(page.locator("#key-state")).to_contain_text("None is in use")
        assert KEY not in page.evaluate(stored)
        page.get_by_role("button", name="Enter a key…").click()
        give_key(page, KEY)
        expect(page.locator("#key-state")).to_contain_text("until this page is closed")


def test_a_chat_without_a_key_asks_again(open_page: OpenPage) -> None:
    with in_thread(lambda: real_engine(LOCKED)) as url:
        page = open_page(url, allow="401 (Unauthorized)")
        page.get_by_role("button", name="Not now").click()
        ask(page, "hi", max_tokens=4)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.get_by_role("button", name="Not now").click()
        expect(page.locator("#error")).to_contain_text("no API key")
        expect(page.locator("#composer-text")).to_have_value("hi")
        page.keyboard.press("Enter")
        give_key(page, KEY)
        answered(page)


def test_half_characters_of_the_model_are_never_shown(open_page: OpenPage) -> None:
    """Tokens that are bytes of one emoji, each in a step of its own, by the real API."""
    engine = ScriptedEngine([[token] for token in [*ids("a👍b"), 257]])
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(answered(page).locator(".answer")).to_have_text("a👍b")


def thought(text: str, offset: int) -> bytes:
    """An event with a token of thinking."""
    data = chunk(text, offset=offset)
    return data.replace(b'"content"', b'"reasoning_content"', 1)


def test_thinking_is_folded_and_the_answer_s_tokens_keep_their_colours(open_page: OpenPage) -> None:
    """Their places count the thinking and its marks, which are not in the answer's text."""
    begin = len("<think>" + "long " * 200 + "</think>\n\n")
    data = b"".join(thought("long ", 7 + 5 * i) for i in range(200))
    data += (
        chunk("Yes", "trunk", begin)
        + chunk(" or", "leaf", begin + 3)
        + chunk("no", "trunk", begin + 6)
    )
    with in_thread(Pieces([data + END])) as url:
        page = open_page(url)
        ask(page, "Think.")
        message = answered(page)
        thoughts = message.locator("details.thoughts")
        expect(thoughts.locator("pre")).to_be_hidden()
        thoughts.locator("summary").click()
        expect(thoughts.locator("pre")).to_have_text(("long " * 200).strip())
        expect(message.locator(".answer")).to_have_text("Yes orno")
        sources = message.locator(".answer .token").evaluate_all(
            "tokens => tokens.map(token => [token.textContent, token.className])"
        )
        assert sources == [
            ["Yes", "token o-trunk"], [" or", "token o-leaf"], ["no", "token o-trunk"],
        ]  # fmt: skip
        assert kept(page)["thinking"] == "long " * 200
