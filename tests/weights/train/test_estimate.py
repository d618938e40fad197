"""What is said before a training begins."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.weights.train.tiny import CPU, tiny_config, tiny_target
from weights.train import estimate as estimate_module
from weights.train.checks import feature_bytes
from weights.train.estimate import Estimate, estimate

TARGET = tiny_target().config
NOTHING = Estimate(0, 0.0, 0.0, 0, 0.0, 0.0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> estimate_module.TrainConfig:
    """On a machine of a fixed speed."""

    def slow(dtype: torch.dtype, device: torch.device) -> float:
        return 1e7

    monkeypatch.setattr(estimate_module, "operations_per_second", slow)
    return tiny_config(tmp_path, tmp_path / "text.jsonl", precision="float32")


def test_without_a_limit_all_is_done(config: estimate_module.TrainConfig) -> None:
    found = estimate(config, TARGET, CPU, 1_000, 9_000, None)
    assert (found.num_tokens, found.passes) == (10_000, pytest.approx(3.0))
    assert found.feature_bytes == feature_bytes(config, TARGET, 10_000)
    twice = estimate(config, TARGET, CPU, 2_000, 18_000, None)
    for name in ("text_seconds", "feature_seconds", "training_seconds"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(found, name))


@pytest.mark.parametrize("seconds", [None, 3600.0])
def test_text_whose_features_are_recorded_is_not_read(
    config: estimate_module.TrainConfig, seconds: float | None
) -> None:
    given, wanted = 1_000, 9_000
    found = estimate(config, TARGET, CPU, given, wanted, seconds, records=True)
    read = estimate(config, TARGET, CPU, given, wanted, seconds)
    alone = estimate(config, TARGET, CPU, given, 0, seconds)
    assert found.feature_seconds == pytest.approx(alone.feature_seconds)
    assert found.feature_seconds < read.feature_seconds
    assert found.num_tokens == read.num_tokens == given + wanted
    if seconds is not None:
        parts = found.text_seconds + found.feature_seconds + found.training_seconds
        assert parts == pytest.approx(seconds)


def test_text_that_is_there_is_not_written(config: estimate_module.TrainConfig) -> None:
    found = estimate(config, TARGET, CPU, 10_000, 0, None)
    assert (found.num_tokens, found.text_seconds) == (10_000, 0.0)


@pytest.mark.parametrize("seconds", [1.0, 60.0, 3600.0])
def test_the_parts_fill_the_time(config: estimate_module.TrainConfig, seconds: float) -> None:
    found = estimate(config, TARGET, CPU, 500, 10**9, seconds)
    parts = found.text_seconds + found.feature_seconds + found.training_seconds
    assert parts == pytest.approx(seconds)
    assert found.text_seconds <= 0.4 * seconds
    assert found.training_seconds > 0
    assert found.num_tokens < 10**9


def test_epochs_limit_the_passes_and_without_a_time_say_how_many(
    config: estimate_module.TrainConfig,
) -> None:
    found = estimate(replace(config, epochs=0.5), TARGET, CPU, 1_000, 0, 1e6)
    assert found.passes == 0.5
    untimed = estimate(replace(config, epochs=6.0), TARGET, CPU, 1_000, 0, None)
    default = estimate(config, TARGET, CPU, 1_000, 0, None)
    assert untimed.passes == pytest.approx(6.0)
    assert untimed.training_seconds == pytest.approx(2 * default.training_seconds)


def test_more_text_agrees_more() -> None:
    counts = [0, 1, 5_000, 10_000, 50_000, 100_000, 10**6, 10**7, 10**12]
    shares = [replace(NOTHING, num_tokens=count).agreement for count in counts]
    assert shares == sorted(shares)
    assert 0 <= shares[0] and shares[-1] == 0.7
    for count, share in estimate_module._AGREEMENT:  # pyright: ignore[reportPrivateUsage]
        assert math.isclose(replace(NOTHING, num_tokens=count).agreement, share)


def test_one_line() -> None:
    found = Estimate(1_234_567, 3600.0, 61.0, 3 * 2**30, 7200.0, 2.5)
    assert str(found) == (
        "estimate: 1,234,567 tokens of text, 1:00:00 to write; 1:01 for features, 3.0 GiB of disk; "
        f"2:00:00 of training, 2.5 passes; then the draft may be right at "
        f"{100 * found.agreement:.0f} % of the tokens"
    )


def test_a_draft_that_is_gone_on_from_may_know_more(config: estimate_module.TrainConfig) -> None:
    """Than the text of this run alone would teach it."""
    config = replace(config, from_draft=Path("drafts/x"))
    told = str(estimate(config, TARGET, CPU, 1_000, 0, None))
    assert told.endswith("; then the draft may know this kind of text better than before")
