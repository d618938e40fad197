"""Loads a target for training."""

from dataclasses import dataclass

import torch

from server.config import ModelSettings
from server.loading.machine import default_threads, pick_device, pick_dtype
from server.loading.target import TargetFiles, choose_form, load_target, locate_target
from server.loading.text import end_ids
from server.models.layers import Placement
from server.models.parameters import Parameters
from server.models.quantization import Quantization
from server.report import Report
from server.setting_types import QuantizationChoice
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.quantization import describe
from weights.train.config import Precision, TrainConfig, chosen_layers
from weights.train.features.induction import copying_layers, induction_scores
from weights.train.features.recorded import known_key
from weights.train.features.target import TrainTarget, prepare_target
from weights.train.fit.precision import pick_precision
from weights.train.text.prompts import prompt_encoder, usable_template
from weights.train.text.samples import PromptIds


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """A frozen target, and its text's reader."""

    target: TrainTarget
    prompt_ids: PromptIds
    stop_token_ids: frozenset[int]


def load_for_training(
    settings: ModelSettings, config: TrainConfig, report: Report
) -> TrainingSource:
    """Loads a model in the form in which it is served, where it has quantized weights and this
    machine kernels for them; else in the precision that this machine multiplies faster.

    Args:
        settings: a dtype goes before `config.precision`.

    Raises:
        StartupError: there is no such model, or it can't be read.
    """
    # An engine that wrote the text left torch one thread; training needs them all.
    torch.set_num_threads(default_threads())
    files, placement, form = _form(settings, config, report)
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
    template = usable_template(ChatTemplate(hf_tokenizer, settings.model))
    prompt_ids = prompt_encoder(tokenizer, template)
    return TrainingSource(target, prompt_ids, end_ids(shape, tokenizer))


def written_form(settings: ModelSettings, report: Report) -> str:
    """The form in which an engine keeps the weights, as `TrainTarget.form`."""
    device = pick_device(settings.device)
    placement = Placement(device, pick_dtype(settings.dtype, device))
    files = locate_target(settings, placement.dtype, report)
    return describe(choose_form(files, placement, settings.quantization), placement.dtype)


_Form = tuple[TargetFiles, Placement, Quantization | None]


def _form(settings: ModelSettings, config: TrainConfig, report: Report) -> _Form:
    device, dtype = pick_device(settings.device), settings.dtype
    quantization = settings.quantization
    precision = _precision(config) if dtype == "auto" else dtype

    def placed(placement: Placement, wish: QuantizationChoice) -> _Form:
        files = locate_target(settings, placement.dtype, report)
        return files, placement, choose_form(files, placement, wish)

    may_be_stored = (precision == "auto" and device.type == "cpu") or dtype == "bfloat16"
    if may_be_stored and quantization != "none":
        stored = placed(Placement(device, torch.bfloat16), quantization)
        if stored[2] is not None:
            return stored
    chosen = torch.float16 if precision == "float16" else pick_precision(precision, device)
    # A precision that was asked for is not to be undone by the weights' own form.
    wish = "none" if quantization == "auto" else quantization
    return placed(Placement(device, chosen), wish)


def _precision(config: TrainConfig) -> Precision:
    """What was asked for, or what the features in the work folder were made in: which one is faster
    is measured, and may come out differently in the next run."""
    held = known_key(config.work)
    if config.precision == "auto" and held is not None and held.form in ("float32", "bfloat16"):
        return held.form
    return config.precision


def _probed_layers(config: TrainConfig, parameters: Parameters, report: Report) -> tuple[int, ...]:
    """Those the features in the work folder are of, else those that the probe finds."""
    held = known_key(config.work)
    if held is not None:
        return held.glimpse_layers
    scores = induction_scores(parameters)
    layers = copying_layers(scores)
    shown = ", ".join(f"{layer} ({scores[layer]:.2f})" for layer in layers)
    report(f"the draft reads layers {shown}; in brackets how well they copy, from 0 to 1")
    return layers
