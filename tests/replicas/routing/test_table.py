"""What a front remembers of its replicas, and how its requests spread."""

from string import ascii_letters, digits, punctuation

from server.engine.types import Request, RequestId, SamplingParams
from server.replicas.calls import FrontAddress, RunCall
from server.replicas.routing.known_blocks import KnownBlocks
from server.replicas.routing.table import Published, RoutingTable

FRONT = "me"
ADDRESS = FrontAddress(FRONT, "tcp://127.0.0.1:1", b"public", b"secret")


def blocks(text: str) -> list[bytes]:
    return [char.encode() for char in text]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_table(clock: Clock | None = None) -> RoutingTable:
    table = RoutingTable(imbalance=2, stale_seconds=5.0, clock=clock or Clock())
    table.set_replicas(["a", "b"])
    return table


def send(table: RoutingTable, call_id: str, text: str, avoid: tuple[str, ...] = ()) -> str:
    name = table.choose(["a", "b"], blocks(text), FRONT, avoid)
    table.opened(call_id, name, blocks(text))
    return name


def published(number: int, text: str, is_complete: bool = True, **num_open: int) -> Published:
    return Published(number, frozenset(blocks(text)), is_complete, num_open)


def test_a_conversation_stays_and_a_new_one_goes_elsewhere() -> None:
    table = make_table()
    assert send(table, "1", "xy") == "a"
    assert send(table, "2", "pq") == "b"
    for call_id in "12":
        table.closed(call_id)
    assert send(table, "3", "pqrs") == "b"
    assert send(table, "4", "xyz") == "a"


def test_of_requests_that_come_at_once_each_knows_of_the_one_before() -> None:
    table = make_table()
    names = [send(table, str(i), "") for i in range(6)]
    assert names == ["a", "b"] * 3


def test_a_popular_prompt_does_not_pile_up() -> None:
    table = make_table()
    names = [send(table, str(i), ascii_letters) for i in range(10)]
    loads = [table.load(name, FRONT) for name in "ab"]
    assert sum(loads) == 10 and abs(loads[0] - loads[1]) <= 3
    assert names[:3] == ["a"] * 3


def test_conversations_that_begin_alike_spread_and_then_stay() -> None:
    """One request at a time, so that no load tells the replicas apart."""
    table = make_table()
    places = dict[str, str]()
    for own in ascii_letters + digits:
        places[own] = send(table, own, "system" + own)
        table.closed(own)
    counts = [list(places.values()).count(name) for name in "ab"]
    assert abs(counts[0] - counts[1]) <= 8
    later = {own: f"system{own}{punctuation}" for own in "xyz"}
    for own, text in later.items():
        table.keeps(places[own], blocks(text))
        assert send(table, own, text + own) == places[own]
        table.closed(own)


def test_a_new_replica_does_not_get_everything() -> None:
    """It counts as having had as many requests as the others."""
    table = make_table()
    for own in ascii_letters:
        send(table, own, own)
        table.closed(own)
    table.set_replicas(["a", "b", "c"])
    names = list[str]()
    for own in digits:
        name = table.choose(["a", "b", "c"], blocks(own), FRONT, ())
        table.opened(own, name, blocks(own))
        table.closed(own)
        names.append(name)
    assert set(names) == {"a", "b", "c"}


def test_what_is_published_counts_and_so_do_other_fronts() -> None:
    table = make_table()
    table.publish("b", published(1, ascii_letters, me=7, other=1))
    assert table.load("b", FRONT) == 1
    assert send(table, "1", ascii_letters + "!") == "b"
    assert send(table, "2", "q") == "a"


def test_replicas_that_failed_are_avoided_where_there_are_others() -> None:
    table = make_table()
    assert send(table, "1", "xyz") == "a"
    assert send(table, "1", "xyz", avoid=("a",)) == "b"
    assert send(table, "1", "xyz", avoid=("a", "b")) in "ab"


def test_a_replica_that_is_gone_is_forgotten() -> None:
    table = make_table()
    assert send(table, "1", "xyz") == "a"
    table.closed("1")
    table.set_replicas(["b"])
    table.set_replicas(["a", "b"])
    table.keeps("b", blocks("xyz"))
    assert send(table, "2", "xyz") == "b"


def test_what_a_replica_has_lost_is_believed_only_for_a_while() -> None:
    known = KnownBlocks(max_blocks=100, stale_seconds=5.0)
    known.add(blocks("abc"), now=0.0)
    known.publish(frozenset(blocks("a")), is_complete=True, now=4.0)
    assert known.num_leading(blocks("abc")) == 3
    known.publish(frozenset(blocks("a")), is_complete=False, now=6.0)
    assert known.num_leading(blocks("abc")) == 3
    known.publish(frozenset(blocks("a")), is_complete=True, now=7.0)
    assert known.num_leading(blocks("abc")) == 1


def test_the_ends_of_the_oldest_prompts_go_first() -> None:
    known = KnownBlocks(max_blocks=4, stale_seconds=5.0)
    known.add(blocks("abc"), now=0.0)
    known.add(blocks("xyz"), now=1.0)
    assert known.num_leading(blocks("abc")) == 1
    assert known.num_leading(blocks("xyz")) == 3


def test_blocks_of_a_call_are_the_engines_own_and_other_for_other_salts() -> None:
    def call(salt: str | None, *token_ids: int) -> list[bytes]:
        request = Request(RequestId("r"), token_ids, SamplingParams(1), cache_salt=salt)
        return RunCall(ADDRESS, request, frozenset(), 2, list(token_ids)).blocks()

    assert len(call(None, 1, 2, 3, 4, 5)) == 2
    assert call(None, 1, 2, 3, 4, 5)[:1] == call(None, 1, 2)
    assert not set(call(None, 1, 2, 3, 4)) & set(call("key", 1, 2, 3, 4))
    assert call(None, 1, 2, 3, 4)[1] != call(None, 2, 1, 3, 4)[1]


def test_a_call_that_is_chosen_for_again_counts_where_it_goes_now_and_once() -> None:
    once, again = make_table(), make_table()
    once.opened("1", "a", [])
    for _ in range(3):
        again.opened("1", "a", [])
    again.opened("2", "b", [])
    once.opened("2", "b", [])
    for table in (once, again):
        table.opened("3", "b", [])
        table.opened("3", "a", [])
        assert [table.load(name, FRONT) for name in "ab"] == [2, 1]
        for call_id in "123":
            table.closed(call_id)
        assert [table.load(name, FRONT) for name in "ab"] == [0, 0]
    picked = [table.choose(["a", "b"], [], FRONT, ()) for table in (once, again)]
    assert picked == ["a", "a"]  # b has the latest recent ones in both
