"""Tiny GGUF files, written with the gguf package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from weights.gguf.convert import convert_gguf

HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, VOCABULARY = 32, 48, 4, 2, 8, 40

SETTINGS: dict[str, Any] = {
    "context_length": 64,
    "embedding_length": HIDDEN,
    "block_count": 1,
    "feed_forward_length": INTERMEDIATE,
    "attention.head_count": NUM_HEADS,
    "attention.head_count_kv": NUM_KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10_000.0,
}

TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [
        "<|start|>",
        "<|end|>",
        "a",
        "b",
        "c",
        "1",
        "2",
        "Ġ",
        "ab",
        "ĠĠ",
        "Ġc",
    ],
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b", "Ġ Ġ", "Ġ c"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}

Quantized = tuple[Any, gguf.GGMLQuantizationType]
"""Raw bytes [rows, bytes in a row] and their type."""


def random_tensors() -> dict[str, Any]:
    """float32 arrays of a one-layer model, by GGUF name."""
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (NUM_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_k.weight": (NUM_KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_v.weight": (NUM_KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, NUM_HEADS * HEAD_DIM),
        "blk.0.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up.weight": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INTERMEDIATE),
    }
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_file(
    path: Path,
    *,
    architecture: str = "llama",
    settings: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    num_parts: int = 1,
) -> Path:
    """Writes a GGUF file, or several, of which it returns the first.

    Args:
        settings: Keys under the architecture's prefix, over `SETTINGS`; None leaves a key out.
        metadata: Other keys, over `TOKENIZER`; None leaves a key out.
        tensors: All tensors, as arrays or `Quantized`; default `random_tensors()`.
    """
    tensors = random_tensors() if tensors is None else tensors
    per_part = -(-len(tensors) // num_parts) if num_parts > 1 else 0
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=per_part)
    own = {f"{architecture}.{k}": v for k, v in (SETTINGS | dict(settings or {})).items()}
    for key, value in (own | TOKENIZER | dict(metadata or {})).items():
        if key == "general.alignment":
            writer.add_custom_alignment(value)  # pads accordingly, too
        elif value is not None:
            _add(writer, key, value)
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if num_parts == 1 else path.with_stem(f"{path.stem}-00001-of-{num_parts:05}")


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


@pytest.fixture
def tensors() -> dict[str, Any]:
    return random_tensors()


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """`write_gguf(**what) -> Path`, see `write_file`."""

    def write(name: str = "tiny.gguf", **what: Any) -> Path:
        return write_file(tmp_path / name, **what)

    return write


@pytest.fixture
def write_gguf_parts(tmp_path: Path) -> Callable[..., Path]:
    """`write_gguf_parts(count, **what) -> Path`: the first of so many files, in a folder."""

    def write(count: int, **what: Any) -> Path:
        (tmp_path / "parts").mkdir()
        return write_file(tmp_path / "parts" / "tiny.gguf", num_parts=count, **what)

    return write


@pytest.fixture
def convert() -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """`convert(path, dtype=float32, in_floats=True)` → (folder, its tensors), the folder beside the
    file."""

    def run(
        path: Path, dtype: torch.dtype = torch.float32, in_floats: bool = True
    ) -> tuple[Path, dict[str, torch.Tensor]]:
        folder = path.with_suffix(f".{dtype}" if in_floats else f".{dtype}-blocks")
        folder.mkdir()
        convert_gguf(path, folder, dtype, in_floats)
        return folder, load_file(folder / "model.safetensors")

    return run
