from typing import Any

import numpy as np
import pytest
import torch

from server.errors import UnsupportedModelError
from weights.gguf.rope import llama3_factors, rope_parameters


@pytest.mark.parametrize(("theta", "head_dim", "factor"), [(5e5, 128, 8.0), (5e5, 64, 32.0)])
def test_llama3_factors_match_transformers(theta: float, head_dim: int, factor: float) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = rope_parameters(
        {"rope.freq_base": theta}, head_dim, llama3_factors(theta, head_dim, factor).astype("f4")
    )
    assert parameters["factor"] == pytest.approx(factor)
    config: Any = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters=parameters,
    )
    scaled, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    assert attention_factor == 1.0
    np.testing.assert_allclose(
        plain / llama3_factors(theta, head_dim, factor), scaled.numpy(), rtol=1e-5
    )


def test_the_factor_is_found_where_no_frequency_is_fully_stretched() -> None:
    # The longest wavelength of this small base lies between the two borders.
    factors = llama3_factors(1_500.0, 64, 8.0)
    assert 1.0 < factors.max() < 8.0
    found = rope_parameters({"rope.freq_base": 1_500.0}, 64, factors.astype(np.float32))
    assert found["factor"] == 8.0


def test_factors_of_one_scale_nothing() -> None:
    found = rope_parameters({"rope.freq_base": 1e4}, 8, np.ones(4, np.float32))
    assert found == {"rope_theta": 1e4, "rope_type": "default"}


def test_factors_on_top_of_another_scaling_are_refused() -> None:
    settings = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    with pytest.raises(
        UnsupportedModelError, match="rope scaling 'linear' together with rope_freqs"
    ):
        rope_parameters(settings, 8, np.full(4, 2.0, np.float32))
