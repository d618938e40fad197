"""The two published formats of GliDe drafts, in synthesised state dicts of their shapes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from server.cli.convert import convert as convert_command
from server.errors import CheckpointError, UnsupportedModelError
from server.models.config import ModelConfig, RopeConfig
from server.models.glide_config import GlideConfig, glide_config, target_shape
from tests.models.dense_glide import Draft
from tests.weights.foreign_drafts import (
    QWEN,
    VICUNA,
    Tensors,
    Write,
    authors_tensors,
    longspec_tensors,
    pickled,
    pickled_file,
    safetensors,
    safetensors_file,
    write_authors,
    write_target,
)
from tests.weights.test_glide import assert_drafts_as, load
from weights.checkpoint import read_json
from weights.glide import convert


def assert_converts_to(
    source: Path, out: Path, config: GlideConfig, weights: Tensors, target: ModelConfig
) -> None:
    """The written draft does as the plain implementation with that config."""
    convert(source, out, target)
    shared = torch.randn(2, 53, 24, generator=torch.Generator().manual_seed(2)) * 0.7
    draft = Draft(config, target, weights, shared[0], shared[1])
    written = glide_config(read_json(out / "config.json"))
    layers = tuple(config.glimpsed_layers(index) for index in range(config.num_layers))
    assert written == replace(config, rope=written.rope, glimpse_layers=layers)
    assert_drafts_as(load(out, draft), draft)


@pytest.mark.parametrize("write", [pickled, pickled_file, safetensors, safetensors_file])
@pytest.mark.parametrize("prefix", ["", "small_model."])
@pytest.mark.parametrize("layers", [1, 2])
def test_authors_drafts(layers: int, prefix: str, write: Write, tmp_path: Path) -> None:
    """Cross-attention rotated by base 10000 though the target has another; no norm before it."""
    tensors = authors_tensors(layers)
    stored = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    for i in range(layers):
        stored[f"{prefix}model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    expected = GlideConfig(
        hidden_size=30, intermediate_size=44, num_layers=layers, num_heads=5, num_kv_heads=5,
        head_dim=6, rms_norm_eps=1e-5, target=target_shape(VICUNA), rope=RopeConfig(theta=500.0),
        cross_norm=False, cross_rope_theta=10_000.0, own_embedding=True, own_head=True,
    )  # fmt: skip
    source = write_authors(tmp_path, stored, write)
    assert_converts_to(source, tmp_path / "out", expected, tensors, VICUNA)


@pytest.mark.parametrize("write", [pickled, pickled_file, safetensors, safetensors_file])
def test_longspec_drafts(write: Write, tmp_path: Path) -> None:
    """Embedding and head are the target's, rotary too; there is no norm before the head."""
    stored = longspec_tensors()
    weights = {
        f"model.layers.0.{name}": tensor
        for name, tensor in stored.items()
        if not name.startswith(("cross_attn.k", "cross_attn.v", "post_"))
    }
    for ours, theirs in (
        ("cross_attention_layernorm", "post_self_attention_layernorm"),
        ("post_attention_layernorm", "post_cross_attention_layernorm"),
    ):
        weights[f"model.layers.0.{ours}.weight"] = stored[f"{theirs}.weight"]
    expected = GlideConfig(
        hidden_size=24, intermediate_size=40, num_layers=1, num_heads=6, num_kv_heads=2,
        head_dim=8, rms_norm_eps=1e-5, target=target_shape(QWEN), attention_bias=True,
        cross_bias=True, final_norm=False,
    )  # fmt: skip
    assert_converts_to(write(tmp_path, stored), tmp_path / "out", expected, weights, QWEN)


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def reshape(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


LAYER = "model.layers.0"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("lm_head.weight"), r"is missing 1 tensor: lm_head\.weight"),
        (drop("model.embed_tokens.weight"), r"is missing 1 tensor: model\.embed_tokens"),
        (drop(f"{LAYER}.cross_attn.o_proj.weight"), r"is missing .*cross_attn\.o_proj"),
        (drop(f"{LAYER}.self_attn.q_proj.weight"), r"is missing .*self_attn\.q_proj"),
        (reshape("model.layers.1.mlp.up_proj.weight", 44, 30), r"is missing 10 tensors"),
        (reshape("model.layers.0.extra", 3), r"has left-over 1 tensor: model\.layers\.0\.extra"),
        (
            reshape("model.norm.weight", 31),
            r"norm\.weight has shape \[31\], the model needs \[30\]",
        ),
        (reshape(f"{LAYER}.self_attn.q_proj.weight", 31, 30), "31 rows, which 5 heads don't"),
        (reshape(f"{LAYER}.cross_attn.q_proj.weight", 62, 30), "62 rows, which 4 heads don't"),
        (reshape("model.embed_tokens.weight", 53), "too flat"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(30, dtype=torch.int64)}),
            r"norm\.weight has type torch\.int64",
        ),
        (reshape("small_model.model.norm.weight", 30), r"holds model\.norm\.weight twice"),
    ],
)
def test_strange_authors_drafts(
    spoil: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    tensors = authors_tensors()
    spoil(tensors)
    source = write_authors(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out", VICUNA)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["num_attention_heads", "large_num_attention_heads"])
def test_heads_must_be_told(key: str, tmp_path: Path) -> None:
    for value, message in ((None, f"has no '{key}'"), ("many", f"has {key}='many'")):
        source = write_authors(tmp_path, authors_tensors(), changes={key: value})
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out", VICUNA)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("self_attn.v_proj.weight"), r"is missing 1 tensor: .*self_attn\.v_proj"),
        (drop("post_cross_attention_layernorm.weight"), "post_attention_layernorm"),
        (drop("cross_attn.q_proj.weight"), r"cross_attn\.q_proj\.weight"),
        (reshape("self_attn.k_proj.weight", 15, 24), "15 rows, which 8"),
        (drop("self_attn.q_proj.weight"), "no known GliDe format"),
    ],
)
def test_strange_longspec_drafts(
    spoil: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    tensors = longspec_tensors()
    spoil(tensors)
    with pytest.raises(CheckpointError, match=message):
        convert(pickled(tmp_path, tensors), tmp_path / "out", QWEN)


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("vocab_size", 54, "vocabulary of 53, the target's is 54"),
        ("num_heads", 8, "query heads of 4, the target's is 8"),
        ("head_dim", 8, "head size of 16, the target's is 8"),
    ],
)
def test_authors_draft_of_another_target(
    name: str, number: int, message: str, tmp_path: Path
) -> None:
    source, other = write_authors(tmp_path, authors_tensors()), replace(VICUNA, **{name: number})
    with pytest.raises(UnsupportedModelError, match=message):
        convert(source, tmp_path / "out", other)


def test_unreadable_sources(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    for content in (b"not a pickle", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="can't be read as tensors"):
            convert(path, tmp_path / "out", VICUNA)
    for content, message in (([1, 2], "found a list"), ({"a": 1}, "a is a int, not a tensor")):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path, tmp_path / "out", VICUNA)
    with pytest.raises(CheckpointError, match="No such file"):
        convert(tmp_path / "nothing.bin", tmp_path / "out", VICUNA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds neither"):
        convert(tmp_path / "empty", tmp_path / "out", VICUNA)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"a": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="can't be read as tensors"):
        convert(tmp_path, tmp_path / "out", VICUNA)
    assert not (tmp_path / "sprung").exists()


def test_an_older_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    source = write_authors(tmp_path, authors_tensors())
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        convert(source, source, VICUNA)


def test_command(tmp_path: Path) -> None:
    """The target is named as a model is elsewhere; only its config is read."""
    source, out, target = (tmp_path / name for name in ("source", "out", "target"))
    source.mkdir()
    write_authors(source, authors_tensors())
    write_target(target)
    app = typer.Typer()
    app.command()(convert_command)
    result = CliRunner().invoke(app, [str(source), str(out), "--target", str(target)])
    assert result.exit_code == 0, result.output
    assert f"--draft {out}" in result.output.replace("\n", "")
    assert glide_config(read_json(out / "config.json")).target == target_shape(VICUNA)
