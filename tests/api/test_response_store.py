"""Responses in memory: limits, owners, chains; and that everything that goes is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from server.api.api_keys import KeyDigest
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
        self.store.put(new)
        self.all.append(new)
        return new

    @invariant()
    def counts_what_is_held(self) -> None:
        held = {kept for kept in self.all if self.store.get(kept.owner, kept.id) is kept}
        turns = {(kept.owner, turn) for kept in held for turn in kept.turn.chain()}
        expected = sum(kept.num_bytes for kept in held)
        assert self.store.num_bytes == expected + sum(turn.num_bytes for _, turn in turns)
        assert len(self.store) == len(held) <= 4
        assert self.store.num_bytes <= 12_000
        alive = {(owner, each.id) for owner, turn in turns for each in turn.items()}
        for kept in self.all:
            for each in kept.turn.items():
                is_found = self.store.find_item(kept.owner, each.id) is not None
                assert is_found == ((kept.owner, each.id) in alive)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
