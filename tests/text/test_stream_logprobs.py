"""A stream's piece has the logprobs of its text: neither comes before the other, whatever tokens
the text is made of, with and without stop strings and calls."""

import codecs
from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models, pre_tokenizers

from server.text.stream import TextDelta, TextStream
from server.text.thinking.formats import FORMATS as THINKING
from server.text.thinking.parser import ThinkingParser
from server.text.tokenizer import Tokenizer
from server.text.tools.events import ContentDelta, whole_answer
from server.text.tools.formats import FORMATS
from tests.doubles import byte_tokenizer, ids

PIECES = [
    *(b" \xc3", b"\xa9", b"a\xf0\x9f", b"\x99\x82 b", b"\xc3\xa9\xc3", b"EN", b"D", b"aE", b"<EN"),
    *(
        b"Hi <",
        b"<tool",
        b"_call>",
        b'\n{"name": "f", ',
        b'"arguments": {"a": ',
        b"1}}\n</tool_call>",
    ),
    *(b"\n", b" ", b"x", b"\xff"),
]
"""Tokens that end inside of a character, of a stop string, or of what may become a call."""


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@cache
def tokenizer() -> Tokenizer:
    """One whose token i is piece i."""
    plain = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = BackendTokenizer(models.BPE(vocab={c: i for i, c in enumerate(plain)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    bytes_of = Tokenizer(backend).token_bytes
    char_of = {bytes_of(index): char for index, char in enumerate(plain)}
    names = ["".join(char_of[bytes([byte])] for byte in piece) for piece in PIECES]
    others = [char for char in plain if char not in names]
    vocab = {name: index for index, name in enumerate([*names, *others])}
    backend = BackendTokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def text_of(token_ids: list[int]) -> str:
    """Without a character that isn't complete."""
    raw = b"".join(PIECES[token_id] for token_id in token_ids)
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(raw)


def pushed(
    token_ids: list[int], size: int, stop: list[str], *, parses: bool
) -> list[TextDelta[int]]:
    """The logprobs of a token are its place."""
    parser = FORMATS["hermes"].parser({"f"}) if parses else None
    stream = TextStream[int](tokenizer(), stop=stop, continues_text=True, parser=parser)
    deltas: list[TextDelta[int]] = []
    for begin in range(0, len(token_ids), size):
        part = token_ids[begin : begin + size]
        places = range(begin, begin + len(part))
        ended = begin + size >= len(token_ids)
        deltas.append(stream.push(part, places, ended=ended))
        if deltas[-1].stop_string is not None:
            break
    return deltas


TOKEN_IDS = st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=12)
SIZES = st.integers(1, 3)


@settings(deadline=None)
@given(TOKEN_IDS, SIZES, st.sampled_from([[], ["END"], ["é", "<E"]]))
@example([0, 1], 1, [])
def test_text_comes_with_its_tokens(token_ids: list[int], size: int, stop: list[str]) -> None:
    deltas = pushed(token_ids, size, stop, parses=False)
    plain = TextStream[int](tokenizer(), stop=stop, continues_text=True)
    whole = plain.push(token_ids, ended=True)
    assert "".join(delta.text for delta in deltas) == whole.text
    shown, num_tokens = "", 0
    for delta in deltas[:-1]:
        assert not delta.text or delta.logprobs
        shown += delta.text
        num_tokens += len(delta.logprobs)
        assert shown == text_of(token_ids[:num_tokens])


@settings(deadline=None)
@given(TOKEN_IDS, SIZES)
@example([9, 17, 10, 11, 12, 13, 14], 1)
@example([10, 11, 12, 17], 1)
def test_content_comes_with_its_tokens_beside_calls(token_ids: list[int], size: int) -> None:
    """No text of a piece is of a token whose logprobs come later, and none are lost."""
    deltas = pushed(token_ids, size, [], parses=True)
    found = [placed.logprobs for delta in deltas for placed in delta.logprobs]
    assert found == [*range(len(token_ids))]
    parser = FORMATS["hermes"].parser({"f"})
    text = TextStream[int](tokenizer(), continues_text=True).push(token_ids, ended=True).text
    content, _, _ = whole_answer([*parser.push(text), *parser.finish()])
    assert "".join(delta.text for delta in deltas) == content
    num_tokens, num_shown = 0, 0
    for delta in deltas[:-1]:
        num_tokens += len(delta.logprobs)
        num_shown += len(delta.text)
        assert num_shown <= len(text_of(token_ids[:num_tokens]))


_PARTS = st.sampled_from(["<think>", "</think>", *'<>\n a{"}', "<tool_call>", "</tool_call>", CALL])


@settings(deadline=None)
@given(st.lists(_PARTS, max_size=8), SIZES, st.booleans())
@example(["<", "<tool_call>", CALL], 1, False)
@example(["<think>", "\n", "</think>", "\n", "a"], 3, True)
def test_content_has_its_own_tokens(pieces: list[str], size: int, thinks: bool) -> None:
    """Where a token is a character, the tokens of each event are those that its content shows."""
    tools = FORMATS["hermes"].parser({"f"})
    form = THINKING["think"]
    parser = ThinkingParser(form.splitter("unknown", set()), tools, form.marks) if thinks else tools
    stream = TextStream[str](byte_tokenizer(), continues_text=True, parser=parser)
    text = "".join(pieces)
    for begin in range(0, len(text) + 1, size):
        part = text[begin : begin + size]
        ended = begin + size > len(text)
        delta = stream.push(ids(part), [*part], ended=ended)
        assert delta.events is not None
        for event, logprobs in zip(delta.events, delta.event_logprobs, strict=True):
            shown = event.text if isinstance(event, ContentDelta) else ""
            assert "".join(placed.logprobs for placed in logprobs) == shown
