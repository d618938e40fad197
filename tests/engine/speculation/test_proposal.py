"""Proposals of two sources, mixed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.speculation.cape import CapeConfig, expand
from server.engine.speculation.proposal import Kind, Proposal, found, mix

DRAFTED = Proposal(((1, 2, 3), (4, 5), (6, 7)), ((0.5, 0.3, 0.1), (0.6, 0.2), (0.9, 0.1)))


def as_said(confidence: float, kind: Kind) -> float:
    return confidence


def test_the_draft_is_surer_and_the_lookup_stands_beside_it() -> None:
    mixed = mix(DRAFTED, found((9, 8), (0.4, 0.4), "lookup"), as_said)
    assert mixed.candidates == ((1, 9, 2, 3), (4, 5), (6, 7))
    assert mixed.confidences[0] == (0.5, 0.4, 0.3, 0.1)
    assert mixed.kinds[0] == ("trunk", "lookup", "leaf", "leaf")
    assert mixed.num_written == 3


def test_the_lookup_is_surer_and_takes_the_trunk_from_where_they_part() -> None:
    mixed = mix(DRAFTED, found((1, 8, 9, 10), (0.4, 0.7, 0.7, 0.7), "recent"), as_said)
    assert mixed.trunk == (1, 8, 9, 10)
    assert mixed.candidates[1] == (8, 4, 5)
    assert mixed.kinds[:3] == (("trunk", "leaf", "leaf"), ("recent", "trunk", "leaf"), ("recent",))
    # Of the root and of 1: what is drafted below belongs to other tokens.
    assert mixed.num_written == 2


def test_who_is_surer_is_believed_where_both_say_the_same() -> None:
    mixed = mix(DRAFTED, found((1, 4), (0.8, 0.1), "lookup"), as_said)
    assert mixed.candidates == DRAFTED.candidates
    assert [kinds[0] for kinds in mixed.kinds] == ["lookup", "trunk", "trunk"]
    assert [confidences[0] for confidences in mixed.confidences] == [0.8, 0.6, 0.9]


def test_a_longer_lookup_goes_on_behind_the_draft() -> None:
    mixed = mix(DRAFTED, found((1, 4, 6, 9), (0.1,) * 4, "lookup"), as_said)
    assert (mixed.trunk, mixed.num_written) == ((1, 4, 6, 9), 3)


def test_a_token_that_both_have_stands_once() -> None:
    mixed = mix(DRAFTED, found((3,), (0.2,), "lookup"), as_said)
    assert mixed.candidates[0] == (1, 3, 2)
    assert mixed.kinds[0] == ("trunk", "lookup", "leaf")


@pytest.mark.parametrize("empty", [Proposal((), ()), found((), (), "lookup")])
def test_with_nothing_a_proposal_stays_what_it_is(empty: Proposal) -> None:
    assert mix(DRAFTED, empty, as_said) == DRAFTED
    looked_up = found((1, 2), (0.5, 0.5), "lookup")
    assert mix(empty, looked_up, as_said) == looked_up


TOKENS = st.lists(st.integers(0, 3), max_size=5)


@given(TOKENS, TOKENS, st.floats(0, 1))
def test_a_tree_can_be_made_of_any_two(first: list[int], second: list[int], claim: float) -> None:
    """No candidate twice, as a tree wants it; the trunk is one of the two."""
    drafted = Proposal(
        tuple((token, (token + 1) % 4) for token in first), tuple((0.5, 0.2) for _ in first)
    )
    mixed = mix(drafted, found(second, [claim] * len(second), "lookup"), as_said)
    tree = expand(9, mixed.candidates, mixed.confidences, CapeConfig(), 64)
    assert tree.token_ids[1 : tree.num_trunk + 1] == mixed.trunk
    assert mixed.trunk in (tuple(first), tuple(second))
    assert mixed.num_written <= len(first) or not first
    written = min(mixed.num_written, len(mixed.trunk))
    # Root and tokens whose draft KV is there are those that were drafted.
    assert mixed.trunk[: max(written - 1, 0)] == tuple(first)[: max(written - 1, 0)]
