"""Streaming decode against the library's full decode."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.detokenizer import Detokenizer
from server.text.tokenizer import Tokenizer
from tests.doubles import EOS_ID, byte_tokenizer, ids
from tests.text.sentencepiece import (
    NUM_BYTES,
    byte_fallback_tokenizer,
    id_of,
    metaspace_tokenizer,
)

BYTE_LEVEL = byte_tokenizer()
BYTE_FALLBACK = byte_fallback_tokenizer()
METASPACE = metaspace_tokenizer()

# Surrogates are no characters: UTF-8 can't carry them.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def stream(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[list[str], bool]:
    """→ (the deltas, whether an incomplete character was dropped at the end)."""
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.push(token_id) for token_id in token_ids], detokenizer.is_mid_character


@given(texts)
def test_byte_level_text_comes_back_whole(text: str) -> None:
    deltas, dropped = stream(BYTE_LEVEL, ids(text))
    assert "".join(deltas) == text
    assert not dropped


@given(st.lists(st.integers(0, EOS_ID)))
def test_byte_level_random_ids_equal_the_full_decode(token_ids: list[int]) -> None:
    deltas, dropped = stream(BYTE_LEVEL, token_ids)
    full = BYTE_LEVEL.backend.decode(token_ids, skip_special_tokens=True)
    assert "".join(deltas) + "\ufffd" * dropped == full


@given(texts)
def test_byte_fallback_text_equals_the_full_decode(text: str) -> None:
    token_ids = BYTE_FALLBACK.encode(text, add_special_tokens=False)
    deltas, dropped = stream(BYTE_FALLBACK, token_ids)
    assert "".join(deltas) == BYTE_FALLBACK.backend.decode(token_ids)
    assert not dropped


@given(st.lists(st.integers(NUM_BYTES, BYTE_FALLBACK.backend.get_vocab_size() - 1)))
def test_byte_fallback_random_pieces_equal_the_full_decode(token_ids: list[int]) -> None:
    deltas, _ = stream(BYTE_FALLBACK, token_ids)
    assert "".join(deltas) == BYTE_FALLBACK.backend.decode(token_ids)


@given(st.lists(st.integers(0, BYTE_FALLBACK.backend.get_vocab_size() - 1)))
def test_byte_fallback_random_ids_equal_the_bytes(token_ids: list[int]) -> None:
    """Runs of invalid bytes: here the library shows valid characters as U+FFFD, see the module."""
    deltas, dropped = stream(BYTE_FALLBACK, token_ids)
    shown = [token_id for token_id in token_ids if token_id not in BYTE_FALLBACK.special_ids]
    raw = b"".join(map(BYTE_FALLBACK.token_bytes, shown)).decode(errors="replace")
    assert "".join(deltas) + "\ufffd" * dropped in (raw, raw[1:])
    assert "".join(deltas)[:1] != " " or raw[:2] == "  "


@given(st.lists(st.integers(0, METASPACE.backend.get_vocab_size() - 1)))
def test_metaspace_random_ids_equal_the_full_decode(token_ids: list[int]) -> None:
    deltas, _ = stream(METASPACE, token_ids)
    assert "".join(deltas) == METASPACE.backend.decode(token_ids)


def test_a_character_appears_with_its_last_byte() -> None:
    deltas, _ = stream(BYTE_LEVEL, ids("é🙂"))
    assert deltas == ["", "é", "", "", "", "🙂"]


def test_an_incomplete_character_at_the_end_is_dropped() -> None:
    deltas, dropped = stream(BYTE_LEVEL, ids("a🙂")[:-1])
    assert "".join(deltas) == "a"
    assert dropped


def test_invalid_bytes_are_not_held_back() -> None:
    lone_continuation = ids("é")[1]
    deltas, _ = stream(BYTE_LEVEL, [lone_continuation] * 50)
    assert deltas == ["\ufffd"] * 50


@pytest.mark.parametrize(("continues_text", "text"), [(False, "a b"), (True, " a b")])
def test_leading_space_belongs_to_a_continuation(continues_text: bool, text: str) -> None:
    detokenizer = Detokenizer(BYTE_FALLBACK, continues_text=continues_text)
    token_ids = [id_of(BYTE_FALLBACK, token) for token in ("▁a", "▁b")]
    assert "".join(map(detokenizer.push, token_ids)) == text


def test_special_tokens_have_no_text() -> None:
    deltas, _ = stream(BYTE_LEVEL, [*ids("a"), EOS_ID, *ids("b")])
    assert deltas == ["a", "", "b"]
