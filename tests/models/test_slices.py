"""Which part of a checkpoint each rank loads: parts tile the whole, and are loaded exactly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from server.errors import CheckpointError
from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.shard import Shard
from tests.engine.tiny import CPU, MODEL
from weights.checkpoint import load_weights

BIASED = replace(MODEL, attention_bias=True, output_bias=True, mlp_bias=True, qk_norm=True)
DRAFT = GlideConfig(
    hidden_size=MODEL.hidden_size,
    intermediate_size=41,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    target=target_shape(MODEL),
    glimpse_layers=((0, -1),),
    glimpse_hidden=True,
    cross_bias=True,
    own_embedding=True,
    own_head=True,
    draft_vocab_size=39,
)


def placed(rank: int, size: int) -> Placement:
    return Placement(CPU, torch.float32, Shard(rank, size))


def write(folder: Path, model: LlamaParameters | GlideParameters) -> dict[str, torch.Tensor]:
    """A checkpoint of random tensors for a whole model."""
    tensors = {
        name: torch.randn(slot.shape)
        for name, slot in model.slots().items()
        if slot.is_floating_point()
    }
    save_file(tensors, folder / "model.safetensors")
    return tensors


def loaded(folder: Path, model: LlamaParameters | GlideParameters) -> dict[str, torch.Tensor]:
    slots = {name: slot for name, slot in model.slots().items() if slot.is_floating_point()}
    load_weights(folder, slots, model.ignorable, model.slices())
    return slots


def test_spans_tile_and_differ_by_the_rest_alone() -> None:
    for total in (1, 2, 7, 48, 61):
        for size in (1, 2, 3, 4):
            spans = [Shard(rank, size).span(total) for rank in range(size)]
            assert [entry for span in spans for entry in span] == list(range(total))


@pytest.mark.parametrize(
    ("num_kv_heads", "size", "expected"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (2, 2, [[0], [1]]),
        (1, 2, [[0], [0]]),
        (2, 4, [[0], [0], [1], [1]]),
        (2, 8, [[0]] * 4 + [[1]] * 4),
    ],
)
def test_kv_heads_lie_beside_the_query_heads_that_read_them(
    num_kv_heads: int, size: int, expected: list[list[int]]
) -> None:
    shards = [Shard(rank, size) for rank in range(size)]
    assert [list(shard.kv_heads(num_kv_heads)) for shard in shards] == expected
    num_heads = 8
    for shard in shards:
        read = {head * num_kv_heads // num_heads for head in shard.span(num_heads)}
        assert read == set(shard.kv_heads(num_kv_heads))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "fits"),
    [(9, 3, 2, False), (9, 3, 3, True), (6, 3, 2, False), (4, 1, 4, True), (4, 2, 8, False)],
)
def test_which_heads_can_be_shared_out(heads: int, kv_heads: int, size: int, fits: bool) -> None:
    assert Shard(0, size).splits_heads(heads, kv_heads) == fits


@pytest.mark.parametrize("config", [MODEL, BIASED, replace(MODEL, tie_word_embeddings=True)])
@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_loads_slices_of_the_whole_tensors(
    config: ModelConfig, size: int, tmp_path: Path
) -> None:
    tensors = write(tmp_path, LlamaParameters(config, placed(0, 1)))
    prefix, head_dim = "model.layers.1.", config.head_dim
    for rank in range(size):
        got = loaded(tmp_path, LlamaParameters(config, placed(rank, size)))
        assert got.keys() == tensors.keys()
        heads, inner = 4 // size, 48 // size
        query = slice(rank * heads * head_dim, (rank + 1) * heads * head_dim)
        kv = rank * 2 // size
        mlp, tokens = slice(rank * inner, (rank + 1) * inner), Shard(rank, size).span(61)
        expected = {
            "self_attn.q_proj.weight": (query,),
            "self_attn.k_proj.weight": (slice(kv * head_dim, (kv + 1) * head_dim),),
            "self_attn.v_proj.weight": (slice(kv * head_dim, (kv + 1) * head_dim),),
            "self_attn.o_proj.weight": (slice(None), query),
            "mlp.gate_proj.weight": (mlp,),
            "mlp.up_proj.weight": (mlp,),
            "mlp.down_proj.weight": (slice(None), mlp),
            "self_attn.q_proj.bias": (query,),
            "mlp.up_proj.bias": (mlp,),
            "self_attn.o_proj.bias": (slice(None),),
            "mlp.down_proj.bias": (slice(None),),
            "self_attn.q_norm.weight": (slice(None),),
            "input_layernorm.weight": (slice(None),),
        }
        for name, part in expected.items():
            if prefix + name in tensors:
                assert torch.equal(got[prefix + name], tensors[prefix + name][part]), name
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                assert torch.equal(got[name], tensors[name][tokens.start : tokens.stop]), name


def test_a_draft_takes_the_targets_heads_for_its_glimpse(tmp_path: Path) -> None:
    tensors = write(tmp_path, GlideParameters(DRAFT, MODEL, placed(0, 1)))
    layer = "model.layers.0."
    for rank in range(2):
        got = loaded(tmp_path, GlideParameters(DRAFT, MODEL, placed(rank, 2)))
        assert got.keys() == tensors.keys()
        half = slice(rank * 16, rank * 16 + 16)
        for j in range(2):
            name = f"{layer}cross_attn.{j}."
            assert torch.equal(got[f"{name}q_proj.weight"], tensors[f"{name}q_proj.weight"][half])
            assert torch.equal(got[f"{name}q_proj.bias"], tensors[f"{name}q_proj.bias"][half])
            whole = tensors[f"{name}o_proj.weight"]
            assert torch.equal(got[f"{name}o_proj.weight"], whole[:, half])
        inner, head = slice(rank * 21, rank * 21 + 21), slice(rank * 20, rank * 20 + 20)
        name = f"{layer}mlp.down_proj.weight"
        assert torch.equal(got[name], tensors[name][:, inner])
        assert torch.equal(got["lm_head.weight"], tensors["lm_head.weight"][head])
        assert torch.equal(got["hidden_proj.weight"], tensors["hidden_proj.weight"])


def test_a_drafts_heads_that_do_not_divide_are_on_every_rank(tmp_path: Path) -> None:
    config = replace(DRAFT, num_heads=3, num_kv_heads=3)
    tensors = write(tmp_path, GlideParameters(config, MODEL, placed(0, 1)))
    parameters = GlideParameters(config, MODEL, placed(1, 2))
    got = loaded(tmp_path, parameters)
    assert parameters.layers[0].config.num_kv_heads == 3
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        full = f"model.layers.0.self_attn.{name}.weight"
        assert torch.equal(got[full], tensors[full])
    name = "model.layers.0.mlp.gate_proj.weight"
    assert torch.equal(got[name], tensors[name][21:])


def test_a_misshapen_tensor_is_refused_with_the_whole_shape(tmp_path: Path) -> None:
    model = LlamaParameters(MODEL, placed(0, 1))
    tensors = write(tmp_path, model)
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file(tensors | {name: torch.zeros(32, 16)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[32, 16\], the model needs \[32, 32\]"):
        loaded(tmp_path, LlamaParameters(MODEL, placed(1, 2)))
