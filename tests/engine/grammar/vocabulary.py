"""A vocabulary of JSON's pieces for the tiny model's 61 ids, and grammars over it."""

import json
from functools import cache

from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.grammar.state import GrammarState
from server.engine.grammar.states import GrammarStates
from server.engine.types import Grammar
from tests.engine.grammar.in_process import in_process
from tests.engine.tiny import EOS

_PIECES = [
    *'{}[]:," \n\\0123456789-.e+abcdgnrstu', *("true", "false", "null", "name", "ag", "age"),
    *('"name"', '": ', '", ', '", "', '{"', '"}', "], ", "}, ", "ab", "12", "na", "me", "tags"),
    *("é", "<s>"),
]  # fmt: skip
PIECES = [piece.encode() for piece in _PIECES]
SPECIAL = PIECES.index(b"<s>")


def token_bytes(token_id: int) -> bytes:
    return PIECES[token_id] if token_id < len(PIECES) else b""


def encode(text: str) -> list[int]:
    """The longest piece first. Raises ValueError where no piece fits."""
    rest, token_ids = text.encode(), list[int]()
    while rest:
        fitting = [i for i, p in enumerate(PIECES) if rest.startswith(p) and i != SPECIAL]
        if not fitting:
            raise ValueError(f"no piece for {rest!r}")
        token_ids.append(max(fitting, key=lambda i: len(PIECES[i])))
        rest = rest[len(PIECES[token_ids[-1]]) :]
    return token_ids


def text_of(token_ids: list[int]) -> str:
    return b"".join(token_bytes(token_id) for token_id in token_ids).decode()


VOCABULARY = Vocabulary(61, token_bytes, frozenset({SPECIAL}), frozenset({EOS}), encode)


@cache
def compiler() -> GrammarCompiler:
    return in_process(VOCABULARY)


def states() -> GrammarStates:
    return GrammarStates(compiler().get, VOCABULARY)


def state(grammar: Grammar, stop_ids: frozenset[int] = frozenset({EOS})) -> GrammarState:
    return GrammarState(compiler().get(grammar), stop_ids)


def schema(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[abnd]{1,6}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["ab", "na", True]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
GRAMMARS = {
    "person": schema(PERSON),
    "regex": Grammar("regex", r"(ab|na){2,8}\d{1,3}"),
    "choice": Grammar("choice", json.dumps(["name", "nab", "true", "trueé"])),
    "ebnf": Grammar("ebnf", 'root ::= "[" item (", " item){1,6} "]"\nitem ::= "ab" | [0-9]+'),
    "object": Grammar("json_object", ""),
}
