"""Tensor names: GGUF's (`blk.0.attn_q.weight`) to Hugging Face's (`model.layers.0.self_attn…`).

The pairs come from the gguf package's own map, so only the Hugging Face side is spelled out here.
"""

import gguf

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""GGUF's `general.architecture`; Mistral's models call themselves llama."""

ROPE_FREQUENCIES = "rope_freqs.weight"
"""Llama 3.1's rotary scaling as one factor per frequency: a setting stored as a tensor."""

_GLOBAL_MODULES = ("model.embed_tokens", "model.norm", "lm_head")
_LAYER_MODULES = (
    "input_layernorm",
    "post_attention_layernorm",
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


def huggingface_names(architecture: str, num_layers: int) -> dict[str, str]:
    """GGUF tensor name → Hugging Face tensor name, weights and biases of every layer.

    Args:
        architecture: A key of `ARCHITECTURES`.
    """
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], num_layers)
    layers = (f"model.layers.{i}.{module}" for i in range(num_layers) for module in _LAYER_MODULES)
    found = {names.get_name(module): module for module in (*_GLOBAL_MODULES, *layers)}
    return {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in found.items()
        if ours is not None  # the architecture has no such module: q_norm exists in Qwen3 only
        for kind in ("weight", "bias")
    }
