"""Reading a draft's config, and refusing a draft that does not fit."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.errors import UnsupportedModelError
from server.models.config import RopeConfig
from server.models.glide_config import GlideConfig, check_fits, config_dict, glide_config
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from tests.models.dense_glide import CPU, make_draft, target_config

TARGET = target_config()
PLAIN = make_draft().config
FULL = make_draft(
    num_layers=2, glimpse_layers=((0, -1), (3,)), glimpse_hidden=True, max_delay=7,
    draft_vocab_size=20, attention_bias=True, cross_norm=False, cross_bias=True,
    cross_rope_theta=10_000.0, rope=RopeConfig(theta=5.0, type="linear", factor=2.0),
    own_embedding=True, own_head=True, final_norm=False,
).config  # fmt: skip


def through_json(config: GlideConfig, **changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(config_dict(config))) | changes


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
def test_round_trip(config: GlideConfig) -> None:
    read = glide_config(through_json(config))
    layers = tuple(config.glimpsed_layers(index) for index in range(config.num_layers))
    assert read == replace(config, glimpse_layers=layers)


@pytest.mark.parametrize(
    ("written", "num_layers", "expected"),
    [
        (None, 1, [(4,)]),
        (None, 2, [(3,), (4,)]),
        ([-1], 1, [(4,)]),
        ([0, 2, -1], 2, [(0, 2, 4), (0, 2, 4)]),
        ([[1], [3, -2]], 2, [(1,), (3, 3)]),
        ([[]], 1, [()]),
        ([[], [4]], 2, [(), (4,)]),
    ],
)
def test_glimpsed_layers(written: object, num_layers: int, expected: list[tuple[int, ...]]) -> None:
    config = glide_config(through_json(PLAIN, num_layers=num_layers, glimpse_layers=written))
    assert [config.glimpsed_layers(index) for index in range(num_layers)] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"shoe_size": 43}, "shoe_size=43: unknown key"),
        ({"hidden_size": "24"}, "hidden_size='24': expected int"),
        ({"num_layers": True}, "num_layers=True: expected int"),
        ({"cross_norm": 1}, "cross_norm=1: expected bool"),
        ({"num_heads": 4}, "num_heads=4: no multiple of 3 KV heads"),
        ({"num_heads": 0}, "num_heads=0: at least 1"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"max_delay": 0}, "max_delay=0"),
        ({"draft_vocab_size": 54}, "draft_vocab_size=54: .* 53 tokens"),
        ({"hidden_size": 20}, "hidden_size=20: .* 24"),
        ({"glimpse_layers": [5]}, "glimpse_layers=5: the target has 5 layers"),
        ({"glimpse_layers": [-6]}, "glimpse_layers=-6: the target has 5 layers"),
        ({"glimpse_layers": [[0], [1]]}, "2 lists for 1 draft layers"),
        ({"glimpse_layers": "last"}, "glimpse_layers='last'"),
        ({"glimpse_layers": [0, [1]]}, "glimpse_layers="),
        ({"num_layers": 6, "glimpse_layers": None}, "num_layers=6: the target has only 5"),
        ({"rope": {"type": "spiral"}}, "rope.type='spiral'"),
        ({"rope": {"theta": "big"}}, "rope.theta='big': expected float"),
        ({"target": {"vocab_size": 53}}, "no 'target.hidden_size'"),
        ({"target": 5}, "target=5"),
    ],
    ids=str,
)
def test_bad_configs_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        glide_config(through_json(PLAIN, **changes))


@pytest.mark.parametrize("key", ["hidden_size", "rms_norm_eps", "target"])
def test_missing_keys_are_named(key: str) -> None:
    raw = through_json(PLAIN)
    del raw[key]
    with pytest.raises(UnsupportedModelError, match=key):
        glide_config(raw)


MISFITS = {
    "hidden_size": (32, "hidden size of 24, the target's is 32"),
    "vocab_size": (54, "vocabulary of 53, the target's is 54"),
    "num_layers": (6, "number of layers of 5, the target's is 6"),
    "num_heads": (8, "number of query heads of 4, the target's is 8"),
    "num_kv_heads": (4, "number of KV heads of 2, the target's is 4"),
    "head_dim": (32, "head size of 16, the target's is 32"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfit_names_both_numbers(name: str) -> None:
    number, message = MISFITS[name]
    other = target_config(**{name: number})
    with pytest.raises(UnsupportedModelError, match=message):
        check_fits(PLAIN, other)
    with pytest.raises(UnsupportedModelError, match=message):
        GlideParameters(PLAIN, other, Placement(CPU, torch.float32))


def test_what_is_not_used_may_differ() -> None:
    """A draft with embedding and head of its own never meets the target's hidden size."""
    own = replace(PLAIN, own_embedding=True, own_head=True)
    check_fits(own, target_config(hidden_size=32))
    with pytest.raises(UnsupportedModelError, match="hidden size of 24, the target's is 32"):
        check_fits(replace(own, glimpse_hidden=True), target_config(hidden_size=32))
    check_fits(PLAIN, TARGET)
    check_fits(PLAIN, target_config(intermediate_size=99, rope=RopeConfig()))
