"""Token trees: the worked example of the module, and what is refused."""

import pytest

from server.engine.speculation.tree import ROOT, TokenTree, comb, lone_root

A, B, X, Y, Z = 11, 12, 13, 14, 15
EXAMPLE = comb(10, (A, B), ((X,), (Y, Z)))


def test_the_worked_example() -> None:
    assert EXAMPLE.token_ids == (10, A, B, X, Y, Z)
    assert EXAMPLE.parents == (0, 1, 0, 1, 1)
    assert EXAMPLE.depths == (0, 1, 2, 1, 2, 2)
    assert EXAMPLE.num_trunk == 2
    assert len(EXAMPLE) == 6
    sees = [EXAMPLE.path(node) for node in range(6)]
    assert sees == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 1, 4], [0, 1, 5]]


def test_a_child_is_found_by_its_token() -> None:
    assert EXAMPLE.child(ROOT, A) == 1
    assert EXAMPLE.child(ROOT, X) == 3
    assert EXAMPLE.child(1, Z) == 5
    assert EXAMPLE.child(ROOT, B) is None
    assert EXAMPLE.child(3, Y) is None


def test_chains() -> None:
    assert comb(10, (A, B), ()).is_chain
    assert comb(10, (A, B), ((), ())).is_chain
    assert lone_root(10).is_chain
    assert lone_root(10) == comb(10, (), ())
    assert not EXAMPLE.is_chain
    assert not TokenTree((10, A), (0,)).is_chain  # a beam's: it has no trunk


def test_leaves_are_the_comb_s_nodes_beside_the_trunk() -> None:
    assert [EXAMPLE.is_leaf(node) for node in range(6)] == [False] * 3 + [True] * 3
    assert comb(10, (), ((X,),)).is_leaf(1)
    assert not TokenTree((10, A), (0,)).is_leaf(1)  # a beam's


def test_leaves_may_hang_below_the_last_trunk_token() -> None:
    tree = comb(10, (A,), ((), (X, Y)))
    assert tree.parents == (0, 1, 1)
    assert tree.depths == (0, 1, 2, 2)
    assert comb(10, (), ((X,),)).parents == (0,)


def test_cousins_may_have_the_same_token() -> None:
    tree = comb(10, (A, A), ((X,), (X,)))
    assert (tree.child(0, X), tree.child(1, X)) == (3, 4)


@pytest.mark.parametrize(
    ("tokens", "parents"),
    [
        ((10, A, A), (0, 0)),  # twins
        ((10, A), (1,)),  # its own parent
        ((10, A, B), (2, 0)),  # the parent comes later
        ((10, A), (-1,)),
    ],
)
def test_duplicates_and_misplaced_nodes_are_refused(
    tokens: tuple[int, ...], parents: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"node \d is misplaced or a duplicate"):
        TokenTree(tokens, parents)


def test_a_leaf_equal_to_its_trunk_token_is_refused() -> None:
    with pytest.raises(ValueError, match="node 2"):
        comb(10, (A,), ((A,),))


def test_leaves_below_a_leaf_are_refused() -> None:
    with pytest.raises(ValueError, match="misplaced"):
        comb(10, (), ((), (X,)))
