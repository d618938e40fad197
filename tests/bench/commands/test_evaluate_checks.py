"""Options that would be ignored are refused by name."""

import pytest
import torch

from bench.commands.evaluate import check_ablation, check_evaluation
from server.config import ModelSettings, load_settings
from server.errors import ConfigError


def settings(**given: object) -> ModelSettings:
    return load_settings(ModelSettings, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"draft": "ngram"}, {"speculation_policy": "cape"}, {"threads": 7}, {"block_size": 32},
        {"prefix_caching": "off"}, {"max_model_len": 64}, {"kv_memory": "1G"},
        {"dtype": "float16"}, {"quantization": "int4"}, {"cape_leaves": "1,1,1,1"},
        {"tensor_parallel_size": 2},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_layer_study_does_not_use(given: dict[str, object]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"{name}=.*--ablate"):
        check_ablation(settings(**given))


def test_what_the_layer_study_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_ablation(settings(), limit=None, trained_on=None, card=False)
    check_ablation(
        settings(model="x", cache_dir="y", device="cpu", dtype="float32", quantization="none")
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="device='cpu': --ablate trains on cuda here"):
        check_ablation(settings(device="cpu"))


def test_a_measurements_own_options() -> None:
    for name, value in (("limit", 3), ("tokens", 128), ("methods", "chain"), ("card", True)):
        with pytest.raises(ConfigError, match=f"{name}={value!r}: --ablate measures no draft"):
            check_ablation(settings(), **{name: value})


def test_depths_and_widths_are_the_papers() -> None:
    check_evaluation(settings(cape_leaves="1,1,1,1", threads=1), None)
    for given in ({"speculation_depth": 3}, {"beam_width": 2}, {"speculation_policy": "cape"}):
        (name,) = given
        with pytest.raises(ConfigError, match=f"{name}=.*the paper's depths"):
            check_evaluation(settings(**given), None)
    with pytest.raises(ConfigError, match="steps=9: is for --ablate"):
        check_evaluation(settings(), 9)


def test_a_measurement_runs_in_one_process() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size=2: eval runs"):
        check_evaluation(settings(tensor_parallel_size=2), None)
