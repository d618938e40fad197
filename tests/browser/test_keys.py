"""The API key: asked for, used, kept and forgotten."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.browser.pages import answered, ask
from tests.browser.servers import KEY, LOCKED, in_thread, real_engine, scripted
from tests.doubles import ScriptedEngine, one_by_one


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


def test_two_requests_that_want_a_key_get_the_same_one(open_page: OpenPage) -> None:
    with in_thread(lambda: scripted(ScriptedEngine(one_by_one("abc")), LOCKED)) as url:
        page = open_page(url, allow="401 (Unauthorized)")
        expect(page.locator("#key-dialog")).to_be_visible()  # for the model's name
        with page.expect_response("**/v1/chat/completions"):
            page.locator("#composer").evaluate(
                "form => { form.elements[0].value = 'hi'; form.requestSubmit() }"
            )
        give_key(page, KEY)
        expect(page.locator("#model")).to_have_text("tiny/model")
        expect(answered(page).locator(".answer")).to_have_text("abc")
