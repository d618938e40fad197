from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from server.errors import CheckpointError, UnsupportedModelError
from server.models.config import model_config
from weights.blocks import read_blocks
from weights.checkpoint import read_config
from weights.default import default_gguf
from weights.generation_config import read_sampling
from weights.gguf.convert import convert_gguf, half_split_rows
from weights.gguf.file import read_gguf

WriteGGUF = Callable[..., Path]
Convert = Callable[..., tuple[Path, dict[str, torch.Tensor]]]
Floats = npt.NDArray[np.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_rounded_to_the_dtype(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any], dtype: torch.dtype
) -> None:
    folder, weights = convert(write_gguf(), dtype)
    embedding = weights["model.embed_tokens.weight"]
    assert embedding.dtype == dtype
    assert torch.equal(embedding, torch.from_numpy(tensors["token_embd.weight"]).to(dtype))
    assert read_config(folder)["dtype"] == str(dtype).removeprefix("torch.")


def test_blocks_are_copied_in_pieces_too(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing that stays in blocks is dequantised on the way."""
    monkeypatch.setattr("weights.gguf.convert._PIECE_ELEMENTS", 100)
    kind, seen = gguf.GGMLQuantizationType.Q8_0, list[int]()
    stored = gguf.quants.quantize(tensors["blk.0.attn_q.weight"], kind)
    real = gguf.quants.dequantize

    def dequantize(data: Any, type_: gguf.GGMLQuantizationType) -> Any:
        assert type_ != kind
        seen.append(data.size)
        return real(data, type_)

    monkeypatch.setattr(gguf.quants, "dequantize", dequantize)
    path = write_gguf(tensors=tensors | {"blk.0.attn_q.weight": (stored, kind)})
    folder, weights = convert(path, in_floats=False)
    query = "model.layers.0.self_attn.q_proj.weight"
    blocks = read_blocks(folder).weights[query].blocks
    assert torch.equal(blocks, torch.from_numpy(stored[half_split_rows(32, 8)]))
    assert query not in weights
    assert max(seen) <= 4 * 100


def test_large_tensors_go_in_pieces(
    write_gguf: WriteGGUF,
    convert: Convert,
    tensors: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three rows, which divides nothing.
    monkeypatch.setattr("weights.gguf.convert._PIECE_ELEMENTS", 100)
    weights = convert(write_gguf())[1]
    embedding = weights["model.embed_tokens.weight"].numpy()
    assert np.array_equal(embedding, tensors["token_embd.weight"])
    order = half_split_rows(32, 8)
    query = weights["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert np.array_equal(query, tensors["blk.0.attn_q.weight"][order])


def interleave(rows: Floats, head_dim: int) -> Floats:
    """What llama.cpp's converter does to q and k: half-split to interleaved rotary."""
    split = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def test_half_split_rows_of_the_docstring() -> None:
    assert half_split_rows(4, 4).tolist() == [0, 2, 1, 3]
    assert half_split_rows(8, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


GGUF_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{GGUF_MODULES[module]}.{kind}"
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{GGUF_MODULES[rest]}.{kind}"


CASES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}


def tiny_model(architecture: str, **settings: Any) -> Any:
    """A transformers model of two layers with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        **settings,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def as_gguf_tensors(
    state: dict[str, torch.Tensor], interleaved_head_dim: int | None
) -> dict[str, Floats]:
    """The tensors as llama.cpp's converter writes them."""
    stored: dict[str, Floats] = {}
    for name, tensor in state.items():
        values: Floats = tensor.numpy()
        if interleaved_head_dim and (".q_proj." in name or ".k_proj." in name):
            values = interleave(values, interleaved_head_dim)
        stored[gguf_name(name)] = values
    return stored


@pytest.mark.parametrize("case", CASES)
def test_a_transformers_model_comes_back_exactly(
    write_gguf: WriteGGUF, convert: Convert, case: str
) -> None:
    from transformers import AutoModelForCausalLM

    architecture = case.partition("-")[0]
    head_dim = CASES[case].get("head_dim", 8)
    model = tiny_model(architecture, **CASES[case])
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    path = write_gguf(
        architecture=architecture,
        tensors=as_gguf_tensors(state, head_dim if architecture == "llama" else None),
        settings={"block_count": 2, "attention.key_length": head_dim},
    )
    folder, weights = convert(path)
    assert set(weights) == set(state)
    for name, tensor in state.items():
        assert torch.equal(weights[name], tensor), name
    again: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(20).reshape(1, 20)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    ours = model_config(read_config(folder))
    assert ours.head_dim == head_dim
    assert ours.attention_bias == ("model.layers.0.self_attn.q_proj.bias" in state)


def test_special_ids_of_several_kinds(write_gguf: WriteGGUF, convert: Convert) -> None:
    folder, _ = convert(write_gguf(metadata={"tokenizer.ggml.eot_token_id": 3}))
    assert model_config(read_config(folder)).eos_token_ids == (1, 3)
    assert read_config(folder)["bos_token_id"] == 0


CHAT = ["<|endoftext|>", "<|im_end|>", "a", "b", "ab", "<|end|>", "<|return|>", "<|call|>"]


@pytest.mark.parametrize(
    ("tokens", "types", "ends"),
    [
        (CHAT[:5], [3, 3, 1, 1, 1], (0, 1)),
        (CHAT[:5], [3, 1, 1, 1, 1], (0,)),  # the text alone makes no control token
        (CHAT[:6], [3, 3, 1, 1, 1, 3], (0, 1, 5)),
        (CHAT, [3, 3, 1, 1, 1, 3, 3, 3], (0, 1, 6, 7)),  # harmony's messages end with <|end|>
        (CHAT, [3, 3, 1, 1, 1, 3, 3, 1], (0, 1, 5, 6)),
    ],
)
def test_ends_that_the_file_does_not_name(
    write_gguf: WriteGGUF,
    convert: Convert,
    tokens: list[str],
    types: list[int],
    ends: tuple[int, ...],
) -> None:
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
    }
    folder, _ = convert(write_gguf(metadata=metadata))
    assert model_config(read_config(folder)).eos_token_ids == ends


def test_recommended_sampling_becomes_the_models_default(
    write_gguf: WriteGGUF, convert: Convert
) -> None:
    recommended = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "penalty_repeat": 1.05}
    others = {"penalty_last_n": 64, "mirostat": 0, "sequence": "kpt", "xtc_probability": 0.0}
    keys = {f"general.sampling.{key}": value for key, value in (recommended | others).items()}
    folder, _ = convert(write_gguf(metadata=keys))
    expected = {
        "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.05,
    }  # fmt: skip
    assert read_sampling(folder, "tiny.gguf", "model") == expected
    assert read_sampling(folder, "tiny.gguf", "openai") == {}


def test_unknown_tensors_are_refused(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]
) -> None:
    path = write_gguf(
        tensors=tensors | {"blk.0.ffn_gate_inp.weight": tensors["blk.0.ffn_up.weight"]}
    )
    with pytest.raises(
        UnsupportedModelError, match=r"not supported, among them blk\.0\.ffn_gate_inp"
    ):
        convert(path)


def test_layers_without_tensors_are_refused(write_gguf: WriteGGUF, convert: Convert) -> None:
    with pytest.raises(CheckpointError, match=r"has no tensor blk\.1\.attn_output\.weight"):
        convert(write_gguf(settings={"block_count": 2}))


def test_rotary_rows_that_are_no_whole_heads(
    write_gguf: WriteGGUF, convert: Convert, tensors: dict[str, Any]
) -> None:
    query = tensors["blk.0.attn_q.weight"][:-1]
    with pytest.raises(CheckpointError, match="31 rows are no multiple of the head's 8"):
        convert(write_gguf(tensors=tensors | {"blk.0.attn_q.weight": query}))


@pytest.mark.real_model
def test_default_model(tmp_path: Path) -> None:
    folder = tmp_path / "default"
    folder.mkdir()
    convert_gguf(default_gguf(), folder, torch.float32, in_floats=True)
    config = model_config(read_config(folder))
    assert (config.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.rope.theta, config.rope.type, config.max_position) == (
        100_000.0,
        "default",
        8192,
    )
    assert (config.tie_word_embeddings, config.eos_token_ids) == (True, (2,))
    assert read_config(folder)["bos_token_id"] == 1
    stored, weights = read_gguf(default_gguf()).tensors, load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        tensor = stored[gguf_name(name)]
        expected = gguf.quants.dequantize(tensor.data.reshape(tensor.shape[0], -1), tensor.type)
        assert np.array_equal(weights[name].numpy().reshape(-1), expected.reshape(-1))
    for name, num_heads in (("q_proj", 9), ("k_proj", 3)):
        theirs = f"model.layers.17.self_attn.{name}.weight"
        raw = stored[gguf_name(theirs)]
        values = gguf.quants.dequantize(raw.data.reshape(raw.shape[0], -1), raw.type)
        assert values.shape == (num_heads * 64, 576)
        assert np.array_equal(interleave(weights[theirs].numpy(), 64), values)
