"""The families that are tested on transformers' code: tiny random checkpoints of each, made with
transformers' own config classes."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    DeepseekV3Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    Glm4Config,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from server.models.causal_lm import CausalLM
from server.models.hf.config import read_hf_model
from server.models.hf.model import load_hf
from server.models.layers import Placement
from weights.checkpoint import read_config

VOCAB_SIZE = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
ROPE = {"rope_type": "default", "rope_theta": 1e4}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}


def sizes(**changes: Any) -> dict[str, Any]:
    return SIZES | changes


FAMILIES: dict[str, PreTrainedConfig] = {
    "gemma2": Gemma2Config(
        **sizes(head_dim=16, sliding_window=7, query_pre_attn_scalar=20),
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": Gemma3TextConfig(
        **sizes(head_dim=16, sliding_window=7, query_pre_attn_scalar=20, layer_types=ALTERNATING)
    ),
    "gemma3n": Gemma3nTextConfig(
        **sizes(head_dim=16, intermediate_size=[80] * 4, sliding_window=7, layer_types=ALTERNATING),
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=2,
        activation_sparsity_pattern=[0.0] * 4,
    ),
    "gemma4": Gemma4TextConfig(
        **sizes(head_dim=16, global_head_dim=32, sliding_window=7, layer_types=ALTERNATING),
        num_kv_shared_layers=2,
    ),
    "phi": PhiConfig(**sizes()),
    "phi3": Phi3Config(**sizes(sliding_window=9)),
    "phi4-mini": Phi3Config(
        **sizes(
            hidden_size=64,
            tie_word_embeddings=True,
            rope_parameters=ROPE | {"partial_rotary_factor": 0.75},
        )
    ),
    "olmo2": Olmo2Config(**sizes()),
    "olmo3": Olmo3Config(**sizes(sliding_window=7, layer_types=ALTERNATING)),
    "granite": GraniteConfig(
        **sizes(attention_multiplier=0.2, logits_scaling=2.0),
        embedding_multiplier=3.0,
        residual_multiplier=0.5,
    ),
    "cohere": CohereConfig(**sizes(logit_scale=0.5, use_qk_norm=True)),
    "cohere2": Cohere2Config(**sizes(logit_scale=0.5, sliding_window=7, layer_types=ALTERNATING)),
    "glm": GlmConfig(**sizes(head_dim=16)),
    "glm4": Glm4Config(**sizes(head_dim=16)),
    "smollm3": SmolLM3Config(**sizes(no_rope_layers=[1, 0, 1, 0])),
    "starcoder2": Starcoder2Config(**sizes(sliding_window=9)),
    "stablelm": StableLmConfig(**sizes(hidden_size=64, qk_layernorm=True)),
    "falcon3": LlamaConfig(**sizes(head_dim=16)),
    "exaone4": Exaone4Config(**sizes(sliding_window=7, layer_types=ALTERNATING)),
    "qwen2-moe": Qwen2MoeConfig(
        **sizes(num_experts=6, shared_expert_intermediate_size=40, **EXPERTS)
    ),
    "qwen3-moe": Qwen3MoeConfig(**sizes(head_dim=16, num_experts=6, **EXPERTS)),
    "mixtral": MixtralConfig(**sizes(num_local_experts=4, sliding_window=9)),
    "olmoe": OlmoeConfig(**sizes(num_experts=4, num_experts_per_tok=2)),
    "granite-moe": GraniteMoeConfig(**sizes(num_local_experts=4, attention_multiplier=0.2)),
    "gpt-oss": GptOssConfig(
        **sizes(head_dim=16, num_local_experts=4, sliding_window=8, num_experts_per_tok=2),
        rope_parameters=ROPE,
    ),
    "llama4": Llama4TextConfig(
        **sizes(head_dim=16, num_local_experts=4, attention_chunk_size=16),
        intermediate_size_mlp=64,
        floor_scale=4,
        attn_scale=0.7,
        interleave_moe_layer_step=2,
    ),
    "deepseek3": DeepseekV3Config(
        **sizes(num_key_value_heads=4, n_routed_experts=4, n_group=2, topk_group=1, **EXPERTS),
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        first_k_dense_replace=1,
    ),
}  # fmt: skip
"""Windows and chunks are short, and every factor is other than its default, so that a setting which
is ignored shows."""


def reference_model(config: PreTrainedConfig) -> Any:
    """transformers' own, with random weights; norms, biases and sinks far enough from 1 and 0 to
    matter."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.4, 1.8)
            else:
                weight.normal_(0.0, 0.3 if "bias" in name or "sinks" in name else 0.14)
    return model.eval()


def our_model(folder: Path, dtype: torch.dtype = torch.float32) -> CausalLM:
    """The same from its checkpoint."""
    found = read_hf_model(folder, read_config(folder))
    return load_hf(folder, found, Placement(torch.device("cpu"), dtype)).freeze()
