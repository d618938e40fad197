"""Grammars without a text that ends, or that can be written, are refused; all others are not."""

import json
from typing import Any

import pytest

from server.engine.grammar.compile.compiler import Compiler, GrammarText, Vocabulary
from server.engine.grammar.compile.ends import Spelling, can_end
from server.engine.grammar.compile.worker import Compile, Proven, Refused, prove
from server.engine.types import Grammar
from tests.engine.grammar.bytes import BYTES

ENDLESS = [
    'root ::= "x" root',
    "root ::= root",
    'root ::= root "a" | "b" root',
    'root ::= a b\na ::= "a"\nb ::= "b" c\nc ::= a b',
    'root ::= ("a" | b) root{1,3}\nb ::= "b"?',
    'root ::= "a" b\nb ::= "" b',
]
ENDING = [
    'root ::= "x" root | ""',
    'root ::= root root | "a"',
    'root ::= "a" root?',
    'root ::= "a" b*\nb ::= b',
    'root ::= "a" | b\nb ::= "b" b',
    'root ::= b{0,4} "."\nb ::= "b" b',
    'root ::= a a a\na ::= "(" a ")" | [0-9]',
    "root ::= [^a]",
    'root ::= "a"{3,200}',
]


def proven(grammar: Grammar, vocabulary: Vocabulary = BYTES) -> Proven | Refused:
    return prove(Compiler(vocabulary.tokens()), Compile(grammar))


@pytest.mark.parametrize("ebnf", ENDLESS)
def test_endless(ebnf: str) -> None:
    answer = proven(Grammar("ebnf", ebnf))
    assert isinstance(answer, Refused)
    assert "no text that ends" in answer.reason


@pytest.mark.parametrize("ebnf", ENDING)
def test_ending(ebnf: str) -> None:
    assert isinstance(proven(Grammar("ebnf", ebnf)), Proven)


NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "ends"),
    [
        (NODE, True),
        ({**NODE, "required": ["next"]}, False),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]}, True),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"const": 1}]}, True),
    ],
)
def test_schemas_that_lead_to_themselves(schema: Any, ends: bool) -> None:
    assert isinstance(proven(Grammar("json_schema", json.dumps(schema))), Proven) == ends


def few(*texts: bytes) -> Vocabulary:
    all_texts = (*texts, b"")
    return Vocabulary(
        len(all_texts), all_texts.__getitem__, frozenset(), frozenset({len(texts)}), lambda text: []
    )


@pytest.mark.parametrize(
    ("choices", "texts", "written"),
    [
        (["\U000ca100"], (b"a",), False),
        (["\U000ca100"], ("\U000ca101".encode(), b"\xf0", b"\x9f"), False),
        (["\U000ca100"], (b"\xf3", b"\x8a", b"\x84", b"\x80"), True),
        (["\U000ca100"], ("\U000ca100".encode(),), True),
        (["\U000ca100", "a"], (b"a",), True),
        (["xé"], ("xé".encode(), b"x"), True),
        (["xé", "ê"], ("yé".encode(), b"x"), False),
        (["xéz"], ("éz ".encode(), b"x"), True),  # seen from the part alone; what follows may fit
    ],
)
def test_what_tokens_can_write(choices: list[str], texts: tuple[bytes, ...], written: bool) -> None:
    grammar = Grammar("choice", json.dumps(choices))
    answer = proven(grammar, few(*texts))
    assert isinstance(answer, Proven) == written, answer
    if isinstance(answer, Refused):
        assert "tokens can write" in answer.reason


def test_characters_of_a_class() -> None:
    spelling = Spelling([b"a", b"\xc3", b"\xa9"])
    compiler = Compiler(BYTES.tokens())
    for ebnf, written in (
        ("root ::= [a-c]", True),
        ("root ::= [b-c]", False),
        ("root ::= [é]", True),
        ("root ::= [è]", False),
        ("root ::= [è-ê]", True),
        ("root ::= [b-c]*", True),
        ("root ::= [^b-c]", True),
        ("root ::= [ż-ž]", False),
    ):
        rules = compiler.parse(GrammarText("ebnf", ebnf)).serialize_json()
        assert can_end(rules, spelling.can_write) == written, ebnf


def test_a_long_chain_of_rules_takes_no_longer_than_its_text() -> None:
    """Naively, each of the rules would be looked at again for each other one."""
    rules = [f'r{i} ::= "a" r{i + 1}' for i in range(8000)]
    ebnf = "\n".join(["root ::= r0", *rules, 'r8000 ::= "b"'])
    parsed = Compiler(BYTES.tokens()).parse(GrammarText("ebnf", ebnf)).serialize_json()
    asked = list[bytes]()
    assert can_end(parsed, lambda part: not asked.append(part))
    assert len(asked) == 8001
