"""GGUF metadata → the dict of a Hugging Face `config.json`, for architectures of our own code."""

from typing import Any

from server.errors import UnsupportedModelError
from weights.gguf.file import GGUFFile
from weights.gguf.foreign import FOREIGN
from weights.gguf.generation import token_ids
from weights.gguf.names import ARCHITECTURES
from weights.gguf.rope import rope_parameters
from weights.gguf.settings import Settings, head_dim_of

_OWN = {"attention.sliding_window": (int,)}
_HUGGINGFACE_NAMES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def gguf_architecture(file: GGUFFile) -> str:
    """The file's architecture, a key of `names.ARCHITECTURES`.

    Raises:
        UnsupportedModelError: another architecture.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path}: GGUF architecture {architecture!r} is not supported; supported: "
            + ", ".join((*ARCHITECTURES, *FOREIGN))
            + "; the same model in safetensors may be served by transformers' code"
        )
    return str(architecture)


def huggingface_config(file: GGUFFile) -> dict[str, Any]:
    """The dict of config.json.

    Raises:
        CheckpointError: metadata or the embedding is missing.
        UnsupportedModelError: an architecture or a setting that is not implemented, by name.
    """
    architecture = gguf_architecture(file)
    settings = Settings.read(file, architecture, _OWN)
    num_heads = settings.number("attention.head_count")
    head_dim = head_dim_of(settings, num_heads)
    return {
        **_identity(file, architecture, settings),
        "vocab_size": settings.embedding_rows(),
        "hidden_size": settings.number("embedding_length"),
        "intermediate_size": settings.number("feed_forward_length"),
        "num_hidden_layers": settings.number("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": settings.number("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": settings.required("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": settings.number("context_length"),
        "rope_parameters": rope_parameters(settings.values, head_dim, settings.rope_factors()),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **token_ids(file),
    }


def _identity(file: GGUFFile, architecture: str, settings: Settings) -> dict[str, Any]:
    """Architecture, sliding window, biases: what only some of the four have."""
    window = settings.values.get("attention.sliding_window") or None
    if window is not None and architecture != "llama":
        raise UnsupportedModelError(
            f"{file.path}: {architecture}.attention.sliding_window={window} is not supported, "
            "the file does not say which layers it is for"
        )
    model_type = "mistral" if window else architecture
    identity: dict[str, Any] = {
        "architectures": [f"{_HUGGINGFACE_NAMES[model_type]}ForCausalLM"],
        "model_type": model_type,
    }
    if window:
        identity["sliding_window"] = int(window)
    if architecture == "llama":
        identity["attention_bias"] = _has_attention_bias(file)
        identity["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    return identity


def _has_attention_bias(file: GGUFFile) -> bool:
    found = [f"blk.0.attn_{part}.bias" in file.tensors for part in ("q", "k", "v", "output")]
    if any(found) and not all(found):
        raise UnsupportedModelError(
            f"{file.path}: biases on only some of q, k, v and output are not supported"
        )
    return all(found)
