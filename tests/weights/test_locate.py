import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file

from server.config import DEFAULT_MODEL
from server.errors import CheckpointError
from server.report import Report
from weights.locate import download, locate_model
from weights.model_names import model_name

WriteGGUF = Callable[..., Path]


def locate(model: Path | str, cache_dir: Path) -> Path:
    return locate_model(str(model), cache_dir, torch.float32, print)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    return folder


def test_a_folder_is_returned_as_it_is(folder: Path, tmp_path: Path) -> None:
    assert locate(folder, tmp_path) == folder


def test_a_gguf_file_is_converted(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    found = locate(write_gguf(), tmp_path / "cache")
    assert found.parent == tmp_path / "cache" / "models"
    assert (found / "config.json").exists()


def test_the_default_name_is_the_packaged_gguf(
    write_gguf: WriteGGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf("carried.gguf")
    monkeypatch.setattr("weights.locate.default_gguf", lambda: path)
    assert locate(DEFAULT_MODEL, tmp_path).name.startswith("carried-float32-")


def test_a_hub_id_is_downloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(model: str, report: Report) -> Path:
        asked.append(model)
        return folder

    monkeypatch.setattr("weights.locate.download", download)
    assert locate("org/name-1.5", tmp_path) == folder
    assert asked == ["org/name-1.5"]


@pytest.mark.parametrize("model", ["no-such-model", "../nowhere/at/all", "/not/here", "a//b", ""])
def test_other_names_say_what_is_accepted(tmp_path: Path, model: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate(model, tmp_path)
    text = str(caught.value)
    assert text.startswith(
        f"{model}: no such model; accepted: '{DEFAULT_MODEL}' (the default), a folder"
    )
    assert "a .gguf file" in text and "a hub id" in text


def test_other_files_say_what_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.touch()
    with pytest.raises(CheckpointError, match=r"is a file, but not a \.gguf; accepted: "):
        locate(path, tmp_path)


def test_a_folder_without_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        locate(folder, tmp_path)
    assert str(caught.value) == f"{folder}: has no config.json"


def test_a_folder_that_holds_a_gguf_model(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    """An image encoder beside it is no model of text, and a config.json alone none at all."""
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "mmproj-tiny.gguf").touch()
    (tmp_path / "held" / "config.json").write_text("{}")
    write_gguf("held/tiny.gguf")
    assert locate(tmp_path / "held", tmp_path).name.startswith("tiny-float32-")
    (tmp_path / "held" / "other-Q8_0.gguf").touch()
    with pytest.raises(CheckpointError, match=r"2 GGUF models, name one: other-Q8_0\.gguf, tiny"):
        locate(tmp_path / "held", tmp_path)


def test_safetensors_beside_a_gguf_model_come_first(folder: Path, tmp_path: Path) -> None:
    (folder / "x.gguf").touch()
    assert locate(folder, tmp_path) == folder


@pytest.mark.parametrize("part", [1, 2, 3])
def test_any_part_names_a_model_in_several_files(
    write_gguf_parts: WriteGGUF, tmp_path: Path, part: int
) -> None:
    first = write_gguf_parts(3)
    named = first.with_name(f"tiny-0000{part}-of-00003.gguf")
    assert locate(named, tmp_path) == locate(first, tmp_path) == locate(first.parent, tmp_path)
    assert locate(named, tmp_path).name.startswith("tiny-float32-")
    assert model_name(str(named)) == model_name(str(first.parent)) == "tiny"


def test_missing_parts_are_named_before_anything_is_read(
    write_gguf_parts: WriteGGUF, tmp_path: Path
) -> None:
    first = write_gguf_parts(3)
    (first.parent / "tiny-00002-of-00003.gguf").unlink()
    for named in (first, first.parent / "tiny-00002-of-00003.gguf", first.parent):
        with pytest.raises(CheckpointError) as caught:
            locate(named, tmp_path)
        reason = "1 part of 3 missing beside it: tiny-00002-of-00003.gguf"
        assert str(caught.value).endswith(reason)


def test_a_folder_without_safetensors(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors is needed"):
        locate(folder, tmp_path)


def test_the_home_folder_is_expanded(
    write_gguf: WriteGGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_gguf()
    assert locate("~/tiny.gguf", Path("~/cache")).parent == tmp_path / "cache" / "models"


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
