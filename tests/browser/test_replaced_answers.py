"""Answers made again and questions edited: what they replace is lost only to something better."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask, conversation
from tests.browser.servers import in_thread, scripted
from tests.doubles import ScriptedEngine, one_by_one

ANSWER = "abc"


def two_turns(open_page: OpenPage, url: str) -> Page:
    page = open_page(url, allow="Failed to load resource")
    for text in ("one", "two"):
        ask(page, text)
        answered(page)
    return page


def again(page: Page) -> None:
    page.get_by_role("button", name="Answer again").first.click()


def edit(page: Page) -> None:
    page.locator(".user").first.hover()
    page.get_by_role("button", name="Edit the question").first.click()
    page.get_by_label("Question", exact=True).fill("three")
    page.get_by_role("button", name="Ask again").click()


@pytest.mark.parametrize("replace", [again, edit])
@pytest.mark.parametrize("failure", ["unreachable", "refused", "stopped"])
def test_nothing_is_lost_where_no_answer_comes(
    open_page: OpenPage, failure: str, replace: Callable[[Page], None]
) -> None:
    engine = ScriptedEngine(one_by_one(ANSWER))
    with in_thread(lambda: scripted(engine)) as url:
        page = two_turns(open_page, url)
        before = conversation(page)
        if failure == "unreachable":
            page.route("**/v1/chat/completions", lambda route: route.abort())
        if failure == "refused":
            page.locator("#settings-toggle").click()
            page.locator("#set-temperature").fill("3")
            page.locator("#settings-close").click()
        if failure == "stopped":
            engine.hang_after = 0
        replace(page)
        if failure == "stopped":
            expect(page.locator(".message")).to_have_count(2)
            assert conversation(page) == before
            page.get_by_role("button", name="Stop").click()
        answered(page)
        expect(page.locator(".answer")).to_have_text([ANSWER, ANSWER])
        expect(page.locator("#error")).to_be_visible(visible=failure != "stopped")
        expect(page.locator("#toast")).to_be_hidden()
        expect(page.locator("#composer-text")).to_have_value("")
        if replace is edit:  # its new words are still there to be sent
            expect(page.get_by_label("Question", exact=True)).to_have_value("three")
            expect(page.get_by_label("Question", exact=True)).to_be_focused()
            page.keyboard.press("Escape")
        expect(page.locator(".bubble")).to_have_text(["one", "two"])
        assert conversation(page) == before
        page.reload()
        expect(page.locator(".bubble")).to_have_text(["one", "two"])


def test_a_page_that_is_left_before_the_answer_has_what_was_before(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one(ANSWER))
    with in_thread(lambda: scripted(engine)) as url:
        page = two_turns(open_page, url)
        engine.hang_after = 0
        again(page)
        expect(page.locator(".message")).to_have_count(2)
        page.reload()
        expect(page.locator(".bubble")).to_have_text(["one", "two"])
        expect(page.locator(".notice.broken")).to_have_count(0)


def test_part_of_an_answer_replaces_the_earlier_one(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one(ANSWER))
    with in_thread(lambda: scripted(engine)) as url:
        page = two_turns(open_page, url)
        before = conversation(page)
        engine.hang_after = 1
        again(page)
        expect(page.locator("#toast")).to_contain_text("replaced")
        page.get_by_role("button", name="Stop").click()
        answered(page)
        assert [message["content"] for message in conversation(page)] == ["one", "a"]
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".answer")).to_have_text([ANSWER, ANSWER])
        assert conversation(page) == before


def test_an_answer_of_no_text_is_one(open_page: OpenPage) -> None:
    """The model ends at once: nobody failed."""
    engine = ScriptedEngine(one_by_one(ANSWER))
    with in_thread(lambda: scripted(engine)) as url:
        page = two_turns(open_page, url)
        engine.steps = one_by_one("")
        again(page)
        answered(page)
        expect(page.locator(".message")).to_have_count(2)
        assert [message["content"] for message in conversation(page)] == ["one", ""]
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".bubble")).to_have_text(["one", "two"])


def test_undoing_loses_nothing_that_was_said_since(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one(ANSWER)))) as url:
        page = two_turns(open_page, url)
        edit(page)
        answered(page)
        ask(page, "four")
        answered(page)
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".bubble")).to_have_text(["one", "two"])
        expect(page.locator(".conversation")).to_have_text(["one", "three"])
        page.locator(".conversation").last.click()
        expect(page.locator(".bubble")).to_have_text(["three", "four"])
