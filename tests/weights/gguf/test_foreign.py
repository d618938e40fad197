"""Files of models that transformers' code serves: written as llama.cpp's converter writes them, and
after conversion bit for bit the models that they were made from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from server.config import ModelSettings
from server.errors import UnsupportedModelError
from server.loading.target import load_target, locate_target
from server.models.layers import Placement
from tests.kernels.paged import CPU, PagedModel
from tests.weights.gguf.test_convert import interleave
from weights.gguf.convert import convert_gguf
from weights.gguf.foreign import FOREIGN

WriteGGUF = Callable[..., Path]
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 6, 4, 2, 8
SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "pad_token_id": None,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
PLAIN = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "experts.gate_proj": "ffn_gate_exps", "experts.up_proj": "ffn_up_exps",
    "experts.down_proj": "ffn_down_exps", "experts.w1": "ffn_gate_exps",
    "experts.w3": "ffn_up_exps", "experts.w2": "ffn_down_exps",
}  # fmt: skip
SANDWICH = PLAIN | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


class Case(NamedTuple):
    """A model by transformers' settings, and the same in a file's."""

    model_type: str
    hf: Mapping[str, Any]
    settings: Mapping[str, Any]
    names: Mapping[str, str] = PLAIN
    architecture: str = ""
    """Where a file does not say the table's name."""
    norm_offset: float = 0.0


ROPE = {"rope_type": "default", "rope_theta": 50_000.0}
CASES = {
    "gemma": Case("gemma", {"rope_parameters": ROPE}, {}, norm_offset=1.0),
    "gemma2": Case(
        "gemma2",
        {"sliding_window": 5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
         "query_pre_attn_scalar": HEAD_DIM, "rope_parameters": ROPE},
        {"attention.sliding_window": 5, "attn_logit_softcapping": 3.0,
         "final_logit_softcapping": 2.0},
        SANDWICH, norm_offset=1.0,
    ),
    "gemma3": Case(
        "gemma3_text",
        {"sliding_window": 5, "query_pre_attn_scalar": HEAD_DIM,
         "rope_parameters": {
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50_000.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
        {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        SANDWICH, norm_offset=1.0,
    ),
    "granite": Case(
        "granite",
        {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
         "logits_scaling": 4.0, "rope_parameters": ROPE, "tie_word_embeddings": True},
        {"attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 4.0},
    ),
    "mixtral": Case(
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": ROPE,
         "sliding_window": None},
        {"expert_count": 4, "expert_used_count": 2}, architecture="llama",
    ),
    "olmo2": Case("olmo2", {"rope_parameters": ROPE}, {}, SANDWICH),
    "phi3": Case(
        "phi3",
        {"rope_parameters": ROPE, "sliding_window": 5, "original_max_position_embeddings": 64},
        {"attention.sliding_window": 5},
    ),
    "phi3-long": Case(
        "phi3",
        {"rope_parameters": {
            "rope_type": "longrope", "rope_theta": 50_000.0, "short_factor": [1.0, 1.5, 2.0],
            "long_factor": [3.0, 4.0, 5.0], "original_max_position_embeddings": 16,
            "partial_rotary_factor": 0.75, "attention_factor": 1.25},
         "sliding_window": None, "original_max_position_embeddings": 16},
        {"rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": 1.25,
         "rope.dimension_count": 6, "attention.sliding_window": 0},
    ),
    "qwen3moe": Case(
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
         "norm_topk_prob": True, "rope_parameters": ROPE},
        {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 24},
    ),
    "smollm3": Case("smollm3", {"rope_parameters": ROPE, "tie_word_embeddings": True}, {}),
}  # fmt: skip


def hf_model(case: Case) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(case.model_type, **(SIZES | dict(case.hf)))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if "norm" in name else 0.0, std=0.3)
    return model.eval()


def checkpoint(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors under the names that they have on the hub."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def gguf_tensors(name: str, case: Case, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """As llama.cpp's converter stores them."""
    stored: dict[str, Any] = {}
    for full, tensor in sorted(state.items(), key=lambda item: _expert(item[0])):
        module = full.removesuffix(".weight")
        prefix, values = "", tensor.numpy()
        if module.startswith("model.layers."):
            layer, _, module = module.removeprefix("model.layers.").partition(".")
            prefix = f"blk.{layer}."
        if "norm" in module:
            values = values + np.float32(case.norm_offset)
        if module[-6:] in ("q_proj", "k_proj") and FOREIGN[name].is_interleaved:
            values = interleave(values, HEAD_DIM)
        if ".experts." in module:
            module = f"experts.{module.rpartition('.')[2]}"
            key = f"{prefix}{case.names[module]}.weight"
            stored[key] = (
                np.concatenate([stored[key], values[None]]) if key in stored else values[None]
            )
        else:
            stored[f"{prefix}{case.names[module]}.weight"] = values
    return stored


def _expert(name: str) -> int:
    part = name.partition(".experts.")[2].partition(".")[0]
    return int(part) if part else -1


def write(name: str, write_gguf: WriteGGUF, folder: Path, **settings: Any) -> tuple[Path, Any]:
    case = CASES[name]
    model = hf_model(case)
    shape = {
        "block_count": LAYERS, "attention.key_length": HEAD_DIM, "rope.freq_base": 50_000.0,
        "attention.value_length": HEAD_DIM, "rope.dimension_count": HEAD_DIM,
    }  # fmt: skip
    architecture = case.architecture or name.partition("-")[0]
    tensors = gguf_tensors(name.partition("-")[0], case, checkpoint(model, folder))
    if name == "phi3-long":
        for length in ("short", "long"):
            factors = case.hf["rope_parameters"][f"{length}_factor"]
            tensors[f"rope_factors_{length}.weight"] = np.array(factors, np.float32)
    path = write_gguf(
        architecture=architecture,
        settings=shape | dict(case.settings) | settings,
        tensors=tensors,
    )
    return path, model


@pytest.mark.parametrize("name", CASES)
def test_a_transformers_model_comes_back_exactly(
    name: str, write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    path, model = write(name, write_gguf, tmp_path / "hub")
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_gguf(path, folder, torch.float32)
    again: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, 40, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(ids).logits, again(ids).logits
    # Adding one to a norm and taking it away again rounds.
    tolerance = 1e-4 if CASES[name].norm_offset else 0.0
    assert float((found - expected).abs().max()) <= tolerance
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("phi3-long", "rope.scaling.type", "yarn"),
        ("phi3-long", "rope.scaling.factor", 4.0),
        ("phi3-long", "rope.scaling.yarn_ext_factor", 0.5),
        ("phi3-long", "rope.scale_linear", 2.0),
        ("gemma3", "attn_logit_softcapping", 50.0),
    ],
)
def test_what_an_architecture_does_not_use_is_refused(
    name: str, setting: str, value: float | str, write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    path, _ = write(name, write_gguf, tmp_path / "hub", **{setting: value})
    folder = tmp_path / "converted"
    folder.mkdir()
    with pytest.raises(UnsupportedModelError, match=setting):
        convert_gguf(path, folder, torch.float32)


def test_every_foreign_architecture_is_tried() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(FOREIGN)


@pytest.mark.parametrize("name", ["gemma3", "qwen3moe"])
def test_served_on_the_paged_cache(name: str, write_gguf: WriteGGUF, tmp_path: Path) -> None:
    path, model = write(name, write_gguf, tmp_path / "hub")
    settings = ModelSettings(model=str(path), cache_dir=tmp_path / "cache")
    files = locate_target(settings, torch.float32, lambda line: None)
    assert files.hf is not None
    loaded = load_target(files, Placement(CPU, torch.float32))
    tokens = torch.randint(0, 40, (20,), generator=torch.Generator().manual_seed(2)).tolist()
    found = PagedModel(loaded.freeze(), block_size=4).run(tokens, [13, 1, 6])
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_our_own_architectures_too_where_transformers_is_asked_for(
    write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    settings = ModelSettings(model=str(write_gguf()), cache_dir=tmp_path / "cache")
    own, theirs = (
        locate_target(each, torch.float32, lambda line: None)
        for each in (settings, settings.model_copy(update={"model_backend": "transformers"}))
    )
    assert own.hf is None and theirs.hf is not None and own.folder != theirs.folder
    placement, tokens = Placement(CPU, torch.float32), list(range(1, 20))
    first, second = (
        PagedModel(load_target(files, placement).freeze(), block_size=4).run(tokens, [12, 7])
        for files in (own, theirs)
    )
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("gemma2", {"attention.temperature": 2.0}, "gemma2.attention.temperature=2.0 is not"),
        ("olmo2", {"attention.sliding_window": 8}, "olmo2.attention.sliding_window=8 is not"),
        ("olmo2", {"rope.dimension_count": 4}, "rope.dimension_count=4 with heads of 8 is not"),
        ("qwen3moe", {"rope.scaling.attn_factor": 0.5}, "rope.scaling.attn_factor=0.5 is not"),
    ],
)
def test_settings_that_are_not_implemented_are_named(
    name: str, settings: dict[str, Any], text: str, write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    path, _ = write(name, write_gguf, tmp_path / "hub", **settings)
    with pytest.raises(UnsupportedModelError, match=text):
        convert_gguf(path, tmp_path, torch.float32)
