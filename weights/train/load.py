"""Loads a target for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from server.machine import default_threads, pick_device
from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaModel
from server.models.quantization import Quantization
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.checkpoint import load_weights, read_config
from weights.locate import locate_model
from weights.quantization import choose_quantization, describe
from weights.train.config import TrainConfig, glimpsed_layers
from weights.train.precision import pick_precision
from weights.train.samples import PromptIds
from weights.train.target import TrainTarget, prepare_target


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    target: TrainTarget
    prompt_ids: PromptIds
    stop_token_ids: frozenset[int]


def load_target(
    model: str, config: TrainConfig, cache_dir: Path, report: Callable[[str], None]
) -> LoadedTarget:
    """Loads a model in the form in which it is served, where it has quantized weights and this
    machine kernels for them; else in the precision that this machine multiplies faster.

    Raises:
        StartupError: there is no such model, or it can't be read.
    """
    # An engine that wrote the text left torch one thread; training needs them all.
    torch.set_num_threads(default_threads())
    folder, placement, quantization = _form(model, config, cache_dir.expanduser(), report)
    shape = model_config(read_config(folder))
    network = LlamaModel(shape, placement)
    load_weights(folder, network.slots(), network.ignorable)
    form = describe(quantization, placement.dtype)
    report(f"loaded {folder.name}: {shape.num_layers} layers, {form} on {placement.device}")
    hf_tokenizer = load_hf_tokenizer(folder)
    tokenizer, template = from_hf(hf_tokenizer), ChatTemplate(hf_tokenizer, model)

    def prompt_ids(prompt: str) -> Sequence[int]:
        text = template.render([{"role": "user", "content": prompt}])
        return tokenizer.encode(text, add_special_tokens=False)

    stop_ids = set(shape.eos_token_ids)
    if tokenizer.eos_id is not None:
        stop_ids.add(tokenizer.eos_id)
    target = prepare_target(network, glimpsed_layers(config, shape), quantization)
    return LoadedTarget(target, prompt_ids, frozenset(stop_ids))


def _form(
    model: str, config: TrainConfig, cache_dir: Path, report: Callable[[str], None]
) -> tuple[Path, Placement, Quantization | None]:
    device = pick_device("auto")
    if config.precision == "auto" and device.type == "cpu":
        folder = locate_model(model, cache_dir, torch.bfloat16, report)
        placement = Placement(device, torch.bfloat16)
        shape = model_config(read_config(folder))
        quantization = choose_quantization("auto", folder, shape, placement)
        if quantization is not None:
            return folder, placement, quantization
    placement = Placement(device, pick_precision(config.precision, device))
    return locate_model(model, cache_dir, placement.dtype, report), placement, None
