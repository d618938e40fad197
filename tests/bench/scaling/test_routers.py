"""The simulation asks the server's own function, about the replicas that matter."""

import random

import pytest

from bench.scaling.costs import Costs
from bench.scaling.fleet import Fleet, Prompt
from bench.scaling.prefix_cache import ChainId, ReplicaIndex
from bench.scaling.routers import BlockPrefix, ConsistentHash, TextPrefix, smallest
from server.replicas.routing.choice import OPEN_BLOCKS, RECENT_BLOCKS, Candidate, choose
from server.replicas.routing.recent import RecentRequests

COSTS = Costs(kv_tokens=100_000)


def prompt(own: int, num_blocks: int, system: int = 0) -> Prompt:
    return Prompt(ChainId(system), ChainId(100 + own), 10, num_blocks, 16 * num_blocks)


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_the_servers_among_all(seed: int) -> None:
    """Whatever replicas hold and have to do: to leave most of them out changes nothing. What lately
    came is counted as the server counts it."""
    draw = random.Random(seed)
    fleet = Fleet(40, COSTS)
    router = BlockPrefix(fleet, imbalance=3)
    recent = RecentRequests[ReplicaIndex]()
    for _ in range(400):
        asked = prompt(draw.randrange(30), draw.randint(11, 40), draw.randrange(2))
        candidates = [
            Candidate(
                asked.known_by(cache),
                int(fleet.loads[place]),
                0,
                recent.of(ReplicaIndex(place)),
            )
            for place, cache in enumerate(fleet.caches)
        ]
        place = router.choose(asked)
        expected = choose(candidates, asked.num_blocks, 3)
        assert work(candidates[place], asked) == pytest.approx(work(candidates[expected], asked))
        # Not always where it was sent: caches and loads are to be of all kinds.
        elsewhere = place if draw.random() < 0.7 else ReplicaIndex(draw.randrange(fleet.size))
        fleet.change(elsewhere, asked, 1)
        router.sent(asked, elsewhere)
        recent.add(elsewhere, fleet.size)
        busy = [ReplicaIndex(int(i)) for i in fleet.loads.nonzero()[0]]
        if draw.random() < 0.9:
            fleet.change(draw.choice(busy), asked, -1)


def work(candidate: Candidate, asked: Prompt) -> int | float:
    """Two that are equal here are chosen by the rounding of sums."""
    busy = OPEN_BLOCKS * candidate.load + RECENT_BLOCKS * candidate.recent
    return asked.num_blocks - candidate.num_known + busy


def test_conversations_keep_their_place_on_the_ring() -> None:
    """With one replica more, those that move go to it, about one in eleven."""
    ten, eleven = ConsistentHash(Fleet(10, COSTS)), ConsistentHash(Fleet(11, COSTS))
    moved = [
        eleven.choose(prompt(own, 20))
        for own in range(2000)
        if ten.choose(prompt(own, 20)) != eleven.choose(prompt(own, 20))
    ]
    assert set(moved) == {ReplicaIndex(10)}
    assert 2000 / 11 / 2 < len(moved) < 2000 / 11 * 2


def test_text_is_remembered_that_a_cache_has_dropped() -> None:
    fleet = Fleet(3, Costs(kv_tokens=16 * 20))
    router = TextPrefix(fleet, seed=0)
    first = prompt(0, 20)
    place = router.choose(first)
    fleet.change(place, first, 0)
    router.sent(first, place)
    fleet.change(place, prompt(1, 20, system=1), 0)  # takes all of the cache
    assert prompt(0, 20).known_by(fleet.caches[place]) == 0
    assert router.choose(prompt(0, 25)) == place


def test_text_router_gives_way_where_loads_differ() -> None:
    fleet = Fleet(2, COSTS)
    router = TextPrefix(fleet, seed=0)
    router.sent(prompt(0, 20), ReplicaIndex(0))
    fleet.loads[0] = 10
    assert router.choose(prompt(0, 25)) == 0
    fleet.loads[0] = 11
    assert router.choose(prompt(0, 25)) == 1


def test_of_what_is_unknown_the_least_sent_gets_it() -> None:
    fleet = Fleet(3, COSTS)
    router = TextPrefix(fleet, seed=0)
    router.sent(prompt(0, 30), ReplicaIndex(0))
    router.sent(prompt(1, 20, system=1), ReplicaIndex(2))
    assert router.choose(prompt(2, 25, system=5)) == 1


def test_smallest_of_some() -> None:
    fleet = Fleet(5, COSTS)
    fleet.loads[:] = [3, 1, 2, 1, 0]
    assert smallest(fleet.loads) == 4
    assert smallest(fleet.loads, [ReplicaIndex(3), ReplicaIndex(1), ReplicaIndex(0)]) == 1
