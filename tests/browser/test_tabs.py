"""One conversation in two tabs: what one of them writes is not lost to the other."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask
from tests.browser.servers import in_thread, scripted
from tests.doubles import ScriptedEngine, one_by_one

ANSWER = "abc"


def two_tabs(open_page: OpenPage, url: str) -> tuple[Page, Page]:
    """Both have the conversation "one" open."""
    first = open_page(url)
    ask(first, "one")
    answered(first)
    second = first.context.new_page()
    second.goto(url)
    second.locator(".conversation").click()
    expect(second.locator(".bubble")).to_have_text("one")
    return first, second


def contents(page: Page) -> dict[str, list[str]]:
    """What the browser keeps: title → what was said."""
    return page.evaluate(
        """async () => {
            const kept = await import("/static/app/conversations.js");
            const entries = await kept.listConversations();
            const all = await Promise.all(entries.map(({ id }) => kept.loadConversation(id)));
            return Object.fromEntries(all.map(({ entry, messages }) =>
                [entry.title, messages.map(({ content }) => content)]));
        }"""
    )


def test_a_tab_that_does_nothing_follows(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one(ANSWER)))) as url:
        first, second = two_tabs(open_page, url)
        ask(first, "two")
        answered(first)
        expect(second.locator(".bubble")).to_have_text(["one", "two"])
        ask(second, "three")
        answered(second)
        expect(first.locator(".bubble")).to_have_text(["one", "two", "three"])
        assert contents(first) == {"one": ["one", ANSWER, "two", ANSWER, "three", ANSWER]}


def test_what_both_write_at_once_is_kept_in_a_copy(open_page: OpenPage) -> None:
    engine = ScriptedEngine(one_by_one(ANSWER))
    with in_thread(lambda: scripted(engine)) as url:
        first, second = two_tabs(open_page, url)
        engine.hang_after = 1
        ask(first, "two")
        expect(first.locator(".answer").last).to_have_text("a")
        engine.hang_after = None
        ask(second, "three")
        expect(second.locator("#toast")).to_contain_text("Another tab went on")
        expect(second.locator("#toast button")).to_have_count(0)
        answered(second)
        ask(second, "four")
        answered(second)
        first.get_by_role("button", name="Stop").click()
        answered(first)
        expect(first.locator(".conversation")).to_have_text(["one", "Copy of one"])
        expect(second.locator(".conversation[aria-current]")).to_have_text("Copy of one")
        expect(first.locator(".conversation[aria-current]")).to_have_text("one")
        assert contents(first) == {
            "one": ["one", ANSWER, "two", "a"],
            "Copy of one": ["one", ANSWER, "three", ANSWER, "four", ANSWER],
        }
        second.reload()
        expect(second.locator(".bubble")).to_have_text(["one", "three", "four"])


def test_a_question_that_is_being_edited_is_left_alone(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one(ANSWER)))) as url:
        first, second = two_tabs(open_page, url)
        second.locator(".user").hover()
        second.get_by_role("button", name="Edit the question").click()
        second.get_by_label("Question", exact=True).fill("three")
        ask(first, "two")
        answered(first)
        expect(second.get_by_label("Question", exact=True)).to_have_value("three")
        second.get_by_role("button", name="Ask again").click()
        answered(second)
        assert contents(second) == {
            "one": ["one", ANSWER, "two", ANSWER],
            "Copy of one": ["three", ANSWER],
        }


def test_a_name_from_another_tab_stays(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one(ANSWER)))) as url:
        first, second = two_tabs(open_page, url)
        second.get_by_role("button", name="Rename “one”").click()
        second.get_by_label("Title").fill("named")
        second.keyboard.press("Enter")
        expect(second.locator(".conversation")).to_have_text("named")
        ask(first, "two")
        answered(first)
        assert contents(first) == {"named": ["one", ANSWER, "two", ANSWER]}


def test_what_was_deleted_elsewhere_and_went_on_is_not_overwritten(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one(ANSWER)))) as url:
        first, second = two_tabs(open_page, url)
        second.get_by_role("button", name="Delete “one”").click()
        expect(second.locator(".conversation")).to_have_count(0)
        ask(first, "two")
        answered(first)
        second.get_by_role("button", name="Undo").click()
        expect(second.locator(".bubble")).to_have_text(["one", "two"])
        assert contents(first) == {"one": ["one", ANSWER, "two", ANSWER]}
