"""Whether a checkpoint can be served with transformers' code, and the sizes that the rest of the
server asks for."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
)
from transformers import PreTrainedModel as Model
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.quantization_config import Mxfp4Config

from server.errors import CheckpointError, UnsupportedModelError
from server.models.config import ModelConfig, RopeConfig, rope_config
from server.models.hf.attention import LayerRules
from server.models.hf.longrope import check_rope, longest
from server.models.hf.probe import PROBE, Probed, probe
from server.models.hf.split import split

_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_STATES = re.compile(
    "Mamba|SSM|DeltaNet|LinearAttention|Lightning|RWKV|Rwkv|LSTM|Recurrent|ShortConv"
)
"""In the names of modules that keep a state from token to token."""


WIDENED: Mapping[str, Any] = {"mxfp4": Mxfp4Config(dequantize=True)}
"""Formats of quantised checkpoints that transformers reads into floats, and how it is told to."""


@dataclass(frozen=True, slots=True, eq=False)
class HFModel:
    """A checkpoint that transformers' code can serve."""

    hf: PreTrainedConfig
    """As transformers reads it; of a model for several media, its text half's."""
    quantized_as: str | None
    """A format of `WIDENED` whose weights become floats; None for a checkpoint in floats."""
    is_half: bool
    """Whether this is the text half of a model for several media."""
    config: ModelConfig
    probed: Probed

    @property
    def described(self) -> str:
        """Whose code runs it, for people."""
        half = "the text half, " if self.is_half else ""
        form = f", its {self.quantized_as} in floats" if self.quantized_as else ""
        return f"transformers {transformers.__version__} ({half}{self.hf.model_type}{form})"

    @property
    def note(self) -> str | None:
        """What somebody who serves it should know, for people."""
        most = int(_first(self.hf, _MAX_POSITIONS) or 0)
        if self.config.max_position >= most:
            return None
        return (
            f"texts up to {self.config.max_position} tokens, for which its short rotary "
            f"frequencies are; --max-model-len up to {most} takes the long ones for all texts"
        )

    @property
    def scored_in_torch(self) -> str | None:
        """Layers whose attention Triton's kernels don't know, for people; None without any."""
        kinds = {
            "capped scores": [layer.scores.softcap is not None for layer in self.probed.layers],
            "sinks": [layer.has_sinks for layer in self.probed.layers],
            "chunks": [layer.scores.chunk is not None for layer in self.probed.layers],
        }
        found = [f"{name} in {sum(has)}" for name, has in kinds.items() if any(has)]
        if not found:
            return None
        return f"{', '.join(found)} of {len(self.probed.layers)} layers"


def read_hf_model(
    folder: Path, raw: Mapping[str, Any], max_model_len: int | None = None
) -> HFModel:
    """Finds out what a checkpoint needs.

    Args:
        raw: its `config.json`.
        max_model_len: the longest sequence that is wanted, where somebody said; see `longrope.py`.

    Raises:
        UnsupportedModelError: one line that names what stands in the way.
        CheckpointError: config.json is not what transformers expects.
    """
    _refuse_format(raw)
    whole = _read(folder, raw)
    hf = _text_half(whole)
    if hf is not whole and getattr(whole, "tie_word_embeddings", False):
        # It is the whole model's config that tied them; its half's may say otherwise.
        hf.tie_word_embeddings = True
    half = hf.to_dict()
    _refuse_format(half)
    check_rope(hf)
    probed = _probe(hf)
    max_position = longest(hf, int(_first(hf, _MAX_POSITIONS) or 2048), max_model_len)
    config = _model_config(hf, raw, probed.layers, max_position)
    return HFModel(hf, quantized_as(raw) or quantized_as(half), hf is not whole, config, probed)


def quantized_as(raw: Mapping[str, Any]) -> str | None:
    """The format of a quantised checkpoint; None for one that is not quantised."""
    quantization = raw.get("quantization_config")
    return str(quantization.get("quant_method", "unknown")) if quantization else None


def _refuse_format(raw: Mapping[str, Any]) -> None:
    method = quantized_as(raw)
    if method is not None and method not in WIDENED:
        raise UnsupportedModelError(
            f"checkpoints quantised with {method!r} are not read; use the unquantised one, or a "
            "GGUF file"
        )


def _read(folder: Path, raw: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a config's own code raises
        kind = raw.get("model_type")
        if kind in CONFIG_MAPPING:
            reason = f"transformers can't read it: {first_line(error)}"
            raise CheckpointError(folder / "config.json", reason) from None
        if "auto_map" in raw:
            raise UnsupportedModelError(
                f"model_type {kind!r} brings code of its own (auto_map), which is never run here; "
                "a release of transformers that has this model would serve it"
            ) from None
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} knows no model_type {kind!r}; a newer "
            "release may: pip install --upgrade transformers"
        ) from None


def _text_half(hf: PreTrainedConfig) -> PreTrainedConfig:
    """The config itself, or of a model for several media that of its text half."""
    name = hf.model_type
    if getattr(hf, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder; served are models with a decoder alone"
        )
    text = hf.get_text_config(decoder=True)
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return text
    if text is not hf:
        raise UnsupportedModelError(
            f"{name} is for several media, and transformers has no causal language model of its "
            "text half alone, which is what could be served"
        )
    raise UnsupportedModelError(
        f"transformers has no causal language model for {name}; served are those alone"
    )


def _probe(hf: PreTrainedConfig) -> Probed:
    """Runs the model without weights.

    Raises:
        UnsupportedModelError: it can't be run on a paged cache.
    """
    config = copy.deepcopy(hf)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, attn_implementation=PROBE
            )
        _refuse_states(model)
        if model._can_set_experts_implementation():  # pyright: ignore[reportPrivateUsage]
            # The one that asks no tensor for its values.
            model.set_experts_implementation("batched_mm")
        decoder, head = split(model)
        probed = probe(decoder)
        head(inputs_embeds=torch.empty(1, 1, hf.hidden_size, device="meta"), use_cache=False)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a model's own code raises
        raise UnsupportedModelError(
            f"transformers' code for {hf.model_type} does not run on a paged cache: "
            f"{_in_words(error)}"
        ) from None
    return probed


_KINDS = {
    f"^KeyError: '{PROBE}'": "it does not call transformers' attention interface",
    r"[Mm]eta tensor|device meta|on 'meta'": "its code asks for values while it is looked at, "
    "before there are any",
    "_Nothing": "its head asks its decoder for more than final hidden states",
    "mask should be of size": "it asks for attention masks of sequences' whole length, which are "
    "never made here",
}
"""What errors say -> what is behind them, for people."""


def _in_words(error: Exception) -> str:
    said = f"{type(error).__name__}: {first_line(error)}"
    return next((kind for form, kind in _KINDS.items() if re.search(form, said)), said)


def _refuse_states(model: Model) -> None:
    found = {type(module).__name__ for module in model.modules()}
    states = sorted(name for name in found if _STATES.search(name))
    if states:
        raise UnsupportedModelError(
            f"{model.config.model_type} has layers that keep a state instead of keys and values "
            f"({', '.join(states[:4])}): state-space, linear and convolution layers are not served"
        )


def _model_config(
    hf: PreTrainedConfig,
    raw: Mapping[str, Any],
    layers: Sequence[LayerRules],
    max_position: int,
) -> ModelConfig:
    first = layers[0]
    shapes = tuple((layer.num_kv_heads, layer.head_dim) for layer in layers)
    if any(layer.value_dim > layer.head_dim for layer in layers):
        raise UnsupportedModelError(f"{hf.model_type}: its values are wider than its keys")
    # A text half's may stand in its own part of the config alone.
    eos = raw.get("eos_token_id") or getattr(hf, "eos_token_id", None)
    return ModelConfig(
        architecture=str((raw.get("architectures") or [hf.model_type])[0]),
        vocab_size=int(hf.vocab_size),
        hidden_size=int(hf.hidden_size),
        intermediate_size=_widest(_first(hf, ("intermediate_size",)) or 4 * hf.hidden_size),
        num_layers=len(layers),
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        rms_norm_eps=float(_first(hf, _EPSILONS) or 1e-6),
        max_position=max_position,
        tie_word_embeddings=bool(getattr(hf, "tie_word_embeddings", False)),
        sliding_windows=tuple(layer.scores.window for layer in layers),
        rope=_rope(hf),
        eos_token_ids=_as_ids(eos),
        kv_shapes=shapes if len(set(shapes)) > 1 else (),
    )


def _as_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _first(hf: PreTrainedConfig, names: Sequence[str]) -> Any:
    return next((value for n in names if (value := getattr(hf, n, None)) is not None), None)


def _widest(sizes: int | Sequence[int]) -> int:
    """Some models give a size a layer."""
    return int(sizes if isinstance(sizes, int) else max(sizes))


def _rope(hf: PreTrainedConfig) -> RopeConfig:
    """The rotary embedding of the last layer, as far as a GliDe draft can copy it: the draft learns
    with whatever it gets."""
    raw = hf.to_dict()
    ropes, kinds = raw.get("rope_parameters") or {}, raw.get("layer_types") or [None]
    try:
        return rope_config(raw | {"rope_parameters": ropes.get(kinds[-1], ropes)})
    except (UnsupportedModelError, KeyError, TypeError):
        return RopeConfig()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
