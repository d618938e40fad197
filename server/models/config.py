"""Shape and rotary settings of a Llama-family model, read from a Hugging Face `config.json` dict.

Everything a checkpoint can ask for is either represented here or refused by name; nothing is
ignored that would change a logit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from server.errors import UnsupportedModelError

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]
ROPE_TYPES: tuple[RopeType, ...] = ("default", "linear", "dynamic", "llama3", "yarn")

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding; the fields beyond `theta` are those of the scaling type."""

    theta: float = 10_000.0
    type: RopeType = "default"
    factor: float = 1.0
    original_max_position: int = 0
    """Context the model was trained with before scaling (dynamic, llama3, yarn)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer: RMSNorm, rotary grouped-query attention, SwiGLU."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    """Bias on q, k, v (Qwen2; Llama with `attention_bias`)."""
    output_bias: bool = False
    """Bias on o too (Llama with `attention_bias`)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over head_dim of q and k before the rotary embedding (Qwen3)."""
    sliding_windows: tuple[int | None, ...] = ()
    """Per layer: a query sees its last `window` positions, itself included; None sees all."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    eos_token_ids: tuple[int, ...] = ()
    kv_shapes: tuple[tuple[int, int], ...] = ()
    """Per layer: KV heads and their size, where layers differ in them; then `num_kv_heads` and
    `head_dim` are those of the first."""


def model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Reads a Hugging Face config dict.

    Raises:
        UnsupportedModelError: architecture, rope type, activation … not implemented here,
            or a key without which the shape is unknown is missing.
    """
    architecture = _architecture(raw)
    _refuse_unsupported(raw)
    try:
        num_layers = int(raw["num_hidden_layers"])
        num_heads = int(raw["num_attention_heads"])
        hidden_size = int(raw["hidden_size"])
        return ModelConfig(
            architecture=architecture,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or num_heads),
            head_dim=int(raw.get("head_dim") or hidden_size // num_heads),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            max_position=int(raw["max_position_embeddings"]),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=_qkv_bias(architecture, raw),
            output_bias=_qkv_bias(architecture, raw) and architecture != "Qwen2ForCausalLM",
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=architecture == "Qwen3ForCausalLM",
            sliding_windows=_sliding_windows(architecture, raw, num_layers),
            rope=rope_config(raw),
            eos_token_ids=_token_ids(raw.get("eos_token_id")),
        )
    except KeyError as missing:
        raise UnsupportedModelError(f"model config has no {missing.args[0]!r}") from None


def rope_config(raw: Mapping[str, Any]) -> RopeConfig:
    """Reads the rotary settings in either spelling: `rope_parameters` (transformers 5) or
    `rope_theta` with `rope_scaling` (before).

    Raises:
        UnsupportedModelError: a rope type that is not implemented, by name.
    """
    nested = raw.get("rope_parameters") or {}
    scaling: Mapping[str, Any] = {**(raw.get("rope_scaling") or {}), **nested}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"rope type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    if any(isinstance(value, Mapping) for value in scaling.values()):
        raise UnsupportedModelError("rope settings per layer type are not supported")
    partial = scaling.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if float(partial) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor other than 1 is not supported")
    original = _original_max_position(kind, scaling, raw)
    return RopeConfig(
        theta=float(scaling.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        type=kind,
        factor=1.0 if kind == "default" else _rope_factor(scaling, raw, original),
        original_max_position=original,
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        attention_factor=scaling.get("attention_factor"),
        mscale=scaling.get("mscale"),
        mscale_all_dim=scaling.get("mscale_all_dim"),
        truncate=bool(scaling.get("truncate", True)),
    )


def _original_max_position(
    kind: RopeType, scaling: Mapping[str, Any], raw: Mapping[str, Any]
) -> int:
    name = "original_max_position_embeddings"
    # As in transformers, a key of the model beats that of the scaling; `dynamic` reads neither.
    trained = None if kind == "dynamic" else raw.get(name) or scaling.get(name)
    return int(trained or raw["max_position_embeddings"])


def _rope_factor(scaling: Mapping[str, Any], raw: Mapping[str, Any], original: int) -> float:
    factor = scaling["factor"]
    return float(raw["max_position_embeddings"] / original if factor is None else factor)


def _architecture(raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    shown = ", ".join(names) or f"model_type {raw.get('model_type')!r}"
    raise UnsupportedModelError(
        f"architecture {shown} is not supported; supported: {', '.join(ARCHITECTURES)}"
    )


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"activation {activation!r} is not supported; supported: silu")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"checkpoints quantised with {method!r} are not supported; "
            "use an unquantised or GGUF one"
        )


def _qkv_bias(architecture: str, raw: Mapping[str, Any]) -> bool:
    # Qwen2 always has this bias and does not say so in its config.
    return architecture == "Qwen2ForCausalLM" or bool(raw.get("attention_bias", False))


def _sliding_windows(
    architecture: str, raw: Mapping[str, Any], num_layers: int
) -> tuple[int | None, ...]:
    # Where a config is silent, transformers' own defaults for these architectures hold.
    window = raw.get("sliding_window", 4096)
    if architecture == "LlamaForCausalLM" or window is None:
        return (None,) * num_layers
    if architecture == "MistralForCausalLM":
        return (int(window),) * num_layers
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    types = raw.get("layer_types")
    if types is not None:
        return tuple(int(window) if t == "sliding_attention" else None for t in types)
    # Qwen's older configs: the first max_window_layers layers see everything.
    first = int(raw.get("max_window_layers", 28))
    return tuple(None if i < first else int(window) for i in range(num_layers))


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
