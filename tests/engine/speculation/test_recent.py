"""The index of recent answers: what it finds, what it forgets, and whose it is."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.speculation.recent import NGRAM, Place, RecentOutputs

PROMPT = (1, 2, 3)
ANSWER = tuple(range(100, 120))


def test_the_same_prompt_finds_its_answer() -> None:
    recent = RecentOutputs(1000)
    recent.add(None, PROMPT, ANSWER)
    place = recent.find(None, PROMPT, len(PROMPT))
    assert place is not None
    assert recent.read(place, 4) == [100, 101, 102, 103]
    assert recent.find(None, (1, 2), 2) is None


def test_the_same_prompt_finds_its_answer_behind_the_first_tokens() -> None:
    """Before its first token a request proposes nothing."""
    recent = RecentOutputs(1000)
    recent.add("a", PROMPT, ANSWER)
    for count in range(1, NGRAM + 1):
        place = recent.find("a", [*PROMPT, *ANSWER[:count]], len(PROMPT))
        assert place is not None
        assert recent.read(place, 1) == [100 + count]
    assert recent.find("a", [*PROMPT, 100, 7], len(PROMPT)) is None
    assert recent.find(None, [*PROMPT, 100], len(PROMPT)) is None


def test_at_its_end_an_answer_says_nothing_more() -> None:
    recent = RecentOutputs(1000)
    recent.add(None, PROMPT, (5, 6))
    assert recent.find(None, [*PROMPT, 5, 6], len(PROMPT)) is None


def test_another_prompt_finds_it_by_its_text() -> None:
    recent = RecentOutputs(1000)
    recent.add(None, PROMPT, ANSWER)
    text = [7, 8, *ANSWER[3 : 3 + NGRAM]]
    place = recent.find(None, text, 2)
    assert place is not None
    assert recent.read(place, 2) == [103 + NGRAM, 104 + NGRAM]
    assert recent.find(None, text[:-1], 2) is None
    assert recent.read(Place(place.answer, len(ANSWER), NGRAM), 4) == []


def test_a_sequence_is_followed_as_long_as_it_goes_the_same_way() -> None:
    recent = RecentOutputs(1000)
    recent.add(None, PROMPT, ANSWER)
    place = recent.find(None, PROMPT, len(PROMPT))
    assert place is not None
    further = recent.follow(place, [100, 101])
    assert further is not None
    assert (further.position, further.num_equal) == (2, len(PROMPT) + 2)
    assert recent.follow(further, [102, 7]) is None


def test_the_latest_of_two_is_found() -> None:
    recent = RecentOutputs(1000)
    recent.add(None, PROMPT, ANSWER)
    recent.add(None, PROMPT, (5, 6))
    place = recent.find(None, PROMPT, len(PROMPT))
    assert place is not None
    assert recent.read(place, 9) == [5, 6]


def test_tenants_find_nothing_of_each_other() -> None:
    recent = RecentOutputs(1000)
    recent.add("a", PROMPT, ANSWER)
    for tenant in (None, "b", ""):
        assert recent.find(tenant, PROMPT, len(PROMPT)) is None
        assert recent.find(tenant, [9, *ANSWER[:NGRAM]], 1) is None
    assert recent.find("a", PROMPT, len(PROMPT)) is not None


def test_the_oldest_goes_first_and_is_not_followed_any_more() -> None:
    recent = RecentOutputs(2 * len(ANSWER))
    recent.add(None, PROMPT, ANSWER)
    place = recent.find(None, PROMPT, len(PROMPT))
    assert place is not None
    recent.add(None, (8,), range(200, 230))
    assert recent.follow(place, [100]) is None
    assert recent.find(None, PROMPT, len(PROMPT)) is None
    assert recent.find(None, (8,), 1) is not None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_it_is_bounded_whatever_comes(seed: int, most: int) -> None:
    """Few tokens, so that n-grams repeat; every place that is found is a place in an answer."""
    random_ = random.Random(seed)
    recent = RecentOutputs(most)
    for _ in range(40):
        tenant = random_.choice((None, "a", "b"))
        answer = [random_.randrange(3) for _ in range(random_.randrange(40))]
        recent.add(tenant, answer[:2], answer)
        assert recent.num_tokens <= most
        assert recent.num_places <= 2 * most
        place = recent.find(tenant, answer, 0)
        if place is not None:
            assert len(recent.read(place, 5)) <= 5
    for _ in range(60):
        recent.add("other", (), [random_.randrange(1000, 10**6)])
    assert recent.find("a", [1] * NGRAM, 0) is None
    assert recent.num_places <= 2 * most
