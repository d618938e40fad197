"""Places: who runs, who waits, who is sent away, and that none is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.admission import Admission, AdmissionLimits, Place
from server.api.api_keys import KeyDigest
from server.errors import RateLimitError

A, B = KeyDigest(b"a"), KeyDigest(b"b")


def admission(max_running: int, max_waiting: int, max_per_key: int | None = None) -> Admission:
    return Admission(AdmissionLimits(max_running, max_waiting, max_per_key))


def runs(*places: Place) -> list[bool]:
    return [place.turn.done() for place in places]


async def test_first_come_first_served() -> None:
    door = admission(1, 2)
    first, second, third = (door.enter(None) for _ in range(3))
    assert runs(first, second, third) == [True, False, False]
    with pytest.raises(RateLimitError, match="1 run and 2 wait"):
        door.enter(None)
    door.leave(first)
    assert runs(second, third) == [True, False]
    door.leave(second)
    assert runs(third) == [True]
    door.leave(third)
    assert (door.num_running, door.num_waiting) == (0, 0)


async def test_without_a_queue() -> None:
    door = admission(1, 0)
    place = door.enter(None)
    with pytest.raises(RateLimitError):
        door.enter(None)
    door.leave(place)
    assert runs(door.enter(None)) == [True]


async def test_who_leaves_the_queue_frees_nothing_but_its_place_there() -> None:
    door = admission(1, 1)
    running, waiting = door.enter(None), door.enter(None)
    door.leave(waiting)
    assert door.num_running == 1
    again = door.enter(None)
    assert runs(again) == [False]
    door.leave(running)
    assert runs(again) == [True]


async def test_a_key_at_its_limit_holds_up_nobody_else() -> None:
    door = admission(2, 5, 1)
    a1, a2, b1, b2 = door.enter(A), door.enter(A), door.enter(B), door.enter(B)
    assert runs(a1, a2, b1, b2) == [True, False, True, False]
    door.leave(b1)
    # a2 came before b2, but its key still runs one.
    assert runs(a2, b2) == [False, True]
    door.leave(a1)
    assert runs(a2) == [True]


async def test_a_key_can_not_fill_the_queue_alone() -> None:
    door = admission(1, 10, 2)
    a1, _, _ = (door.enter(A) for _ in range(3))
    with pytest.raises(RateLimitError, match="with this API key: 2 run and 2 wait"):
        door.enter(A)
    door.enter(B)
    door.leave(a1)
    door.enter(A)


async def test_requests_without_a_key_have_no_limit_per_key() -> None:
    door = admission(5, 0, 1)
    assert runs(*(door.enter(None) for _ in range(5))) == [True] * 5


@given(
    max_running=st.integers(1, 3),
    max_waiting=st.integers(0, 3),
    max_per_key=st.none() | st.integers(1, 2),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60),
)
async def test_any_order_of_coming_and_leaving(
    max_running: int, max_waiting: int, max_per_key: int | None, moves: list[tuple[bool, int]]
) -> None:
    """Limits hold, nobody waits who could run, and when all have left nothing remains."""
    door = admission(max_running, max_waiting, max_per_key)
    inside: list[Place] = []
    for comes, choice in moves:
        if not comes and inside:
            door.leave(inside.pop(choice % len(inside)))
            continue
        try:
            inside.append(door.enter((A, B, None)[choice % 3]))
        except RateLimitError:
            pass
        check(door, inside, max_running, max_waiting, max_per_key)
    for place in inside:
        door.leave(place)
    assert (door.num_running, door.num_waiting) == (0, 0)
    assert runs(door.enter(A), *(door.enter(None) for _ in range(max_running - 1))) == (
        [True] * max_running
    )


def check(
    door: Admission,
    inside: list[Place],
    max_running: int,
    max_waiting: int,
    max_per_key: int | None,
) -> None:
    running = [place for place in inside if place.turn.done()]
    waiting = [place for place in inside if not place.turn.done()]
    assert (door.num_running, door.num_waiting) == (len(running), len(waiting))
    assert len(running) <= max_running
    assert len(waiting) <= max_waiting
    running_of = {owner: [p.owner for p in running].count(owner) for owner in (A, B)}
    if max_per_key is not None:
        assert max(running_of.values()) <= max_per_key
    for place in waiting:
        at_limit = place.owner is not None and running_of[place.owner] == max_per_key
        assert len(running) == max_running or at_limit
