"""Downloads a checkpoint from the Hugging Face hub into its usual cache."""

from collections.abc import Callable
from pathlib import Path

from server.errors import CheckpointError

_PATTERNS = ["*.json", "model*.safetensors", "tokenizer*", "*.jinja", "vocab*", "merges.txt"]
"""No pytorch_model.bin, and none of the `consolidated` or `original` copies some models have."""


def download(model: str, report: Callable[[str], None]) -> Path:
    """Folder of the snapshot; what is in the hub's cache already is not fetched again.

    Raises:
        CheckpointError: no such repository, no permission, no network.
    """
    # Imported here: only a hub id needs it, and it takes a while.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    report(f"looking up {model} on the Hugging Face hub")
    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS))
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"is no local folder, and the hub says: {lines[0]}"
        raise CheckpointError(model, reason) from None
