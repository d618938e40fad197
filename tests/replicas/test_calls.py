"""What travels between processes arrives as it was."""

import pickle

import pytest

from server.engine.types import Request, RequestId, SamplingParams
from server.errors import (
    ContextLengthError,
    EngineDeadError,
    GlidecapeError,
    GrammarCostError,
    GrammarError,
    InvalidRequestError,
    RateLimitError,
)
from server.replicas.calls import AddressedCall, FrontAddress, PackedError, RunCall

FRONT = FrontAddress("f", "tcp://127.0.0.1:1", b"public", b"secret")
ERRORS = [
    ContextLengthError("too long", "messages"),
    InvalidRequestError("bad", None),
    RateLimitError("later"),
    GrammarError("no", ("properties", "a")),
    GrammarCostError("memory"),
    EngineDeadError("a step crashed"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_class_text_and_fields(error: GlidecapeError) -> None:
    again = pickle.loads(pickle.dumps(PackedError.of(error))).unpacked()
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_what_only_the_front_knows_stays_there() -> None:
    request = Request(RequestId("r"), (1, 2), SamplingParams(1))
    call = RunCall(FRONT, request, frozenset("a"), 16, [1, 2], on_routed=print)
    run: RunCall = pickle.loads(pickle.dumps(call))
    assert (run.front, run.request, run.on_routed, run.token_ids) == (
        FRONT,
        request,
        None,
        [],
    )
    to_one: AddressedCall = pickle.loads(pickle.dumps(AddressedCall("a", print)))
    assert (to_one.replica, to_one.on_unknown) == ("a", None)
