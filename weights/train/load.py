"""Loads a target for training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from server.loading.machine import default_threads, pick_device
from server.loading.target import TargetFiles, choose_form, load_target, locate_target
from server.models.layers import Placement
from server.models.parameters import Parameters
from server.models.quantization import Quantization
from server.report import Report
from server.setting_types import DType, QuantizationChoice
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.train.config import Precision, TrainConfig, chosen_layers
from weights.train.features.induction import copying_layers, induction_scores
from weights.train.features.store import FOLDER, read_key
from weights.train.features.target import TrainTarget, prepare_target
from weights.train.fit.precision import pick_precision
from weights.train.text.prompts import prompt_encoder, usable_template
from weights.train.text.samples import PromptIds

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """A frozen target, and its text's reader."""

    target: TrainTarget
    prompt_ids: PromptIds
    stop_token_ids: frozenset[int]


def load_for_training(
    model: str,
    config: TrainConfig,
    cache_dir: Path,
    report: Report,
    device: DeviceChoice = "auto",
    dtype: DType = "auto",
    quantization: QuantizationChoice = "auto",
) -> TrainingSource:
    """Loads a model in the form in which it is served, where it has quantized weights and this
    machine kernels for them; else in the precision that this machine multiplies faster.

    Args:
        device, dtype, quantization: as `ModelSettings` has them; a `dtype` goes before
            `config.precision`.

    Raises:
        StartupError: there is no such model, or it can't be read.
    """
    # An engine that wrote the text left torch one thread; training needs them all.
    torch.set_num_threads(default_threads())
    source = _Source(model, cache_dir, report)
    files, placement, form = _form(source, config, pick_device(device), dtype, quantization)
    shape = files.config
    # A draft starts from some of the floats, and all have a part in the target's identity.
    parameters = load_target(files, placement, form, all_floats=True).parameters
    layers = chosen_layers(config, shape)
    if layers is None:
        layers = _probed_layers(config, parameters, report)
    target = prepare_target(parameters, layers, form)
    name = files.folder.name
    report(f"loaded {name}: {shape.num_layers} layers, {target.form} on {placement.device}")
    hf_tokenizer = load_hf_tokenizer(files.folder)
    tokenizer = from_hf(hf_tokenizer)
    prompt_ids = prompt_encoder(tokenizer, usable_template(ChatTemplate(hf_tokenizer, model)))
    stop_ids = set(shape.eos_token_ids)
    if tokenizer.eos_id is not None:
        stop_ids.add(tokenizer.eos_id)
    return TrainingSource(target, prompt_ids, frozenset(stop_ids))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the model comes from."""

    model: str
    cache_dir: Path
    report: Report

    def locate(self, dtype: torch.dtype) -> TargetFiles:
        return locate_target(self.model, self.cache_dir, dtype, self.report)


_Form = tuple[TargetFiles, Placement, Quantization | None]


def _form(
    source: _Source,
    config: TrainConfig,
    device: torch.device,
    dtype: DType,
    quantization: QuantizationChoice,
) -> _Form:
    precision = _precision(config) if dtype == "auto" else dtype
    may_be_stored = (precision == "auto" and device.type == "cpu") or dtype == "bfloat16"
    if may_be_stored and quantization != "none":
        stored = _placed(source, Placement(device, torch.bfloat16), quantization)
        if stored[2] is not None:
            return stored
    chosen = torch.float16 if precision == "float16" else pick_precision(precision, device)
    # A precision that was asked for is not to be undone by the weights' own form.
    wish = "none" if quantization == "auto" else quantization
    return _placed(source, Placement(device, chosen), wish)


def _placed(source: _Source, placement: Placement, quantization: QuantizationChoice) -> _Form:
    files = source.locate(placement.dtype)
    return files, placement, choose_form(files, placement, quantization)


def _precision(config: TrainConfig) -> Precision:
    """What was asked for, or what the features in the work folder were made in: which one is faster
    is measured, and may come out differently in the next run."""
    held = read_key(config.work / FOLDER)
    if config.precision == "auto" and held is not None and held.form in ("float32", "bfloat16"):
        return held.form
    return config.precision


def _probed_layers(config: TrainConfig, parameters: Parameters, report: Report) -> tuple[int, ...]:
    """Those the features in the work folder are of, else those that the probe finds."""
    held = read_key(config.work / FOLDER)
    if held is not None:
        return held.glimpse_layers
    scores = induction_scores(parameters)
    layers = copying_layers(scores)
    shown = ", ".join(f"{layer} ({scores[layer]:.2f})" for layer in layers)
    report(f"the draft reads layers {shown}; in brackets how well they copy, from 0 to 1")
    return layers
