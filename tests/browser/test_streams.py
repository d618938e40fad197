"""Streams that break in odd places, fail, or are stopped."""

from collections.abc import Sequence

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask, conversation, kept
from tests.browser.servers import Pieces, in_thread, scripted
from tests.browser.streams import END, chunk, stream_of
from tests.doubles import ScriptedEngine, ids, one_by_one

TEXT = "Grüße, 世界! 👩‍👩‍👧 ok 🇨🇭 日本語、한국어 — fin."


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


@pytest.mark.parametrize("data", [chunk("ab"), chunk("ab") + b"data: {\n\n"])
def test_a_stream_that_just_ends_is_an_error(open_page: OpenPage, data: bytes) -> None:
    with in_thread(Pieces([data])) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator("#error")).to_contain_text("before the answer was complete")
        expect(answered(page).locator(".answer")).to_have_text("ab")


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
