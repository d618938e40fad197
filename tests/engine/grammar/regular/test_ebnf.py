"""What rules made of expressions let through: characters, escapes, counts, and no other bytes."""

import itertools
import json
import re

import pytest

from server.engine.grammar.compile.compiler import Compiler, Tokens
from server.engine.grammar.compile.worker import Compile, Proven, Refused, prove
from server.engine.grammar.regular.chars import ALL_CHARS, CharSet, char_set, chars
from server.engine.grammar.regular.ebnf import RuleWriter, Spelling, in_json, plain
from server.engine.grammar.regular.expression import Char, Expression, text
from server.engine.grammar.regular.syntax import python_pattern
from server.engine.types import Grammar, GrammarKind
from tests.engine.grammar.bytes import EOS, compiler, matches

SETS = [
    ALL_CHARS, chars("a"), chars('"'), chars("\n\x00x"), ~chars("\n"), char_set([(0, 0x1F)]),
    char_set([(0x80, 0x7FF)]), char_set([(0xE000, 0x10FFFF)]), char_set([(0x900, 0xD000)]),
    char_set([(0x10000, 0x10FFFF)]), char_set([(0xFFF0, 0x11000)]), ~chars("é\u20ac🙂"),
]  # fmt: skip
CHARS = [*map(chr, range(0x100)), "\u0800", "\ud7ff", "\ue000", "\uffff", "🙂", "\U0010ffff"]


def grammar(expression: Expression, spelling: Spelling = plain) -> Grammar:
    writer = RuleWriter("text_", spelling)
    name = writer.rule(expression)
    return Grammar("ebnf", "\n".join([f"root ::= {name}", *writer.rules]))


@pytest.mark.parametrize("allowed", SETS, ids=lambda s: str(s.ranges[:2]))
def test_characters_as_they_are_and_in_json(allowed: CharSet) -> None:
    bare, quoted = grammar(Char(allowed)), grammar(Char(allowed), in_json)
    for char in CHARS:
        written = json.dumps(char, ensure_ascii=False)[1:-1]
        assert matches(bare, char) == matches(quoted, written) == (char in allowed), char
    assert not matches(quoted, "") and not matches(quoted, "aa") and not matches(quoted, "\n")


@pytest.mark.parametrize("allowed", SETS[-7:], ids=lambda s: str(s.ranges[:2]))
def test_no_bytes_that_are_no_character(allowed: CharSet) -> None:
    """Neither characters written with more bytes than they need, nor halves of surrogate pairs."""
    compiled = compiler().get(grammar(Char(allowed)))
    firsts = (0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF)
    for first, count in itertools.product(firsts, (1, 2, 3)):
        for rest in itertools.product((0x80, 0x8F, 0x9F, 0xA0, 0xBF), repeat=count):
            data = bytes((first, *rest))
            matcher = compiled.new_matcher([EOS])
            accepted = all(map(matcher.accept_token, data)) and matcher.is_completed()
            assert accepted == any(data == c.encode() for c in _decoded(data) if c in allowed)


def _decoded(data: bytes) -> str:
    return data.decode(errors="ignore")


@pytest.mark.parametrize(
    ("pattern", "counts"),
    [
        ("a{2,200}", {2: True, 1: False, 34: True, 200: True, 201: False}),
        ("a{70,}", {69: False, 70: True, 500: True}),
        ("a{96}", {95: False, 96: True, 97: False}),
        ("(?:ab?){65,128}", {64: False, 65: True, 128: True, 129: False}),
    ],
)
def test_long_counts(pattern: str, counts: dict[int, bool]) -> None:
    for count, right in counts.items():
        assert matches(grammar(python_pattern(pattern)), "a" * count) == right
        assert bool(re.fullmatch(pattern, "a" * count)) == right


def test_what_a_vocabulary_cannot_write_is_refused() -> None:
    """All bytes but one with which rare characters begin."""
    tokens = Tokens((*(bytes([b]) if b != 0xF1 else b"" for b in range(256)), b""), (256,))
    few = Compiler(tokens)
    rare = "\U00041000"
    refused: list[tuple[GrammarKind, str]] = [
        ("choice", json.dumps([rare])),
        ("choice", json.dumps([f"a{rare}", rare])),
        ("regex", rare),
        ("regex", f"(?:a|b+)[{rare}\U00042000]c?"),
        ("json_schema", json.dumps({"enum": [rare]})),
        ("json_schema", json.dumps({"type": "string", "pattern": f"^{rare}$"})),
        ("ebnf", f'root ::= "a" "{rare}"'),
    ]
    for kind, given in refused:
        answer = prove(few, Compile(Grammar(kind, given)))
        assert isinstance(answer, Refused), given
        assert "tokens can write" in answer.reason
    assert isinstance(prove(few, Compile(Grammar("regex", f"a{rare}|b"))), Proven)
    assert isinstance(prove(few, Compile(Grammar("choice", json.dumps([rare, "🙂"])))), Proven)


def test_texts() -> None:
    assert matches(grammar(text('a"b\\'), in_json), 'a\\"b\\\\')
    assert matches(grammar(text("")), "")
