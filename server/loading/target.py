"""The one way from the name of a model to its weights on a device.

    locate_target   the model that settings name -> files on this disk, their config read
    load_target     files -> the parameters of a model: a draft may share some of them

Used by the server, its ranks, drafts that are models themselves, training and benchmarks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from server.config import ModelSettings
from server.engine.step.kv_cache import CacheShape
from server.errors import UnsupportedModelError
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig, model_config
from server.models.decoder_layer import local_config
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.parameters import Parameters
from server.models.quantization import Quantization
from server.report import Report
from server.setting_types import ModelBackend, QuantizationChoice
from weights.checkpoint import load_weights, read_config
from weights.locate import locate_model
from weights.quantization import choose_quantization, describe, round_quantization

if TYPE_CHECKING:  # importing transformers' models takes seconds, which native code spares
    from server.models.hf.config import HFModel


class TargetFiles(NamedTuple):
    """A checkpoint in Hugging Face layout."""

    folder: Path
    config: ModelConfig
    hf: "HFModel | None" = None
    """How transformers' code runs it; None for the native code."""


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    """The parameters of a model, of which freezing makes the model."""

    files: TargetFiles
    parameters: Parameters
    quantization: Quantization | None
    """The form that freezing brings its linear weights into; None keeps them as they are."""

    @property
    def config(self) -> ModelConfig:
        return self.files.config

    @property
    def form(self) -> str:
        """For people: such as `bfloat16`, or `q4_k and q6_k weights in bfloat16`."""
        return describe(self.quantization, self.parameters.placement.dtype)

    @property
    def kv_shape(self) -> CacheShape:
        """KV of one token on this rank."""
        placement = self.parameters.placement
        local = local_config(self.config, placement.shard)
        sizes = local.num_layers, local.num_kv_heads, local.head_dim
        return CacheShape(*sizes, placement.dtype, local.kv_shapes)

    def freeze(self) -> CausalLM:
        """The model, with the weights in the machine's fastest layout."""
        return self.parameters.freeze(self.quantization)


def locate_target(settings: ModelSettings, dtype: torch.dtype, report: Report) -> TargetFiles:
    """Finds a target's folder, downloading or converting it first where needed; see `locate_model`.

    Args:
        dtype: that a GGUF file is converted to.

    Raises:
        StartupError: there is no such model, or it can't be read or run by the code that is asked
            for.
    """
    in_floats = settings.model_backend == "transformers"  # which knows no blocks
    folder = locate_model(settings.model, settings.cache_dir, dtype, report, in_floats)
    return read_target(folder, settings.model_backend, settings.max_model_len)


def read_target(
    folder: Path, backend: ModelBackend = "auto", max_model_len: int | None = None
) -> TargetFiles:
    """Reads the config of a checkpoint's folder.

    Args:
        backend: whose code is to run it.
        max_model_len: the longest sequence that is wanted; None for what the model was made for.

    Raises:
        StartupError: it is no checkpoint, or one that this backend can't run.
    """
    raw = read_config(folder)
    if backend == "native":
        return TargetFiles(folder, model_config(raw))
    if backend == "auto":
        try:
            return TargetFiles(folder, model_config(raw))
        except UnsupportedModelError:
            pass  # transformers may run it, and says what stands in the way where it can't
    return _by_transformers(folder, raw, max_model_len)


def _by_transformers(folder: Path, raw: dict[str, Any], max_model_len: int | None) -> TargetFiles:
    from server.models.hf.config import read_hf_model

    found = read_hf_model(folder, raw, max_model_len)
    return TargetFiles(folder, found.config, found)


def choose_form(
    files: TargetFiles, placement: Placement, quantization: QuantizationChoice
) -> Quantization | None:
    """The form of a whole model's linear weights in a place; None keeps them in floats.

    Raises:
        ConfigError: no kernels here take the quantization that was asked for.
    """
    if files.hf is None:
        return choose_quantization(quantization, files.folder, files.config, placement)
    return round_quantization(quantization, placement)


def load_target(
    files: TargetFiles,
    placement: Placement,
    quantization: Quantization | None = None,
    all_floats: bool = False,
) -> LoadedTarget:
    """Loads this rank's part of the weights.

    Args:
        quantization: for whole models alone.
        all_floats: also weights that are kept in blocks get their values in floats.

    Raises:
        StartupError: weights are missing, left over, or of another shape.
    """
    if files.hf is not None:
        from server.models.hf.model import load_hf

        return LoadedTarget(files, load_hf(files.folder, files.hf, placement), quantization)
    parameters = LlamaParameters(files.config, placement)
    if quantization is not None and not all_floats:
        parameters.keep_in_blocks(quantization.stored)
    load_weights(files.folder, parameters.slots(), parameters.ignorable, parameters.slices())
    return LoadedTarget(files, parameters, quantization)


def describe_backend(files: TargetFiles) -> str:
    """Whose code runs it, for people."""
    if files.hf is None:
        return "native code"
    return f"code of {files.hf.described}"
