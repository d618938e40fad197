"""The types of what is read from a file's metadata beside the architecture's own settings, checked
before anything is made of it."""

from collections.abc import Mapping
from typing import Any

from server.errors import CheckpointError
from weights.gguf.file import GGUFFile

_NUMBER = (int, float)
_ONE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            "general.architecture",
            "tokenizer.ggml.model",
            "tokenizer.ggml.pre",
            "tokenizer.chat_template",
        ),
        (str,),
    ),
    **dict.fromkeys(
        (f"tokenizer.ggml.{name}_token_id" for name in "bos eos eot eom unknown padding".split()),
        (int,),
    ),
    **dict.fromkeys(
        (
            f"tokenizer.ggml.{name}"
            for name in ("add_bos_token", "add_eos_token", "add_space_prefix")
        ),
        (bool,),
    ),
    **dict.fromkeys(
        (f"general.sampling.{name}" for name in "temp top_k top_p min_p penalty_repeat".split()),
        _NUMBER,
    ),
}
_LISTS: Mapping[str, tuple[type, ...]] = {
    "tokenizer.ggml.tokens": (str,),
    "tokenizer.ggml.merges": (str,),
    "tokenizer.ggml.token_type": (int,),
    "tokenizer.ggml.scores": _NUMBER,
    "tokenizer.chat_templates": (str,),
}


def check_metadata(file: GGUFFile) -> None:
    """Raises CheckpointError for a value of another type than its key's, naming both."""
    named = "tokenizer.chat_template."
    ones = {**_ONE, **{key: (str,) for key in file.metadata if key.startswith(named)}}
    for key, types in ones.items():
        value = file.metadata.get(key)
        if value is not None and not _is(value, types):
            raise CheckpointError(file.path, f"metadata has {key}={value!r}")
    for key, types in _LISTS.items():
        values = file.metadata.get(key)
        if values is None:
            continue
        wrong = values if not isinstance(values, list) else _first_wrong(values, types)
        if wrong is not None:
            raise CheckpointError(file.path, f"metadata has {wrong!r} in {key}")


def _first_wrong(values: list[Any], types: tuple[type, ...]) -> Any:
    return next((value for value in values if not _is(value, types)), None)


def _is(value: Any, types: tuple[type, ...]) -> bool:
    # To Python, true is a number.
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))
