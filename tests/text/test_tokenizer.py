from pathlib import Path
from typing import cast

import pytest
from tokenizers import Encoding, normalizers
from tokenizers import Tokenizer as BackendTokenizer

from server.errors import CheckpointError
from server.text.tokenizer import LONG_TEXT, Tokenizer, from_hf, load_hf_tokenizer
from tests.doubles import BOS, BOS_ID, EOS, EOS_ID, byte_backend, byte_tokenizer, ids
from tests.text.sentencepiece import metaspace_tokenizer


def save(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS)
    fast.save_pretrained(folder)


def test_loads_a_local_folder(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = from_hf(load_hf_tokenizer(tmp_path))
    assert tokenizer.encode("aé", add_special_tokens=True) == ids("aé")
    assert tokenizer.eos_id == EOS_ID
    assert tokenizer.bos_id == BOS_ID
    assert tokenizer.special_ids == {BOS_ID, EOS_ID}


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_hf_tokenizer(tmp_path)


def test_truncation_in_the_file_is_switched_off() -> None:
    backend = byte_backend()
    backend.enable_truncation(4)
    assert len(Tokenizer(backend).encode("a" * 10, add_special_tokens=True)) == 10


class BatchOnly:
    """A backend that refuses to encode one text, during which the library holds the GIL."""

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        return byte_backend().encode_batch(texts, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_long_texts_are_encoded_without_holding_the_gil(add_special_tokens: bool) -> None:
    text = "aé" * LONG_TEXT
    tokenizer = byte_tokenizer()
    one_text = tokenizer.backend.encode(text, add_special_tokens=add_special_tokens).ids
    tokenizer.backend = cast(BackendTokenizer, BatchOnly())
    assert tokenizer.encode(text, add_special_tokens=add_special_tokens) == one_text


def test_a_token_takes_no_more_bytes_than_promised() -> None:
    assert byte_tokenizer().max_bytes_per_token == len(EOS)
    # "🙂" has four bytes, "▁ab" three: the mark is a space in the text.
    assert metaspace_tokenizer().max_bytes_per_token == len("</s>")


def test_a_normaliser_may_shorten_the_text() -> None:
    backend = byte_backend()
    backend.normalizer = normalizers.NFC()
    letters = "\u1112\u1161\u11ab"  # one syllable when composed
    tokenizer = Tokenizer(backend)
    num_tokens = len(tokenizer.encode(letters, add_special_tokens=False))
    assert len(letters.encode()) <= num_tokens * tokenizer.max_bytes_per_token
    assert tokenizer.max_bytes_per_token == 3 * len(EOS)


def test_special_tokens_in_text_are_recognised() -> None:
    assert byte_tokenizer().encode(f"a{EOS}", add_special_tokens=False) == [*ids("a"), EOS_ID]


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), metaspace_tokenizer()])
@pytest.mark.parametrize("text", ["a" * 100_000, "ab c " * 20_000, "é\n " * 40_000, "a" * 16_385])
def test_a_text_that_is_too_long_is_found_to_be(tokenizer: Tokenizer, text: str) -> None:
    num_tokens = len(tokenizer.encode(text, add_special_tokens=False))
    assert not tokenizer.has_more_tokens(text, num_tokens)
    assert tokenizer.has_more_tokens(text, num_tokens // 2)
