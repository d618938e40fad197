"""Grammars over single bytes, for whole texts."""

from functools import cache

from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.types import Grammar
from tests.engine.grammar.in_process import in_process

EOS = 256
BYTES = Vocabulary(
    257,
    lambda token_id: bytes([token_id]) if token_id < 256 else b"",
    frozenset(),
    frozenset({EOS}),
    lambda text: list(text.encode()),
)


@cache
def compiler() -> GrammarCompiler:
    return in_process(BYTES)


def matches(grammar: Grammar, text: str) -> bool:
    """Whether the text is one that the grammar allows, as a whole."""
    matcher = compiler().get(grammar).new_matcher([EOS])
    return all(map(matcher.accept_token, text.encode())) and matcher.is_completed()
