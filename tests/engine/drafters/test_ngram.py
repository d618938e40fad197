"""Prompt lookup: which occurrence is found, and the index that grows with the sequence."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from server.engine.drafters.drafter import EarlyStop
from server.engine.drafters.ngram import NgramDrafter
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.lookup import TextIndexes
from server.engine.types import BlockId, Request, RequestId, SamplingParams

WHOLE = EarlyStop.never(2)
Trunk = tuple[int, ...]


def sequence(token_ids: Sequence[int], name: str = "a") -> PlannedSequence:
    request = Request(RequestId(name), (token_ids[0],), SamplingParams(max_tokens=9))
    return PlannedSequence(request, token_ids, len(token_ids) - 1, 1, [BlockId(0)], 32, 8)


def drafted(token_ids: Sequence[int], depth: int = 4, drafter: NgramDrafter | None = None) -> Trunk:
    (proposal,) = (drafter or NgramDrafter()).draft([sequence(token_ids)], [depth], WHOLE)
    return proposal.trunk


def test_what_followed_last_time_is_proposed() -> None:
    assert drafted([1, 2, 3, 4, 5, 6, 1, 2]) == (3, 4, 5, 6)
    assert drafted([1, 2, 3, 4, 5, 6, 1, 2], depth=2) == (3, 4)


def test_the_longest_match_wins() -> None:
    """After 7 8 9 came 1; after 9 alone, later, came 5."""
    assert drafted([7, 8, 9, 1, 0, 9, 5, 7, 8, 9], depth=1) == (1,)


def test_of_equals_the_latest_occurrence_wins() -> None:
    assert drafted([9, 1, 0, 9, 2, 3, 9], depth=1) == (2,)


def test_the_last_tokens_do_not_match_themselves() -> None:
    assert drafted([1, 2, 3]) == ()
    assert drafted([5]) == ()


def test_a_text_that_repeats_itself_goes_on_repeating_itself() -> None:
    assert drafted([5, 5]) == (5, 5, 5, 5)
    assert drafted([1, 2, 1, 2]) == (1, 2, 1, 2)
    assert drafted([7, 1, 2, 3, 1, 2, 3, 1], depth=7) == (2, 3, 1, 2, 3, 1, 2)


def test_only_the_asked_lengths_match() -> None:
    text = [1, 2, 3, 0, 9, 3]
    assert drafted(text, drafter=NgramDrafter(TextIndexes((3, 2)))) == ()
    assert drafted(text, drafter=NgramDrafter(TextIndexes((1,)))) == (0, 9, 3, 0)


def test_more_equal_tokens_claim_more_confidence() -> None:
    """One token is equal, then one more with each that is right, up to six."""
    (proposal,) = NgramDrafter().draft([sequence([1, 2, 3, 4, 5, 6, 7, 1])], [7], WHOLE)
    assert proposal.candidates == ((2,), (3,), (4,), (5,), (6,), (7,), (1,))
    claims = [claim for (claim,) in proposal.confidences]
    assert claims == [0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9]
    assert proposal.kinds == (("lookup",),) * 7
    assert proposal.num_written == 0


def test_equal_tokens_are_counted_beyond_the_indexed_lengths() -> None:
    """Found by its last token, but four are equal."""
    text = [4, 3, 2, 1, 0, 4, 3, 2, 1]
    (proposal,) = NgramDrafter(TextIndexes((1,))).draft([sequence(text)], [2], WHOLE)
    assert proposal.confidences == ((0.7,), (0.8,))


def test_a_beam_is_the_chain() -> None:
    entries = [sequence([1, 2, 1]), sequence([1, 2, 3], "b")]
    found, nothing = NgramDrafter().draft_beams(entries, [4, 4], width=4)
    assert (found.token_ids, found.parents, found.is_chain) == ((1, 2, 1, 2, 1), (0, 1, 2, 3), True)
    assert nothing.token_ids == (3,)


def test_sequences_have_their_own_index_and_forget_drops_it() -> None:
    drafter = NgramDrafter()
    entries = [sequence([1, 2, 3, 1]), sequence([1, 7, 1], "b")]
    assert [p.trunk for p in drafter.draft(entries, [1, 1], WHOLE)] == [(2,), (7,)]
    drafter.forget(RequestId("a"))
    drafter.forget(RequestId("a"))  # a second time is harmless
    # Under the same id comes another text: nothing of the old one must be found.
    assert drafted([8, 1, 2], drafter=drafter) == ()
    assert drafter.draft([sequence([1, 7, 1], "b")], [1], WHOLE)[0].trunk == (7,)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(1, 5), max_size=20),
)
def test_a_grown_index_finds_what_a_fresh_one_and_a_scan_find(
    text: list[int], strides: list[int]
) -> None:
    grown, end = NgramDrafter(), 1
    for stride in strides:
        end = min(end + stride, len(text))
        found = drafted(text[:end], drafter=grown)
        assert found == drafted(text[:end]) == _scanned(text[:end], 4)


def _scanned(text: list[int], depth: int) -> Trunk:
    """The definition: the longest suffix of 5, 3, 2 or 1 that occurred before, its last occurrence;
    what is behind it, over and over."""
    for length in (n for n in (5, 3, 2, 1) if n <= len(text)):
        for start in range(len(text) - length - 1, -1, -1):
            if text[start : start + length] == text[-length:]:
                behind = text[start + length :]
                return tuple((behind * depth)[:depth])
    return ()
