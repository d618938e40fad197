"""A draft for a target of transformers' code: the probe for layers that copy, features, first
weights, training, and the draft that comes of it beside its target."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedConfig, Qwen3MoeConfig

from server.engine.types import SpeculationParams
from server.loading.target import load_target, read_target
from server.models.layers import Placement
from server.models.parameters import Parameters
from server.setting_types import ModelBackend
from tests.engine.drafting import glide_drafter
from tests.engine.tiny import CONFIG, TinyEngine, make_request, tokens
from tests.models.hf.families import ALTERNATING, EXPERTS, reference_model, sizes
from tests.weights.train.tiny import (
    CPU,
    LAYERS,
    STOP_ID,
    VOCABULARY,
    no_prompt,
    tiny_config,
    write_text,
)
from weights.glide import load_glide
from weights.train.features.induction import induction_scores
from weights.train.features.target import prepare_target
from weights.train.train import train

SIZES = sizes(vocab_size=VOCABULARY, eos_token_id=STOP_ID, max_position_embeddings=256, head_dim=16)
SHAPES: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=9, layer_types=ALTERNATING),
    "qwen3-moe": Qwen3MoeConfig(**SIZES, num_experts=6, **EXPERTS),
}
PLACEMENT = Placement(CPU, torch.float32)


def loaded(config: PreTrainedConfig, folder: Path, backend: ModelBackend) -> Parameters:
    reference = reference_model(config)
    reference.config.architectures = [type(reference).__name__]
    reference.save_pretrained(folder)
    return load_target(read_target(folder, backend), PLACEMENT).parameters


def test_copying_layers_are_found_as_in_native_code(tmp_path: Path) -> None:
    native, other = (
        induction_scores(loaded(LlamaConfig(**SIZES), tmp_path / name, name))
        for name in ("native", "transformers")
    )
    assert other == pytest.approx(native, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_draft_is_trained_and_served(shape: str, tmp_path: Path) -> None:
    parameters = loaded(SHAPES[shape], tmp_path / "target", "auto")
    target = prepare_target(parameters, LAYERS)
    text = write_text(tmp_path / "text.jsonl", target, 300)
    config = tiny_config(tmp_path, text, steps=40)
    found = train(config, target, no_prompt, {STOP_ID}, Console(quiet=True)).validation
    assert found is not None
    assert found.agreement[0] > 3 / VOCABULARY
    draft = load_glide(config.out, target.config, PLACEMENT, target.embedding, target.head)
    request = make_request("r", list(range(20)), max_tokens=40, ignore_eos=True)
    plain = TinyEngine(model=target.model).run([request])
    speculated = replace(request, speculation=SpeculationParams(policy="cape"))
    engine = TinyEngine(
        CONFIG, lambda config, caches: glide_drafter(draft, config, caches), target.model
    )
    outputs = engine.run([speculated])[request.request_id]
    assert tokens(outputs) == tokens(plain[request.request_id])
    assert outputs[-1].speculation is not None
    assert outputs[-1].speculation.num_drafted > 0
