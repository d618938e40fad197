"""GGUF metadata → the dict of a Hugging Face `config.json`.

Every key under the architecture's prefix is either used, known to change nothing, or refused by
name: a setting that is ignored would make the model answer a little worse without a word.
"""

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from server.errors import CheckpointError, UnsupportedModelError
from weights.gguf.file import GGUFFile, shortest
from weights.gguf.generation import token_ids
from weights.gguf.names import ARCHITECTURES, ROPE_FREQUENCIES
from weights.gguf.rope import rope_parameters

_USED: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "attention.head_count",
            "attention.head_count_kv",
        ),
        (int, list),
    ),
    **dict.fromkeys(
        (
            "attention.key_length",
            "attention.value_length",
            "attention.sliding_window",
            "rope.dimension_count",
            "rope.scaling.original_context_length",
            "vocab_size",
        ),
        (int,),
    ),
    **dict.fromkeys(
        (
            "attention.layer_norm_rms_epsilon",
            "rope.freq_base",
            "rope.scale_linear",
            "rope.scaling.factor",
            "rope.scaling.attn_factor",
            "rope.scaling.yarn_ext_factor",
            "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_beta_fast",
            "rope.scaling.yarn_beta_slow",
        ),
        (int, float),
    ),
    "rope.scaling.type": (str,),
}
"""Settings that are read, with their Python types; some converters list one number a layer."""

_WITHOUT_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
}
"""Settings that some converters write although they are off."""

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
            + ", ".join(ARCHITECTURES)
        )
    return str(architecture)


def huggingface_config(file: GGUFFile) -> dict[str, Any]:
    """The dict of config.json.

    Raises:
        CheckpointError: metadata or the embedding is missing.
        UnsupportedModelError: an architecture or a setting that is not implemented, by name.
    """
    architecture = gguf_architecture(file)
    settings = _settings(file, architecture)
    num_heads = _number(file, settings, "attention.head_count")
    head_dim = _head_dim(file, settings, num_heads)
    return {
        **_identity(file, architecture, settings),
        "vocab_size": _embedding_rows(file),
        "hidden_size": _number(file, settings, "embedding_length"),
        "intermediate_size": _number(file, settings, "feed_forward_length"),
        "num_hidden_layers": _number(file, settings, "block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _number(file, settings, "attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": _required(file, settings, "attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": _number(file, settings, "context_length"),
        "rope_parameters": rope_parameters(settings, head_dim, _rope_factors(file)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **token_ids(file),
    }


def _settings(file: GGUFFile, architecture: str) -> dict[str, Any]:
    """Metadata under `llama.` …, without the prefix, nothing in it unknown."""
    prefix = f"{architecture}."
    settings = {
        key.removeprefix(prefix): shortest(value)
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    for name, value in settings.items():
        if name in _USED:
            if not isinstance(value, _USED[name]):
                raise CheckpointError(file.path, f"metadata has {prefix}{name}={value!r}")
        elif name not in _WITHOUT_EFFECT and value not in _NEUTRAL.get(name, ()):
            raise UnsupportedModelError(f"{file.path}: {prefix}{name}={value} is not supported")
    return settings


def _identity(file: GGUFFile, architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Architecture, sliding window, biases: what only some of the four have."""
    window = settings.get("attention.sliding_window") or None
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


def _head_dim(file: GGUFFile, settings: Mapping[str, Any], num_heads: int) -> int:
    if "attention.key_length" in settings:
        head_dim = _number(file, settings, "attention.key_length")
    else:
        head_dim = _number(file, settings, "embedding_length") // num_heads
    if head_dim == 0 or head_dim % 2:
        raise CheckpointError(file.path, f"metadata has heads of {head_dim}; rotary needs pairs")
    # The rotary embedding must cover the whole head, and values be as wide as keys.
    for name in ("attention.value_length", "rope.dimension_count"):
        value = settings.get(name, head_dim)
        if value != head_dim:
            raise UnsupportedModelError(
                f"{file.path}: {name}={value} with heads of {head_dim} is not supported"
            )
    return head_dim


def _embedding_rows(file: GGUFFile) -> int:
    # Not the metadata's vocab_size: not every converter writes it, and padding makes it differ.
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(file.path, "has no tensor token_embd.weight")
    return file.tensors["token_embd.weight"].shape[0]


def _rope_factors(file: GGUFFile) -> npt.NDArray[np.float32] | None:
    tensor = file.tensors.get(ROPE_FREQUENCIES)
    return None if tensor is None else gguf.quants.dequantize(tensor.data, tensor.type)


def _required(file: GGUFFile, settings: Mapping[str, Any], name: str) -> Any:
    if name not in settings:
        architecture = file.metadata["general.architecture"]
        raise CheckpointError(file.path, f"metadata has no {architecture}.{name}")
    return settings[name]


def _number(
    file: GGUFFile, settings: Mapping[str, Any], name: str, default: int | None = None
) -> int:
    """A positive whole number; a list with one entry a layer must have them all equal."""
    if name not in settings and default is not None:
        return default
    value = _required(file, settings, name)
    values: set[Any] = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise UnsupportedModelError(f"{file.path}: {name} differs between layers: {value}")
    number = values.pop()
    if not isinstance(number, int) or number <= 0:
        raise CheckpointError(file.path, f"metadata has {name}={number!r}")
    return number
