"""What `--draft` names, what is refused, and the cached costs of this machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from server.config import ModelSettings, load_settings
from server.engine.drafters.model import ModelDrafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.speculation.costs import CostCurve, StepCosts
from server.engine.step.host.speculator import Speculator
from server.errors import ConfigError, UnsupportedModelError
from server.loading import costs
from server.loading.draft import build_speculator, load_draft, policy_config
from server.models.config import model_config
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.engine.tiny import CONFIG, CPU, MODEL, tiny_caches, tiny_model

PLACEMENT = Placement(CPU, torch.float32)
COSTS = StepCosts(CostCurve((1, 8), (0.5, 1.0)), CostCurve((1, 4), (0.125, 0.25)))


def settings(tmp_path: Path, draft: str, **given: object) -> ModelSettings:
    return load_settings(ModelSettings, draft=draft, cache_dir=tmp_path / "cache", **given)


def target() -> LlamaParameters:
    return LlamaParameters(MODEL, PLACEMENT)


def write_draft(folder: Path, vocab_size: int, **config: object) -> str:
    """A one-layer model in Hugging Face layout; with weights if the vocabulary is the target's."""
    folder.mkdir()
    values: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(values | config), encoding="utf-8")
    parameters = LlamaParameters(model_config(values | {"eos_token_id": None}), PLACEMENT)
    save_file(
        {name: torch.ones(slot.shape) for name, slot in parameters.slots().items()},
        folder / "model.safetensors",
    )
    return str(folder)


def speculator(tmp_path: Path, draft: str, identity: str = "tiny|cpu") -> Speculator:
    loaded = load_draft(settings(tmp_path, draft), target(), PLACEMENT, None, said.append)
    assert loaded is not None
    return build_speculator(
        settings(tmp_path, draft), loaded, tiny_model(), tiny_caches(CONFIG), CONFIG, identity, CPU,
        said.append,
    )  # fmt: skip


said = list[str]()
"""Reported lines; nobody reads them but a failing test."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Drafters that were measured; the figures are COSTS."""
    calls = list[str]()

    def measure(target: object, drafter: object) -> StepCosts:
        calls.append(type(drafter).__name__)
        return COSTS

    monkeypatch.setattr(costs, "measure_costs", measure)
    monkeypatch.setattr(costs, "still_hold", lambda costs, target: True)
    return calls


def test_costs_that_no_longer_hold_are_measured_again(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speculator(tmp_path, "ngram")
    asked = list[StepCosts]()

    def holds(costs: StepCosts, target: object) -> bool:
        asked.append(costs)
        return False

    monkeypatch.setattr(costs, "still_hold", holds)
    speculator(tmp_path, "ngram")
    assert asked == [COSTS]
    assert len(measured) == 2


def cache_files(tmp_path: Path) -> Sequence[Path]:
    return sorted((tmp_path / "cache" / "profiles").glob("*.json"))


def test_no_draft(tmp_path: Path) -> None:
    assert load_draft(settings(tmp_path, "none"), target(), PLACEMENT, None, said.append) is None


def test_auto_is_the_shipped_draft_of_the_default_model_alone(
    tmp_path: Path,
) -> None:
    """The shipped one is found: it is refused here because the target is another model."""
    with pytest.raises(UnsupportedModelError, match="hidden size of 576"):
        load_draft(settings(tmp_path, "auto"), target(), PLACEMENT, None, said.append)
    other = settings(tmp_path, "auto", model=str(tmp_path))
    assert load_draft(other, target(), PLACEMENT, None, said.append) is None


def test_prompt_lookup_needs_no_files(tmp_path: Path, measured: list[str]) -> None:
    assert isinstance(speculator(tmp_path, "ngram").drafter, NgramDrafter)
    assert measured == ["NgramDrafter"]


def test_a_small_model_drafts(tmp_path: Path, measured: list[str]) -> None:
    draft = write_draft(tmp_path / "draft", MODEL.vocab_size)
    drafter = speculator(tmp_path, draft).drafter
    assert isinstance(drafter, ModelDrafter)
    assert len(drafter.caches) == 1
    assert drafter.caches[0].keys.shape == (CONFIG.num_blocks, CONFIG.block_size, 1, 8)


def test_another_vocabulary_is_refused_naming_both_sizes(tmp_path: Path) -> None:
    draft = write_draft(tmp_path / "draft", vocab_size=40)
    with pytest.raises(UnsupportedModelError, match=r"40 tokens, the target's 61"):
        load_draft(settings(tmp_path, draft), target(), PLACEMENT, None, said.append)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draft='n-gram'.*ngram, none or auto"):
        load_draft(settings(tmp_path, "n-gram"), target(), PLACEMENT, None, said.append)


def test_costs_are_measured_once_and_read_back(tmp_path: Path, measured: list[str]) -> None:
    for _ in range(2):
        assert speculator(tmp_path, "ngram").auto.costs.measured == COSTS
    assert len(measured) == 1
    (path,) = cache_files(tmp_path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(asdict(COSTS)))


def test_another_target_draft_or_thread_count_is_measured_anew(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speculator(tmp_path, "ngram")
    speculator(tmp_path, "ngram", identity="other|cpu")
    speculator(tmp_path, write_draft(tmp_path / "draft", MODEL.vocab_size))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    speculator(tmp_path, "ngram")
    assert len(measured) == len(cache_files(tmp_path)) == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"verify": {"rows": [1, 8], "sec',  # cut off
        "[]",
        "null",
        '{"verify": 3, "draft": 4}',
        '{"verify": {"rows": [1, 8], "seconds": [0.5, 1.0]}}',  # no draft
        '{"verify": {"rows": [], "seconds": []}, "draft": {"rows": [], "seconds": []}}',
        '{"verify": {"rows": [1], "seconds": [1]}, "draft": {"rows": [1], "seconds": [1]}}',
        '{"verify": {"rows": [1, 8], "seconds": [1]}, "draft": {"rows": [1, 8], "seconds": [1]}}',
        '{"verify": {"rows": ["a", "b"], "seconds": ["c", "d"]}, "draft": {}}',
        "\udcff",  # not UTF-8
        "[" * 100_000,
        *(
            curves.replace("HERE", value)
            for value in ("NaN", "Infinity", "-0.5", "1e999", "null", "[]", '"x"', "0.1")
            for curves in (
                '{"verify": {"rows": [1, 8], "seconds": [0.5, HERE]}, "draft": DRAFT}',
                '{"verify": {"rows": [HERE, 8], "seconds": [0.5, 1]}, "draft": DRAFT}',
                '{"verify": {"rows": [1, 8], "seconds": [0.5, 1]}, '
                '"draft": {"rows": [1, 4], "seconds": [0.5, HERE]}}',
            )
        ),
        '{"verify": {"rows": [1, 8], "seconds": [0, 1]}, "draft": DRAFT}',
    ],
)
def test_a_broken_cache_file_is_measured_again(
    tmp_path: Path, measured: list[str], content: str
) -> None:
    speculator(tmp_path, "ngram")
    (path,) = cache_files(tmp_path)
    draft = json.dumps(asdict(COSTS.draft))
    path.write_bytes(content.replace("DRAFT", draft).encode("utf-8", "surrogateescape"))
    assert speculator(tmp_path, "ngram").auto.costs.measured == COSTS
    assert len(measured) == 2
    assert speculator(tmp_path, "ngram").auto.costs.measured == COSTS  # and the file was mended
    assert len(measured) == 2


def test_policies_take_the_settings_widths(tmp_path: Path) -> None:
    given = settings(tmp_path, "ngram", beam_width=8, cape_thresholds="0.5,1", cape_leaves="4,0")
    config = policy_config(given)
    assert config.beam_width == 8
    assert (config.cape.num_leaves(0.5), config.cape.num_leaves(0.6)) == (4, 0)
