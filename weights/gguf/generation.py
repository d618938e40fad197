"""What a GGUF file says about answers: the tokens that end them, and how to sample.

Goes into `config.json` and `generation_config.json`.
"""

from typing import Any

from server.errors import CheckpointError
from weights.gguf.file import GGUFFile, shortest

_ENDS = frozenset(
    "<|im_end|> <|eot_id|> <|eom_id|> <|end|> <end_of_turn> <|end_of_text|> <EOT> _<EOT> [EOT] "
    "<|return|> <|call|> <end_of_utterance> "
    "<\uff5cend\u2581of\u2581sentence\uff5c>".split()
)
"""Control tokens that end a turn, an answer or a call in every model that has them. Many files name
only one of their ends, and it is not always the one that a chat ends with."""

_HARMONY = frozenset(("<|return|>", "<|call|>"))
"""Where these are, `<|end|>` ends one of an answer's messages, and another may follow."""

_CONTROL = 3  # of tokenizer.ggml.token_type

_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""`general.sampling.*` → names of generation_config.json; the others are of samplers that are not
here."""


def token_ids(file: GGUFFile) -> dict[str, Any]:
    """`bos_token_id`, `eos_token_id` (one or several) and `pad_token_id`, those that are known."""

    vocabulary = range(len(file.metadata.get("tokenizer.ggml.tokens") or ()))

    def known(*names: str) -> list[int]:
        found = {name: file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names}
        ids = {name: index for name, index in found.items() if index is not None}
        for name, index in ids.items():
            if index not in vocabulary:
                reason = f"{name} token {index} is outside of the vocabulary"
                raise CheckpointError(file.path, reason)
        return list(dict.fromkeys(ids.values()))

    # Of text, of turn, of message: any ends an answer.
    ends = list(dict.fromkeys([*known("eos", "eot", "eom"), *_ends_by_text(file)]))
    ids = {
        "bos_token_id": known("bos"),
        "eos_token_id": [ends] if len(ends) > 1 else ends,
        "pad_token_id": known("padding"),
    }
    return {name: values[0] for name, values in ids.items() if values}


def _ends_by_text(file: GGUFFile) -> list[int]:
    tokens: list[str] = file.metadata.get("tokenizer.ggml.tokens") or []
    types: list[int] = file.metadata.get("tokenizer.ggml.token_type") or []
    control = {
        text: index
        for index, (text, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL and text in _ENDS
    }
    if control.keys() >= _HARMONY:
        control.pop("<|end|>", None)
    return list(control.values())


def sampling(file: GGUFFile) -> dict[str, float]:
    """What the file recommends for sampling, by the names of generation_config.json."""
    values = {name: file.metadata.get(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    return {name: shortest(value) for name, value in values.items() if value is not None}
