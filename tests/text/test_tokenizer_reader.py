"""The short way to a tokenizer gives the same tokenizer, and imports no model code."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.locate import locate_model

pytestmark = pytest.mark.real_model

_IMPORTS = """
import sys
from pathlib import Path
from server.text.tokenizer import load_hf_tokenizer
load_hf_tokenizer(Path(sys.argv[1]))
print(sorted({"torch._dynamo", "triton", "transformers.models.llama"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    cache = load_settings(ModelSettings).cache_dir
    return locate_model(DEFAULT_MODEL, cache, torch.bfloat16, lambda line: None)


def test_it_is_what_transformers_would_read(folder: Path) -> None:
    ours = load_hf_tokenizer(folder)
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.init_kwargs == theirs.init_kwargs
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template


def test_torchs_compiler_is_not_imported(folder: Path) -> None:
    """170 MB of a server's memory."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "".join(chr(97 + number * number % 26) for number in range(100_000)),
        "The sea is wide, and I can't get over. " * 3_000,
        " \n\t" * 40_000,
        "海はひろい、" * 20_000,
        "🙂é " * 30_000,
        "1234567890" * 10_000,
    ],
)
def test_a_cut_text_has_no_more_tokens_than_the_whole(folder: Path, text: str) -> None:
    """But for those that are not counted: else a prompt that fits would be refused."""
    tokenizer = from_hf(load_hf_tokenizer(folder))
    num_tokens = len(tokenizer.encode(text, add_special_tokens=False))
    assert not tokenizer.has_more_tokens(text, num_tokens)
    assert tokenizer.has_more_tokens(text, num_tokens // 4)
