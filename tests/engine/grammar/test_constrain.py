"""What a grammar leaves of proposals, and what it adds to them."""

import pytest

from server.engine.grammar.constrain import FORCED, constrain, prune
from server.engine.speculation.proposal import Proposal, found
from server.engine.speculation.tree import TokenTree, comb


class Word:
    """The grammar of one text over tokens 1 … 9, and of what may stand at each place.

    Args:
        places: allowed tokens, by place.
        forced: from each place on.
    """

    def __init__(self, *places: set[int], forced: dict[int, list[int]] | None = None) -> None:
        self.places = places
        self.forced = forced or {}
        self.accepted = list[int]()

    def accept(self, token_id: int) -> bool:
        place = len(self.accepted)
        if place >= len(self.places) or token_id not in self.places[place]:
            return False
        self.accepted.append(token_id)
        return True

    def rollback(self, num_tokens: int) -> None:
        assert num_tokens <= len(self.accepted)
        del self.accepted[len(self.accepted) - num_tokens :]

    def forced_tokens(self, most: int) -> list[int]:
        return self.forced.get(len(self.accepted), [])[:most]


CHAIN = Proposal(((1, 2, 3), (4, 5), (6, 7)), ((0.5, 0.3, 0.1), (0.6, 0.2), (0.9, 0.1)))


def test_what_is_allowed_stays_as_it_is() -> None:
    word = Word({1, 2, 3}, {4, 5}, {6, 7})
    assert constrain(CHAIN, word, 16) == CHAIN
    assert word.accepted == []


def test_forbidden_alternatives_go_and_the_rest_shares_their_probability() -> None:
    kept = constrain(CHAIN, Word({1, 3}, {4}, {6, 7}), 16)
    assert kept.candidates == ((1, 3), (4,), (6, 7))
    assert kept.confidences[0] == pytest.approx((0.5 / 0.7, 0.1 / 0.7))
    assert kept.confidences[1] == pytest.approx((0.75,))


def test_an_alternative_takes_the_place_of_a_forbidden_trunk_token_and_ends_the_chain() -> None:
    kept = constrain(CHAIN, Word({1}, {5}, {6}), 16)
    assert kept.candidates == ((1,), (5,))
    assert (kept.num_proposed, kept.num_forced) == (2, 0)


def test_a_chain_ends_where_nothing_is_allowed() -> None:
    assert constrain(CHAIN, Word({1}, {9}), 16).candidates == ((1,),)
    assert constrain(CHAIN, Word({9}), 16).candidates == ()


def test_what_is_forced_follows_what_is_left() -> None:
    word = Word({1}, {5}, {8}, {9}, forced={0: [], 2: [8, 9]})
    kept = constrain(CHAIN, word, 16)
    assert kept.candidates == ((1,), (5,), (8,), (9,))
    assert kept.confidences[2:] == ((FORCED,), (FORCED,))
    assert (kept.num_proposed, kept.num_forced) == (2, 2)
    assert word.accepted == []


def test_forced_tokens_alone() -> None:
    word = Word({1}, {5}, forced={0: [1, 5]})
    assert constrain(Proposal((), ()), word, 16).trunk == (1, 5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_deeper_than_allowed(depth: int) -> None:
    word = Word({1}, {5}, {8}, {9}, forced={2: [8, 9]})
    assert constrain(CHAIN, word, depth).trunk == (1, 5, 8)[:depth]
    assert word.accepted == []


def test_who_says_a_token_stays() -> None:
    looked_up = found((1,), (0.9,), "lookup")
    assert constrain(looked_up, Word({1}, {5}, forced={1: [5]}), 16).kinds == (
        ("lookup",),
        ("forced",),
    )
    kept = constrain(CHAIN, Word({3}), 16)
    assert (kept.candidates, kept.kinds, kept.num_written) == (((3,),), (("leaf",),), 1)


def test_a_beam_loses_forbidden_nodes_and_what_is_below_them() -> None:
    """Root with 1, 2, 3; below 1: 4, 5; below 2: 4. Token 2 is forbidden, then 5."""
    tree = TokenTree((0, 1, 2, 3, 4, 5, 4), (0, 0, 0, 1, 1, 2))
    word = Word({1, 3}, {4})
    assert prune(tree, word) == TokenTree((0, 1, 3, 4), (0, 0, 1))
    assert word.accepted == []


def test_a_beam_of_which_nothing_is_left_is_its_root() -> None:
    assert prune(TokenTree((0, 1, 2), (0, 1)), Word({9})) == TokenTree((0,), ())


def test_a_chain_that_is_a_tree_may_be_pruned() -> None:
    assert prune(comb(0, (1, 2), ()), Word({1})).token_ids == (0, 1)
