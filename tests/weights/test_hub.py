from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from server.errors import CheckpointError
from weights.hub import download


def replace_download(monkeypatch: pytest.MonkeyPatch, result: Path | Exception) -> list[Any]:
    calls: list[Any] = []

    def snapshot_download(model: str, allow_patterns: list[str]) -> str:
        calls.append((model, allow_patterns))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_downloads_no_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, lines = replace_download(monkeypatch, tmp_path), list[str]()
    assert download("org/name", lines.append) == tmp_path
    ((model, patterns),) = calls
    assert model == "org/name"
    assert not any(pattern.endswith("bin") or pattern.startswith("*.safe") for pattern in patterns)
    assert lines == ["looking up org/name on the Hugging Face hub"]


@pytest.mark.parametrize(
    "error",
    [
        OSError("no such repository\nlong explanation"),
        httpx.ConnectError("no such repository\nlong explanation"),
        HFValidationError("no such repository"),
        LocalEntryNotFoundError("no such repository\n…"),
    ],
)
def test_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    replace_download(monkeypatch, error)
    with pytest.raises(CheckpointError) as caught:
        download("org/name", print)
    assert str(caught.value) == (
        "org/name: is no local folder, and the hub says: no such repository"
    )
