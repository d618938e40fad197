"""What can't be served is refused before weights are read, in one line that names what stands in
the way. And the text halves of models for several media."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BertConfig,
    BloomConfig,
    FalconConfig,
    FalconMambaConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPTJConfig,
    JambaConfig,
    JetMoeConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    OPTConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3NextConfig,
    RwkvConfig,
    SiglipVisionConfig,
    T5Config,
    XGLMConfig,
    ZayaConfig,
)

from server.errors import CheckpointError, UnsupportedModelError
from server.loading.target import read_target
from server.models.hf.config import read_hf_model
from tests.kernels.paged import PagedModel
from tests.models.hf.families import FAMILIES, our_model, sizes
from tests.models.hf.theirs import assert_same, their_logits, tokens

REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "t5": (T5Config(), "t5 is an encoder-decoder"),
    "bart": (BartConfig(), "bart is an encoder-decoder"),
    "bert": (BertConfig(**sizes()), "bert|Bert"),
    "mamba": (MambaConfig(**sizes()), "keep a state .*MambaMixer"),
    "falcon-mamba": (FalconMambaConfig(**sizes()), "keep a state .*FalconMambaMixer"),
    "rwkv": (RwkvConfig(**sizes()), "keep a state .*Rwkv"),
    "jamba": (JambaConfig(**sizes()), "keep a state .*JambaMambaMixer"),
    "qwen3-next": (Qwen3NextConfig(**sizes()), "keep a state .*GatedDeltaNet"),
    "lfm2": (
        Lfm2Config(**sizes(layer_types=["conv", "full_attention"] * 2)),
        "keep a state .*ShortConv",
    ),
    "bloom": (BloomConfig(n_layer=2, hidden_size=32, n_head=4), "takes no position ids"),
    "falcon": (
        FalconConfig(**sizes(num_hidden_layers=2)),
        "falcon does not .*: it does not call transformers' att",
    ),
    "gptj": (
        GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=97),
        "cache: it does not call transformers' attention interface$",
    ),
    "opt": (
        OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
                  word_embed_proj_dim=32, vocab_size=97),
        "cache: its head asks its decoder for more than final hidden states$",
    ),
    "xglm": (
        XGLMConfig(d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, vocab_size=97),
        "cache: it asks for attention masks of sequences' whole length, which are never made here$",
    ),
    "jetmoe": (
        JetMoeConfig(**sizes(kv_channels=16)),
        "cache: its code asks for values while it is looked at, before there are any$",
    ),
    "zaya": (
        ZayaConfig(**sizes()),
        "cache: its code asks for values while it is looked at, before there are any$",
    ),
    "qwen2.5-vl": (Qwen2_5_VLConfig(), "several media, and transformers has no causal"),
}  # fmt: skip


def written(folder: Path, config: PreTrainedConfig, **changes: Any) -> Path:
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_kinds_of_models(name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        read_target(written(tmp_path, config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors"])
def test_formats_that_are_not_read(method: str, tmp_path: Path) -> None:
    folder = written(
        tmp_path, Gemma3TextConfig(**sizes()), quantization_config={"quant_method": method}
    )
    with pytest.raises(UnsupportedModelError, match=f"'{method}' are not read; use the unquant"):
        read_target(folder)


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes"])
def test_formats_of_a_text_half_that_are_not_read(method: str, tmp_path: Path) -> None:
    text = MistralConfig(**sizes()).to_dict()
    text["quantization_config"] = {"quant_method": method}
    folder = written(tmp_path, mistral3(), text_config=text)
    with pytest.raises(UnsupportedModelError, match=f"'{method}' are not read; use the unquant"):
        read_target(folder)


def mistral3() -> Mistral3Config:
    vision = PixtralVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    text = MistralConfig(**sizes(head_dim=16))
    return Mistral3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), tie_word_embeddings=False
    )


def test_left_over_layers_of_a_text_half_are_named(tmp_path: Path) -> None:
    """Tensors of the other media may be left over, and no others."""
    Mistral3ForConditionalGeneration(mistral3()).save_pretrained(tmp_path)
    our_model(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"left-over 9 tensors: model\.layers\.3\.") as caught:
        our_model(tmp_path)
    assert "vision" not in str(caught.value)


@pytest.mark.parametrize("is_said", [True, False])
@torch.no_grad()
def test_a_head_that_the_whole_models_config_ties(is_said: bool, tmp_path: Path) -> None:
    """It may leave unsaid what is the default."""
    config = mistral3()
    config.tie_word_embeddings = True
    whole = Mistral3ForConditionalGeneration(config).eval()
    for weight in whole.parameters():
        if weight.dim() > 1:
            weight.normal_(0.0, 0.14)
    whole.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    said = json.loads(path.read_text())
    if not is_said:
        del said["tie_word_embeddings"]
    path.write_text(json.dumps(said))
    model, ids = our_model(tmp_path), tokens(12)
    assert model.config.tie_word_embeddings
    assert_same(PagedModel(model).run(ids, [12]), their_logits(whole, ids))


def test_code_of_the_checkpoint_is_never_run(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    config = {"model_type": "own", "architectures": ["Own"], "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"'own' brings code of its own \(auto_map\)"):
        read_target(tmp_path)


def test_known_models_run_transformers_code_whatever_comes_with_them(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    folder = written(tmp_path, Gemma3TextConfig(**sizes()), auto_map=auto_map)
    assert read_target(folder).hf is not None


def test_a_type_that_is_not_known_yet(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma99"}))
    with pytest.raises(UnsupportedModelError, match="no model_type 'gemma99'; a newer release may"):
        read_target(tmp_path)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, Gemma3TextConfig(**sizes()), num_hidden_layers="four")
    with pytest.raises(CheckpointError, match=r"config\.json: transformers can't read it"):
        read_target(folder)


def test_what_both_refuse_is_said_by_transformers_code(tmp_path: Path) -> None:
    """Native code refuses the activation, and transformers' takes it."""
    config = LlamaConfig(**sizes(hidden_act="gelu"))
    folder = written(tmp_path, config, architectures=["LlamaForCausalLM"])
    assert read_target(folder).hf is not None
    with pytest.raises(UnsupportedModelError, match="activation 'gelu' is not supported"):
        read_target(folder, "native")


@torch.no_grad()
def test_the_text_half_of_a_model_for_several_media(tmp_path: Path) -> None:
    text = Gemma3TextConfig(**sizes(head_dim=16, sliding_window=7))
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4
    )
    whole = Gemma3ForConditionalGeneration(config).eval()
    for weight in whole.parameters():
        weight.normal_(0.0, 0.14)
    whole.save_pretrained(tmp_path)
    found = read_hf_model(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    assert found.config.eos_token_ids
    assert "the text half, gemma3_text" in found.described
    ids = tokens(30)
    assert_same(PagedModel(our_model(tmp_path)).run(ids, [11, 19]), their_logits(whole, ids))


def test_code_that_counts_rows_as_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 4's does, unless that is taken from it."""
    monkeypatch.setattr("server.models.hf.probe.take_tuning", lambda model: {})
    with pytest.raises(UnsupportedModelError, match="counts a call's rows as positions"):
        read_target(written(tmp_path, FAMILIES["llama4"]))
