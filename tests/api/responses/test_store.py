"""Responses in memory: limits, owners, chains; and that everything that goes is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from server.api.middleware.api_keys import KeyDigest
from server.api.responses.store import (
    KeptItem,
    KeptResponse,
    ResponseStatus,
    ResponseStore,
    StoreLimits,
    Turn,
)

ANN, BOB = KeyDigest(b"ann"), KeyDigest(b"bob")
ITEM_BYTES = 100 + 512
RESPONSE_BYTES = 50 + 1024
"""A response and an item of these tests, with what is around them in memory."""


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def item(name: str) -> KeptItem:
    return KeptItem(name, b"x" * 100)


def response(
    name: str,
    parent: KeptResponse | None = None,
    *,
    owner: KeyDigest | None = ANN,
    status: ResponseStatus = "completed",
    outputs: Sequence[str] | None = None,
) -> KeptResponse:
    """One with an input and an output item, which are called after it."""
    given = [f"{name}-out"] if outputs is None else outputs
    turn = Turn(parent and parent.turn, [item(f"{name}-in")], [item(each) for each in given])
    return KeptResponse(owner, name, status, b"y" * 50, turn)


def put(store: ResponseStore, *given: KeptResponse) -> None:
    for each in given:
        store.put(each)


def ids(store: ResponseStore, *names: str, owner: KeyDigest | None = ANN) -> list[str]:
    return [name for name in names if store.get(owner, name) is not None]


def test_another_owner_sees_nothing() -> None:
    store = ResponseStore()
    put(store, response("a"), response("b", owner=None))
    for stranger in (BOB, None):
        assert store.get(stranger, "a") is None
        assert store.find_item(stranger, "a-in") is None
        assert not store.delete(stranger, "a")
    assert store.get(ANN, "b") is None
    assert ids(store, "a") == ["a"]
    assert store.find_item(ANN, "a-out") == item("a-out")


def test_the_oldest_makes_room() -> None:
    store = ResponseStore(StoreLimits(max_responses=2))
    put(store, response("a"), response("b"), response("c"))
    assert ids(store, "a", "b", "c") == ["b", "c"]
    assert store.find_item(ANN, "a-in") is None
    assert store.num_bytes == 2 * (RESPONSE_BYTES + 2 * ITEM_BYTES)


def test_memory_makes_room_too() -> None:
    each = RESPONSE_BYTES + 2 * ITEM_BYTES
    store = ResponseStore(StoreLimits(max_bytes=3 * each - 1))
    put(store, response("a"), response("b"), response("c"))
    assert ids(store, "a", "b", "c") == ["b", "c"]


def test_a_busy_owner_pushes_out_its_own() -> None:
    store = ResponseStore(StoreLimits(max_responses=4))
    put(store, response("b1", owner=BOB), response("b2", owner=BOB))
    put(store, *(response(f"a{index}") for index in range(9)))
    assert ids(store, "b1", "b2", owner=BOB) == ["b1", "b2"]
    assert ids(store, *(f"a{index}" for index in range(9))) == ["a7", "a8"]


def test_who_fills_the_memory_pushes_out_its_own() -> None:
    each = RESPONSE_BYTES + 2 * ITEM_BYTES
    store = ResponseStore(StoreLimits(max_bytes=4 * each))
    put(store, response("b1", owner=BOB), response("b2", owner=BOB))
    put(store, first := response("a1"), response("a2", first), response("a3"))
    assert ids(store, "b1", "b2", owner=BOB) == ["b1", "b2"]
    # The item of a1 stays for a2, so that both documents go until there is room.
    assert ids(store, "a1", "a2", "a3") == ["a3"]
    assert store.num_bytes == 3 * each


def test_who_has_most_makes_room_for_a_new_owner() -> None:
    store = ResponseStore(StoreLimits(max_responses=4))
    put(store, *(response(f"a{index}") for index in range(4)))
    for index in range(4):
        put(store, response(f"b{index}", owner=BOB))
    assert ids(store, "a0", "a1", "a2", "a3") == ["a2", "a3"]  # half of it, and no more
    assert ids(store, "b0", "b1", "b2", "b3", owner=BOB) == ["b2", "b3"]


def test_more_owners_than_room() -> None:
    """A new one gets in; the oldest of all goes."""
    store = ResponseStore(StoreLimits(max_responses=2))
    put(store, response("a"), response("b", owner=BOB), response("n", owner=None))
    assert ids(store, "a") == []
    assert ids(store, "b", owner=BOB) + ids(store, "n", owner=None) == ["b", "n"]


def test_one_response_larger_than_the_others_leave() -> None:
    each = RESPONSE_BYTES + 2 * ITEM_BYTES
    store = ResponseStore(StoreLimits(max_bytes=3 * each))
    put(store, response("b1", owner=BOB))
    put(store, response("a", outputs=["1", "2", "3", "4", "5", "6"]))
    assert ids(store, "b1", owner=BOB) == ["b1"]
    assert ids(store, "a") == []
    assert store.num_bytes == each


def test_what_alone_is_too_large_pushes_nobody_out() -> None:
    each = RESPONSE_BYTES + 2 * ITEM_BYTES
    store = ResponseStore(StoreLimits(max_bytes=each))
    put(store, response("a"), response("b", outputs=["1", "2"]))
    assert ids(store, "a", "b") == ["a"]


def test_a_chain_that_is_too_large_is_not_kept() -> None:
    each = RESPONSE_BYTES + 2 * ITEM_BYTES
    store = ResponseStore(StoreLimits(max_bytes=2 * each - 1))
    first = response("a")
    put(store, first, response("b", first))
    assert ids(store, "a", "b") == ["b"]  # a's items only: its document made room
    store = ResponseStore(StoreLimits(max_bytes=each + ITEM_BYTES))
    put(store, first := response("a"))
    put(store, response("b", first))
    assert ids(store, "a", "b") == ["a"]


def test_zero_keeps_nothing() -> None:
    store = ResponseStore(StoreLimits(max_responses=0))
    put(store, response("a"))
    assert (len(store), store.num_bytes) == (0, 0)


def test_time_to_live() -> None:
    clock = Clock()
    store = ResponseStore(StoreLimits(seconds_to_live=10), clock)
    put(store, response("a"))
    clock.seconds = 6
    put(store, response("b"))
    clock.seconds = 9.9
    assert ids(store, "a", "b") == ["a", "b"]
    clock.seconds = 10
    assert ids(store, "a", "b") == ["b"]
    clock.seconds = 16
    assert (len(store), store.num_bytes) == (0, 0)


def test_the_time_counts_from_the_end_of_a_response() -> None:
    clock = Clock()
    store = ResponseStore(StoreLimits(seconds_to_live=10), clock)
    started = response("a", status="in_progress", outputs=[])
    put(store, started, response("b"))
    clock.seconds = 5
    store.replace(started, response("a"))
    clock.seconds = 14
    assert ids(store, "a", "b") == ["a"]


def test_a_conversation_outlives_its_first_responses() -> None:
    store = ResponseStore()
    first = response("a")
    second = response("b", first)
    put(store, first, second, third := response("c", second))
    assert store.num_bytes == 3 * (RESPONSE_BYTES + 2 * ITEM_BYTES)
    assert store.delete(ANN, "a")
    assert store.delete(ANN, "b")
    assert store.num_bytes == RESPONSE_BYTES + 6 * ITEM_BYTES
    names = [each.id for each in third.turn.context()]
    assert names == ["a-in", "a-out", "b-in", "b-out", "c-in"]
    assert store.find_item(ANN, "a-in") == item("a-in")
    assert store.delete(ANN, "c")
    assert store.num_bytes == 0
    assert store.find_item(ANN, "a-in") is None


def test_a_shared_beginning_counts_once() -> None:
    store = ResponseStore()
    put(store, first := response("a"), response("b", first), response("c", first))
    assert store.num_bytes == 3 * (RESPONSE_BYTES + 2 * ITEM_BYTES)
    store.delete(ANN, "b")
    assert store.find_item(ANN, "a-in") == item("a-in")


def test_a_beginning_that_went_while_it_was_gone_on_from_counts_again() -> None:
    store = ResponseStore(StoreLimits(max_responses=1))
    put(store, first := response("a"), response("x"))
    assert store.find_item(ANN, "a-in") is None
    put(store, response("b", first))
    assert ids(store, "a", "b", "x") == ["b"]
    assert store.num_bytes == RESPONSE_BYTES + 4 * ITEM_BYTES
    assert store.find_item(ANN, "a-in") == item("a-in")


def test_what_was_deleted_does_not_come_back() -> None:
    store = ResponseStore()
    put(store, started := response("a", status="in_progress", outputs=[]))
    assert store.delete(ANN, "a")
    store.replace(started, response("a"))
    assert (len(store), store.num_bytes) == (0, 0)


def test_what_was_pushed_out_comes_back_when_it_ends() -> None:
    store = ResponseStore(StoreLimits(max_responses=1))
    put(store, started := response("a", status="in_progress", outputs=[]), response("b"))
    assert ids(store, "a", "b") == ["b"]
    store.replace(started, response("a"))
    assert ids(store, "a", "b") == ["a"]


class StoreMachine(RuleBasedStateMachine):
    """Any order of putting, ending and deleting leaves exactly what is held, and its bytes."""

    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        limits = StoreLimits(max_responses=4, max_bytes=12_000, seconds_to_live=20)
        self.store = ResponseStore(limits, self.clock)
        self.all: list[KeptResponse] = []

    @rule(target=made, owner=st.sampled_from([ANN, BOB]))
    def begin(self, owner: KeyDigest) -> KeptResponse:
        return self.put(response(f"r{len(self.all)}", owner=owner))

    @rule(target=made, parent=made, number=st.integers(0, 4))
    def go_on(self, parent: KeptResponse, number: int) -> KeptResponse:
        name = f"r{len(self.all)}"
        outputs = [f"{name}-{index}" for index in range(number)]
        return self.put(response(name, parent, owner=parent.owner, outputs=outputs))

    @rule(target=made, old=consumes(made))
    def end(self, old: KeptResponse) -> KeptResponse:
        turn = Turn(old.turn.parent, old.turn.inputs, [item(f"{old.id}-new")])
        new = KeptResponse(old.owner, old.id, "completed", b"z" * 70, turn)
        self.store.replace(old, new)
        self.all.append(new)
        return new

    @rule(target=made, old=consumes(made))
    def delete(self, old: KeptResponse) -> object:
        self.store.delete(old.owner, old.id)
        assert self.store.get(old.owner, old.id) is None
        return multiple()

    @rule(seconds=st.sampled_from([1.0, 7.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    def put(self, new: KeptResponse) -> KeptResponse:
        others = [kept for kept in self.held() if kept.owner != new.owner]
        self.store.put(new)
        self.all.append(new)
        # Two owners: up to half of the room is safe from the other one.
        if len(others) <= 2 and self.num_bytes(others) <= 6_000:
            assert [kept for kept in self.held() if kept.owner != new.owner] == others
        return new

    def held(self) -> list[KeptResponse]:
        return [kept for kept in self.all if self.store.get(kept.owner, kept.id) is kept]

    def num_bytes(self, held: Sequence[KeptResponse]) -> int:
        turns = {turn for kept in held for turn in kept.turn.chain()}
        return sum(kept.num_bytes for kept in held) + sum(turn.num_bytes for turn in turns)

    @invariant()
    def counts_what_is_held(self) -> None:
        held = self.held()
        turns = {(kept.owner, turn) for kept in held for turn in kept.turn.chain()}
        assert self.store.num_bytes == self.num_bytes(held)
        assert len(self.store) == len(held) <= 4
        assert self.store.num_bytes <= 12_000
        alive = {(owner, each.id) for owner, turn in turns for each in turn.items()}
        for kept in self.all:
            for each in kept.turn.items():
                is_found = self.store.find_item(kept.owner, each.id) is not None
                assert is_found == ((kept.owner, each.id) in alive)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
