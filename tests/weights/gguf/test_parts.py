from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from server.errors import CheckpointError
from weights.gguf.file import read_gguf
from weights.gguf.parts import gguf_name, gguf_parts

WriteGGUF = Callable[..., Path]


def rewritten(path: Path, **changed: int) -> None:
    """Replaces numbers of a part's metadata in place."""
    reader = gguf.GGUFReader(path, "r+")
    for key, value in changed.items():
        field = reader.fields[f"split.{key}"]
        field.parts[field.data[0]][0] = value
    reader.data.flush()


def test_parts_read_as_the_one_file(
    write_gguf: WriteGGUF, write_gguf_parts: WriteGGUF, tensors: dict[str, Any]
) -> None:
    whole, first = read_gguf(write_gguf()), write_gguf_parts(3)
    parts = read_gguf(first)
    assert parts.path == first
    own = {key: value for key, value in parts.metadata.items() if not key.startswith("split.")}
    assert own == whole.metadata
    assert set(parts.tensors) == set(tensors)
    for name, tensor in parts.tensors.items():
        assert tensor.data.tobytes() == whole.tensors[name].data.tobytes()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("model-Q4_K_M-00002-of-00009.gguf", "model-Q4_K_M"),
        ("model-00001-of-00001.gguf", "model"),
        ("model-2-of-3.gguf", "model-2-of-3"),
        ("Model.GGUF", "Model"),
    ],
)
def test_names_of_models(name: str, model: str) -> None:
    assert gguf_name(Path(name)) == model


@pytest.mark.parametrize("number", [0, 4])
def test_a_number_beyond_the_parts(tmp_path: Path, number: int) -> None:
    with pytest.raises(CheckpointError, match=f"its name says part {number} of 3"):
        gguf_parts(tmp_path / f"x-0000{number}-of-00003.gguf")


def test_a_part_under_another_name(write_gguf_parts: WriteGGUF) -> None:
    first = write_gguf_parts(2)
    renamed = first.rename(first.with_name("model.gguf"))
    with pytest.raises(CheckpointError, match="is one of 2 parts, but not named as such"):
        read_gguf(renamed)


@pytest.mark.parametrize(
    ("part", "changed", "reason"),
    [
        (2, {"no": 0}, "has split.no=0"),
        (2, {"count": 3}, "has split.count=3, but its name says 2 parts"),
        (1, {"tensors.count": 99}, "promises 99 tensors, but the parts have 11"),
    ],
)
def test_parts_of_different_models(
    write_gguf_parts: WriteGGUF, part: int, changed: dict[str, int], reason: str
) -> None:
    path = write_gguf_parts(2).with_name(f"tiny-0000{part}-of-00002.gguf")
    rewritten(path, **changed)
    with pytest.raises(CheckpointError) as caught:
        read_gguf(path)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_tensor_in_two_parts(write_gguf_parts: WriteGGUF) -> None:
    first = write_gguf_parts(2)
    second = first.with_name("tiny-00002-of-00002.gguf")
    second.write_bytes(first.read_bytes())
    rewritten(second, no=1)
    with pytest.raises(CheckpointError, match=r"tensor token_embd\.weight is in an earlier part"):
        read_gguf(first)
