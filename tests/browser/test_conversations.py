"""Conversations in their list, questions asked anew, and requests taken elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import Json, answered, ask, conversation, kept
from tests.browser.servers import in_thread, scripted
from tests.doubles import ScriptedEngine, one_by_one


def titles(page: Page) -> list[str]:
    return page.locator(".conversation").all_inner_texts()


def two_conversations(open_page: OpenPage, url: str) -> Page:
    page = open_page(url)
    ask(page, "first question", max_tokens=3, temperature=0)
    answered(page)
    page.locator("#new-conversation").click()
    ask(page, "second question")
    answered(page)
    expect(page.locator(".conversation")).to_have_text(["second question", "first question"])
    return page


def test_conversations_are_listed_and_opened(open_page: OpenPage, url: str) -> None:
    page = two_conversations(open_page, url)
    expect(page.locator(".conversation[aria-current]")).to_have_text("second question")
    page.get_by_role("button", name="first question", exact=True).click()
    expect(page.locator(".bubble")).to_have_text("first question")
    page.reload()
    expect(page.locator(".bubble")).to_have_text("first question")
    ask(page, "and on")
    answered(page)
    assert titles(page) == ["first question", "second question"]
    assert len(conversation(page)) == 4


def test_the_open_one_can_be_clicked_while_it_is_answered(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one("abcdef"), hang_after=3)
    with in_thread(lambda: scripted(engine)) as url:
        page = open_page(url)
        ask(page, "hi")
        expect(page.locator(".answer")).to_have_text("abc")
        page.locator(".conversation").click()
        page.wait_for_timeout(300)
        expect(page.locator("#send")).to_have_attribute("aria-label", "Stop")
        assert engine.num_open == 1
        page.get_by_role("button", name="Stop").click()
        expect(answered(page).locator(".answer")).to_have_text("abc")


def test_a_conversation_can_be_named_and_keeps_its_name(open_page: OpenPage, url: str) -> None:
    page = two_conversations(open_page, url)
    page.get_by_role("button", name="Rename “second question”").click()
    page.get_by_label("Title").fill("Something <b>else</b>")
    page.keyboard.press("Enter")
    expect(page.locator(".conversation")).to_have_text(["Something <b>else</b>", "first question"])
    ask(page, "more")
    answered(page)
    page.reload()
    expect(page.locator(".conversation").first).to_have_text("Something <b>else</b>")
    page.locator("li", has_text="first question").hover()
    page.get_by_role("button", name="Rename “first question”").click()
    page.get_by_label("Title").fill("not this")
    page.keyboard.press("Escape")
    expect(page.locator(".conversation").last).to_have_text("first question")


def test_a_deleted_conversation_can_be_had_back(open_page: OpenPage, url: str) -> None:
    page = two_conversations(open_page, url)
    before = conversation(page)
    page.get_by_role("button", name="Delete “second question”").click()
    expect(page.locator(".conversation")).to_have_text(["first question"])
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".conversation")).to_have_text(["second question", "first question"])
    expect(page.locator(".bubble")).to_have_text("second question")
    assert conversation(page) == before
    page.get_by_role("button", name="Delete “second question”").click()
    expect(page.locator(".conversation")).to_have_count(1)
    page.reload()
    expect(page.locator(".conversation")).to_have_text(["first question"])
    expect(page.locator("#empty")).to_be_visible()


def test_conversations_are_exported(open_page: OpenPage, url: str) -> None:
    page = two_conversations(open_page, url)
    with page.expect_download() as one:
        page.get_by_role("button", name="Export “second question”").click()
    assert one.value.suggested_filename == "second-question.json"
    found: Json = json.loads(Path(one.value.path()).read_text(encoding="utf-8"))
    said = [(message["role"], message["content"]) for message in found["messages"]]
    assert said == [("user", "second question"), ("assistant", kept(page)["content"])]
    with page.expect_download() as both:
        page.get_by_role("button", name="Export all").click()
    all_: list[Json] = json.loads(Path(both.value.path()).read_text(encoding="utf-8"))
    assert [each["title"] for each in all_] == ["second question", "first question"]


def test_a_question_is_edited_and_asked_again(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    for text in ("one", "two"):
        ask(page, text, max_tokens=3, temperature=0)
        answered(page)
    before = conversation(page)
    page.locator(".user").first.hover()
    page.get_by_role("button", name="Edit the question").first.click()
    field = page.get_by_label("Question", exact=True)
    expect(field).to_have_value("one")
    field.fill("three")
    page.get_by_role("button", name="Ask again").click()
    answered(page)
    expect(page.locator(".bubble")).to_have_text(["three"])
    assert [message["role"] for message in conversation(page)] == ["user", "assistant"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".bubble")).to_have_text(["one", "two"])
    expect(page.locator(".message.assistant .actions")).to_have_count(2)
    page.reload()
    expect(page.locator(".bubble")).to_have_text(["one", "two"])
    assert conversation(page) == before


def test_a_long_conversation_is_kept_whole(open_page: OpenPage, url: str) -> None:
    """More than the five megabytes that the browser's simple storage has."""
    page = open_page(url)
    ask(page, "hi", max_tokens=3)
    answered(page)
    size: int = page.evaluate(
        """async () => {
            const kept = await import("/static/app/conversations.js");
            const [entry] = await kept.listConversations();
            const { messages } = await kept.loadConversation(entry.id);
            messages[1].content = "x".repeat(12e6);
            await kept.saveConversation(entry, messages);
            return (await kept.loadConversation(entry.id)).messages[1].content.length;
        }"""
    )
    assert size == 12_000_000


def copied(page: Page, what: str) -> str:
    page.locator(".menu summary").last.click()
    page.get_by_role("button", name=what).last.click()
    expect(page.locator(".menu .done").last).to_be_visible()
    page.keyboard.press("Escape")
    return page.evaluate("navigator.clipboard.readText()")


def test_a_request_runs_as_curl_and_as_python(open_page: OpenPage, url: str) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    question = 'it\'s "$HOME" `x` \\n ü\n\n世界'
    ask(page, question, max_tokens=12, temperature=0.8, min_p=0.01, system="Be brief.")
    answered(page)
    content = kept(page)["content"]
    shell = copied(page, "Copy as curl")
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == content
    program = copied(page, "Copy as Python")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=120,
        env=environment,
    )  # fmt: skip
    # As bytes: a line feed would be read for a carriage return, which a random model may say.
    assert ran.stdout.decode() == f"{content}\n"


def test_a_key_is_never_copied(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    form = """async (name) => {
        const forms = await import("/static/app/as_code.js");
        const body = {messages: [{role: "user", content: "hi"}]};
        const base = "http://h/v1";
        return forms[name]({baseUrl: base, url: `${base}/chat/completions`, body, needsKey: true});
    }"""
    for name in ("curl", "python"):
        text: str = page.evaluate(form, name)
        assert re.search(r"\$OPENAI_API_KEY|os\.environ\[\"OPENAI_API_KEY\"\]", text), text
