"""Loads a target for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.machine import pick_device
from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaModel
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import from_hf, load_hf_tokenizer
from weights.checkpoint import load_weights, read_config
from weights.locate import locate_model
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
    """Loads a model in the precision this machine multiplies faster.

    Raises:
        StartupError: there is no such model, or it can't be read.
    """
    device = pick_device("auto")
    dtype = pick_precision(config.precision, device)
    folder = locate_model(model, cache_dir.expanduser(), dtype, report)
    shape = model_config(read_config(folder))
    network = LlamaModel(shape, Placement(device, dtype))
    load_weights(folder, network.slots(), network.ignorable)
    report(f"loaded {folder.name}: {shape.num_layers} layers, {dtype} on {device}")
    hf_tokenizer = load_hf_tokenizer(folder)
    tokenizer, template = from_hf(hf_tokenizer), ChatTemplate(hf_tokenizer, model)

    def prompt_ids(prompt: str) -> Sequence[int]:
        text = template.render([{"role": "user", "content": prompt}])
        return tokenizer.encode(text, add_special_tokens=False)

    stop_ids = set(shape.eos_token_ids)
    if tokenizer.eos_id is not None:
        stop_ids.add(tokenizer.eos_id)
    target = prepare_target(network, glimpsed_layers(config, shape))
    return LoadedTarget(target, prompt_ids, frozenset(stop_ids))
