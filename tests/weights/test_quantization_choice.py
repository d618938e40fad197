"""Which form of the weights is chosen, and what is said about it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from server.errors import ConfigError
from server.kernels.quantized import QuantizedWeight, RoundedKind, quantize
from server.models.config import ModelConfig, RopeConfig
from server.models.layers import Placement
from server.models.quantization import Quantization
from server.setting_types import QuantizationChoice
from tests.kernels.block_weights import random_blocks
from weights import quantization
from weights.blocks import Stored, write_blocks
from weights.quantization import choose_quantization, describe, describe_rounded

CPU = torch.device("cpu")
BFLOAT16 = Placement(CPU, torch.bfloat16)
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=40,
    hidden_size=64,
    intermediate_size=96,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    rms_norm_eps=1e-5,
    max_position=64,
    tie_word_embeddings=False,
    rope=RopeConfig(theta=10_000.0),
)
FOUR, EIGHT = "model.layers.0.mlp.down_proj.weight", "lm_head.weight"
STORED = {
    FOUR: quantize(torch.ones(64, 96), "q4_1"),
    EIGHT: quantize(torch.ones(40, 64), "q8_0"),
}
UNFIT = {
    "hidden": replace(CONFIG, hidden_size=80),
    "inner": replace(CONFIG, intermediate_size=100),
    "heads": replace(CONFIG, num_heads=3, head_dim=48),
}
ROUNDED: tuple[tuple[QuantizationChoice, RoundedKind], ...] = (
    ("int8", "q8_0"),
    ("int4", "q4_1"),
)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`library(there)`: whether this machine has the native kernels; it has them at first."""

    def there(there: bool) -> None:
        monkeypatch.setattr(quantization, "native_library", lambda: object() if there else None)

    there(True)
    return there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's folder that has blocks of both kinds."""
    write_stored(tmp_path)
    return tmp_path


def write_stored(folder: Path, others: dict[str, str] | None = None) -> None:
    kept = {n: Stored(w.kind, (len(w), w.blocks.shape[1])) for n, w in STORED.items()}
    write_blocks(folder, kept, (weight.blocks for weight in STORED.values()), others)


def assert_stored(chosen: Quantization | None, kind: RoundedKind, *names: str) -> None:
    assert chosen is not None
    assert chosen.kind == kind
    assert set(chosen.stored) == set(names)
    for name in names:
        assert chosen.stored[name].kind == STORED[name].kind
        assert torch.equal(chosen.stored[name].blocks, STORED[name].blocks)


def test_auto_takes_what_is_stored(folder: Path) -> None:
    assert_stored(choose_quantization("auto", folder, CONFIG, BFLOAT16), "q8_0", FOUR, EIGHT)


def test_auto_leaves_checkpoints_without_blocks_alone(tmp_path: Path) -> None:
    assert choose_quantization("auto", tmp_path, CONFIG, BFLOAT16) is None


def test_auto_needs_the_native_kernels(folder: Path, library: Callable[[bool], None]) -> None:
    library(False)
    assert choose_quantization("auto", folder, CONFIG, BFLOAT16) is None


PLACEMENTS = {
    "float32": Placement(CPU, torch.float32),
    "float16": Placement(CPU, torch.float16),
    "elsewhere": Placement(torch.device("meta"), torch.bfloat16),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_auto_needs_bfloat16_on_a_cpu(folder: Path, name: str) -> None:
    assert choose_quantization("auto", folder, CONFIG, PLACEMENTS[name]) is None


@pytest.mark.parametrize("config", UNFIT.values(), ids=UNFIT)
def test_auto_leaves_unfit_widths_alone(folder: Path, config: ModelConfig) -> None:
    assert choose_quantization("auto", folder, config, BFLOAT16) is None


def test_auto_leaves_heads_alone_that_the_kernels_do_not_take(folder: Path) -> None:
    config = replace(CONFIG, num_heads=2, head_dim=48)
    assert choose_quantization("auto", folder, config, BFLOAT16) is None
    assert choose_quantization("int8", folder, config, BFLOAT16) is not None


@pytest.mark.parametrize("placement", [BFLOAT16, *PLACEMENTS.values()])
def test_none_is_none(folder: Path, placement: Placement) -> None:
    assert choose_quantization("none", folder, CONFIG, placement) is None
    assert choose_quantization("none", folder, UNFIT["hidden"], placement) is None


def test_none_does_not_even_read_the_blocks(tmp_path: Path) -> None:
    (tmp_path / "blocks.safetensors").write_bytes(b"broken")
    assert choose_quantization("none", tmp_path, CONFIG, BFLOAT16) is None


@pytest.mark.parametrize("has_library", [True, False])
@pytest.mark.parametrize(("wanted", "kind"), ROUNDED)
def test_int8_and_int4_are_done_everywhere(
    tmp_path: Path,
    library: Callable[[bool], None],
    wanted: QuantizationChoice,
    kind: RoundedKind,
    has_library: bool,
) -> None:
    """Without blocks and without kernels, too: torch multiplies the rounded weights then."""
    library(has_library)
    assert_stored(choose_quantization(wanted, tmp_path, CONFIG, BFLOAT16), kind)


def test_what_is_stored_is_not_rounded_again(folder: Path) -> None:
    assert_stored(choose_quantization("int8", folder, CONFIG, BFLOAT16), "q8_0", FOUR, EIGHT)
    assert_stored(choose_quantization("int4", folder, CONFIG, BFLOAT16), "q4_1", FOUR, EIGHT)


@pytest.mark.parametrize("config", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("wanted", ["int8", "int4"])
def test_unfit_widths_are_refused_naming_the_key(
    tmp_path: Path, wanted: QuantizationChoice, config: ModelConfig
) -> None:
    widths = (config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim)
    shown = ", ".join(map(str, widths))
    with pytest.raises(ConfigError, match=f"quantization='{wanted}'.*of 32.* {shown}$") as caught:
        choose_quantization(wanted, tmp_path, config, BFLOAT16)
    assert caught.value.key == "quantization"


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("wanted", ["int8", "int4"])
def test_other_precisions_and_devices_are_refused_naming_the_key(
    tmp_path: Path, wanted: QuantizationChoice, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"quantization='{wanted}'.*bfloat16 on a CPU") as caught:
        choose_quantization(wanted, tmp_path, CONFIG, PLACEMENTS[name])
    assert caught.value.key == "quantization"


def weights(*kinds: RoundedKind) -> dict[str, QuantizedWeight]:
    return {f"{i}": quantize(torch.ones(1, 32), kind) for i, kind in enumerate(kinds)}


K_QUANTS = {"a": random_blocks("q6_k", 1, 256), "b": random_blocks("q4_k", 1, 256)}


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (None, "bfloat16"),
        (Quantization("q8_0"), "q8_0 weights in bfloat16"),
        (Quantization("q4_1", weights("q4_1")), "q4_1 weights in bfloat16"),
        (Quantization("q8_0", weights("q4_1")), "q4_1 weights in bfloat16"),
        (Quantization("q8_0", K_QUANTS), "q4_k and q6_k weights in bfloat16"),
        (
            Quantization("q8_0", K_QUANTS, {"c": "floats"}),
            "q4_k, q6_k and q8_0 weights in bfloat16",
        ),
    ],
)
def test_description(chosen: Quantization | None, text: str) -> None:
    assert describe(chosen, torch.bfloat16) == text
    assert describe(None, torch.float32) == "float32"


def test_what_is_rounded_is_known_by_its_form(tmp_path: Path) -> None:
    query = "model.layers.0.self_attn.q_proj.weight"
    others = {query: "q3_k", "of.another.model": "q2_k"}
    write_stored(tmp_path, others)
    chosen = choose_quantization("auto", tmp_path, CONFIG, BFLOAT16)
    assert chosen is not None
    assert chosen.rounded[query] == "q3_k"
    assert sorted(chosen.rounded.values()) == ["floats"] * (8 - len(STORED) - 1) + ["q3_k"]


def test_blocks_that_are_only_read_go_to_8_bits(tmp_path: Path) -> None:
    write_blocks(tmp_path, {}, (), {FOUR: "q3_k"})
    chosen = choose_quantization("auto", tmp_path, CONFIG, BFLOAT16)
    assert_stored(chosen, "q8_0")


def test_rounding_is_said_with_its_cost() -> None:
    forms = {"c": "q3_k", "d": "q3_k", "e": "floats"}
    assert list(describe_rounded(Quantization("q8_0", K_QUANTS, forms))) == [
        "1 matrix is stored as floats, which the kernels do not multiply beside blocks: rounded to "
        "q8_0, 8.5 bits a weight",
        "2 matrices are stored as q3_k, which the kernels do not multiply: rounded to q8_0, "
        "8.5 bits a weight instead of 3.4",
    ]
    only_read = Quantization("q8_0", {}, {"c": "iq4_xs"})
    assert list(describe_rounded(only_read)) == [
        "1 matrix is stored as iq4_xs, which the kernels do not multiply: rounded to q8_0, "
        "8.5 bits a weight instead of 4.2"
    ]


def test_nothing_is_said_where_rounding_was_asked_for() -> None:
    assert not list(describe_rounded(None))
    assert not list(describe_rounded(Quantization("q8_0", K_QUANTS)))
    assert not list(describe_rounded(Quantization("q8_0", {}, {"c": "floats"})))
