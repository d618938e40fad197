"""The verdict of a comparison: by numbers, and by a server whose pace is known."""

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.pages import Json

VERDICT = """async (pairs) => {
    const { verdict } = await import("/static/app/comparison.js");
    return verdict(pairs);
}"""
MEASURE = """async ([request, failsAt]) => {
    const { measure } = await import("/static/app/comparison.js");
    const { Answer } = await import("/static/app/answer.js");
    const asked = [];
    const run = async (body) => {
        asked.push(body);
        return asked.length === failsAt ? null : new Answer();
    };
    let found = [];
    for await (found of measure(request, run));
    return [asked, found.length];
}"""


def pairs(*ratios: float, per_step: float = 2.0, text: str = "a") -> list[Json]:
    return [
        {
            "speculating": {"tokensPerSecond": 10 * ratio, "tokensPerStep": per_step, "text": "a"},
            "plain": {"tokensPerSecond": 10, "tokensPerStep": 1, "text": text},
        }
        for ratio in ratios
    ]


@pytest.mark.parametrize(
    ("given", "ratio", "disturbed"),
    [
        (pairs(1.4, 1.5, 1.6), 1.5, None),
        (pairs(1.4), 1.4, None),
        (pairs(0.8, 0.9, 0.9), 0.9, None),
        (pairs(1.4, 1.6), 1.5, None),
        # Within a clock's noise above what the steps allow: they are what is said.
        (pairs(1.2, 1.21, 1.23, per_step=1.2), 1.2, None),
        (pairs(3.67, 3.5, 3.7, per_step=1.2), 3.67, "limit"),
        (pairs(0.9, 1.0, 1.15, per_step=1.05), 1.0, "limit"),
        (pairs(1.0, 1.4, 1.9), 1.4, "spread"),
    ],
)
def test_the_verdict(
    open_page: OpenPage, url: str, given: list[Json], ratio: float, disturbed: str | None
) -> None:
    found: Json = open_page(url).evaluate(VERDICT, given)
    assert found["ratio"] == pytest.approx(ratio)
    assert found["disturbed"] == disturbed
    assert found["isSame"]
    if disturbed is None:
        assert found["low"] <= found["ratio"] <= found["high"] <= found["tokensPerStep"]


def test_nothing_to_compare_is_no_verdict(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    assert page.evaluate(VERDICT, []) is None
    assert page.evaluate(VERDICT, pairs(0)) is None
    none = pairs(1.0)
    none[0]["plain"]["tokensPerSecond"] = None
    assert page.evaluate(VERDICT, none) is None
    assert not page.evaluate(VERDICT, pairs(1, 1, text="b"))["isSame"]


def test_runs_are_interleaved_and_of_the_same_request(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    request = {"seed": 5, "max_tokens": 300, "speculation": {"policy": "cape", "steps": True}}
    asked, count = page.evaluate(MEASURE, [request, 0])
    policies = [body["speculation"]["policy"] for body in asked]
    assert policies == ["cape", "off", "off", "cape", "cape", "off"]
    assert count == 3
    assert {(body["seed"], body["max_tokens"]) for body in asked} == {(5, 64)}
    asked, count = page.evaluate(MEASURE, [{**request, "max_tokens": 7}, 4])
    assert (len(asked), count, asked[0]["max_tokens"]) == (4, 1, 7)
