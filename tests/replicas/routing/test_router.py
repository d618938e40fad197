"""What Serve's router is told, on the class that Serve runs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.types import Request, RequestId, SamplingParams
from server.replicas.calls import AddressedCall, FrontAddress, RunCall
from server.replicas.cluster import check_ray

REQUEST = Request(RequestId("r"), (1,), SamplingParams(1))
FRONT = FrontAddress("front", "tcp://127.0.0.1:1", b"public", b"secret")


@pytest.fixture
def router() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        check_ray()
    from server.replicas.routing.router import PrefixRouter

    class Router(PrefixRouter):
        def __init__(self) -> None:
            self.initialize_state(imbalance=32, stale_seconds=6.0)
            self._table.set_replicas(("a", "b"))

        def load(self) -> int:
            return sum(self._table.load(name, "front") for name in ("a", "b"))

    return Router()


def replica(name: str) -> Any:
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats={})


BOTH = [replica("a"), replica("b")]


def pending(call: object, call_id: str = "1") -> Any:
    metadata = SimpleNamespace(internal_request_id=call_id)
    context = SimpleNamespace(should_backoff=False)
    return SimpleNamespace(args=[call], metadata=metadata, routing_context=context)


def chosen(router: Any, request: Any) -> list[str]:
    ranks = asyncio.run(router.choose_replicas(BOTH, request))
    return [each.replica_id.unique_id for rank in ranks for each in rank]


def test_an_addressed_call_goes_where_it_belongs(router: Any) -> None:
    told = list[str]()
    assert chosen(router, pending(AddressedCall("b", lambda: told.append("b")))) == ["b"]
    assert told == []


def test_a_call_for_an_unknown_replica_is_told_so(router: Any) -> None:
    told = list[str]()
    assert chosen(router, pending(AddressedCall("c", lambda: told.append("c")))) == []
    assert told == ["c"]


def test_a_call_that_is_given_up_before_it_is_sent_counts_no_more(router: Any) -> None:
    calls = [RunCall(FRONT, Request(RequestId(i), (1,), SamplingParams(1))) for i in "12"]
    for i, call in zip("12", calls, strict=True):
        chosen(router, pending(call, i))
    assert router.load() == 2
    calls[0].is_given_up = True
    third = RunCall(FRONT, Request(RequestId("3"), (1,), SamplingParams(1)))
    chosen(router, pending(third, "3"))
    assert router.load() == 2


def test_an_answered_call_counts_no_more_before_serve_tells_of_its_end(router: Any) -> None:
    """The client's next request may be there sooner; it finds question and answer in the cache."""
    first = RunCall(FRONT, REQUEST, block_size=2, token_ids=[1])
    (name,) = chosen(router, pending(first, "5"))
    first.token_ids += [2, 3, 4]
    first.is_answered = True
    assert router.load() == 1
    again = RunCall(FRONT, REQUEST, block_size=2, token_ids=[1, 2, 3, 4, 5])
    assert chosen(router, pending(again, "6")) == [name]
    assert router.load() == 1
    router.on_request_completed(SimpleNamespace(unique_id=name), "5")
    assert router.load() == 1


def test_the_end_of_a_refused_call_closes_none_that_another_replica_has(router: Any) -> None:
    call = RunCall(FRONT, REQUEST)
    (name,) = chosen(router, pending(call, "7"))
    router.on_request_completed(SimpleNamespace(unique_id="ab".replace(name, "")), "7")
    assert router.load() == 1
    router.on_request_completed(SimpleNamespace(unique_id=name), "7")
    assert router.load() == 0


def test_a_call_that_is_chosen_for_again_counts_once(router: Any) -> None:
    call = RunCall(FRONT, Request(RequestId("4"), (1,), SamplingParams(1)))
    for _ in range(3):
        chosen(router, pending(call, "4"))
    assert router.load() == 1
