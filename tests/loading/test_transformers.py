"""A model that only transformers knows, from its folder to an engine; and whose code runs what."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast

from server.config import ModelSettings, load_settings
from server.engine.types import PolicyName, SpeculationParams
from server.errors import CheckpointError, ConfigError, UnsupportedModelError
from server.kernels.cpu.library import native_library
from server.loading.model import (
    LoadedModel,
    build_model,
)
from server.loading.place import _kernels_identity  # pyright: ignore[reportPrivateUsage]
from server.loading.target import choose_form, load_target, read_target
from server.models.layers import Placement
from tests.doubles import BOS, EOS, EOS_ID, byte_backend
from tests.engine.tiny import CPU, make_request
from tests.kernels.native_models import needs_native
from tests.kernels.paged import PagedModel
from tests.models.hf.families import reference_model, sizes

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}[assistant]"
SIZES = sizes(vocab_size=EOS_ID + 1, eos_token_id=EOS_ID, max_position_embeddings=256)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    config = Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=9)
    reference_model(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=byte_backend(), bos_token=BOS, eos_token=EOS, chat_template=TEMPLATE
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    reference_model(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def built(folder: Path, tmp_path: Path, report: list[str], **given: object) -> LoadedModel:
    settings = load_settings(
        ModelSettings,
        model=str(folder),
        cache_dir=tmp_path / "cache",
        max_num_batched_tokens=16,
        kv_memory="4M",
        **given,
    )
    return build_model(settings, report.append, lambda stats: None)


async def answer(loaded: LoadedModel, name: str, policy: PolicyName) -> Sequence[int]:
    request = make_request(name, [5, 6, 7, 8, 5, 6, 7] * 4, max_tokens=30, ignore_eos=True)
    request = replace(request, speculation=SpeculationParams(policy=policy))
    return [token async for output in loaded.engine.generate(request) for token in output.token_ids]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs_native())])
async def test_serves_with_speculation(dtype: str, gemma: Path, tmp_path: Path) -> None:
    report = list[str]()
    loaded = built(gemma, tmp_path, report, draft="ngram", dtype=dtype)
    loaded.engine.start()
    try:
        plain = await answer(loaded, "plain", "off")
        speculated = await answer(loaded, "speculated", "chain")
    finally:
        await loaded.engine.stop()
    assert len(plain) == 30
    assert speculated == plain
    (line,) = [line for line in report if line.startswith("loaded")]
    assert "code of transformers" in line
    assert "(gemma3_text)" in line
    assert "transformers" in loaded.facts.identity


def test_auto_takes_native_code_where_there_is_some(llama: Path, gemma: Path) -> None:
    assert read_target(llama).hf is None
    assert read_target(gemma).hf is not None
    assert read_target(llama, "transformers").hf is not None
    with pytest.raises(UnsupportedModelError, match="Gemma3ForCausalLM is not supported"):
        read_target(gemma, "native")


def test_both_codes_agree(llama: Path) -> None:
    """On logits, and on the sizes that the rest of the server asks for."""
    placement, tokens = Placement(CPU, torch.float32), list(range(40))
    native, other = (read_target(llama, name) for name in ("native", "transformers"))
    assert replace(other.config, sliding_windows=()) == replace(native.config, sliding_windows=())
    ours, theirs = (
        PagedModel(load_target(files, placement).freeze()).run(tokens, [13, 27])
        for files in (native, other)
    )
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_blocks_where_native_products_take_them(gemma: Path) -> None:
    files = read_target(gemma)
    bfloat16, float32 = (Placement(CPU, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert choose_form(files, bfloat16, "auto") is None
    with pytest.raises(ConfigError, match="'int8': needs bfloat16 on a CPU, this is float32"):
        choose_form(files, float32, "int8")
    if native_library() is not None:
        form = choose_form(files, bfloat16, "int4")
        assert form is not None
        assert form.kinds == {"q4_1"}


def test_identity_names_the_instructions_of_native_products(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured with some instructions is not true of others."""
    for dtype in (torch.bfloat16, torch.float32):
        model = load_target(read_target(gemma), Placement(CPU, dtype)).freeze()
        named = set[str]()
        for kernels in ("avx512", "avx2", "scalar"):
            monkeypatch.setattr("server.loading.place.cpu_kernels", lambda name=kernels: name)
            named.add(_kernels_identity(model))
        assert len(named) == (1 if native_library() is None else 3)


def test_whole_models_alone(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size=2: transformers' code"):
        built(gemma, tmp_path, [], tensor_parallel_size=2)


def test_a_package_that_reading_needs_is_named(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*positional: object, **named: object) -> None:
        raise ImportError("this format needs `pip install gptqmodel`\nand more")

    monkeypatch.setattr("server.models.hf.model.AutoModelForCausalLM.from_pretrained", read)
    with pytest.raises(CheckpointError, match=r"needs `pip install gptqmodel`$"):
        load_target(read_target(gemma), Placement(CPU, torch.float32))


def test_missing_and_left_over_weights_are_named(gemma: Path, tmp_path: Path) -> None:
    weights = load_file(gemma / "model.safetensors")
    lost = weights.pop("model.layers.2.mlp.up_proj.weight")
    config = json.loads((gemma / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"is missing 1 tensor.*layers\.2\.mlp\.up_proj"):
        load_target(read_target(tmp_path), Placement(CPU, torch.float32))
    more = weights | {"model.layers.2.mlp.up_proj.weight": lost, "model.extra.weight": lost + 1}
    save_file(more, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has left-over 1 tensor.*model\.extra"):
        load_target(read_target(tmp_path), Placement(CPU, torch.float32))
