import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from server.errors import CheckpointError
from weights.checkpoint import load_weights, read_config

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.ones(4),
    "c": torch.zeros(2),
}
INDEX = "model.safetensors.index.json"


def nothing(name: str) -> bool:
    return False


def slots(**changes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    shapes = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()} | changes
    return {name: torch.full(shape, -1.0) for name, shape in shapes.items()}


def error(folder: Path, destination: dict[str, torch.Tensor]) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(folder, destination, nothing)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    weight_map = {
        "a.weight": "one.safetensors",
        "b.weight": "two.safetensors",
        "c": "one.safetensors",
    }
    for file in set(weight_map.values()):
        held = {name: TENSORS[name] for name, where in weight_map.items() if where == file}
        save_file(held, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_fills_every_slot(layout: str, request: pytest.FixtureRequest) -> None:
    destination = slots()
    load_weights(request.getfixturevalue(layout), destination, nothing)
    for name, tensor in TENSORS.items():
        assert torch.equal(destination[name], tensor)


def test_fills_views_of_another_dtype(single: Path) -> None:
    fused = torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.bfloat16))
    load_weights(single, slots() | {"a.weight": fused[1:3]}, nothing)
    assert fused[1:3].float().tolist() == TENSORS["a.weight"].tolist()
    assert fused[0].tolist() == fused[3].tolist() == [0.0, 0.0, 0.0]


def test_missing_tensors(single: Path) -> None:
    more = {f"d.{i}": torch.zeros(1) for i in range(10)}
    assert error(single, slots() | {"d": torch.zeros(1)}) == f"{single}: is missing 1 tensor: d"
    assert error(single, slots() | more) == (
        f"{single}: is missing 10 tensors: d.0, d.1, d.2, d.3, d.4, d.5, d.6, d.7 and 2 more"
    )


def test_leftover_tensors(single: Path) -> None:
    destination = slots()
    del destination["b.weight"], destination["c"]
    assert error(single, destination) == f"{single}: has left-over 2 tensors: b.weight, c"
    load_weights(single, destination, lambda name: name in ("b.weight", "c"))


def test_wrong_shape(single: Path) -> None:
    assert error(single, slots(c=(3,))) == (
        f"{single}/model.safetensors: tensor c has shape [2], the model needs [3]"
    )


def test_integers_are_not_weights(tmp_path: Path) -> None:
    save_file({"c": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert error(tmp_path, {"c": torch.zeros(2)}) == (
        f"{tmp_path}/model.safetensors: tensor c has type torch.int8, expected floats"
    )


@pytest.mark.parametrize("length", [0, 4, 50, -1])
def test_truncated_file(single: Path, length: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    text = error(single, slots())
    assert text.startswith(f"{path}: ")
    assert len(text) > len(f"{path}: ")


def test_truncated_shard(sharded: Path) -> None:
    path = sharded / "two.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert error(sharded, slots()).startswith(f"{path}: ")


def test_absent_shard(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    assert error(sharded, slots()) == (
        f"{sharded}/two.safetensors: shard named in {INDEX} is absent"
    )


def test_shard_without_its_tensor(sharded: Path) -> None:
    save_file({"x": torch.ones(1)}, sharded / "two.safetensors")
    assert error(sharded, slots()) == (
        f"{sharded}/two.safetensors: lacks what {INDEX} promises: 1 tensor: b.weight"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "broken JSON: Expecting property name"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "has no weight_map"),
    ],
)
def test_broken_index(sharded: Path, content: str, reason: str) -> None:
    (sharded / INDEX).write_text(content)
    assert error(sharded, slots()).startswith(f"{sharded / INDEX}: {reason}")


def test_a_shard_outside_of_the_folder(sharded: Path) -> None:
    weight_map = {"a.weight": "../elsewhere.safetensors"}
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert error(sharded, slots()) == (
        f"{sharded / INDEX}: names '../elsewhere.safetensors', which is not a plain file name"
    )


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("pytorch_model.bin", "holds pytorch_model.bin only; safetensors is needed"),
        ("model-00001-of-00002.safetensors", f"holds shards but no {INDEX}"),
        ("README.md", f"holds neither model.safetensors nor {INDEX}"),
    ],
)
def test_no_safetensors(tmp_path: Path, file: str, reason: str) -> None:
    (tmp_path / file).touch()
    assert error(tmp_path, slots()).startswith(f"{tmp_path}: {reason}")


def write(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, [2]),
        ([2, 3], None, [2, 3]),
        (None, None, None),
        (1, [5, 6], [5, 6, 1]),
        (1, 1, [1]),
        (None, 7, [7]),
    ],
)
def test_end_tokens_of_both_files(
    tmp_path: Path, config: object, generation: object, expected: object
) -> None:
    write(tmp_path, config={"eos_token_id": config, "x": 1})
    if generation is not None:
        write(tmp_path, generation_config={"eos_token_id": generation, "x": 2})
    assert read_config(tmp_path) == {"eos_token_id": expected, "x": 1}


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: No such file or directory"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_broken_config_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, config={})
    (tmp_path / name).write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match=f"/{name}: broken JSON: "):
        read_config(tmp_path)
