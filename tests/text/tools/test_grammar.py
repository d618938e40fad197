"""What the grammars of calls accept, asked of xgrammar itself, byte by byte."""

from functools import cache
from typing import Any

import pytest
import xgrammar

from server.engine.types import Grammar
from server.text.tools.formats import FORMATS, FormatName
from server.text.tools.functions import FunctionCall, FunctionTool
from server.text.tools.grammar import only_calls, structural_tag, text_and_calls
from tests.engine.grammar.bytes import matches
from tests.text.tools.examples import read, summary

INTEGER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
STRICT = FunctionTool("f", parameters=INTEGER, strict=True)
LOOSE = FunctionTool(
    "g",
    parameters={"properties": {"b": {"$ref": "#/$defs/B"}}, "$defs": {"B": {"enum": ["x", "y"]}}},
)
NO_ARGUMENTS = FunctionTool("gg")
TOOLS = (STRICT, LOOSE, NO_ARGUMENTS)
EOS_ID = 256


@cache
def compiler() -> xgrammar.GrammarCompiler:
    """Each byte is a token."""
    vocab = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    info = xgrammar.TokenizerInfo(vocab, xgrammar.VocabType.RAW, stop_token_ids=[EOS_ID])
    return xgrammar.GrammarCompiler(info)


def accepts(grammar: dict[str, Any], text: str) -> bool:
    """Whether the text is a whole answer."""
    matcher = xgrammar.GrammarMatcher(compiler().compile_structural_tag(structural_tag(grammar)))
    return matcher.accept_string(text) and matcher.accept_token(EOS_ID)


def written(form: FormatName, *calls: tuple[str, str]) -> str:
    return FORMATS[form].write([FunctionCall("", name, arguments) for name, arguments in calls])


VALID = [("f", '{"a": 1}'), ("f", '{"a":-12}'), ("g", '{"b": "x"}'), ("g", "{}"), ("gg", "{}")]
INVALID = [
    ("f", "{}"),
    ("f", '{"a": "1"}'),
    ("f", '{"a": 1, "c": 2}'),
    ("f", '{"a":          1}'),
    ("g", '{"b": "z"}'),
    ("g", "[]"),
    ("gg", '{"a": 1}'),
    ("h", "{}"),
]


@pytest.mark.parametrize("form", FORMATS)
def test_a_call_is_required(form: FormatName) -> None:
    grammar = only_calls(FORMATS[form], TOOLS, parallel=True)
    for call in VALID:
        text = written(form, call)
        assert accepts(grammar, text), text
        # What the grammar enforces is what the parser reads.
        names = {tool.name for tool in TOOLS}
        parser = FORMATS[form].parser(names)
        assert summary([*parser.push(text), *parser.finish()]) == ("", [call])
    for call in INVALID:
        assert not accepts(grammar, written(form, call)), call
    assert accepts(grammar, written(form, *VALID))
    for text in ("", "Hi.", f"Hi. {written(form, VALID[0])}", written(form, VALID[0]) + "."):
        assert not accepts(grammar, text), text
    assert not accepts(grammar, FORMATS[form].no_calls or "")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        {"properties": {}, "title": "None", "$schema": "https://json-schema.org/draft/2020-12"},
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_function_without_parameters_gets_none(parameters: Any, strict: bool) -> None:
    form, tool = FORMATS["hermes"], FunctionTool("f", parameters=parameters, strict=strict)
    for make in (only_calls, text_and_calls):
        grammar = make(form, [tool], parallel=True)
        assert accepts(grammar, written("hermes", ("f", "{}")))
        assert not accepts(grammar, written("hermes", ("f", '{"a": 1}')))


REFERRED = {"properties": {"n": {"type": ["integer", "null"]}}, "required": ["n"]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"$defs": {"N": REFERRED}, "$ref": "#/$defs/N"},
        {"$defs": {"N": {"type": "object", **REFERRED}}, "$ref": "#/$defs/N"},
        {"definitions": {"N": REFERRED}, "allOf": [{"$ref": "#/definitions/N"}]},
        {"$defs": {"N": {"anyOf": [REFERRED, {"type": "null"}]}}, "$ref": "#/$defs/N"},
        {"type": ["object", "null"], **REFERRED},
    ],
)
def test_parameters_may_be_somewhere_else(parameters: Any) -> None:
    tool = FunctionTool("f", parameters=parameters)
    tag = structural_tag(only_calls(FORMATS["hermes"], [tool], parallel=True))
    for arguments, right in (('{"n": 1}', True), ('{"n": null}', True), ("{}", False)):
        text = written("hermes", ("f", arguments))
        assert matches(Grammar("structural_tag", tag), text) == right
    assert not matches(Grammar("structural_tag", tag), written("hermes", ("f", "null")))


def test_a_function_may_take_any_object() -> None:
    tool = FunctionTool("f", parameters={"type": "object", "additionalProperties": True})
    grammar = only_calls(FORMATS["hermes"], [tool], parallel=True)
    assert accepts(grammar, written("hermes", ("f", '{"a": 1}')))


@pytest.mark.parametrize("form", FORMATS)
def test_exactly_one_call(form: FormatName) -> None:
    grammar = only_calls(FORMATS[form], TOOLS, parallel=False)
    assert accepts(grammar, written(form, VALID[0]))
    assert not accepts(grammar, written(form, *VALID[:2]))
    assert not accepts(grammar, "")


@pytest.mark.parametrize("form", FORMATS)
def test_text_in_which_calls_are_valid(form: FormatName) -> None:
    """Strict functions get their arguments checked, others may get any object."""
    grammar = text_and_calls(FORMATS[form], TOOLS, parallel=True)
    for call in [*VALID, ("g", '{"b": "z"}'), ("g", '{"a": [{}]}')]:
        text = written(form, call)
        assert accepts(grammar, text), text
        assert accepts(grammar, f"Let me. {text}"), text
    for call in [*INVALID[:4], ("g", "[]"), ("gg", '{"a": 1}'), ("h", "{}")]:
        assert not accepts(grammar, written(form, call)), call
    assert accepts(grammar, "") and accepts(grammar, "Hi.")
    assert accepts(grammar, written(form, *VALID))
    assert not accepts(grammar, f"Hi. {FORMATS[form].trigger}~")
    assert accepts(grammar, FORMATS[form].no_calls or "")


@pytest.mark.parametrize("form", FORMATS)
def test_text_with_one_call_at_most(form: FormatName) -> None:
    grammar = text_and_calls(FORMATS[form], TOOLS, parallel=False)
    one = written(form, VALID[0])
    assert accepts(grammar, "Hi.") and accepts(grammar, f"Hi. {one}")
    assert not accepts(grammar, one + one)
    assert not accepts(grammar, written(form, *VALID[:2]))


@pytest.mark.parametrize("form", FORMATS)
def test_text_after_a_call_may_have_another(form: FormatName) -> None:
    """Unless all calls are in one list, with which the answer ends."""
    text = f"{written(form, VALID[0])} and {written(form, VALID[2])}"
    is_list = bool(FORMATS[form].begin)
    assert accepts(text_and_calls(FORMATS[form], TOOLS, parallel=True), text) != is_list


def test_markup_in_arguments_is_only_text() -> None:
    tool = FunctionTool("f", parameters={"properties": {"a": {"type": "string"}}})
    call = ("f", '{"a": "</tool_call><tool_call>"}')
    text = written("hermes", call)
    assert accepts(only_calls(FORMATS["hermes"], [tool], parallel=True), text)
    assert summary(read("hermes", [text])) == ("", [call])
