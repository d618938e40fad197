import pytest
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models

from server.errors import UnsupportedModelError
from server.text.token_bytes import TokenBytes
from tests.doubles import BOS_ID, EOS_ID, byte_backend, byte_tokenizer, ids
from tests.text.sentencepiece import byte_fallback_tokenizer, id_of


def test_byte_level_tokens_are_single_bytes() -> None:
    tokenizer = byte_tokenizer()
    text = "aé你🙂 \n"
    assert b"".join(map(tokenizer.token_bytes, ids(text))) == text.encode()
    assert {tokenizer.token_bytes(token_id) for token_id in range(256)} == {
        bytes([byte]) for byte in range(256)
    }


def test_sentencepiece_tokens() -> None:
    tokenizer = byte_fallback_tokenizer()
    assert tokenizer.token_bytes(0xE4) == b"\xe4"
    assert tokenizer.token_bytes(id_of(tokenizer, "▁ab")) == b" ab"
    assert tokenizer.token_bytes.first(id_of(tokenizer, "▁ab")) == b"ab"
    assert tokenizer.token_bytes.first(0xE4) == b"\xe4"
    assert tokenizer.token_bytes(id_of(tokenizer, "你")) == "你".encode()


def test_special_and_added_tokens_are_their_content() -> None:
    backend = byte_backend()
    # GPT-2's table would read these characters as bytes; an added token is plain text.
    backend.add_tokens(["é ü"])
    token_bytes = TokenBytes(backend)
    assert token_bytes(EOS_ID + 1) == "é ü".encode()
    assert token_bytes(BOS_ID) == b"<s>"


def test_ids_beyond_the_vocabulary_have_no_bytes() -> None:
    assert byte_tokenizer().token_bytes(100_000) == b""


def test_token_string_shows_parts_of_characters_as_bytes() -> None:
    tokenizer = byte_tokenizer()
    assert [tokenizer.token_string(token_id) for token_id in ids("aé")] == [
        "a",
        "bytes:\\xc3",
        "bytes:\\xa9",
    ]


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.WordPiece(),
        decoders.Sequence([decoders.Replace("x", "y"), decoders.Fuse()]),
        decoders.Sequence([decoders.ByteLevel(), decoders.CTC()]),
    ],
)
def test_other_decoders_are_refused_by_name(decoder: decoders.Decoder | None) -> None:
    backend = BackendTokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(UnsupportedModelError, match="tokenizer decoder"):
        TokenBytes(backend)
