"""Chats with a real engine: what is shown is what the API says."""

import string
from collections.abc import Callable

import httpx
from playwright.sync_api import Page, expect

from tests.api.harness import CHAT
from tests.browser.conftest import OpenPage
from tests.browser.pages import Json, answered, ask, compare, conversation, kept, tokens_of
from tests.doubles import ids

QUESTION = "abcabcabcabc"


def test_a_chat_streams_what_the_api_says(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#model")).to_have_text("tiny/model")
    ask(page, QUESTION, max_tokens=40, temperature=0.7, system="Be brief.")
    message = answered(page)
    answer = kept(page)
    request = answer["request"]
    assert (request["max_tokens"], request["temperature"]) == (40, 0.7)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    body = {**request, "speculation": {"policy": "off"}, "messages": messages}
    again = httpx.post(f"{url}{CHAT}", json=body).json()
    assert answer["content"] == again["choices"][0]["message"]["content"]
    assert answer["usage"] == again["usage"] | {
        "prompt_tokens_details": answer["usage"]["prompt_tokens_details"]
    }
    tokens = message.locator("[data-figure='tokens'] dd")
    expect(tokens).to_have_text(str(again["usage"]["completion_tokens"]))


def test_all_settings_reach_the_request(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    numbers = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "max_tokens": 5, "seed": 7,
        "presence_penalty": 0.1, "frequency_penalty": -0.2, "repetition_penalty": 1.1,
    }  # fmt: skip
    with page.expect_request(f"**{CHAT}") as sent:
        ask(page, "hi", **numbers, stop="END\n\\n", policy="chain", max_depth=3, max_nodes=9)
    body: Json = sent.value.post_data_json or {}
    assert body == {
        **numbers,
        "stop": ["END", "\n"],
        "messages": [{"role": "user", "content": "hi"}],
        "speculation": {"steps": True, "policy": "chain", "max_depth": 3, "max_nodes": 9},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answered(page)
    page.locator("#settings-toggle").click()
    page.locator("#settings-reset").click()
    page.locator("#settings-close").click()
    with page.expect_request(f"**{CHAT}") as sent:
        ask(page, "hi", max_tokens=3)
    body = sent.value.post_data_json or {}
    assert set(body) == {
        "max_tokens", "messages", "seed", "speculation", "stream", "stream_options",
    }  # fmt: skip
    assert len(body["messages"]) == 3  # the first turn and its answer go along
    assert body["speculation"] == {"steps": True}
    answered(page)


def test_the_strip_counts_what_the_report_says(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    ask(page, max_tokens=60, temperature=0)
    message = answered(page)
    answer = kept(page)
    report = answer["report"]
    columns = message.locator(".step").evaluate_all("all => all.map(e => ({...e.dataset}))")
    sums = {
        name: sum(int(column[name]) for column in columns)
        for name in ("drafted", "accepted", "leaves")
    }
    assert sums == {
        "drafted": report["drafted_tokens"],
        "accepted": report["accepted_tokens"],
        "leaves": report["leaves_accepted"],
    }
    assert sums["accepted"] > 3
    before = next(i for i, column in enumerate(columns) if column["drafted"] != "0")
    assert len(columns) - before == report["steps"]
    assert len(columns) + sums["accepted"] == len(tokens_of(answer)) == 60


def test_every_token_is_tinted_by_its_origin(open_page: OpenPage, url: str) -> None:
    """The text is made of letters, which Markdown leaves as they are."""
    page = open_page(url)
    letters = set(ids(string.ascii_letters))
    dull = {str(i): -100 for i in range(258) if i not in letters}
    page.route(
        f"**{CHAT}",
        lambda route: route.continue_(
            post_data={**(route.request.post_data_json or {}), "logit_bias": dull}
        ),
    )
    ask(page, max_tokens=60, temperature=0)
    message = answered(page)
    spans = message.locator(".answer .token").evaluate_all(
        "all => all.map(e => [e.textContent, e.className.match(/o-(\\w+)/)[1], +e.dataset.step])"
    )
    answer = kept(page)
    expected = [
        [token["token"], token["source"], index]
        for index, step in enumerate(answer["steps"])
        for token in step["tokens"]
    ]
    assert spans == expected
    assert {source for _, source, _ in spans} == {"trunk", "target"}
    tinted = message.locator(".answer .o-trunk").first
    colour = "e => getComputedStyle(e).backgroundColor"
    assert tinted.evaluate(colour) != "rgba(0, 0, 0, 0)"
    page.locator("#tint").uncheck()
    assert tinted.evaluate(colour) == "rgba(0, 0, 0, 0)"


def test_a_step_opens_by_key_and_shows_its_tree(
    open_page: OpenPage, url: str, screenshot: Callable[[Page, str], None]
) -> None:
    page = open_page(url)
    ask(page, max_tokens=60, temperature=0)
    message = answered(page)
    steps = kept(page)["steps"]
    wanted = next(i for i, step in enumerate(steps) if step["accepted"])
    strip = message.get_by_role("slider", name="Steps of this answer")
    strip.focus()
    for _ in range(wanted + 1):
        page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuenow", str(wanted + 1))
    step = steps[wanted]
    panel = message.get_by_role("region", name=f"Step {wanted + 1}")
    expect(panel.locator(".node")).to_have_count(len(step["nodes"]) + 1)
    expect(panel.locator(".node.accepted")).to_have_count(len(step["accepted"]))
    sure = f"{round(step['nodes'][0]['confidence'] * 100)} %"
    expect(panel.locator(".node .percent").first).to_have_text(sure)
    expect(panel.locator("li").first).to_contain_text(f"confidence {sure}, accepted")
    screenshot(page, "step")
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_the_replay_has_equal_text_and_its_own_clock(
    open_page: OpenPage, url: str, screenshot: Callable[[Page, str], None]
) -> None:
    page = open_page(url)
    ask(page, max_tokens=60, temperature=0.9)
    message = answered(page)
    verdict = compare(page)
    expect(verdict).to_have_attribute("data-same", "true")
    expect(verdict).to_contain_text("equal text")
    expect(verdict).to_be_in_viewport()
    expect(verdict).to_have_attribute("data-pairs", "3")
    data: dict[str, str] = verdict.evaluate("e => ({...e.dataset})")
    if data["kind"] == "measured":
        assert float(data["ratio"]) <= float(data["perStep"])
    else:
        assert data["kind"] == "disturbed"
        expect(verdict).to_contain_text("Disturbed measurement")
    columns = message.locator(".answer-column")
    expect(columns).to_have_count(2)
    answer = kept(page)
    plain = answer["plain"]
    assert plain["text"] == answer["content"]
    assert columns.nth(0).locator(".answer").inner_text() == (
        columns.nth(1).locator(".answer").inner_text()
    )
    for column in (0, 1):  # by the steps' clocks, where the page read all at once
        expect(columns.nth(column).locator("[data-figure='tokens/s']")).to_be_visible()
    assert plain["report"] is None
    assert {len(step["tokens"]) for step in plain["steps"]} == {1}
    # As many as the answer has tokens: by chance it may end early.
    expect(columns.nth(1).locator(".step")).to_have_count(len(plain["steps"]))
    screenshot(page, "replay")
    page.reload()
    expect(page.locator(".verdict")).to_contain_text("equal text")


def test_an_answer_can_be_replayed_later_and_made_again(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    ask(page, max_tokens=20, seed=3)
    answered(page)
    first = kept(page)["content"]
    expect(compare(page)).to_have_attribute("data-same", "true")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".verdict")).to_be_hidden()
    answered(page)
    assert kept(page)["content"] == first
    assert len(conversation(page)) == 2


def test_the_conversation_stays_until_a_new_one(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    ask(page, max_tokens=10, temperature=0)
    before = answered(page).locator(".answer").inner_text()
    page.reload()
    expect(page.locator(".user .bubble")).to_have_text(QUESTION)
    assert page.locator(".assistant .answer").inner_text() == before
    assert page.locator("#set-max_tokens").input_value() == "10"
    page.locator("#new-chat").click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    page.reload()
    expect(page.locator(".message")).to_have_count(0)


def test_keys_alone_suffice(open_page: OpenPage, url: str) -> None:
    page = open_page(url, allow="400 (Bad Request)")
    expect(page.locator("#composer-text")).to_be_focused()
    expect(page.locator("#settings")).to_be_hidden()
    page.keyboard.press("Control+,")
    expect(page.locator("#set-system")).to_be_focused()
    page.keyboard.press("Control+,")
    expect(page.locator("#settings")).to_be_hidden()
    page.locator("#theme").focus()
    page.keyboard.press("/")
    expect(page.locator("#composer-text")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".user .bubble")).to_have_text("one\ntwo")
    answered(page)
    page.keyboard.press("ArrowUp")
    expect(page.locator("#composer-text")).to_have_value("one\ntwo")


def test_a_request_that_says_nothing_has_the_pages_length(open_page: OpenPage, url: str) -> None:
    page = open_page(url, allow="400 (Bad Request)")
    with page.expect_request(f"**{CHAT}") as sent:
        page.locator("[data-example]").first.click()
    body: Json = sent.value.post_data_json or {}
    assert set(body) == {
        "max_tokens", "messages", "seed", "speculation", "stream", "stream_options",
    }  # fmt: skip
    assert body["max_tokens"] == 300
    # The tiny model's whole context is shorter: then all that is left has to do.
    answered(page)
    expect(page.locator("#error")).to_be_hidden()
    assert "max_tokens" not in kept(page)["request"]


def test_the_strip_is_as_wide_as_steps_took(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    ask(page, max_tokens=60, temperature=0)
    columns = answered(page).locator(".step")
    widths: list[float] = columns.evaluate_all("a => a.map(e => e.getBoundingClientRect().width)")
    parts = ("draft_seconds", "verify_seconds", "other_seconds")
    seconds = [sum(step[part] for part in parts) for step in kept(page)["steps"]]
    # Between the least that a finger finds and the most that leaves room for others.
    scales = [
        width / took for width, took in zip(widths, seconds, strict=True) if 3.1 < width < 239
    ]
    assert len(scales) > len(widths) / 2
    assert max(scales) < min(scales) * 1.05
