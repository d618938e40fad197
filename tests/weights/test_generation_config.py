"""What a checkpoint says of sampling, where requests say nothing."""

import json
from pathlib import Path

import pytest

from server.config import DEFAULT_MODEL
from server.engine.types import SamplingDefaults
from server.errors import CheckpointError
from weights.generation_config import FILE, read_sampling


def folder(tmp_path: Path, **config: object) -> Path:
    (tmp_path / FILE).write_text(json.dumps(config))
    return tmp_path


def test_what_is_taken(tmp_path: Path) -> None:
    """Qwen2.5's file, and what a request can't say."""
    given = folder(
        tmp_path, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, min_p=None,
        do_sample=True, eos_token_id=[1, 2], max_new_tokens=64, transformers_version="4",
    )  # fmt: skip
    expected = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    assert read_sampling(given, "org/name", "model") == expected
    shown = "temperature 0.7, top_p 0.8, top_k 20, repetition_penalty 1.05"
    assert str(SamplingDefaults(**expected)) == shown  # pyright: ignore[reportArgumentType]
    assert read_sampling(given, "org/name", "openai") == {}


def test_without_the_file_openais_defaults_count(tmp_path: Path) -> None:
    assert read_sampling(tmp_path, "org/name", "model") == {}
    assert str(SamplingDefaults()) == "temperature 1, top_p 1"


def test_the_default_model_is_sampled_as_its_authors_say(tmp_path: Path) -> None:
    given = folder(tmp_path, eos_token_id=2)
    recommended = {"temperature": 0.2, "top_p": 0.9}
    assert read_sampling(given, DEFAULT_MODEL, "model") == recommended
    assert read_sampling(given, DEFAULT_MODEL, "openai") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", 3),
        ("temperature", "0.2"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("top_p", [0.9]),
        ("top_k", 1.5),
        ("top_k", -2),
        ("top_k", float("inf")),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
    ],
)
def test_values_that_no_request_could_have_are_named(
    tmp_path: Path, name: str, value: object
) -> None:
    given = folder(tmp_path, **{name: value})
    with pytest.raises(CheckpointError, match=f"{FILE}: {name} is .*, expected .*openai"):
        read_sampling(given, "org/name", "model")
    assert read_sampling(given, "org/name", "openai") == {}
