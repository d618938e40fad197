"""Rotary embeddings that depend on a text's length: Phi's longrope."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config

from server.errors import UnsupportedModelError
from server.models.causal_lm import CausalLM
from server.models.hf.config import read_hf_model
from server.models.hf.model import load_hf
from server.models.layers import Placement
from tests.kernels.paged import CPU, PagedModel
from tests.models.hf.families import reference_model, sizes
from tests.models.hf.theirs import assert_same, their_logits, tokens
from weights.checkpoint import read_config

TRAINED, LONGEST = 40, 96
HALF_HEAD = 6
PHI = Phi3Config(
    **sizes(max_position_embeddings=LONGEST, original_max_position_embeddings=TRAINED),
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0 + 0.1 * i for i in range(HALF_HEAD)],
        "long_factor": [2.0 + 0.7 * i for i in range(HALF_HEAD)],
        "original_max_position_embeddings": TRAINED,
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi")
    reference_model(PHI).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_model(PHI)


def loaded(folder: Path, max_model_len: int | None) -> CausalLM:
    found = read_hf_model(folder, read_config(folder), max_model_len)
    return load_hf(folder, found, Placement(CPU, torch.float32)).freeze()


@pytest.mark.parametrize("max_model_len", [None, 20, TRAINED])
def test_short_frequencies_up_to_the_trained_length(
    folder: Path, reference: Any, max_model_len: int | None
) -> None:
    model = loaded(folder, max_model_len)
    assert model.config.max_position == TRAINED
    note = read_hf_model(folder, read_config(folder), max_model_len).note
    assert note is not None
    assert f"up to {TRAINED} tokens" in note
    text = tokens(TRAINED)
    assert_same(PagedModel(model).run(text, [13, 27]), their_logits(reference, text))


def test_long_frequencies_where_more_is_asked_for(folder: Path, reference: Any) -> None:
    """transformers takes them for a text's whole length, so the first chunk has them too."""
    model = loaded(folder, 80)
    assert read_hf_model(folder, read_config(folder), 80).note is None
    assert model.config.max_position == LONGEST
    text = tokens(TRAINED + 30)
    assert_same(PagedModel(model).run(text, [13, 50, 7]), their_logits(reference, text))
    short = their_logits(reference, text[:13])
    assert not torch.allclose(PagedModel(model).run(text[:13], [13]), short, atol=0.1)


def test_dynamic_frequencies_are_refused(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config = LlamaConfig(**sizes(), rope_parameters=dynamic)
    reference_model(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="dynamic rope depends on the longest text"):
        read_hf_model(tmp_path, read_config(tmp_path))
