"""Places: who runs, who waits, who is sent away, and that none is lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.middleware.admission import Admission, AdmissionLimits, Place
from server.api.middleware.api_keys import KeyDigest
from server.api.middleware.concurrency import wait_for_turn
from server.errors import RateLimitError

A, B = KeyDigest(b"a"), KeyDigest(b"b")


def make_admission(max_running: int, max_waiting: int, max_per_key: int | None = None) -> Admission:
    return Admission(AdmissionLimits(max_running, max_waiting, max_per_key))


def runs(*places: Place) -> list[bool]:
    return [place.turn.done() for place in places]


async def test_first_come_first_served() -> None:
    admission = make_admission(1, 2)
    first, second, third = (admission.enter(None) for _ in range(3))
    assert runs(first, second, third) == [True, False, False]
    with pytest.raises(RateLimitError, match="1 run and 2 wait"):
        admission.enter(None)
    admission.leave(first)
    assert runs(second, third) == [True, False]
    admission.leave(second)
    assert runs(third) == [True]
    admission.leave(third)
    assert (admission.num_running, admission.num_waiting) == (0, 0)


async def test_without_a_queue() -> None:
    admission = make_admission(1, 0)
    place = admission.enter(None)
    with pytest.raises(RateLimitError):
        admission.enter(None)
    admission.leave(place)
    assert runs(admission.enter(None)) == [True]


async def test_who_leaves_the_queue_frees_nothing_but_its_place_there() -> None:
    admission = make_admission(1, 1)
    running, waiting = admission.enter(None), admission.enter(None)
    admission.leave(waiting)
    assert admission.num_running == 1
    again = admission.enter(None)
    assert runs(again) == [False]
    admission.leave(running)
    assert runs(again) == [True]


async def test_a_key_at_its_limit_holds_up_nobody_else() -> None:
    admission = make_admission(2, 5, 1)
    a1, a2, b1, b2 = admission.enter(A), admission.enter(A), admission.enter(B), admission.enter(B)
    assert runs(a1, a2, b1, b2) == [True, False, True, False]
    admission.leave(b1)
    # a2 came before b2, but its key still runs one.
    assert runs(a2, b2) == [False, True]
    admission.leave(a1)
    assert runs(a2) == [True]


async def test_a_key_can_not_fill_the_queue_alone() -> None:
    admission = make_admission(1, 10, 2)
    a1, _, _ = (admission.enter(A) for _ in range(3))
    with pytest.raises(RateLimitError, match="with this API key: 2 run and 2 wait"):
        admission.enter(A)
    admission.enter(B)
    admission.leave(a1)
    admission.enter(A)


async def test_requests_without_a_key_have_no_limit_per_key() -> None:
    admission = make_admission(5, 0, 1)
    assert runs(*(admission.enter(None) for _ in range(5))) == [True] * 5


async def test_many_generations_take_as_many_places() -> None:
    admission = make_admission(4, 5)
    light, heavy = admission.enter(None), admission.enter(None)
    admission.resize(heavy, 3)
    assert runs(light, heavy) == [True, True]
    assert admission.num_running == 4
    following = admission.enter(None)
    assert runs(following) == [False]
    admission.leave(light)
    assert runs(following) == [True]
    admission.leave(heavy)
    assert admission.num_running == 1


async def test_many_generations_wait_until_all_have_room_and_nobody_overtakes_them() -> None:
    admission = make_admission(3, 5)
    first, second, heavy = (admission.enter(None) for _ in range(3))
    admission.resize(heavy, 3)
    assert runs(first, second, heavy) == [True, True, False]
    late = admission.enter(None)  # there is room for it, but it came later
    assert (admission.num_running, admission.num_waiting) == (2, 2)
    admission.leave(first)
    assert runs(heavy, late) == [False, False]
    admission.leave(second)
    assert runs(heavy, late) == [True, False]
    admission.leave(heavy)
    assert runs(late) == [True]


async def test_those_that_wait_again_keep_their_order() -> None:
    admission = make_admission(3, 1)
    first, second, third = (admission.enter(None) for _ in range(3))
    waiting = admission.enter(None)
    admission.resize(third, 2)  # gives its place back, which nobody may take
    admission.resize(second, 2)
    assert runs(first, second, third, waiting) == [True, True, False, False]
    admission.leave(first)
    assert runs(third, waiting) == [False, False]
    admission.leave(second)
    assert runs(third, waiting) == [True, True]


async def test_more_than_may_run_at_all_run_alone() -> None:
    admission = make_admission(4, 5, 2)
    whole, of_a_key = admission.enter(None), admission.enter(A)
    admission.resize(of_a_key, 100)
    assert admission.num_running == 3
    admission.resize(whole, 100)
    assert runs(whole, of_a_key) == [False, True]
    admission.leave(of_a_key)
    assert runs(whole) == [True]
    assert admission.num_running == 4


async def test_a_heavy_request_holds_up_its_key_alone() -> None:
    admission = make_admission(9, 9, 2)
    a1, a2 = admission.enter(A), admission.enter(A)
    admission.resize(a2, 2)
    a3, b1 = admission.enter(A), admission.enter(B)
    assert runs(a1, a2, a3, b1) == [True, False, False, True]
    admission.leave(a1)
    assert runs(a2, a3) == [True, False]
    admission.leave(a2)
    assert runs(a3) == [True]


async def test_one_that_waits_again_and_leaves_is_forgotten() -> None:
    admission = make_admission(2, 0)
    running, heavy = admission.enter(None), admission.enter(None)
    admission.resize(heavy, 2)
    admission.leave(heavy)
    assert (admission.num_running, admission.num_waiting) == (1, 0)
    admission.leave(running)
    assert admission.num_running == 0


@given(
    max_running=st.integers(1, 5),
    max_per_key=st.none() | st.integers(1, 3),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=60),
)
async def test_any_order_with_many_generations(
    max_running: int, max_per_key: int | None, moves: list[tuple[int, int]]
) -> None:
    """Limits hold, the first that waits for room alone can't run, and everybody runs in the end."""
    admission = make_admission(max_running, 100, max_per_key)
    inside: list[Place] = []
    for move, choice in moves:
        if move == 0 or not inside:
            try:
                inside.append(admission.enter((A, B, None)[choice % 3]))
            except RateLimitError:
                pass
            continue
        place = inside[choice % len(inside)]
        if move == 1:
            admission.leave(place)
            inside.remove(place)
        elif place.turn.done() and place.weight == 1:
            admission.resize(place, 1 + choice)
        running = [place for place in inside if place.turn.done()]
        assert admission.num_running == sum(place.weight for place in running) <= max_running
        for owner in (A, B):
            of_key = sum(place.weight for place in running if place.owner == owner)
            assert max_per_key is None or of_key <= max_per_key
        waiting = [place for place in inside if not place.turn.done()]
        assert admission.num_waiting == len(waiting)
        assert running or not waiting
    while inside:
        running = [place for place in inside if place.turn.done()]
        assert running
        admission.leave(running[0])
        inside.remove(running[0])
    assert (admission.num_running, admission.num_waiting) == (0, 0)


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
    admission = make_admission(max_running, max_waiting, max_per_key)
    inside: list[Place] = []
    for comes, choice in moves:
        if not comes and inside:
            admission.leave(inside.pop(choice % len(inside)))
            continue
        try:
            inside.append(admission.enter((A, B, None)[choice % 3]))
        except RateLimitError:
            pass
        check(admission, inside, max_running, max_waiting, max_per_key)
    for place in inside:
        admission.leave(place)
    assert (admission.num_running, admission.num_waiting) == (0, 0)
    assert runs(admission.enter(A), *(admission.enter(None) for _ in range(max_running - 1))) == (
        [True] * max_running
    )


def check(
    admission: Admission,
    inside: list[Place],
    max_running: int,
    max_waiting: int,
    max_per_key: int | None,
) -> None:
    running = [place for place in inside if place.turn.done()]
    waiting = [place for place in inside if not place.turn.done()]
    assert (admission.num_running, admission.num_waiting) == (len(running), len(waiting))
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
    admission = make_admission(4, 5)
    running, heavy = admission.enter(None), admission.enter(None)
    admission.resize(heavy, 4)
    behind = admission.enter(None)
    assert runs(running, heavy, behind) == [True, False, False]
    admission.leave(heavy)
    assert runs(behind) == [True]


async def test_a_request_that_is_cancelled_while_it_waits_harms_no_other() -> None:
    """Its place is still in the queue when another one leaves."""
    admission = make_admission(1, 2)
    running, waiting = admission.enter(None), admission.enter(None)
    waiter = asyncio.create_task(wait_for_turn(waiting))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    admission.leave(running)
    assert runs(waiting) == [True]
    admission.leave(waiting)
    assert admission.num_running == 0
