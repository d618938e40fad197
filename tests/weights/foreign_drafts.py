"""Drafts in the forms of the paper's authors and of LongSpec."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models.dense_glide import target_config

Tensors = dict[str, torch.Tensor]
Write = Callable[[Path, Tensors], Path]
VICUNA = target_config(num_kv_heads=4)
"""Multi-head attention, as the authors' targets; rotary base 300 with scaling, unlike theirs."""
QWEN = target_config(num_heads=6, num_kv_heads=2, head_dim=8, attention_bias=True)
AUTHORS_JSON: dict[str, Any] = {
    "model_type": "llama", "num_attention_heads": 5, "large_hidden_size": 24,
    "large_num_attention_heads": 4, "block_size": 5, "rms_norm_eps": 1e-5, "rope_theta": 500.0,
    "max_position_embeddings": 64, "hidden_size": 30, "vocab_size": 53,
}  # fmt: skip


def filled(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(9)
    return {
        name: torch.rand(shape, generator=generator) * 1.4 + 0.4
        if "norm" in name
        else torch.randn(shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }


def authors_tensors(layers: int = 1) -> Tensors:
    """Hidden 30 in 5 heads of 6, MLP 44; the target has 4 heads of 16."""
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (30,)}
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (53, 30))
    for i in range(layers):
        shapes |= {
            f"model.layers.{i}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (30, 30), "self_attn.k_proj": (30, 30),
                "self_attn.v_proj": (30, 30), "self_attn.o_proj": (30, 30),
                "cross_attn.q_proj": (64, 30), "cross_attn.o_proj": (30, 64),
                "mlp.gate_proj": (44, 30), "mlp.up_proj": (44, 30), "mlp.down_proj": (30, 44),
                "input_layernorm": (30,), "post_attention_layernorm": (30,),
            }.items()
        }  # fmt: skip
    return filled(shapes)


def longspec_tensors() -> Tensors:
    """One bare layer as wide as the target: hidden 24, 6 query and 2 KV heads of 8, MLP 40."""
    shapes: dict[str, tuple[int, ...]] = {
        "mlp.gate_proj.weight": (40, 24), "mlp.up_proj.weight": (40, 24),
        "mlp.down_proj.weight": (24, 40), "input_layernorm.weight": (24,),
        "post_self_attention_layernorm.weight": (24,),
        "post_cross_attention_layernorm.weight": (24,),
    }  # fmt: skip
    for kind in ("self_attn", "cross_attn"):
        for part, rows in (("q", 48), ("k", 16), ("v", 16)):
            shapes[f"{kind}.{part}_proj.weight"] = (rows, 24)
            shapes[f"{kind}.{part}_proj.bias"] = (rows,)
        shapes[f"{kind}.o_proj.weight"] = (24, 48)
    return filled(shapes)


def pickled(folder: Path, tensors: Tensors) -> Path:
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def pickled_file(folder: Path, tensors: Tensors) -> Path:
    return pickled(folder, tensors) / "pytorch_model.bin"


def safetensors(folder: Path, tensors: Tensors) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


def safetensors_file(folder: Path, tensors: Tensors) -> Path:
    return safetensors(folder, tensors) / "model.safetensors"


def write_authors(
    folder: Path, tensors: Tensors, write: Write = pickled, changes: Mapping[str, object] = {}
) -> Path:
    """changes: of config.json; None leaves a key out."""
    raw = {key: value for key, value in (AUTHORS_JSON | dict(changes)).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(raw))
    return write(folder, tensors)


def write_target(folder: Path) -> None:
    """As far as a conversion reads it: VICUNA's config."""
    folder.mkdir()
    raw = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 53, "hidden_size": 24, "head_dim": 16,
        "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 4,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
