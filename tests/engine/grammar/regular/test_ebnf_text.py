"""Every character in every place of a schema, a choice, a grammar or a tag is written as it is."""

import json
import unicodedata
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.grammar.regular.ebnf_text import with_whole_escapes
from server.engine.types import Grammar
from server.text.tools.formats import FORMATS
from server.text.tools.functions import FunctionCall, FunctionTool
from server.text.tools.grammar import only_calls, structural_tag
from tests.engine.grammar.bytes import matches

HEXADECIMAL = "0123456789abcdefABCDEF"
LATIN = [chr(code) for code in range(0x7F, 0x100)]
PRINTABLE = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code))[0] not in "CZ" or code in (0x20, 0xA0, 0x3000)
]
CHUNK = 3_000
"""Characters a text: in longer ones a character takes more time to compile."""

# Characters around U+0080 and hexadecimal digits are what escapes are confused by.
TEXTS = st.text(
    st.sampled_from([*HEXADECIMAL, *LATIN, *'"\\/ux{}[]^-\n\t\x00']) | st.characters(codec="utf-8"),
    max_size=9,
).map(lambda text: text.replace("\x7f", "\x80"))  # xgrammar escapes U+007F in names, which it may


def written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def schema_matches(schema: Any, text: str) -> bool:
    return matches(Grammar("json_schema", json.dumps(schema)), text)


def test_all_pairs_of_a_latin_character_and_a_digit() -> None:
    pairs = [first + second for first in LATIN for second in HEXADECIMAL]
    schema = {"enum": pairs}
    for pair in pairs:
        assert schema_matches(schema, written(pair)), pair
    for text in ("°", "°G", "ଏ", "C", "°CC"):
        assert not schema_matches(schema, written(text)), text


@pytest.mark.parametrize("start", range(0, len(PRINTABLE), CHUNK))
def test_every_printable_character(start: int) -> None:
    text = "".join(PRINTABLE[start : start + CHUNK])
    value = {text: text}
    schema = {"properties": {text: {"const": text}}, "required": [text]}
    assert schema_matches(schema, written(value))
    assert not schema_matches(schema, written({text: text[:-1]}))
    assert matches(Grammar("choice", json.dumps([text])), text)


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=4, unique=True))
def test_texts_in_every_place_of_a_schema(texts: list[str]) -> None:
    first, *others = texts
    schema = {
        "type": "object",
        "properties": {first: {"enum": others}, others[0]: {"const": first}},
        "required": [first, others[0]],
    }
    for other in others:
        answer = written({first: other, others[0]: first})
        assert schema_matches(schema, answer)
        jsonschema.validate(json.loads(answer), schema)
    for wrong in (first, others[0] + "0", others[0][:-1]):
        if wrong not in others:
            assert not schema_matches(schema, written({first: wrong, others[0]: first}))


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(TEXTS, TEXTS)
def test_texts_in_a_tool(first: str, second: str) -> None:
    parameters = {"properties": {first: {"enum": [second, 1]}}, "required": [first]}
    tool = FunctionTool("f", "", parameters, strict=True)
    form = FORMATS["hermes"]
    tag = Grammar("structural_tag", structural_tag(only_calls(form, [tool], parallel=False)))
    for value, right in ((second, True), (second + "0", False)):
        call = FunctionCall("id", "f", written({first: value}))
        assert matches(tag, form.write([call])) == right


@settings(max_examples=20, derandomize=True, database=None, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_texts_in_a_choice(texts: list[str]) -> None:
    grammar = Grammar("choice", json.dumps(texts))
    assert all(matches(grammar, text) for text in texts)
    assert not matches(grammar, texts[0] + "0") or texts[0] + "0" in texts


def test_an_escape_of_a_users_grammar_has_two_digits() -> None:
    grammar = Grammar("ebnf", r'root ::= "\xb0C" [\xb0C] "\u00b0C\\x41"')
    assert matches(grammar, "°CC°C\\x41")
    assert not matches(grammar, "ଏC°C\\x41")
    assert with_whole_escapes(r"\\xb0C \n \xB0C") == r"\\xb0C \n \U000000b0C"
