import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from server.errors import CheckpointError, StartupError, UnsupportedModelError
from weights.default import default_gguf
from weights.gguf.file import read_gguf

WriteGGUF = Callable[..., Path]
HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
"""Of a file with two values and no tensor."""
ONE_VALUE = struct.pack("<Q", 1) + b"k"


def test_reads_metadata_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "types.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "日本")
    writer.add_array("strings", ["a", "", "ĠĠ"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("floats", [0.5, -1.0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_gguf(path).metadata == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -100,
        "u16": 60_000,
        "i16": -30_000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "bool": True,
        "string": "日本",
        "strings": ["a", "", "ĠĠ"],
        "numbers": [1, 2, 3],
        "floats": [0.5, -1.0],
    }


def test_reads_tensors_outermost_dimension_first(
    write_gguf: WriteGGUF, tensors: dict[str, Any]
) -> None:
    file = read_gguf(write_gguf())
    assert set(file.tensors) == set(tensors)
    for name, values in tensors.items():
        stored = file.tensors[name]
        assert stored.shape == values.shape
        assert stored.data.tobytes() == values.tobytes()


def test_alignment_is_respected(write_gguf: WriteGGUF, tensors: dict[str, Any]) -> None:
    file = read_gguf(write_gguf(metadata={"general.alignment": 256}))
    assert file.metadata["general.alignment"] == 256
    for name, values in tensors.items():
        assert file.tensors[name].data.tobytes() == values.tobytes()


def test_a_file_cut_anywhere_is_a_one_line_error(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    whole = write_gguf().read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 2600, 7), len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_gguf(cut)
        text = str(caught.value)
        assert text.startswith(str(cut))
        assert "\n" not in text


def test_a_truncated_tensor_is_named(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    whole = write_gguf().read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-2000])
    with pytest.raises(
        CheckpointError, match=r"truncated: tensor blk\.0\.ffn_\w+\.weight ends at byte"
    ):
        read_gguf(cut)


def test_damaged_headers_never_escape_the_error_tree(write_gguf: WriteGGUF, tmp_path: Path) -> None:
    whole = write_gguf().read_bytes()
    random = np.random.default_rng(0)
    damaged = tmp_path / "damaged.gguf"
    for _ in range(300):
        data = bytearray(whole)
        for position in random.integers(4, 2600, size=4):
            data[position] = random.integers(256)
        damaged.write_bytes(data)
        try:
            read_gguf(damaged)
        except StartupError:
            pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a GGUF file: 0 bytes"),
        (b"PK\x03\x04 zip", "not a GGUF file: it doesn't start with 'GGUF'"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"\xff\xfe", "no text"),
        (HEADER + ONE_VALUE + struct.pack("<IIQ", 9, 9, 1) * 3000, "an array of arrays"),
        (HEADER + (ONE_VALUE + struct.pack("<II", 4, 1)) * 2, "two values of k"),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 2, 0)
            + struct.pack("<Q1sIQIQ", 1, b"t", 1, 1, 0, 0) * 2
            + bytes(64),
            "two tensors t",
        ),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_gguf(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.gguf: No such file or directory"):
        read_gguf(tmp_path / "none.gguf")


def test_big_endian_and_unknown_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(UnsupportedModelError, match="GGUF version 50331648 is not supported"):
        read_gguf(path)


@pytest.mark.real_model
def test_default_model_reads_as_with_the_gguf_package() -> None:
    ours, theirs = read_gguf(default_gguf()), gguf.GGUFReader(default_gguf())
    expected = {n: f.contents() for n, f in theirs.fields.items() if not n.startswith("GGUF.")}
    assert ours.metadata == expected
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].shape == tuple(reversed(tensor.shape.tolist()))
        assert np.array_equal(
            ours.tensors[tensor.name].data, tensor.data.reshape(-1).view(np.uint8)
        )
