"""Wrong values of every key that is read: one line that names the file, whatever the value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from server.errors import CheckpointError, StartupError
from tests.weights.conftest import SETTINGS, TOKENIZER
from tests.weights.gguf.test_tokenizer import SENTENCEPIECE
from weights.gguf.convert import convert_gguf

WriteGGUF = Callable[..., Path]
WRONG: tuple[Any, ...] = (2**31, 1.5, float("nan"), "x", [1, 2], ["a", "b"], True)
TOKENIZER_KEYS = (
    *TOKENIZER,
    *(f"tokenizer.ggml.{name}_token_id" for name in ("eot", "eom", "unknown", "padding")),
    *("tokenizer.ggml.add_eos_token", "tokenizer.chat_templates", "general.sampling.temp"),
    "split.count",
)
OTHER_SETTINGS = (
    *("attention.key_length", "attention.sliding_window", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
)


def outcome(path: Path, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    try:
        convert_gguf(path, folder, torch.float32)
    except StartupError as error:
        text = str(error)
        assert "\n" not in text
        return text
    return ""


@pytest.mark.parametrize("key", TOKENIZER_KEYS)
def test_tokenizer_and_general_keys(key: str, write_gguf: WriteGGUF, tmp_path: Path) -> None:
    texts = [outcome(write_gguf(metadata={key: v}), tmp_path / "to") for v in WRONG]
    assert sum(map(bool, texts)) >= 3


@pytest.mark.parametrize("key", ["scores", "tokens", "token_type", "unknown_token_id"])
def test_sentencepiece_keys(key: str, write_gguf: WriteGGUF, tmp_path: Path) -> None:
    name = f"tokenizer.ggml.{key}"
    texts = [
        outcome(write_gguf(metadata=SENTENCEPIECE | {name: v}), tmp_path / "to") for v in WRONG
    ]
    assert sum(map(bool, texts)) >= 3


@pytest.mark.parametrize("key", [*SETTINGS, *OTHER_SETTINGS])
def test_settings(key: str, write_gguf: WriteGGUF, tmp_path: Path) -> None:
    texts = [outcome(write_gguf(settings={key: v}), tmp_path / "to") for v in WRONG]
    assert sum(map(bool, texts)) >= 3


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"tokenizer.ggml.eot_token_id": 11}, "eot token 11 is outside of the vocabulary"),
        ({"tokenizer.ggml.merges": [1, 2]}, "metadata has 1 in tokenizer.ggml.merges"),
        ({"tokenizer.ggml.add_bos_token": 1}, "metadata has tokenizer.ggml.add_bos_token=1"),
        ({"general.sampling.temp": "hot"}, "metadata has general.sampling.temp='hot'"),
    ],
)
def test_the_key_is_named(
    metadata: dict[str, Any], reason: str, write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    path = write_gguf(metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        convert_gguf(path, tmp_path, torch.float32)
    assert str(caught.value) == f"{path}: {reason}"


def test_more_layers_than_tensors(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    """Two thousand million layers have more names than a machine has memory."""
    path = write_gguf(settings={"block_count": 2**31})
    with pytest.raises(CheckpointError, match="block_count=2147483648, but there are 11 tensors"):
        convert_gguf(path, tmp_path, torch.float32)
