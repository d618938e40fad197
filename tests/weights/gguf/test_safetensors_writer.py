from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from weights.gguf.safetensors_writer import write_safetensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_reads_it_back(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    first, second = torch.randn(3, 4), torch.randn(5)
    pieces = [first[:1], first[1:], second]
    write_safetensors(path, {"a.weight": (3, 4), "b": (5,)}, dtype, pieces)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"a.weight", "b"}
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("a.weight"), first.to(dtype))
        assert torch.equal(file.get_tensor("b"), second.to(dtype))


def test_too_little_data_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 bytes of tensors written, 12 announced"):
        write_safetensors(tmp_path / "x", {"a": (3,)}, torch.float32, [torch.ones(2)])
