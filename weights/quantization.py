"""Chooses the form in which a model's linear weights are kept."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf
import torch

from server.errors import ConfigError
from server.kernels.cpu.library import native_library
from server.kernels.quantized import GROUP, RoundedKind, bits_per_weight
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.quantization import Quantization
from server.setting_types import QuantizationChoice
from weights.blocks import StoredBlocks, read_blocks

_KINDS: dict[QuantizationChoice, RoundedKind] = {"int8": "q8_0", "int4": "q4_1"}


def choose_quantization(
    wanted: QuantizationChoice, folder: Path, config: ModelConfig, placement: Placement
) -> Quantization | None:
    """None keeps the weights in floats; otherwise those that the checkpoint has in blocks stay in
    these, and the others are rounded.

    `auto` takes stored blocks where native kernels multiply them; weights that are stored otherwise
    go to 8 bits then, which loses least.

    Raises:
        ConfigError: the wish can't be fulfilled for this model, precision or device.
    """
    fits = can_quantize(config)
    placed = placement.dtype is torch.bfloat16 and placement.device.type == "cpu"
    if wanted == "auto":
        takes = fits and config.head_dim % GROUP == 0 and native_library() is not None
        stored = read_blocks(folder) if takes and placed else StoredBlocks({}, {})
        return _quantization("q8_0", stored, config) if any(stored) else None
    if wanted == "none":
        return None
    _check_placed(wanted, placement)
    if not fits:
        shown = ", ".join(map(str, _widths(config)))
        reason = f"layer widths have to be multiples of {GROUP}, this model's are {shown}"
        raise ConfigError("quantization", wanted, reason)
    return _quantization(_KINDS[wanted], read_blocks(folder), config)


def round_quantization(wanted: QuantizationChoice, placement: Placement) -> Quantization | None:
    """The same for a model of other code than ours, whose linear layers are rounded one by one, as
    far as their inputs can be cut into groups.

    Raises:
        ConfigError: no kernels here take the quantization that was asked for.
    """
    if wanted in ("auto", "none"):
        return None
    _check_placed(wanted, placement)
    if native_library() is None:
        reason = "needs the native kernels, of which none run here"
        raise ConfigError("quantization", wanted, reason)
    return Quantization(_KINDS[wanted])


def _check_placed(wanted: QuantizationChoice, placement: Placement) -> None:
    if placement.dtype is not torch.bfloat16 or placement.device.type != "cpu":
        name = str(placement.dtype).removeprefix("torch.")
        reason = f"needs bfloat16 on a CPU, this is {name} on {placement.device}"
        raise ConfigError("quantization", wanted, reason)


def _quantization(kind: RoundedKind, stored: StoredBlocks, config: ModelConfig) -> Quantization:
    names = list(_matrices(config))
    kept = {name: stored.weights[name] for name in names if name in stored.weights}
    rounded = {name: stored.others.get(name, "floats") for name in names if name not in kept}
    return Quantization(kind, kept, rounded)


def _matrices(config: ModelConfig) -> Iterator[str]:
    """Checkpoint names of the weights that are multiplied."""
    yield "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    attention = (f"self_attn.{name}_proj" for name in "qkvo")
    modules = (*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))
    for layer in range(config.num_layers):
        yield from (f"model.layers.{layer}.{module}.weight" for module in modules)


def can_quantize(config: ModelConfig) -> bool:
    """Whether all linear layers' inputs can be cut into groups."""
    return not any(width % GROUP for width in _widths(config))


def _widths(config: ModelConfig) -> tuple[int, int, int]:
    return config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim


def describe(quantization: Quantization | None, dtype: torch.dtype) -> str:
    """Such as `bfloat16`, or `q4_k and q6_k weights in bfloat16`."""
    name = str(dtype).removeprefix("torch.")
    if quantization is None:
        return name
    *first, last = sorted(quantization.kinds)
    kinds = f"{', '.join(first)} and {last}" if first else last
    return f"{kinds} weights in {name}"


def describe_rounded(quantization: Quantization | None) -> Iterator[str]:
    """What a GGUF file has in forms that the kernels do not multiply, and what rounding costs."""
    if quantization is None:
        return
    forms = Counter(quantization.rounded.values())
    if not quantization.stored and set(forms) <= {"floats"}:
        return  # no quantised file: rounding was asked for
    bits = bits_per_weight(quantization.kind)
    for form, count in sorted(forms.items()):
        matrices = "1 matrix is" if count == 1 else f"{count} matrices are"
        beside, instead = _beside_and_instead(form)
        yield (
            f"{matrices} stored as {form}, which the kernels do not multiply{beside}: rounded to "
            f"{quantization.kind}, {bits:.1f} bits a weight{instead}"
        )


def _beside_and_instead(form: str) -> tuple[str, str]:
    """Why a form is not multiplied, and what it takes in the file."""
    if form == "floats":
        return " beside blocks", ""
    inputs, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form.upper()]]
    return "", f" instead of {8 * num_bytes / inputs:.1f}"
