"""Places: who runs, who waits, who is sent away, and that none is lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.door.admission import Admission, AdmissionLimits, Place
from server.api.door.api_keys import KeyDigest
from server.api.door.concurrency import wait_for_turn
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


async def test_many_generations_take_as_many_places() -> None:
    door = admission(4, 5)
    light, heavy = door.enter(None), door.enter(None)
    door.resize(heavy, 3)
    assert runs(light, heavy) == [True, True]
    assert door.num_running == 4
    following = door.enter(None)
    assert runs(following) == [False]
    door.leave(light)
    assert runs(following) == [True]
    door.leave(heavy)
    assert door.num_running == 1


async def test_many_generations_wait_until_all_have_room_and_nobody_overtakes_them() -> None:
    door = admission(3, 5)
    first, second, heavy = (door.enter(None) for _ in range(3))
    door.resize(heavy, 3)
    assert runs(first, second, heavy) == [True, True, False]
    late = door.enter(None)  # there is room for it, but it came later
    assert (door.num_running, door.num_waiting) == (2, 2)
    door.leave(first)
    assert runs(heavy, late) == [False, False]
    door.leave(second)
    assert runs(heavy, late) == [True, False]
    door.leave(heavy)
    assert runs(late) == [True]


async def test_those_that_wait_again_keep_their_order() -> None:
    door = admission(3, 1)
    first, second, third = (door.enter(None) for _ in range(3))
    waiting = door.enter(None)
    door.resize(third, 2)  # gives its place back, which nobody may take
    door.resize(second, 2)
    assert runs(first, second, third, waiting) == [True, True, False, False]
    door.leave(first)
    assert runs(third, waiting) == [False, False]
    door.leave(second)
    assert runs(third, waiting) == [True, True]


async def test_more_than_may_run_at_all_run_alone() -> None:
    door = admission(4, 5, 2)
    whole, of_a_key = door.enter(None), door.enter(A)
    door.resize(of_a_key, 100)
    assert door.num_running == 3
    door.resize(whole, 100)
    assert runs(whole, of_a_key) == [False, True]
    door.leave(of_a_key)
    assert runs(whole) == [True]
    assert door.num_running == 4


async def test_a_heavy_request_holds_up_its_key_alone() -> None:
    door = admission(9, 9, 2)
    a1, a2 = door.enter(A), door.enter(A)
    door.resize(a2, 2)
    a3, b1 = door.enter(A), door.enter(B)
    assert runs(a1, a2, a3, b1) == [True, False, False, True]
    door.leave(a1)
    assert runs(a2, a3) == [True, False]
    door.leave(a2)
    assert runs(a3) == [True]


async def test_one_that_waits_again_and_leaves_is_forgotten() -> None:
    door = admission(2, 0)
    running, heavy = door.enter(None), door.enter(None)
    door.resize(heavy, 2)
    door.leave(heavy)
    assert (door.num_running, door.num_waiting) == (1, 0)
    door.leave(running)
    assert door.num_running == 0


@given(
    max_running=st.integers(1, 5),
    max_per_key=st.none() | st.integers(1, 3),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=60),
)
async def test_any_order_with_many_generations(
    max_running: int, max_per_key: int | None, moves: list[tuple[int, int]]
) -> None:
    """Limits hold, the first that waits for room alone can't run, and everybody runs in the end."""
    door = admission(max_running, 100, max_per_key)
    inside: list[Place] = []
    for move, choice in moves:
        if move == 0 or not inside:
            try:
                inside.append(door.enter((A, B, None)[choice % 3]))
            except RateLimitError:
                pass
            continue
        place = inside[choice % len(inside)]
        if move == 1:
            door.leave(place)
            inside.remove(place)
        elif place.turn.done() and place.weight == 1:
            door.resize(place, 1 + choice)
        running = [place for place in inside if place.turn.done()]
        assert door.num_running == sum(place.weight for place in running) <= max_running
        for owner in (A, B):
            of_key = sum(place.weight for place in running if place.owner == owner)
            assert max_per_key is None or of_key <= max_per_key
        waiting = [place for place in inside if not place.turn.done()]
        assert door.num_waiting == len(waiting)
        assert running or not waiting
    while inside:
        running = [place for place in inside if place.turn.done()]
        assert running
        door.leave(running[0])
        inside.remove(running[0])
    assert (door.num_running, door.num_waiting) == (0, 0)


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


async def test_who_stops_waiting_lets_those_behind_pass() -> None:
    """The first in the queue needs more room than there is, and leaves."""
    door = admission(4, 5)
    running, heavy = door.enter(None), door.enter(None)
    door.resize(heavy, 4)
    behind = door.enter(None)
    assert runs(running, heavy, behind) == [True, False, False]
    door.leave(heavy)
    assert runs(behind) == [True]


async def test_a_request_that_is_cancelled_while_it_waits_harms_no_other() -> None:
    """Its place is still in the queue when another one leaves."""
    door = admission(1, 2)
    running, waiting = door.enter(None), door.enter(None)
    waiter = asyncio.create_task(wait_for_turn(waiting))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    door.leave(running)
    assert runs(waiting) == [True]
    door.leave(waiting)
    assert door.num_running == 0
