import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from server.errors import CheckpointError
from weights.gguf.conversion_cache import MARKER, converted_gguf, is_complete
from weights.gguf.convert import convert_gguf

WriteGGUF = Callable[..., Path]
CONVERT = "weights.gguf.conversion_cache.convert_gguf"


def folders(cache_dir: Path) -> list[str]:
    return sorted(path.name for path in (cache_dir / "models").iterdir() if path.is_dir())


def test_converts_once(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    path, lines = write_gguf(), list[str]()
    folder = converted_gguf(path, tmp_path, torch.bfloat16, lines.append)
    assert folder.parent == tmp_path / "models"
    assert folder.name.startswith("tiny-bfloat16-")
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        MARKER,
    }
    assert lines[0] == "converting tiny.gguf (0 MB) to bfloat16, once"
    assert lines[1].startswith("converted in ")
    assert converted_gguf(path, tmp_path, torch.bfloat16, lines.append) == folder
    assert len(lines) == 2


def test_blocks_that_become_floats_are_said_at_every_start(
    write_gguf: WriteGGUF, tensors: dict[str, Any], tmp_path: Path
) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    blocks = {
        name: (gguf.quants.quantize(tensor, kind), kind)
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0
    }
    path = write_gguf(tensors=tensors | blocks)
    for in_floats in (False, True):
        for _ in range(2):
            lines = list[str]()
            converted_gguf(path, tmp_path, torch.float32, lines.append, in_floats)
            said = [line for line in lines if line.startswith("the weights of tiny become float32")]
            assert len(said) == in_floats, lines
            assert all(line.endswith(": 0 MB instead of 0 in the file") for line in said)


def test_another_dtype_or_another_file_is_another_folder(
    write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    path = write_gguf()
    first = converted_gguf(path, tmp_path, torch.bfloat16, print)
    assert converted_gguf(path, tmp_path, torch.float32, print) != first
    os.utime(path, ns=(1, 1))
    assert converted_gguf(path, tmp_path, torch.bfloat16, print) != first


def test_a_failure_leaves_nothing_and_the_next_try_works(
    write_gguf: WriteGGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf()

    def interrupted(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool) -> None:
        convert_gguf(path, folder, dtype, in_floats)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CONVERT, interrupted)
        with pytest.raises(KeyboardInterrupt):
            converted_gguf(path, tmp_path, torch.float32, print)
    assert folders(tmp_path) == []
    assert is_complete(converted_gguf(path, tmp_path, torch.float32, print), print)


def test_what_a_killed_process_left_is_replaced(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    path = write_gguf()
    folder = converted_gguf(path, tmp_path, torch.float32, print)
    partial = folder.rename(folder.with_name(f".{folder.name}.partial"))
    (partial / "model.safetensors").write_bytes(b"half of it")
    assert converted_gguf(path, tmp_path, torch.float32, print) == folder
    assert folders(tmp_path) == [folder.name]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", MARKER])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_conversion_is_made_again(
    name: str, damage: str, write_gguf: WriteGGUF, tmp_path: Path
) -> None:
    """Bytes that were changed leave the size as it was."""
    path, lines = write_gguf(), list[str]()
    file = converted_gguf(path, tmp_path, torch.float32, print) / name
    good = file.read_bytes()
    middle = len(good) // 2
    changed = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(good[:middle] if damage == "cut" else changed)
    converted_gguf(path, tmp_path, torch.float32, lines.append)
    assert file.read_bytes() == good
    assert "is damaged: the model is converted anew" in lines[0]
    assert len(lines) == 3  # and the two of a conversion
    converted_gguf(path, tmp_path, torch.float32, lines.append)
    assert len(lines) == 3


@pytest.mark.parametrize("marker", ["[]", "null", "[" * 100_000, '{"x": 5}', "\xff", "{}"])
def test_a_marker_that_says_nothing(marker: str, write_gguf: WriteGGUF, tmp_path: Path) -> None:
    """An empty list of files would let everything pass."""
    path = write_gguf()
    folder = converted_gguf(path, tmp_path, torch.float32, print)
    (folder / MARKER).write_bytes(marker.encode("latin1"))
    assert not is_complete(folder, print)


def test_two_at_once_convert_once(
    write_gguf: WriteGGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls, found = write_gguf(), list[Path](), list[Path]()
    waiting = threading.Event()

    def slow(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool) -> None:
        calls.append(folder)
        waiting.wait(60)  # until the second one stands at the lock
        convert_gguf(path, folder, dtype, in_floats)

    def report(line: str) -> None:
        if line.startswith("waiting for another process"):
            waiting.set()

    def start() -> None:
        found.append(converted_gguf(path, tmp_path, torch.float32, report))

    monkeypatch.setattr(CONVERT, slow)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waiting.is_set()
    assert len(calls) == 1
    assert len(found) == 2 and found[0] == found[1]


def test_an_unwritable_cache_is_one_line(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    in_the_way = tmp_path / "cache"
    in_the_way.touch()
    with pytest.raises(CheckpointError, match="can't be written: Not a directory"):
        converted_gguf(write_gguf(), in_the_way, torch.float32, print)


def test_a_full_disk_is_one_line(
    write_gguf: WriteGGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, folder: Path, dtype: torch.dtype, in_floats: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CONVERT, full)
    with pytest.raises(CheckpointError, match="can't be written: No space left on device"):
        converted_gguf(write_gguf(), tmp_path, torch.float32, print)
    assert folders(tmp_path) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.gguf: No such file or directory"):
        converted_gguf(tmp_path / "none.gguf", tmp_path, torch.float32, print)
