"""The short way to a tokenizer gives the same tokenizer, and imports no model code."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.text.tokenizer import load_hf_tokenizer
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
