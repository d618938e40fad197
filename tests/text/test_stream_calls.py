"""Calls in a stream of tokens: markup that is special tokens, stop strings, logprobs."""

from tokenizers import AddedToken

from server.text.stream import TextDelta, TextStream
from server.text.tokenizer import Tokenizer
from server.text.tools.formats import FORMATS, FormatName
from tests.doubles import EOS_ID, byte_backend, byte_tokenizer, ids
from tests.text.tools.examples import NAMES, ONE, summary

SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>", "<|python_tag|>")


def special_tokenizer() -> Tokenizer:
    """Bytes, and every marker as a special token, as several models have them."""
    backend = byte_backend()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return Tokenizer(backend, eos_id=EOS_ID)


def stream(
    tokenizer: Tokenizer, form: FormatName = "hermes", stop: tuple[str, ...] = ()
) -> TextStream[int]:
    return TextStream(tokenizer, stop=stop, parser=FORMATS[form].parser(NAMES))


def answer(deltas: list[TextDelta[int]]) -> tuple[str, list[tuple[str, str]]]:
    return summary(event for delta in deltas for event in delta.events or ())


def test_markup_that_is_special_tokens_is_read() -> None:
    tokenizer = special_tokenizer()
    cases: list[tuple[FormatName, str]] = [
        ("hermes", f"Hm.<tool_call>{ONE}</tool_call>"),
        ("llama3", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}'),
        ("mistral", f"[TOOL_CALLS][{ONE}]"),
        ("mistral_args", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
    ]
    for form, text in cases:
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.special_ids & set(token_ids), form
        reader = stream(tokenizer, form)
        deltas = [reader.push([token_id]) for token_id in token_ids]
        deltas.append(reader.push([EOS_ID], ended=True, has_stop_token=True))
        content = "Hm." if form == "hermes" else ""
        assert answer(deltas) == (content, [("f", '{"a": 1}')]), form
        assert reader.num_calls == 1


def test_other_special_tokens_stay_hidden() -> None:
    tokenizer = special_tokenizer()
    (marker,) = tokenizer.ids_of(["[TOOL_CALLS]"])
    delta = stream(tokenizer).push([*ids("a"), marker, EOS_ID], ended=True)
    assert delta.text == "a"
    assert TextStream[int](tokenizer).push([*ids("a"), marker], ended=True).text == "a"


def test_a_special_token_that_begins_no_call_is_content() -> None:
    tokenizer = special_tokenizer()
    token_ids = tokenizer.encode("a<tool_call>b", add_special_tokens=False)
    assert stream(tokenizer).push(token_ids, ended=True).text == "a<tool_call>b"


def test_without_a_parser_there_are_no_events() -> None:
    delta = TextStream[int](byte_tokenizer()).push(ids("<tool_call>"), ended=True)
    assert (delta.text, delta.events) == ("<tool_call>", None)


def test_text_is_what_is_content_and_logprobs_are_of_all_tokens() -> None:
    token_ids = ids(f"Hm. <tool_call>{ONE}</tool_call>")
    reader = stream(byte_tokenizer())
    deltas = [reader.push([token_id], [token_id]) for token_id in token_ids]
    deltas.append(reader.push([], [], ended=True))
    assert "".join(delta.text for delta in deltas) == "Hm. "
    assert [entry.logprobs for delta in deltas for entry in delta.logprobs] == token_ids


def test_a_stop_string_ends_a_call_too() -> None:
    reader = stream(byte_tokenizer(), stop=("STOP",))
    text = '<tool_call>{"name": "f", "arguments": {"a": "x STOP"}}</tool_call>'
    delta = reader.push(ids(text))
    assert delta.stop_string == "STOP"
    assert answer([delta]) == ("", [("f", '{"a": "x ')])


def test_what_was_held_back_comes_with_a_stop_string() -> None:
    delta = stream(byte_tokenizer(), stop=("STOP",)).push(ids("a <tool_STOP"))
    assert (delta.text, answer([delta])) == ("a <tool_", ("a <tool_", []))
