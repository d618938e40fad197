from pathlib import Path

import pytest

from server.errors import CheckpointError
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.doubles import BOS, BOS_ID, EOS, EOS_ID, byte_backend, byte_tokenizer, ids


def save(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS)
    fast.save_pretrained(folder)


def test_loads_a_local_folder(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("aé", add_special_tokens=True) == ids("aé")
    assert tokenizer.eos_id == EOS_ID
    assert tokenizer.bos_id == BOS_ID
    assert tokenizer.vocab_size == 258
    assert tokenizer.special_ids == {BOS_ID, EOS_ID}


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_truncation_in_the_file_is_switched_off() -> None:
    backend = byte_backend()
    backend.enable_truncation(4)
    assert len(Tokenizer(backend).encode("a" * 10, add_special_tokens=True)) == 10


def test_special_tokens_in_text_are_recognised() -> None:
    assert byte_tokenizer().encode(f"a{EOS}", add_special_tokens=False) == [*ids("a"), EOS_ID]
