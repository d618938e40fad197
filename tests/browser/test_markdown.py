"""Answers as Markdown: nothing of them is lost, and nothing in them runs."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask
from tests.browser.servers import Pieces, in_thread
from tests.browser.streams import END, chunk, stream_of


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
        "<style>body{display:none}</style><br>\n\n<iframe src=https://evil.example></iframe>\n"
        "<SUP onclick='window.hit=5'>s</SUP><br onfocus='window.hit=6' autofocus>\n\n"
        "```js\n</code><script>window.hit=4</script>\n```\n"
    )
    with in_thread(Pieces([stream_of(text)])) as url:
        page = open_page(url)
        ask(page, "hi")
        answer = answered(page).locator(".answer")
        for tag in ("img", "script", "form", "input", "style", "iframe", "sup", "[id]", "a"):
            expect(answer.locator(tag)).to_have_count(0)
        expect(answer.locator("br")).to_have_count(1 + 1)  # its own, and a line's end
        expect(answer).to_contain_text("<b id=composer>bold</b>")
        expect(answer.locator("pre")).to_contain_text("</code><script>")
        assert page.evaluate("window.hit") is None


RENDER = """async (text) => {
    const { render } = await import("/static/app/markdown.js");
    const box = document.createElement("div");
    box.append(render(text));
    return [box.innerText, box.innerHTML];
}"""


@pytest.mark.parametrize(
    "text",
    [
        "Use std::vector<int> or List<String>, and Map<K, List<V>>.",
        "The <head> tag. A <textarea> swallows the rest. And <script> and <!-- this --> too.",
        "<answer>\nYes.\n</answer>",
        "<!DOCTYPE html>\n<title>t</title>",
        "<pre>a < b && vector<c d</pre> e <code>x<y</code>",
        '<a href="https://x.example/">https://x.example/</a>',
        "# <h1>\n- <li>\n  <div>\n> <q>",
        "| <td> |\n|---|\n| a<b> |",
        "half a <tex",
    ],
)
def test_tags_are_shown_as_they_are_written(open_page: OpenPage, url: str, text: str) -> None:
    """But for the marks of Markdown, nothing that was said is missing."""
    shown, html = open_page(url).evaluate(RENDER, text)
    words = [re.sub(r"[#\s]|^[->|]|[|]|---", "", line) for line in text.splitlines()]
    assert re.sub(r"\s", "", shown) == "".join(words)
    assert not re.search(r"<(int|string|textarea|script|answer|title|pre|h1><h1|q|b)\b", html)


def test_tags_that_only_look_are_kept(open_page: OpenPage, url: str) -> None:
    text = "a<br>b<br/>H<sub>2</sub>O *x*<SUP>2</SUP> **<int>**"
    _, html = open_page(url).evaluate(RENDER, text)
    assert html.strip() == (
        "<p>a<br>b<br>H<sub>2</sub>O <em>x</em><sup>2</sup> <strong>&lt;int&gt;</strong></p>"
    )


def test_tags_are_tinted_like_other_text(open_page: OpenPage) -> None:
    tokens = ["vector", "<int", "> **", "b", "** <br>", "c"]
    offset, data = 0, b""
    for token in tokens:
        data += chunk(token, "trunk", offset)
        offset += len(token)
    with in_thread(Pieces([data + END])) as url:
        page = open_page(url)
        ask(page, "hi")
        spans = answered(page).locator(".answer .token").all_text_contents()
    assert [text for text in spans if text.strip()] == ["vector", "<int", "> ", "b", "c"]


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
