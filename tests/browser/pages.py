"""What tests do with the playground's page, and what it keeps."""

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

Json = dict[str, Any]


def ask(page: Page, text: str = "abcabcabcabc", **settings: object) -> None:
    """Sets settings, writes a question and sends it by key."""
    for name, value in settings.items():
        page.locator(f"#set-{name}").evaluate(
            """(field, value) => {
                field.value = value;
                field.dispatchEvent(new Event("input", {bubbles: true}));
            }""",
            str(value),
        )
    page.locator("#composer-text").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page) -> Locator:
    """The last answer, once it is complete; the default model takes seconds on a busy machine."""
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send", timeout=60_000)
    message = page.locator(".message.assistant").last
    expect(message.locator(".actions")).to_be_visible()
    return message


def compare(page: Page) -> Locator:
    """The verdict on the last answer, once it is measured."""
    page.get_by_role("button", name="Compare").last.click()
    verdict = page.locator(".message.assistant").last.locator(".verdict")
    expect(verdict).to_have_attribute("data-same", re.compile("."), timeout=120_000)
    answered(page)
    return verdict


def conversation(page: Page) -> list[Json]:
    """The newest that the browser keeps."""
    found: list[Json] = page.evaluate(
        """async () => {
            const kept = await import("/static/app/conversations.js");
            const [newest] = await kept.listConversations();
            return newest ? (await kept.loadConversation(newest.id)).messages : [];
        }"""
    )
    return found


def kept(page: Page) -> Json:
    """The last answer as the browser keeps it."""
    return conversation(page)[-1]


def tokens_of(answer: Json) -> list[Json]:
    return [token for step in answer["steps"] for token in step["tokens"]]
