"""Every example of docs/api.md, pasted as a newcomer would, against the default model."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import serve

pytestmark = pytest.mark.real_model
DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES: list[tuple[str, str]] = re.findall(r"```(bash|python)\n(.*?)```", DOCS, re.DOTALL)
SHELL = ("bash", "-e", "-o", "pipefail", "-c")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve() as server:
        yield server.url


def paste(language: str, example: str, url: str) -> str:
    command = example.replace("http://localhost:8000", url)
    assert command != example
    command = command.replace("curl ", "curl --silent --show-error --fail-with-body ")
    run = SHELL if language == "bash" else (sys.executable, "-c")
    done = subprocess.run([*run, command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def documents(output: str) -> Iterator[Any]:
    """The JSON documents of several commands, one after the other without a space."""
    decoder = json.JSONDecoder()
    while output := output.strip():
        document, end = decoder.raw_decode(output)
        yield document
        output = output[end:]


def test_both_languages_have_examples() -> None:
    assert {language for language, _ in EXAMPLES} == {"bash", "python"}


@pytest.mark.parametrize(("language", "example"), EXAMPLES)
def test_it_answers(url: str, language: str, example: str) -> None:
    output = paste(language, example, url)
    if language == "python" or "-N" in example or "-i" in example or "/metrics" in example:
        assert output.strip()
        assert '"error":{' not in output
        return
    found = list(documents(output))
    assert len(found) == example.count("curl ")
    for document in found:
        assert not document.get("error")
        check_choices(example, document)


def check_choices(example: str, document: Any) -> None:
    for choice in document.get("choices", []):
        if "message" in choice:
            assert choice["message"]["content"] or choice["message"].get("tool_calls")
        elif "json_schema" not in example and '"max_tokens": 0' not in example:
            assert choice["text"]
        # What a newcomer sees of structured output must not break off.
        if any(f'"{name}"' in example for name in ("choice", "regex", "grammar", "json_schema")):
            assert choice["finish_reason"] == "stop", example


def test_the_first_one_is_right(url: str) -> None:
    (answer,) = documents(paste(*EXAMPLES[0], url))
    assert "Paris" in answer["choices"][0]["message"]["content"]
