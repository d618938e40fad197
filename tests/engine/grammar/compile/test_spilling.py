"""Tokens that reach from the thinking into the answer: which ones they are, and that finding them
keeps no step waiting."""

import threading
from dataclasses import replace

import pytest

from server.engine.grammar.compile.spilling import SpillingTokens
from server.engine.grammar.states import GrammarStates
from server.engine.types import Thinking
from tests.engine.grammar.in_process import in_process
from tests.engine.grammar.vocabulary import EOS, GRAMMARS, VOCABULARY, encode
from tests.engine.tiny import make_request

MARK = b"</t>"
TEXTS = [
    b"", b"a", b">", b">a", b"> \n", b"> b", b"t>c", b"/t>d>", b"/t>", b"</t>", b"</t>e", 
    b"x</t> f",
    b"</t>\n", b"</t></t>", b"</t><", b"</", b">>",
]  # fmt: skip


def spills(tail: bytes, text: bytes) -> bool:
    """Whether the first mark in the bytes ends in the token and isn't all that it has."""
    before, mark, rest = (tail + text).partition(MARK)
    return bool(mark and len(before + mark) > len(tail) and rest.strip())


@pytest.mark.parametrize("tail", [b"", b"<", b"a</", b"</t", b"<</t", b"</t<", b"t>"])
def test_tokens_that_spill(tail: bytes) -> None:
    vocabulary = replace(VOCABULARY, size=len(TEXTS), token_bytes=TEXTS.__getitem__)
    found = SpillingTokens(vocabulary).behind(tail, MARK)
    assert {TEXTS[i] for i in found} == {text for text in TEXTS if spills(tail, text)}


async def test_they_are_found_before_the_request_is_in_the_engine() -> None:
    """One look at each token, and not in the thread that asks."""
    looks: list[int] = []

    def token_bytes(token_id: int) -> bytes:
        looks.append(threading.get_ident())
        return VOCABULARY.token_bytes(token_id)

    grammars = in_process(VOCABULARY)
    vocabulary = replace(VOCABULARY, token_bytes=token_bytes)
    grammars.spilling = SpillingTokens(vocabulary)
    mark = tuple(encode("null"))
    thinking = Thinking(b"tags", b"null", b"", begin_ids=mark, end_ids=mark, is_open=True)
    request = make_request("a", [1], grammar=GRAMMARS["person"], thinking=thinking)
    held = await grammars.prepare(request.params)
    assert held is grammars.get(GRAMMARS["person"])
    assert len(looks) == VOCABULARY.size
    assert threading.get_ident() not in looks
    state = GrammarStates(grammars.get, VOCABULARY, grammars.spilling).behind(request, [])
    for token_id in encode("nab" * 3):
        forbidden = state.forbidden()
        assert forbidden is not None
        assert forbidden[EOS]
        state.accept(token_id)
    await grammars.prepare(request.params)
    assert len(looks) == VOCABULARY.size
    assert await grammars.prepare(replace(request.params, grammar=None)) is None
